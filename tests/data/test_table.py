"""Anyone's own table: every format gives the same corpus, and nothing is silently dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icdtune.data.judging import split_codes
from icdtune.data.schema import Corpus
from icdtune.data.table import prepare
from icdtune.errors import IcdtuneError

FIELDS = ("stay", "patient", "kind", "note", "icd")
ROWS = [
    dict(zip(FIELDS, row, strict=True))
    for row in (
        ("s1", "p1", "summary", "Pneumonia.\nWent home.", "J18.9; I10"),
        ("s1", "p1", "operation", "Drain placed.", "0W9930Z"),
        ("s2", "p1", "summary", 'Diabetes, "stable".', "e119,i10"),
        ("s3", "p2", "summary", "Heart failure.", "I50.9|I10"),
    )
]
EXPECTED = {
    "s1": ("p1", "Pneumonia.\nWent home. Drain placed.", ("J18.9", "I10", "0W9930Z")),
    "s2": ("p1", 'Diabetes, "stable".', ("E11.9", "I10")),
    "s3": ("p2", "Heart failure.", ("I50.9", "I10")),
}
COLUMNS = {
    "text_column": "note",
    "codes_column": "icd",
    "subject_column": "patient",
    "encounter_column": "stay",
    "kind_column": "kind",
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    frame = pl.DataFrame(rows)
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".tsv":
        frame.write_csv(path, separator="\t")
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    elif path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_excel(path)
    return path


def made(tmp_path: Path, file: Path, **options: Any) -> Corpus:
    prepare(tmp_path / "c", file, **(COLUMNS | options))
    return Corpus(tmp_path / "c")


def rows(corpus: Corpus) -> dict[str, tuple[str, str, tuple[str, ...] | None]]:
    return {
        note.note_id: (note.subject_id, note.text, note.codes)
        for split in corpus.splits
        for note in corpus.notes(split)
    }


def refusal(tmp_path: Path, file: Path, **options: Any) -> str:
    with pytest.raises(IcdtuneError) as caught:
        made(tmp_path, file, **options)
    assert not (tmp_path / "c").exists()
    return str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "xlsx"])
def test_every_format_gives_the_same_notes(tmp_path: Path, ending: str) -> None:
    corpus = made(tmp_path, write(tmp_path / f"notes.{ending}", ROWS))
    assert rows(corpus) == EXPECTED
    assert corpus.info.code_systems == {"diagnosis": "icd10cm", "procedure": "icd10pcs"}
    assert corpus.info.protected
    text = EXPECTED["s1"][1]
    parts = [d for d in corpus.documents() if d.note_id == "s1"]
    assert [text[d.start : d.end] for d in parts] == ["Pneumonia.\nWent home.", "Drain placed."]
    assert [d.kind for d in parts] == ["summary", "operation"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_codes_may_be_lists_and_an_empty_list_is_coded_as_nothing(
    tmp_path: Path, ending: str
) -> None:
    listed = [row | {"icd": split_codes(row["icd"])} for row in ROWS]
    listed.append(ROWS[0] | {"stay": "s4", "patient": "p4", "icd": []})
    found = rows(made(tmp_path, write(tmp_path / f"notes.{ending}", listed)))
    assert found.pop("s4")[2] == ()
    assert found == EXPECTED


def test_a_table_coded_as_nothing_is_labelled(tmp_path: Path) -> None:
    file = write(tmp_path / "n.jsonl", [{"note": f"Note {i}.", "icd": []} for i in range(3)])
    prepare(tmp_path / "c", file, **PLAIN)
    assert {codes for _, _, codes in rows(Corpus(tmp_path / "c")).values()} == {()}


def test_codes_may_stand_in_a_second_file_one_a_row(tmp_path: Path) -> None:
    notes = write(
        tmp_path / "notes.csv", [{k: v for k, v in r.items() if k != "icd"} for r in ROWS]
    )
    codes = [{"id": key, "code": c} for key, (_, _, own) in EXPECTED.items() for c in own or ()]
    file = write(tmp_path / "codes.csv", [*codes, {"id": "s9", "code": "I10"}])
    options = {"codes_file": file, "codes_key": "id", "codes_column": "code"}
    corpus = made(tmp_path, notes, **options)
    assert rows(corpus) == EXPECTED
    assert corpus.info.filters["code_rows_of_no_note"] == 1


SHEET = [
    {"note": f"Note number {i}.", "icd": "I10, E11.9" if i % 2 else "I50.9"} for i in range(20)
]
BAD = {3: "I10, E11.99X9", 8: "Q99.Z9", 15: "I10; 119.E"}


def sheet(tmp_path: Path) -> Path:
    listed = [row | {"icd": BAD.get(i, row["icd"])} for i, row in enumerate(SHEET)]
    return write(tmp_path / "notes.xlsx", listed)


PLAIN = {"text_column": "note", "codes_column": "icd"}


def test_a_spreadsheet_with_three_bad_codes_gives_17_notes_and_names_the_three(
    tmp_path: Path,
) -> None:
    prepare(tmp_path / "c", sheet(tmp_path), **PLAIN)
    assert len(rows(Corpus(tmp_path / "c"))) == 17
    found = pq.read_table(tmp_path / "c" / "quarantine.parquet").to_pylist()
    assert [(row["note_id"], row["code"]) for row in found] == [
        ("4", "E11.99X9"),
        ("9", "Q99.Z9"),
        ("16", "119.E"),
    ]
    assert [row["reason"].partition(":")[0] for row in found] == ["unknown", "unknown", "malformed"]
    assert (
        json.loads((tmp_path / "c" / "corpus.json").read_text())["filters"]["notes_set_aside"] == 3
    )


def test_with_error_it_stops_and_names_row_column_and_code(tmp_path: Path) -> None:
    with pytest.raises(IcdtuneError) as caught:
        prepare(tmp_path / "c", sheet(tmp_path), **PLAIN, invalid_codes="error")
    message = str(caught.value)
    for part in ("notes.xlsx data row 4", '"icd"', "E11.99X9"):
        assert part in message
    assert not (tmp_path / "c").exists()


def test_with_keep_unknown_codes_stay(tmp_path: Path) -> None:
    prepare(tmp_path / "c", sheet(tmp_path), **PLAIN, invalid_codes="keep")
    found = rows(Corpus(tmp_path / "c"))
    assert found["9"][2] == ("Q99.Z9",)
    assert "16" not in found


def test_the_code_system_is_found_out_and_said(tmp_path: Path) -> None:
    nine = [
        {"note": f"Note {i}.", "icd": code} for i, code in enumerate(("4019", "250.00", "00.66"))
    ]
    lines: list[str] = []
    prepare(tmp_path / "c", write(tmp_path / "n.csv", nine), **PLAIN, announce=lines.append)
    corpus = Corpus(tmp_path / "c")
    assert corpus.info.code_systems == {"diagnosis": "icd9cm", "procedure": "icd9proc"}
    assert {codes for _, _, codes in rows(corpus).values()} == {("401.9",), ("250.00",), ("00.66",)}
    assert "ICD-9" in lines[0]
    words = [{"note": f"Note {i}.", "icd": f"word{i}"} for i in range(5)]
    with pytest.raises(IcdtuneError, match="only 0% of the 5 codes"):
        prepare(tmp_path / "d", write(tmp_path / "w.csv", words), **PLAIN)


def test_a_split_column_decides(tmp_path: Path) -> None:
    given = ("train", "train", "dev")
    listed = [{"note": f"Note {i}.", "icd": "I10", "part": part} for i, part in enumerate(given)]
    prepare(tmp_path / "c", write(tmp_path / "n.csv", listed), **PLAIN, split_column="part")
    assert {name: info.notes for name, info in Corpus(tmp_path / "c").info.splits.items()} == {
        "train": 2,
        "val": 1,
    }


def test_without_codes_the_corpus_is_unlabelled(tmp_path: Path) -> None:
    prepare(tmp_path / "c", write(tmp_path / "n.csv", SHEET), text_column="note", split="random")
    assert {codes for _, _, codes in rows(Corpus(tmp_path / "c")).values()} == {None}


def test_rows_without_text_or_codes_are_counted_and_named(tmp_path: Path) -> None:
    listed = [*SHEET[:3], {"note": "Not coded yet.", "icd": ""}, {"note": " ", "icd": "I10"}]
    prepare(tmp_path / "c", write(tmp_path / "n.csv", listed), **PLAIN)
    filters = Corpus(tmp_path / "c").info.filters
    assert (filters["rows_read"], filters["rows_without_text"], filters["notes_written"]) == (
        5,
        1,
        3,
    )
    found = pq.read_table(tmp_path / "c" / "quarantine.parquet").to_pylist()
    assert found == [{"note_id": "4", "code": None, "reason": "no codes"}]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"text_column": "nota"}, 'has no column "nota". It has: stay, patient, kind, note, icd'),
        ({"codes_column": "code"}, 'has no column "code"'),
        ({"split": "published"}, "no published split"),
        ({"split": "halves"}, '--split "halves"'),
        ({"code_system": "icd11"}, "choose one of auto, icd9, icd10"),
        ({"code_system": "icd9", "invalid_codes": "error"}, "data row 1"),
        ({"code_system": "icd9"}, "no note is left of 3 (2 with malformed, 1 with unknown)"),
        ({"invalid_codes": "hide"}, "choose one of keep, quarantine, error"),
        ({"codes_file": Path("x.csv"), "encounter_column": None}, "needs --codes-column"),
        ({"name": "../x"}, "cannot name a file"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    message = refusal(tmp_path, write(tmp_path / "notes.csv", ROWS), **change)
    assert problem in message
    assert "Pneumonia" not in message


@pytest.mark.parametrize(
    ("row", "field", "value", "problem"),
    [
        (2, "patient", "", 'data row 3: field "patient" is empty'),
        (2, "stay", "", 'data row 3: field "stay" is empty'),
        (1, "patient", "p9", 'data row 2: field "patient" is another than in row 1'),
    ],
)
def test_rows_that_contradict_each_other_are_refused(
    tmp_path: Path, row: int, field: str, value: str, problem: str
) -> None:
    listed = [dict(entry) for entry in ROWS]
    listed[row][field] = value
    assert problem in refusal(tmp_path, write(tmp_path / "notes.csv", listed))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("n.csv", b"", "is empty"),
        ("n.csv", b"stay,patient,kind,note,icd\n", "has no row with text"),
        ("n.csv", "stay,patient,kind,note,icd\n1,1,a,caf\xe9,I10\n".encode("latin-1"), "not UTF-8"),
        ("n.xlsx", b"no spreadsheet", "cannot be read as a table"),
        ("n.docx", b"x", "is no table format"),
        ("n.parquet", b"x", "damaged or cut short"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert problem in refusal(tmp_path, tmp_path / name)
    assert "does not exist" in refusal(tmp_path, tmp_path / "missing.csv")


codes = st.lists(st.from_regex(r"[A-Z][0-9]{2}(\.[0-9]{1,2})?", fullmatch=True), min_size=1)


@given(codes, st.sampled_from([",", "; ", "|", " ", "\n"]))
def test_separated_codes_come_apart_again(found: list[str], separator: str) -> None:
    assert split_codes(separator.join(found)) == found
    assert split_codes(str(found)) == found
    assert split_codes(found) == found
