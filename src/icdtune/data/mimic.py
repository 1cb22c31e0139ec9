"""What MIMIC-III and MIMIC-IV share: codes of admissions, the way from notes to a corpus.

Published steps: Edin et al. 2023 and their repository (docs/corpora.md lists where ours differ).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from icdtune.codes.systems import FAMILIES, Role, get_system
from icdtune.data.labels import LabelRule, LabelSpace
from icdtune.data.normalise import normalise as normalised
from icdtune.data.raw import batches, collect, integers
from icdtune.data.schema import Note
from icdtune.data.splits import by_note
from icdtune.data.spool import Piece, Spool, joined
from icdtune.data.writer import CorpusWriter
from icdtune.errors import IcdtuneError
from icdtune.progress import track

Labels = Sequence[LabelSpace | tuple[str, LabelRule, Literal["keep", "drop"]]]


@dataclass(slots=True)
class Admission:
    """One admission's documents, whose texts are in the spool."""

    subject: int
    documents: list[Piece] = field(default_factory=list)
    hashes: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class CodeTable:
    """The diagnoses or the procedures of a source.

    Attributes:
        path: its file.
        frame: hadm_id, subject_id, seq_num, code, version as text, with the source's rows in order.
        version: of the ICD; the codes of others go once repeated codes are gone.
        role: "diagnosis" or "procedure".
    """

    path: Path
    frame: pl.LazyFrame
    version: str
    role: Role


def _dotted(frame: pl.DataFrame, role: Role) -> pl.DataFrame:
    """Codes with the dot where the system of their version has it."""
    pairs = frame.select("version", "code").unique()
    dotted = []
    for version, code in pairs.iter_rows():
        bare = code.upper().replace(".", "")
        family = FAMILIES.get(f"icd{version}")
        dotted.append(bare if family is None else get_system(family[role]).dot(bare))
    pairs = pairs.with_columns(pl.Series("dotted", dotted, pl.String))
    joined = frame.join(pairs, on=["version", "code"], how="left", maintain_order="left")
    return joined.drop("code").rename({"dotted": "code"})


def read_codes(
    tables: Sequence[CodeTable], filters: Counter[str]
) -> dict[int, tuple[int, tuple[str, ...]]]:
    """Subject and codes of each admission, in sequence order, those of the first table first.

    An admission's repeated codes count once. Raises IcdtuneError where an id is no number or an
    admission has two subjects.
    """
    found: dict[int, tuple[int, tuple[str, ...]]] = {}
    for table in tables:
        frame = collect(table.frame, table.path)
        filters[f"{_stem(table.path)}_rows"] = frame.height
        frame = integers(frame, table.path, ["hadm_id", "subject_id", "seq_num"])
        rows = frame.height
        frame = frame.drop_nulls(["hadm_id", "code"])
        filters[f"{_stem(table.path)}_rows_without_code"] += rows - frame.height
        frame = _dotted(frame, table.role)
        rows = frame.height
        frame = frame.unique(["hadm_id", "code"], keep="first", maintain_order=True)
        filters[f"{_stem(table.path)}_repeated_codes"] += rows - frame.height
        frame = frame.filter(pl.col("version") == table.version)
        shared = frame.group_by("hadm_id").agg(pl.col("subject_id").n_unique().alias("n"))
        _one_subject(shared.filter(pl.col("n") > 1)["hadm_id"].to_list(), table.path)
        grouped = (
            frame.sort("hadm_id", "seq_num", maintain_order=True, nulls_last=True)
            .group_by("hadm_id", maintain_order=True)
            .agg("code", pl.col("subject_id").first())
        )
        del frame
        for hadm, codes, subject in grouped.iter_rows():
            owner, before = found.get(hadm, (subject, ()))
            if owner != subject:
                _one_subject([hadm], table.path)
            found[hadm] = (owner, before + tuple(codes))
    return found


def _one_subject(several: list[int], path: Path) -> None:
    if several:
        raise IcdtuneError(
            f"{path}: hadm_id {min(several)} belongs to two subjects. Download the file again"
        )


