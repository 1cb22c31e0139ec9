"""A data set of a Hugging Face hub: its columns are mapped as those of a table, its splits are kept."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from icdtune.data import table
from icdtune.data.judging import Announce, CodeSystem
from icdtune.data.writer import InvalidCodes
from icdtune.errors import IcdtuneError

VERSION = 1
SPLIT = "split of the hub"
VALIDATION = ("validation", "valid", "dev")


def prepare(
    out: Path,
    dataset: str,
    text_column: str,
    codes_column: str | None = None,
    subject_column: str | None = None,
    encounter_column: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    code_system: CodeSystem = "auto",
    invalid_codes: InvalidCodes = "quarantine",
    protected: bool = True,
    name: str | None = None,
    overwrite: bool = False,
    announce: Announce = lambda line: None,
) -> None:
    """Prepare a corpus from a data set of the hub that HF_ENDPOINT names.

    Args:
        out: folder of the corpus.
        dataset: its id, or a folder that `datasets.load_dataset` takes.
        text_column, codes_column, subject_column, encounter_column: as of `prepare table`.
        config: of the data set, where it has several.
        revision: branch, tag or commit.
        code_system, invalid_codes, protected, name, overwrite, announce: as of `prepare table`.

    Raises:
        IcdtuneError: the data set cannot be had, or lacks a column.
    """
    splits = _load(dataset, config, revision)
    names = [text_column, codes_column, subject_column, encounter_column]
    wanted = [column for column in names if column is not None]
    with tempfile.TemporaryDirectory(dir=_place(out)) as folder:
        file = Path(folder) / "rows.parquet"
        writer: pq.ParquetWriter | None = None
        for split, rows in splits.items():
            for column in wanted:
                if column not in rows.column_names:
                    raise IcdtuneError(
                        f'{dataset} split "{split}" has no column "{column}". It has: '
                        f"{', '.join(rows.column_names)}"
                    )
            part = "val" if split in VALIDATION else split
            for batch in rows.select_columns(wanted).with_format("arrow").iter(batch_size=1_000):
                batch = batch.append_column(SPLIT, pa.array([part] * len(batch), pa.string()))
                writer = writer or pq.ParquetWriter(file, batch.schema)
                writer.write_table(batch.cast(writer.schema))
        if writer is None:
            raise IcdtuneError(f"{dataset} has no rows. Give another data set or --config")
        writer.close()
        table.prepare(
            out,
            file,
            text_column,
            codes_column,
            subject_column=subject_column,
            encounter_column=encounter_column,
            split_column=SPLIT,
            code_system=code_system,
            invalid_codes=invalid_codes,
            protected=protected,
            name=name or dataset.strip("/").split("/")[-1],
            overwrite=overwrite,
            announce=announce,
            called=f"hub {dataset}",
        )


def _place(out: Path) -> Path:
    folder = out.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _load(dataset: str, config: str | None, revision: str | None) -> dict[str, Any]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from datasets.utils.logging import disable_progress_bar, set_verbosity_error
    from huggingface_hub.errors import HfHubHTTPError

    disable_progress_bar()
    set_verbosity_error()
    try:
        return dict(load_dataset(dataset, config, revision=revision))
    except (DatasetsError, HfHubHTTPError, ConnectionError, FileNotFoundError, ValueError) as error:
        raise IcdtuneError(  # the library's own words may hold cells of the data
            f"{dataset} could not be loaded ({type(error).__name__}). Check the id, --config and "
            f"HF_ENDPOINT, or give a folder"
        ) from None
