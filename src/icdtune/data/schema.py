"""The corpus directory: what it holds, and the checks that every reader relies on.

A corpus is `corpus.json`, one parquet file per split (note_id, subject_id, text, codes) and optional
`evidence.parquet` and `labels/NAME.json`; see docs/corpus.md. Null codes mean unlabelled, an empty
list means coded as nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from icdtune.codes.systems import SYSTEMS, get_system
from icdtune.data.evidence import Span, read_evidence
from icdtune.data.parquet import check_schema, check_utf8, parquet_batches, read_parquet
from icdtune.errors import IcdtuneError, shown
from icdtune.files import read_json

NOTE_SCHEMA = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("codes", pa.list_(pa.string())),
    ]
)
DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("end", pa.int32(), nullable=False),
        pa.field("kind", pa.string()),
        pa.field("document_id", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Note:
    """One clinical note. `codes` is the source's order, principal first; None is unlabelled."""

    note_id: str
    subject_id: str
    text: str
    codes: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Document:
    """One of the documents that a note joins: characters [start, end), its kind, the source's id."""

    note_id: str
    start: int
    end: int
    kind: str | None = None
    document_id: str | None = None


class SplitBalance(BaseModel):
    """How a split's labels compare with those of all splits.

    Attributes:
        missing: share of all distinct codes that the split lacks.
        divergence: Kullback-Leibler, in nats, of its distribution of codes from that of all.
    """

    model_config = ConfigDict(extra="forbid")

    missing: float
    divergence: float


class SplitInfo(BaseModel):
    """Counts of one split."""

    model_config = ConfigDict(extra="forbid")

    notes: int
    subjects: int
    labelled: int
    mentions: int
    distinct_codes: int


class CorpusInfo(BaseModel):
    """The content of corpus.json."""

    model_config = ConfigDict(extra="forbid")

    name: str
    code_systems: dict[str, str]
    fiscal_year: str
    source: str
    options: dict[str, Any] = {}
    filters: dict[str, int] = {}
    standing: dict[str, dict[str, int]] = {}
    waivers: dict[str, int] = {}
    splits: dict[str, SplitInfo]
    balance: dict[str, SplitBalance] = {}
    hash: str
    protected: bool
    icdtune_version: str


class RowHash:
    """Hash of canonical rows: SHA-256 a split, combined by split name; file layout plays no part."""

    def __init__(self) -> None:
        self._splits: dict[str, Any] = {}

    def add(self, split: str, note: Note) -> None:
        """Take in the next row of a split."""
        row = json.dumps(
            [note.note_id, note.subject_id, note.text, note.codes],
            ensure_ascii=False,
            separators=(",", ":"),
        )
        digest = self._splits.setdefault(split, hashlib.sha256())
        digest.update(row.encode("utf-8", "surrogatepass") + b"\n")

    def hexdigest(self) -> str:
        """The hash of all splits."""
        total = hashlib.sha256()
        for split in sorted(self._splits):
            total.update(f"{split}:{self._splits[split].hexdigest()}\n".encode())
        return total.hexdigest()


