"""Predictions: what a coder said about a split, in a file any tool can read or write.

"The same predictions" means the same parquet content; clocks and token counts live in the JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from icdtune.data.parquet import read_parquet
from icdtune.data.schema import first_problem
from icdtune.errors import IcdtuneError
from icdtune.files import atomic_file, read_json

SCHEMA = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("codes", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("ranked_codes", pa.list_(pa.string())),
        pa.field("ranked_scores", pa.list_(pa.float32())),
        pa.field("answer", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One note's codes.

    Attributes:
        note_id: which note.
        codes: the decided set, by falling confidence.
        scores: confidence of each code, or None.
        ranked_codes: a longer ranking for P@k and MAP, or None.
        ranked_scores: the ranking's scores, or None.
        answer: raw text of a generative coder, or None.
    """

    note_id: str
    codes: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    ranked_codes: tuple[str, ...] | None = None
    ranked_scores: tuple[float, ...] | None = None
    answer: str | None = None


class PredictionInfo(BaseModel):
    """The content of predictions.json."""

    model_config = ConfigDict(extra="forbid")

    coder: str
    corpus: str
    corpus_hash: str
    split: str
    label_space: str
    label_space_hash: str | None = None
    seed: int
    versions: dict[str, str]
    seconds: float
    tokens: int | None = None
    details: dict[str, Any] = {}


class Predictions:
    """Predictions of a coder for a sequence of notes, as columns (`SCHEMA`)."""

    def __init__(
        self,
        rows: Iterable[Prediction] | pa.Table,
        tokens: int | None = None,
        details: dict[str, Any] | None = None,
        source: str = "predictions",
    ) -> None:
        if isinstance(rows, pa.Table):
            self.table = rows
        else:
            kept = list(rows)
            columns = {name: [getattr(row, name) for row in kept] for name in SCHEMA.names}
            self.table = pa.table(columns, schema=SCHEMA)
        self.source = source
        self.tokens = tokens
        self.details = details or {}

    def __iter__(self) -> Iterator[Prediction]:
        for batch in self.table.to_batches():
            for row in batch.to_pylist():
                values: dict[str, Any] = {
                    name: tuple(value) if isinstance(value, list) else value
                    for name, value in row.items()
                }
                yield Prediction(**values)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def write(self, directory: Path, info: PredictionInfo) -> Path:
        """Write predictions.json and predictions.parquet, whose presence says: complete."""
        path = directory / "predictions.parquet"
        with atomic_file(path) as rows, atomic_file(directory / "predictions.json") as about:
            pq.write_table(self.table, rows, compression="zstd")
            about.write_text(info.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return path


def read_predictions(path: Path) -> tuple[Predictions, PredictionInfo | None]:
    """Read predictions.parquet and, where it stands beside, predictions.json.

    `path` is the file or its folder. Optional columns may be absent. Raises IcdtuneError naming file
    and row where fields are null or lists differ in length.
    """
    file = path / "predictions.parquet" if path.is_dir() else path
    found = read_parquet(file, ["note_id", "codes"]).num_rows
    names = set(pq.read_schema(file).names)
    source = read_parquet(file, [name for name in SCHEMA.names if name in names])
    columns = []
    for field in SCHEMA:
        if field.name not in names:
            columns.append(pa.nulls(found, field.type))
            continue
        try:
            columns.append(source[field.name].cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise IcdtuneError(
                f'{file}: field "{field.name}" is {source.schema.field(field.name).type}, '
                f"not {field.type}. See docs/predictions.md"
            ) from None
        if not field.nullable and columns[-1].null_count:
            row = pc.index(pc.is_null(columns[-1]), True).as_py()
            raise IcdtuneError(f'{file} row {row}: field "{field.name}" is null. Fill it')
    table = pa.table(columns, schema=SCHEMA)
    for codes, scores in (("codes", "scores"), ("ranked_codes", "ranked_scores")):
        for name in (codes, scores):
            lists = table[name].combine_chunks()
            at = pc.index(pc.is_null(pc.list_flatten(lists)), True).as_py()
            if at >= 0:
                row = pc.list_parent_indices(lists)[at].as_py()
                raise IcdtuneError(f'{file} row {row}: field "{name}" holds a null. Remove it')
        lengths = pc.fill_null(pc.list_value_length(table[codes]), 0)
        wrong = pc.fill_null(pc.not_equal(lengths, pc.list_value_length(table[scores])), False)
        row = pc.index(wrong, True).as_py()
        if row >= 0:
            raise IcdtuneError(
                f'{file} row {row}: fields "{codes}" and "{scores}" differ in length. '
                f"Give one score a code"
            )
    return Predictions(table, source=str(file)), _read_info(file.with_suffix(".json"))


def _read_info(path: Path) -> PredictionInfo | None:
    if not path.exists():
        return None
    try:
        return PredictionInfo.model_validate(read_json(path))
    except ValidationError as error:
        raise IcdtuneError(f"{path}: {first_problem(error)}. See docs/predictions.md") from None
