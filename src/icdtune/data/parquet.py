"""Read parquet files that others may have written: what is damaged or differs is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from icdtune.errors import IcdtuneError

BATCH = 1024


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read columns of a parquet file; IcdtuneError where it is absent, truncated or lacks one."""
    _check_columns(path, columns or [])
    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise _damaged(path) from error


def parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Stream the record batches of a parquet file; IcdtuneError where it is absent or truncated."""
    _check_columns(path, [])
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> IcdtuneError:
    return IcdtuneError(
        f"{path} is damaged or cut short: not a readable parquet file. Write the file again"
    )


def _parquet_schema(path: Path) -> pa.Schema:
    if not path.is_file():
        raise IcdtuneError(f"{path} does not exist. Check the path, or write the file again")
    try:
        return pq.read_schema(path)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise _damaged(path) from error


def _check_columns(path: Path, names: list[str]) -> None:
    schema = _parquet_schema(path)
    for name in names:
        if name not in schema.names:
            raise IcdtuneError(f'{path} lacks the field "{name}". See docs/corpus.md')


def check_schema(path: Path, expected: pa.Schema) -> None:
    """IcdtuneError where a file lacks a field of the schema or has it with another type."""
    found = _parquet_schema(path)
    for field in expected:
        if field.name not in found.names:
            raise IcdtuneError(f'{path} lacks the field "{field.name}". See docs/corpus.md')
        kind = found.field(field.name).type
        if not _same_type(kind, field.type):
            raise IcdtuneError(
                f'{path}: field "{field.name}" is {kind}, not {field.type}. See docs/corpus.md'
            )


def _same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_list(expected):
        lists = pa.types.is_list(found) or pa.types.is_large_list(found)
        return bool(lists) and _same_type(found.value_type, expected.value_type)
    if pa.types.is_string(expected):
        return bool(pa.types.is_string(found) or pa.types.is_large_string(found))
    return bool(found == expected)


def check_utf8(path: Path, name: str, column: pa.Array | pa.ChunkedArray) -> None:
    """IcdtuneError where a text column holds bytes that are not UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        raise IcdtuneError(
            f'{path}: field "{name}" holds text that is not UTF-8. Write the file again'
        ) from None
