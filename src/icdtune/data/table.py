"""Anyone's own table of notes and codes: CSV, TSV, JSON lines, parquet or a spreadsheet.

A row is a document; rows of one encounter become one note. Codes stand in a column (a list, or text with
separators) or in a second file, one code a row. A note with a code that the tables do not hold would
be wrongly labelled without it: it is set aside whole, unless told otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import polars as pl

from icdtune.codes.systems import FAMILIES
from icdtune.data.judging import (
    Announce,
    CodeSystem,
    Encounter,
    Judge,
    code_family,
    judge_notes,
    split_codes,
    summary,
    systems_of,
)
from icdtune.data.raw import batches, collect, unreadable
from icdtune.data.schema import Note
from icdtune.data.splits import by_note
from icdtune.data.spool import Spool, joined
from icdtune.data.writer import CorpusWriter, InvalidCodes
from icdtune.errors import IcdtuneError
from icdtune.files import check_name
from icdtune.progress import track

VERSION = 1


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; None where it has none of the kind."""

    text: str
    codes: str | None = None
    subject: str | None = None
    encounter: str | None = None
    split: str | None = None
    kind: str | None = None

    def named(self) -> list[str]:
        """Those that are given."""
        return [name for name in vars(self).values() if name is not None]


def prepare(
    out: Path,
    file: Path,
    text_column: str,
    codes_column: str | None = None,
    codes_file: Path | None = None,
    codes_key: str | None = None,
    subject_column: str | None = None,
    encounter_column: str | None = None,
    split_column: str | None = None,
    kind_column: str | None = None,
    split: str = "stratified",
    code_system: CodeSystem = "auto",
    invalid_codes: InvalidCodes = "quarantine",
    protected: bool = True,
    name: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    announce: Announce = lambda line: None,
    called: str | None = None,
) -> None:
    """Prepare a corpus from a table.

    Args:
        out: folder of the corpus.
        file: .csv, .csv.gz, .tsv, .jsonl, .ndjson, .parquet, .xlsx or .xls.
        text_column: the document's text.
        codes_column: its codes, as a list or as text separated by commas, semicolons, bars or
            spaces; with `codes_file`, the column of that file. Without, the corpus is unlabelled.
        codes_file: table with one code a row; its order is the codes' order.
        codes_key: column of `codes_file` that holds the encounter; its name in `file` if not given.
        subject_column: the patient; without, every encounter is a subject of its own.
        encounter_column: rows with the same value are documents of one note; without, a row is a note.
        split_column: split of each row; without, `split` decides.
        kind_column: kind of each document, kept with its borders.
        split: "stratified", "random" or "published:FILE".
        code_system: "icd9", "icd10", or found out.
        invalid_codes: "quarantine" sets a note aside that has a malformed or unknown code, "error" stops
            at the first, "keep" keeps unknown codes and sets notes with malformed ones aside.
        protected: whether the notes are patient data; then no report shows any.
        name: of the corpus; the file's if not given.
        seed: of the split.
        overwrite: replace a corpus that is there.
        announce: told what was found out.
        called: what the corpus names as its source; the file's name if not given.

    Raises:
        IcdtuneError: file, column or codes are not as described; no note is left.
    """
    if invalid_codes not in get_args(InvalidCodes):
        known = ", ".join(get_args(InvalidCodes))
        raise IcdtuneError(f'--invalid-codes "{invalid_codes}": choose one of {known}')
    if codes_file is not None and (codes_column is None or encounter_column is None):
        raise IcdtuneError("--codes-file needs --codes-column and --encounter-column beside it")
    inside = codes_column if codes_file is None else None
    columns = Columns(
        text_column, inside, subject_column, encounter_column, split_column, kind_column
    )
    table = open_table(file, columns.named())
    filters: Counter[str] = Counter()
    with Spool(out.absolute().parent) as spool:
        notes = _gather(batches(table, file), file, columns, spool, filters)
        if codes_file is not None:
            key = codes_key or encounter_column or ""
            _add_codes(notes, codes_file, key, codes_column or "", filters)
        labelled = any(note.coded for note in notes.values())
        chosen = code_family(code_system, notes, file, announce) if labelled else "icd10"
        systems = (
            systems_of(chosen, notes) if labelled else {"diagnosis": FAMILIES[chosen]["diagnosis"]}
        )
        judge = Judge(systems)
        where = f"{codes_file or file}"
        aside = judge_notes(notes, judge, invalid_codes, where, codes_column, labelled)
        kept = {key: note for key, note in notes.items() if key not in aside}
        if not kept:
            raise IcdtuneError(
                f"{file}: no note is left of {len(notes):,} ({summary(aside)}). Check the columns, "
                f"or give --code-system or --invalid-codes keep"
            )
        of_split, counts = _splits(kept, split, seed, file)
        filters.update(counts)
        with CorpusWriter(
            out,
            name=check_name(
                name or re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-."), "name"
            ),
            code_systems=systems,
            source=called or f"table {file.name}",
            options={
                "columns": vars(columns) | {"codes": codes_column},
                "split": "column" if split_column else split.partition(":")[0],
                "code_system": chosen,
                "invalid_codes": invalid_codes,
                "seed": seed,
            },
            protected=protected,
            description="Prepared from a table with icdtune prepare table.",
            published_split=split.startswith("published"),
            overwrite=overwrite,
        ) as writer:
            for key, reasons in aside.items():
                for code, reason in reasons:
                    writer.set_aside(key, reason, code)
                filters["notes_set_aside"] += 1
            for key, note in track(kept.items(), "Write", len(kept)):
                if key not in of_split:
                    continue
                text, borders = joined(key, note.documents, spool)
                codes = tuple(note.codes) if labelled else None
                filters["notes_written"] += 1
                writer.add(
                    of_split[key],
                    Note(key, note.subject, text, codes),
                    f"{file} data row {note.row}",
                    documents=borders if len(borders) > 1 or kind_column else (),
                )
            writer.filters.update(filters)