class Corpus:
    """A corpus directory, opened and checked.

    Opening checks corpus.json, every split's schema, note ids, subjects and codes (columns only, not
    the text); iterating checks the text. Each finding is an IcdtuneError naming file, row and field.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.info = _read_info(self.path)
        self._check()

    @property
    def splits(self) -> list[str]:
        """Names of the splits, as corpus.json lists them."""
        return list(self.info.splits)

    def notes(self, split: str) -> Iterator[Note]:
        """Stream a split's notes in file order."""
        path = self._split_path(split)
        row = 0
        for batch in parquet_batches(path):
            check_utf8(path, "text", batch["text"])
            ids, subjects, texts, codes = (batch[name].to_pylist() for name in NOTE_SCHEMA.names)
            for note_id, subject_id, text, gold in zip(ids, subjects, texts, codes, strict=True):
                if not text or text.isspace():
                    raise IcdtuneError(
                        f'{path} row {row}: field "text" of note {note_id} is empty. '
                        f"Remove the note or prepare the corpus again"
                    )
                yield Note(note_id, subject_id, text, None if gold is None else tuple(gold))
                row += 1

    def columns(self, split: str, *names: str) -> pa.Table:
        """Some columns of a split, as an Arrow table."""
        return read_parquet(self._split_path(split), list(names))

    def evidence(self) -> Iterator[Span]:
        """Stream the evidence spans; none where the corpus has no evidence.parquet.

        Raises IcdtuneError for a span that begins before the text or does not end after its start;
        `check` compares spans with the notes.
        """
        path = self.path / "evidence.parquet"
        return read_evidence(path) if path.exists() else iter(())

    def documents(self) -> Iterator[Document]:
        """Stream the borders of joined documents; none where the corpus has no documents.parquet."""
        path = self.path / "documents.parquet"
        if path.exists():
            check_schema(path, DOCUMENT_SCHEMA)
            for batch in parquet_batches(path):
                columns = [batch[name].to_pylist() for name in DOCUMENT_SCHEMA.names]
                yield from (Document(*row) for row in zip(*columns, strict=True))

    def check_evidence(self) -> None:
        """Compare every evidence span with its note; IcdtuneError names the first that does not fit."""
        path = self.path / "evidence.parquet"
        if not path.exists():
            return
        known = {
            note.note_id: (len(note.text), frozenset(note.codes or ()))
            for split in self.splits
            for note in self.notes(split)
        }
        for row, span in enumerate(self.evidence()):
            if span.note_id not in known:
                raise IcdtuneError(f"{path} row {row}: its note is not in the corpus. Remove it")
            length, codes = known[span.note_id]
            if span.end > length or span.code not in codes:
                raise IcdtuneError(
                    f"{path} row {row}: note {span.note_id} has {length} characters and no such "
                    f"evidence: offsets {span.start}-{span.end} or the code do not fit. Correct it"
                )

    def row_hash(self) -> str:
        """Hash of the rows as they are on disk; equals `info.hash` unless a file was changed."""
        rows = RowHash()
        for split in self.splits:
            for note in self.notes(split):
                rows.add(split, note)
        return rows.hexdigest()

    def _split_path(self, split: str) -> Path:
        if split not in self.info.splits:
            raise IcdtuneError(
                f'{self.path} has no split "{split}". It has: {", ".join(self.info.splits)}'
            )
        return self.path / f"{split}.parquet"

    def _check(self) -> None:
        owner: dict[str, str] = {}
        home: dict[str, str] = {}
        waived = self.info.waivers.get("subjects_in_two_splits", 0)
        for split, info in self.info.splits.items():
            path = self._split_path(split)
            check_schema(path, NOTE_SCHEMA)
            table = read_parquet(path, ["note_id", "subject_id", "codes"])
            if table.num_rows != info.notes:
                raise IcdtuneError(
                    f"{path} has {table.num_rows} rows where corpus.json says {info.notes}. "
                    f"Prepare the corpus again"
                )
            for name in ("note_id", "subject_id"):
                check_utf8(path, name, table[name])
                _check_filled(path, name, table[name])
            _check_unique(path, table["note_id"])
            for row, note_id in enumerate(table["note_id"].to_pylist()):
                if home.setdefault(note_id, split) != split:
                    raise IcdtuneError(
                        f'{path} row {row}: field "note_id": {note_id} is also in split '
                        f'"{home[note_id]}". Note ids are unique over the corpus'
                    )
            _check_codes(path, table["codes"], self.info.code_systems)
            if waived:
                continue
            for subject in pc.unique(table["subject_id"]).to_pylist():
                if owner.setdefault(subject, split) != split:
                    row = pc.index(table["subject_id"], subject).as_py()
                    raise IcdtuneError(
                        f'{path} row {row}: field "subject_id": subject {subject} is also in split '
                        f'"{owner[subject]}". Split by subject, or count a waiver in corpus.json'
                    )


