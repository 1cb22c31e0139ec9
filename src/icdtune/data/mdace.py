"""MDACE: evidence spans that coders marked in MIMIC-III notes (Cheng et al. 2023).

Joins a prepared MIMIC-III corpus as `evidence.parquet`. Offsets count from the beginning of a document
(NOTEEVENTS row); where documents were joined, they move with their document.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from icdtune.data.evidence import EVIDENCE_SCHEMA
from icdtune.data.schema import (
    Corpus,
    Document,
    canonical_code,
    first_problem,
)
from icdtune.errors import IcdtuneError
from icdtune.files import atomic_file, read_json, refuse_existing, write_json
from icdtune.progress import track


class _Annotation(BaseModel):
    begin: int
    end: int
    code: str


class _Note(BaseModel):
    note_id: int
    annotations: list[_Annotation] = []


class _Chart(BaseModel):
    hadm_id: int
    notes: list[_Note] = []


def prepare(corpus: Path, annotations: Path, overwrite: bool = False) -> Counter[str]:
    """Write the spans of a corpus's documents into its `evidence.parquet`.

    Args:
        corpus: MIMIC-III corpus, prepared without --normalise.
        annotations: folder with MDACE's JSON files, searched through; those of the corpus's ICD version.
        overwrite: replace evidence that is there.

    Returns:
        Counts: spans written, and left out by reason; also kept in corpus.json.

    Raises:
        IcdtuneError: a file is malformed, a span lies outside its document, or no span fits the corpus.
    """
    opened = Corpus(corpus)
    documents = {d.document_id: d for d in opened.documents() if d.document_id is not None}
    if not documents:
        raise IcdtuneError(
            f"{corpus} has no documents.parquet, so offsets cannot be placed. Prepare it with: icdtune "
            f"prepare mimic3 (without --normalise)"
        )
    path = corpus / "evidence.parquet"
    refuse_existing(path, overwrite)
    gold: dict[str, frozenset[str]] = {}
    for split in opened.splits:
        table = opened.columns(split, "note_id", "codes")
        for note_id, codes in zip(*(column.to_pylist() for column in table.columns), strict=True):
            gold[note_id] = frozenset(codes or ())
    counts: Counter[str] = Counter()
    rows: list[tuple[str, str, int, int, int]] = []
    files = sorted(annotations.rglob("*.json"))
    if not files:
        raise IcdtuneError(
            f"{annotations} holds no .json files. Give MDACE's folder of annotations"
        )
    for file in track(files, "MDACE", len(files)):
        for note in _read(file).notes:
            counts["mdace_spans"] += len(note.annotations)
            document = documents.get(str(note.note_id))
            if document is None:
                counts["mdace_spans_in_other_documents"] += len(note.annotations)
                continue
            for group, (code, start, end) in enumerate(
                _placed(file, note, document, opened.info.code_systems)
            ):
                if code not in gold[document.note_id]:
                    counts["mdace_spans_of_codes_the_note_lacks"] += 1
                    continue
                rows.append((document.note_id, code, start, end, group))
    counts["mdace_spans_written"] = len(rows)
    if not rows:
        raise IcdtuneError(
            f"{annotations}: none of {counts['mdace_spans']:,} spans belongs to a document and code of "
            f"{corpus}. Give the annotations of its ICD version"
        )
    columns = list(zip(*sorted(rows), strict=True))
    arrays = [pa.array(c, f.type) for c, f in zip(columns, EVIDENCE_SCHEMA, strict=True)]
    with atomic_file(path) as temporary:
        pq.write_table(pa.table(arrays, schema=EVIDENCE_SCHEMA), temporary, compression="zstd")
    described = read_json(corpus / "corpus.json")
    write_json(corpus / "corpus.json", described | {"filters": described["filters"] | dict(counts)})
    return counts


def _read(file: Path) -> _Chart:
    try:
        return _Chart.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise IcdtuneError(f"{file}: {first_problem(error)}. Download it again") from None
    except ValueError:
        raise IcdtuneError(f"{file} is not JSON. Download it again") from None


def _placed(
    file: Path, note: _Note, document: Document, systems: dict[str, str]
) -> Iterator[tuple[str, int, int]]:
    """Code and offsets in the corpus's note of each span of a document."""
    length = document.end - document.start
    for span in note.annotations:
        if not 0 <= span.begin < span.end <= length:
            raise IcdtuneError(
                f"{file}: note {note.note_id} has {length} characters, a span is at "
                f"{span.begin}-{span.end}. Is it the note of MIMIC-III v1.4?"
            )
        code = canonical_code(span.code, systems) or span.code
        yield code, document.start + span.begin, document.start + span.end
