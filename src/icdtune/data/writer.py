"""Write a corpus directory: streamed, validated row by row, and visible only when complete."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

import icdtune
from icdtune.codes.systems import get_system
from icdtune.codes.tables import load_table
from icdtune.data.evidence import EVIDENCE_SCHEMA, Span
from icdtune.data.labels import LabelRule, LabelSpace, choose_labels, save_labels
from icdtune.data.parquet import BATCH
from icdtune.data.schema import (
    DOCUMENT_SCHEMA,
    NOTE_SCHEMA,
    Corpus,
    CorpusInfo,
    Document,
    Note,
    RowHash,
    SplitBalance,
    SplitInfo,
    canonical_code,
    malformed,
)
from icdtune.errors import IcdtuneError
from icdtune.files import atomic_directory, check_name, write_json

RESERVED = frozenset({"evidence", "documents", "quarantine"})
InvalidCodes = Literal["keep", "quarantine", "error"]
QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("code", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


class CorpusWriter:
    """Context manager that writes a corpus to a temporary folder and renames it on success.

    Codes are canonicalised. A malformed code is refused unless `invalid_codes` is "quarantine" or
    `malformed_codes` is; a well-formed code that the tables do not hold is kept ("keep"), set aside in
    `quarantine.parquet` ("quarantine") or refused ("error"). Every code's standing is counted in
    corpus.json. A subject in two splits is refused, unless the split is a published one: then it is
    counted as a waiver. `labels` are chosen when all notes are written, and come with the corpus.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        code_systems: dict[str, str],
        source: str,
        options: dict[str, Any],
        protected: bool,
        license: str = "other",
        description: str = "",
        invalid_codes: InvalidCodes = "keep",
        malformed_codes: Literal["quarantine", "error"] = "error",
        published_split: bool = False,
        labels: Sequence[LabelSpace | tuple[str, LabelRule, Literal["keep", "drop"]]] = (),
        overwrite: bool = False,
    ) -> None:
        self.path = path
        self.filters: Counter[str] = Counter()
        self._name = name
        self._systems = code_systems
        self._source = source
        self._options = options
        self._protected = protected
        self._license = license
        self._description = description
        self._invalid_codes = invalid_codes
        self._set_aside = "quarantine" in (invalid_codes, malformed_codes)
        self._published_split = published_split
        self._labels = labels
        self._shared: set[str] = set()
        self._hash = RowHash()
        self._owner: dict[str, str] = {}
        self._ids: set[str] = set()
        self._splits: dict[str, _SplitWriter] = {}
        self._evidence: _Rows | None = None
        self._documents: _Rows | None = None
        self._quarantine: list[tuple[str, str | None, str]] = []
        self._standing: dict[str, Counter[str]] = {role: Counter() for role in code_systems}
        self._known: dict[str, tuple[str, str, str]] = {}  # raw code -> role, standing, code
        self._stack = ExitStack()
        self._temporary = self._stack.enter_context(
            atomic_directory(path, overwrite, "corpus.json")
        )

    def __enter__(self) -> CorpusWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                self._finish()
            except BaseException as failure:
                self._close(quietly=True)
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
            self._stack.__exit__(None, None, None)
        else:
            self._close(quietly=True)
            self._stack.__exit__(kind, error, trace)

    def set_aside(self, note_id: str, reason: str, code: str | None = None) -> None:
        """Put a note that is left out, and why, into `quarantine.parquet`."""
        self._quarantine.append((note_id, code, reason))

    def add(
        self,
        split: str,
        note: Note,
        where: str = "",
        evidence: Iterable[Span] = (),
        documents: Iterable[Document] = (),
    ) -> Note:
        """Validate and write one note with its evidence; returns the note as written.

        Args:
            split: split name.
            note: the note, codes in any notation.
            where: where the note came from ("file row"), for error messages.
            evidence: spans of this note; those of codes that were set aside are left out.
            documents: borders of the documents that it joins.
        """
        where = where or f'{self.path} split "{split}" note {note.note_id}'
        if not note.note_id.strip() or not note.subject_id.strip():
            raise IcdtuneError(f'{where}: field "note_id" or "subject_id" is empty. Give both')
        if not note.text.strip():
            raise IcdtuneError(f'{where}: field "text" is empty. Remove the note')
        for field in ("note_id", "subject_id", "text"):
            if not _encodable(getattr(note, field)):
                raise IcdtuneError(
                    f'{where}: field "{field}" holds half a surrogate pair, which is no text. '
                    f"Correct its encoding"
                )
        if note.note_id in self._ids:
            raise IcdtuneError(f'{where}: field "note_id": {note.note_id} stands twice')
        owner = self._owner.setdefault(note.subject_id, split)
        if owner != split and self._published_split:
            self._shared.add(note.subject_id)
        elif owner != split:
            raise IcdtuneError(
                f'{where}: field "subject_id": subject {note.subject_id} is in splits '
                f'"{owner}" and "{split}". Split by subject'
            )
        self._ids.add(note.note_id)
        if note.codes is not None:
            kept = dict.fromkeys(self._admit(where, note.note_id, code) for code in note.codes)
            kept.pop(None, None)
            codes = tuple(code for code in kept if code is not None)
            note = Note(note.note_id, note.subject_id, note.text, codes)
        if split not in self._splits:
            if check_name(split, "split") in RESERVED:
                raise IcdtuneError(
                    f'{where}: split "{split}" has the name of another file. Rename it'
                )
            self._splits[split] = _SplitWriter(self._temporary / f"{split}.parquet")
        self._splits[split].add(note)
        self._hash.add(split, note)
        self._add_evidence(where, note, evidence)
        for document in documents:
            if self._documents is None:
                self._documents = _Rows(self._temporary / "documents.parquet", DOCUMENT_SCHEMA)
            self._documents.add(tuple(getattr(document, name) for name in DOCUMENT_SCHEMA.names))
        return note

    def _add_evidence(self, where: str, note: Note, spans: Iterable[Span]) -> None:
        for span in spans:
            if not 0 <= span.start < span.end <= len(note.text):
                raise IcdtuneError(
                    f"{where}: evidence for {span.code} at {span.start}-{span.end} is outside the "
                    f"text of {len(note.text)} characters. Correct the offsets"
                )
            code = canonical_code(span.code, self._systems) or span.code
            if code not in (note.codes or ()):
                continue
            if self._evidence is None:
                self._evidence = _Rows(self._temporary / "evidence.parquet", EVIDENCE_SCHEMA)
            self._evidence.add((span.note_id, code, span.start, span.end, span.group))

    def _admit(self, where: str, note_id: str, raw: str) -> str | None:
        if raw not in self._known:
            self._known[raw] = self._judge(raw)
        role, standing, code = self._known[raw]
        if standing == "malformed" and not self._set_aside:
            raise malformed(where, raw, self._systems)
        if standing == "unknown" and self._invalid_codes == "error":
            problem = load_table(self._systems[role]).unknown(code)
            raise IcdtuneError(
                f'{where}: field "codes": {problem}, or keep such codes with --invalid-codes keep '
                f"or set them aside with --invalid-codes quarantine"
            )
        self._standing[role][standing] += 1
        aside = standing == "unknown" and self._invalid_codes == "quarantine"
        if aside or standing == "malformed":
            self._quarantine.append((note_id, raw, standing))
            return None
        return code

    def _judge(self, raw: str) -> tuple[str, str, str]:
        code = canonical_code(raw, self._systems)
        role = next(iter(self._systems))
        if code is None:
            return role, "malformed", raw
        for role, name in self._systems.items():
            if get_system(name).canonical(raw) == code:
                standing, code = load_table(name).standing(code)
                return role, standing, code
        raise AssertionError(f"{raw} is canonical in no system")

    def _finish(self) -> None:
        if not self._splits:
            raise IcdtuneError(f"{self._source} gave no notes. Check the source folder and options")
        self._close(quietly=False)
        usual = [split for split in ("train", "val", "test") if split in self._splits]
        ordered = dict.fromkeys([*usual, *self._splits])
        infos = {split: self._splits[split].info for split in ordered}
        if self._quarantine:
            rows = _Rows(self._temporary / "quarantine.parquet", QUARANTINE_SCHEMA)
            for row in self._quarantine:
                rows.add(row)
            rows.close()
        versions = [get_system(name).version for name in self._systems.values()]
        info = CorpusInfo(
            name=self._name,
            code_systems=self._systems,
            fiscal_year="/".join(dict.fromkeys(versions)),
            source=self._source,
            options=self._options,
            filters=dict(self.filters),
            standing={role: dict(sorted(c.items())) for role, c in self._standing.items()},
            waivers={"subjects_in_two_splits": len(self._shared)} if self._shared else {},
            splits=infos,
            balance=self._balance(),
            hash=self._hash.hexdigest(),
            protected=self._protected,
            icdtune_version=icdtune.__version__,
        )
        write_json(self._temporary / "corpus.json", info.model_dump())
        card = _card(info, self._license, self._description)
        (self._temporary / "README.md").write_text(card, encoding="utf-8")
        if self._labels:
            corpus = Corpus(self._temporary)
            for given in self._labels:
                if not isinstance(given, LabelSpace):
                    name, rule, empty_notes = given
                    there = [split for split in rule.counted_on if split in infos]
                    rule = rule.model_copy(update={"counted_on": there})
                    given = choose_labels(corpus, name, rule, empty_notes)
                save_labels(corpus, given)

    def _balance(self) -> dict[str, SplitBalance]:
        """Missing codes and divergence of each labelled split."""
        counts = {name: writer.codes for name, writer in self._splits.items() if writer.codes}
        total: Counter[str] = sum(counts.values(), Counter())
        whole = total.total()
        found = {}
        for name, codes in counts.items():
            size = codes.total()
            divergence = sum(
                n / size * math.log(n / size * whole / total[code]) for code, n in codes.items()
            )
            missing = 1 - len(codes) / len(total)
            found[name] = SplitBalance(missing=round(missing, 6), divergence=round(divergence, 6))
        return found if len(found) > 1 else {}

    def _close(self, quietly: bool) -> None:
        rows = [writer.rows for writer in self._splits.values()]
        for writer in [*rows, *filter(None, (self._evidence, self._documents))]:
            try:
                writer.close()
            except OSError:
                if not quietly:
                    raise


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Rows:
    """Rows gathered into batches of a parquet file."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._rows: list[tuple[Any, ...]] = []

    def add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        if len(self._rows) >= 4 * BATCH:
            self._flush()

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            columns = list(zip(*self._rows, strict=True))
            self._rows = []
            arrays = [pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
            self._writer.write_table(pa.table(arrays, schema=self._schema))


class _SplitWriter:
    def __init__(self, path: Path) -> None:
        self.rows = _Rows(path, NOTE_SCHEMA)
        self._notes = self._labelled = self._mentions = 0
        self._subjects: set[str] = set()
        self.codes: Counter[str] = Counter()

    def add(self, note: Note) -> None:
        self.rows.add((note.note_id, note.subject_id, note.text, note.codes))
        self._notes += 1
        self._subjects.add(note.subject_id)
        if note.codes is not None:
            self._labelled += 1
            self._mentions += len(note.codes)
            self.codes.update(note.codes)

    @property
    def info(self) -> SplitInfo:
        return SplitInfo(
            notes=self._notes,
            subjects=len(self._subjects),
            labelled=self._labelled,
            mentions=self._mentions,
            distinct_codes=len(self.codes),
        )


def _card(info: CorpusInfo, license: str, description: str) -> str:
    """Dataset card whose configs make `datasets.load_dataset(DIR)` find the splits."""
    files = "\n".join(f"  - split: {s}\n    path: {s}.parquet" for s in info.splits)
    counts = "\n".join(
        f"| {name} | {s.notes:,} | {s.subjects:,} | {s.labelled:,} | {s.mentions:,} "
        f"| {s.distinct_codes:,} |"
        for name, s in info.splits.items()
    )
    systems = ", ".join(get_system(name).title for name in info.code_systems.values())
    return f"""---
license: {license}
configs:
- config_name: default
  data_files:
{files}
---
# {info.name}

{description}

Codes: {systems} (tables of {info.fiscal_year}). Source: {info.source}. Hash: `{info.hash}`.

| split | notes | subjects | labelled | codes in all | distinct codes |
|---|--:|--:|--:|--:|--:|
{counts}
"""