def canonical_code(raw: str, code_systems: dict[str, str]) -> str | None:
    """Canonical form of a code in a corpus's systems, None where it is malformed in all of them.

    A code that both grammars take belongs to the system whose canonical form it is already, with
    the dot as the system has it; undotted, to the diagnosis system where the tables hold it there.
    """
    forms = {role: get_system(name).canonical(raw) for role, name in code_systems.items()}
    diagnosis, procedure = forms.get("diagnosis"), forms.get("procedure")
    if diagnosis is None or procedure is None:
        return diagnosis if procedure is None else procedure
    if diagnosis == procedure or "." in raw.strip().rstrip("."):
        return diagnosis
    if procedure == raw:
        return procedure
    from icdtune.codes.tables import load_table

    return diagnosis if diagnosis in load_table(code_systems["diagnosis"]) else procedure


def is_canonical(code: str, code_systems: dict[str, str]) -> bool:
    """Whether a code is well formed and written canonically in one of the corpus's systems."""
    return any(get_system(name).canonical(code) == code for name in code_systems.values())


def _check_filled(path: Path, name: str, column: pa.ChunkedArray) -> None:
    empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)
    row = pc.index(empty, True).as_py()
    if row >= 0:
        raise IcdtuneError(f'{path} row {row}: field "{name}" is empty. Give every note one')


def _check_unique(path: Path, ids: pa.ChunkedArray) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    seen: set[str] = set()
    for row, note_id in enumerate(ids.to_pylist()):
        if note_id in seen:
            raise IcdtuneError(
                f'{path} row {row}: field "note_id": {note_id} stands twice. Note ids are unique'
            )
        seen.add(note_id)


def _check_codes(path: Path, column: pa.ChunkedArray, systems: dict[str, str]) -> None:
    distinct = pc.unique(pc.list_flatten(column)).to_pylist()
    bad = {code for code in distinct if code is None or not is_canonical(code, systems)}
    if not bad:
        return
    for row, codes in enumerate(column.to_pylist()):
        for code in codes or ():
            if code in bad:
                raise malformed(f"{path} row {row}", code, systems)


def malformed(where: str, code: str | None, systems: dict[str, str]) -> IcdtuneError:
    """The error for a code that is not canonical in any of the corpus's systems."""
    titles = " or ".join(get_system(name).title for name in systems.values())
    form = None if code is None else canonical_code(code, systems)
    hint = f' (canonical: "{form}")' if form else ""
    return IcdtuneError(
        f'{where}: field "codes": {shown(code or "")} is not a canonical code of {titles}{hint}. '
        f"Correct it, or set it aside with --invalid-codes quarantine when preparing"
    )


def _read_info(directory: Path) -> CorpusInfo:
    path = directory / "corpus.json"
    if not path.is_file():
        raise IcdtuneError(
            f"{directory} is not a corpus: it has no corpus.json. "
            f"Make one with: icdtune prepare SOURCE --out {directory}"
        )
    try:
        info = CorpusInfo.model_validate(read_json(path))
    except ValidationError as error:
        raise IcdtuneError(f"{path}: {first_problem(error)}. See docs/corpus.md") from None
    for role, name in info.code_systems.items():
        if name not in SYSTEMS:
            raise IcdtuneError(
                f'{path}: field "code_systems.{role}": unknown code system "{name}". '
                f"Known: {', '.join(SYSTEMS)}"
            )
    return info


def first_problem(error: ValidationError) -> str:
    """The first finding of a validation, as: field "a.b": what is wrong."""
    problem = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    message = {
        "extra_forbidden": "there is no such field",
        "missing": "is missing",
        "model_type": "is not a mapping of fields",
    }.get(problem["type"], message)
    return f'field "{where}": {message}' if where else message