def _stem(path: Path) -> str:
    return path.name.lower().split(".")[0]


def gather(
    frame: pl.LazyFrame,
    path: Path,
    codes: Mapping[int, tuple[int, tuple[str, ...]]],
    spool: Spool,
    filters: Counter[str],
    distinct: bool,
) -> dict[int, Admission]:
    """Put the texts of discharge summaries into the spool, by admission, in file order.

    Args:
        frame: hadm_id, subject_id, text, kind, document_id, all as text; and the row's number where
            rows were left out.
        path: its file.
        codes: of each admission; texts of others are not kept.
        distinct: drop a text that its admission has already.

    Raises:
        IcdtuneError: an id is no number, or an admission has two subjects.
    """
    admissions: dict[int, Admission] = {}
    seen = 0
    for batch in track(batches(frame, path), f"Read {path.name}"):
        batch = integers(batch, path, ["hadm_id", "subject_id"], seen)
        seen += batch.height
        for hadm, subject, text, kind, document_id, *_ in batch.iter_rows():
            if text is None or not text.strip():
                filters["notes_without_text"] += 1
                continue
            if hadm is None or subject is None:
                filters["notes_without_admission"] += 1
                continue
            if hadm not in codes:
                filters["notes_without_codes"] += 1
                continue
            if codes[hadm][0] != subject:
                _one_subject([hadm], path)
            admission = admissions.setdefault(hadm, Admission(subject))
            if distinct:
                digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
                if digest in admission.hashes:
                    filters["repeated_notes"] += 1
                    continue
                admission.hashes.add(digest)
            admission.documents.append((spool.add(text), kind, document_id))
    filters["notes_read"] = seen
    return admissions


@dataclass(frozen=True, slots=True)
class Source:
    """What a MIMIC corpus is called and how it is written."""

    name: str
    source: str
    code_systems: dict[str, str]
    options: dict[str, Any]
    labels: Labels
    split: str
    published_split: str
    seed: int
    description: str


def write(
    out: Path,
    source: Source,
    notes: Mapping[str, tuple[int, list[Piece]]],
    codes: Mapping[str, tuple[str, ...]],
    spool: Spool,
    filters: Counter[str],
    normalise: bool,
    overwrite: bool,
) -> None:
    """Split the notes and write the corpus; borders of joined documents go to documents.parquet.

    Args:
        notes: note id -> subject and documents, in the order of the corpus.
        codes: of each note.
    """
    if not notes:
        raise IcdtuneError(
            f"{source.source}: no note is left ({_steps(filters)}). Check folders and versions"
        )
    of_split, counts = by_note(
        source.split,
        {key: (str(subject), codes[key]) for key, (subject, _) in notes.items()},
        source.seed,
        source.published_split,
    )
    filters.update(counts)
    with CorpusWriter(
        out,
        name=source.name,
        code_systems=source.code_systems,
        source=source.source,
        options=source.options,
        protected=True,
        description=source.description,
        malformed_codes="quarantine",
        published_split=source.split.startswith("published"),
        labels=source.labels,
        overwrite=overwrite,
    ) as writer:
        for key, (subject, documents) in track(notes.items(), "Write", len(notes)):
            split = of_split.get(key)
            if split is None:
                continue
            text, borders = joined(key, documents, spool)
            if normalise:
                text, borders = normalised(text), []
            if not text:
                filters["notes_empty_after_normalising"] += 1
                continue
            filters["notes_written"] += 1
            writer.add(split, Note(key, str(subject), text, codes[key]), documents=borders)
        writer.filters.update(filters)


def _steps(filters: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in filters.items() if count) or "none read"


def rows_of(admissions: Mapping[int, Admission]) -> Iterator[tuple[int, Admission]]:
    """Admissions by subject, then admission: the published order of MIMIC-III."""
    yield from sorted(admissions.items(), key=lambda item: (item[1].subject, item[0]))
