"""`icdtune prepare` and `corpus describe` as people type them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl
import pytest

from icdtune.cli import main
from icdtune.data.schema import Corpus


@pytest.fixture
def icdtune(monkeypatch, tmp_path, capsys):  # type: ignore[no-untyped-def]
    """Run a command in an empty folder: its exit status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["icdtune", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run


TABLE = ("prepare", "table", "notes.xlsx", "--text-column", "note", "--codes-column", "icd")


def test_a_spreadsheet_says_its_code_system_and_what_was_set_aside(icdtune) -> None:  # type: ignore[no-untyped-def]
    codes = ["I10, E11.9"] * 17 + ["Q99.Z9", "119.E", "E11.9 Z99.ZZ9"]
    notes = [f"Note number {i}." for i in range(20)]
    pl.DataFrame({"note": notes, "icd": codes}).write_excel("notes.xlsx")
    status, out, err = icdtune(*TABLE, "--out", "c")
    assert status == 0
    assert "code system: ICD-10" in err
    for part in ("17", "notes set aside", "unknown", "malformed", "Q99.Z9", "119.E", "Z99.ZZ9"):
        assert part in out
    assert "Note number" not in out + err
    status, out, err = icdtune(*TABLE, "--out", "d", "--invalid-codes", "error")
    assert status == 2
    assert 'notes.xlsx data row 18: field "icd"' in err
    assert not Path("d").exists()


def test_fake_mimic_is_prepared_and_described(icdtune) -> None:  # type: ignore[no-untyped-def]
    fake = ("prepare", "fake-mimic", "--admissions", "120", "--characters", "400", "--out", "f")
    assert icdtune(*fake)[0] == 0
    four = ("prepare", "mimic4", "--hosp", "f/mimic4/hosp", "--note", "f/mimic4/note")
    status, out, _ = icdtune(*four, "--split", "random", "--min-count", "2", "--out", "c4")
    assert status == 0
    for part in ("Steps", "notes read", "notes written", "repeated notes"):
        assert part in out
    three = ("prepare", "mimic3", "--raw", "f/mimic3", "--variant", "50", "--split", "random")
    status, out, err = icdtune(*three, "--out", "c3")
    assert status == 0
    assert "are not in the published list" in err
    assert Corpus(Path("c3")).info.name == "mimic3-50"
    status, out, _ = icdtune("corpus", "describe", "c4", "--page", "c4.html")
    assert status == 0
    assert "texts in more than one split: 0" in out
    assert Path("c4.html").stat().st_size > 1_000_000
    status, out, _ = icdtune("corpus", "describe", "c4", "--json", "--no-near-duplicates")
    assert json.loads(out)["near_duplicates"] is None


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("mimic4", "--hosp", "h", "--note", "n", "--icd", "11"), "--icd 11: choose 9 or 10"),
        (("mimic4", "--hosp", "h", "--note", "n"), "h does not exist"),
        (("mimic3", "--raw", "r", "--variant", "half"), "choose one of clean, full, 50"),
        (("mimic3", "--raw", "r"), "r does not exist"),
        (("table", "t.csv", "--text-column", "note"), "t.csv does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(icdtune, arguments, problem) -> None:  # type: ignore[no-untyped-def]
    status, _, err = icdtune("prepare", *arguments, "--out", "c")
    assert status == 2
    assert problem in err
    assert len(err.splitlines()) == 1
    assert not Path("c").exists()


def test_mdace_needs_a_corpus(icdtune) -> None:  # type: ignore[no-untyped-def]
    status, _, err = icdtune("prepare", "mdace", "--annotations", "m", "--corpus", "c")
    assert status == 2
    assert "c is not a corpus" in err