def open_table(path: Path, names: Sequence[str]) -> pl.LazyFrame:
    """The named columns of a table file, in its order.

    Raises IcdtuneError where the file cannot be read or lacks a column.
    """
    if not path.is_file():
        raise IcdtuneError(f"{path} does not exist. Check the path")
    kind = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    try:
        if kind == ".csv":
            frame = pl.scan_csv(path, infer_schema=False)
        elif kind == ".tsv":
            frame = pl.scan_csv(path, separator="\t", infer_schema=False)
        elif kind in (".jsonl", ".ndjson"):
            frame = pl.scan_ndjson(path, infer_schema_length=None)
        elif kind == ".parquet":
            frame = pl.scan_parquet(path)
        elif kind in (".xlsx", ".xls"):
            frame = pl.read_excel(path, infer_schema_length=0).lazy()
        else:
            raise IcdtuneError(
                f'{path}: "{path.suffix}" is no table format. Give .csv, .tsv, .jsonl, .parquet or .xlsx'
            )
        found = frame.collect_schema()
    except IcdtuneError:
        raise
    except Exception as error:  # spreadsheet engines raise types of their own
        raise unreadable(path, error) from None
    for name in names:
        if name not in found:
            raise IcdtuneError(f'{path} has no column "{name}". It has: {", ".join(found.names())}')
    lists = {name for name, kind in found.items() if isinstance(kind, pl.List)}
    return frame.select(
        pl.col(name).cast(pl.List(pl.String)) if name in lists else pl.col(name).cast(pl.String)
        for name in dict.fromkeys(names)
    )


def _gather(
    rows: Iterator[pl.DataFrame],
    file: Path,
    columns: Columns,
    spool: Spool,
    filters: Counter[str],
) -> dict[str, Encounter]:
    notes: dict[str, Encounter] = {}
    row = 0
    for batch in track(rows, f"Read {file.name}"):
        for values in batch.iter_rows(named=True):
            row += 1
            where = f"{file} data row {row}"
            text = values[columns.text]
            if text is None or not text.strip():
                filters["rows_without_text"] += 1
                continue
            key = _id(values, columns.encounter, where) or str(row)
            subject = _id(values, columns.subject, where) or key
            part = values[columns.split] if columns.split else None
            part = "val" if part == "dev" else part
            if columns.split and not part:
                raise IcdtuneError(
                    f'{where}: field "{columns.split}" is empty. Give every row a split'
                )
            note = notes.get(key)
            if note is None:
                note = notes[key] = Encounter(subject, part, row)
            for name, old, new in (
                (columns.subject, note.subject, subject),
                (columns.split, note.split, part),
            ):
                if name and old != new:
                    raise IcdtuneError(
                        f'{where}: field "{name}" is another than in row {note.row} of its encounter. '
                        f"Correct it"
                    )
            kind = values[columns.kind] if columns.kind else None
            note.documents.append((spool.add(text), kind, str(row)))
            if columns.codes:
                cell = values[columns.codes]
                note.coded |= isinstance(cell, list) or bool(split_codes(cell))
                for code in split_codes(cell):
                    note.codes.setdefault(code, row)
    filters["rows_read"] = row
    if not notes:
        raise IcdtuneError(f'{file} has no row with text in "{columns.text}". Check the column')
    return notes


def _id(values: Mapping[str, Any], name: str | None, where: str) -> str | None:
    if name is None:
        return None
    value = values[name]
    if value is None or not value.strip():
        raise IcdtuneError(f'{where}: field "{name}" is empty. Give every row one')
    return str(value.strip())


def _add_codes(
    notes: Mapping[str, Encounter], file: Path, key: str, column: str, filters: Counter[str]
) -> None:
    """Codes from a file with one code a row."""
    frame = collect(open_table(file, [key, column]), file)
    for row, (note_id, code) in enumerate(frame.select(key, column).iter_rows(), 1):
        note = notes.get((note_id or "").strip())
        if note is None:
            filters["code_rows_of_no_note"] += 1
        elif code is not None and code.strip():
            note.codes.setdefault(code.strip(), row)
            note.coded = True


def _splits(
    notes: Mapping[str, Encounter], kind: str, seed: int, file: Path
) -> tuple[dict[str, str], Counter[str]]:
    if next(iter(notes.values())).split is not None:
        return {key: note.split or "" for key, note in notes.items()}, Counter()
    if kind == "published":
        raise IcdtuneError(
            f"{file}: a table has no published split. Use stratified, random or published:FILE"
        )
    return by_note(kind, {k: (n.subject, list(n.codes)) for k, n in notes.items()}, seed)
