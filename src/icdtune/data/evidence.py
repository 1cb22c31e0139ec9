"""Evidence: the stretches of a note that a code rests on, in a file any tool can read or write.

`evidence.parquet` stands in a corpus (what its coders marked) or beside predictions (what a method
found, with `score` and `method`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from icdtune.data.parquet import check_schema, parquet_batches
from icdtune.errors import IcdtuneError
from icdtune.files import atomic_file

EVIDENCE_SCHEMA = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("end", pa.int32(), nullable=False),
        pa.field("group", pa.int32(), nullable=False),
    ]
)
FOUND_SCHEMA = EVIDENCE_SCHEMA.append(pa.field("score", pa.float32())).append(
    pa.field("method", pa.string())
)
ROWS = 10_000
"""Rows in memory at once."""


@dataclass(frozen=True, slots=True)
class Span:
    """Evidence: characters [start, end) of a note for a code; `group` ties discontinuous pieces.

    Attributes:
        score: share of the note's relevance for the code that lies in the span; None where people
            marked it.
        method: how it was found.
    """

    note_id: str
    code: str
    start: int
    end: int
    group: int
    score: float | None = None
    method: str | None = None


def read_evidence(path: Path) -> Iterator[Span]:
    """Stream the spans of a file.

    Raises IcdtuneError for a span that begins before the text or does not end after its start.
    """
    check_schema(path, EVIDENCE_SCHEMA)
    for batch in parquet_batches(path):
        names = [field.name for field in FOUND_SCHEMA if field.name in batch.schema.names]
        columns = [batch[name].to_pylist() for name in names]
        for row in zip(*columns, strict=True):
            span = Span(**dict(zip(names, row, strict=True)))
            if not 0 <= span.start < span.end:
                raise IcdtuneError(
                    f"{path}: evidence of note {span.note_id} at {span.start}-{span.end} is no "
                    f"stretch of text. Correct the offsets"
                )
            yield span


def write_evidence(path: Path, spans: Iterable[Span]) -> int:
    """Write spans that a method found, as they come; gives their number."""
    written = 0
    with (
        atomic_file(path) as temporary,
        pq.ParquetWriter(temporary, FOUND_SCHEMA, compression="zstd") as writer,
    ):
        rest = iter(spans)
        while rows := list(islice(rest, ROWS)):
            columns = list(zip(*map(astuple, rows), strict=True))
            arrays = [pa.array(c, f.type) for c, f in zip(columns, FOUND_SCHEMA, strict=True)]
            writer.write_table(pa.table(arrays, schema=FOUND_SCHEMA))
            written += len(rows)
    return written
