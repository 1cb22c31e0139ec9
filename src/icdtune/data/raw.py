"""Read tables as their publishers ship them: CSV (gzipped or not) or parquet, streamed, ids checked.

Column names are matched in any case and come out in lower case. What a file lacks, holds too much of or
breaks off in is an IcdtuneError that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from icdtune.errors import IcdtuneError

ENDINGS = (".csv.gz", ".csv", ".parquet")
BATCH = 1_000
"""Rows in memory at once where they hold texts."""


def find_table(folder: Path, name: str) -> Path:
    """The file of a table, whatever its ending and the case of its name.

    Raises IcdtuneError where there is none.
    """
    if not folder.is_dir():
        raise IcdtuneError(f"{folder} does not exist. Give the folder that holds {name}.csv.gz")
    files = {path.name.lower(): path for path in sorted(folder.iterdir())}
    for ending in ENDINGS:
        if path := files.get(f"{name}{ending}".lower()):
            return path
    raise IcdtuneError(
        f"{folder} has no {name}.csv.gz (nor .csv, .parquet). Give the folder that holds it"
    )


def scan(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pl.LazyFrame:
    """A table's columns as text, lazily; `optional` ones are null where the file lacks them."""
    try:
        if path.suffix == ".parquet":
            frame = pl.scan_parquet(path)
        else:
            frame = pl.scan_csv(path, infer_schema=False)
        found = {name.lower(): name for name in frame.collect_schema().names()}
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, error) from None
    for name in columns:
        if name not in found:
            known = ", ".join(found)
            raise IcdtuneError(f'{path} has no column "{name}". It has: {known}')
    there = [pl.col(found[name]).cast(pl.String).alias(name) for name in columns]
    maybe = [
        (pl.col(found[name]) if name in found else pl.lit(None)).cast(pl.String).alias(name)
        for name in optional
    ]
    return frame.select(*there, *maybe)


def batches(frame: pl.LazyFrame, path: Path, size: int = BATCH) -> Iterator[pl.DataFrame]:
    """Stream a scanned table in file order."""
    try:
        yield from frame.collect_batches(chunk_size=size, maintain_order=True)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, error) from None


def collect(frame: pl.LazyFrame, path: Path) -> pl.DataFrame:
    """All of a scanned table that needs no text."""
    try:
        return frame.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, error) from None


def integers(frame: pl.DataFrame, path: Path, names: Sequence[str], first: int = 0) -> pl.DataFrame:
    """Turn id columns into integers.

    Args:
        frame: rows of `path`; a column `row` gives their numbers, else they follow on `first` others.

    Raises:
        IcdtuneError: one is no integer; names row and column.
    """
    for name in names:
        text = pl.col(name).str.strip_chars().str.strip_suffix(".0")
        whole = frame.select(text.cast(pl.Int64, strict=False)).to_series()
        bad = whole.is_null() & frame[name].is_not_null()
        if bad.any():
            at = bad.arg_max() or 0
            row = frame["row"][at] if "row" in frame.columns else first + at + 1
            raise IcdtuneError(
                f'{path} data row {row}: field "{name}" is not a whole number. Correct it'
            )
        frame = frame.with_columns(whole.alias(name))
    return frame


def unreadable(path: Path, error: Exception) -> IcdtuneError:
    """What is wrong with a file, without anything of its content."""
    text = str(error).lower()
    if isinstance(error, pl.exceptions.NoDataError):
        return IcdtuneError(f"{path} is empty. Download it again")
    if "utf-8" in text or "utf8" in text:
        return IcdtuneError(f"{path} is not UTF-8 text. Save it as UTF-8")
    broken = any(word in text for word in ("end of file", "corrupt", "gzip"))
    if isinstance(error, OSError) or broken or path.suffix == ".parquet":
        return IcdtuneError(f"{path} is damaged or cut short. Download it again")
    return IcdtuneError(
        f"{path} cannot be read as a table ({type(error).__name__}). Check its quotes and columns"
    )
