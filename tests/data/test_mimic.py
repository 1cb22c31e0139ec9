"""MIMIC-III and MIMIC-IV: rows typed by hand for each oddity, and the published steps on fake files."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mimic_files import DIAGNOSES4, EXPECTED3, EXPECTED4, NOTES3, NOTES4, four, three, write
from support import ROOT

from icdtune.data import mimic3, mimic4
from icdtune.data.fake_mimic import MIMIC4_NOTES
from icdtune.data.fake_mimic import prepare as fake
from icdtune.data.labels import Task, load_labels
from icdtune.data.normalise import normalise
from icdtune.data.schema import Corpus
from icdtune.errors import IcdtuneError


def rows(corpus: Corpus) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    found = {}
    for split in corpus.splits:
        for note in corpus.notes(split):
            found[note.note_id] = (note.subject_id, note.text, note.codes or ())
    return found


def read_rows(corpus: Corpus, space: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Text and codes of each admission as the label space reads them."""
    task = Task(corpus, load_labels(corpus, space))
    return {
        note.note_id: (note.text, frozenset(note.codes or ()))
        for split in corpus.splits
        for note in task.notes(split)
    }


def published() -> Any:
    path = ROOT / "benchmarks" / "published_mimic.py"
    spec = importlib.util.spec_from_file_location("published_mimic", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def literal(frame: Any) -> dict[str, tuple[str, frozenset[str]]]:
    return {
        str(row.hadm_id): (row.text, frozenset(row.codes)) for row in frame.itertuples(index=False)
    }


@pytest.mark.parametrize("variant", ["clean", "full"])
def test_mimic3_rows_are_those_typed_by_hand(tmp_path: Path, raw3: Path, variant: str) -> None:
    corpus = three(tmp_path, raw3, variant=variant)
    assert rows(corpus) == EXPECTED3
    steps = corpus.info.filters
    assert steps["notes_read"] == 7
    assert steps["notes_without_codes"] == 1
    assert steps["notes_without_text"] == 1
    assert steps["documents_joined"] == 1
    assert steps["notes_written"] == 4
    assert corpus.info.protected


def test_mimic3_top_50_is_the_published_list_and_drops_notes_without_it(
    tmp_path: Path, raw3: Path
) -> None:
    corpus = three(tmp_path, raw3, variant="50")
    assert len(set(mimic3.published_top50())) == 50
    found = {key: codes for key, (_, codes) in read_rows(corpus, "top50").items()}
    assert found == {
        "101": {"401.9"},
        "102": {"486"},
        "105": {"38.93", "96.04"},
        "106": {"038.9"},
    }


def test_the_most_frequent_codes_are_compared_with_the_published_list(
    tmp_path: Path, raw3: Path
) -> None:
    lines: list[str] = []
    corpus = three(tmp_path, raw3, variant="full", announce=lines.append)
    assert corpus.info.filters["top50_codes_not_in_the_published_list"] == 4
    for code in ("E812.0", "V30.01", "00.66", "003.9", "4 codes"):
        assert code in lines[0]


def test_documents_marked_as_errors_are_left_out_on_request(tmp_path: Path, raw3: Path) -> None:
    assert "102" not in rows(three(tmp_path, raw3, drop_errors=True))


def test_borders_of_joined_documents_are_kept(tmp_path: Path, raw3: Path) -> None:
    corpus = three(tmp_path, raw3)
    text = rows(corpus)["101"][1]
    parts = [d for d in corpus.documents() if d.note_id == "101"]
    assert [(d.kind, d.document_id) for d in parts] == [("Report", "1"), ("Addendum", "4")]
    assert [text[d.start : d.end] for d in parts] == [
        'First line,\nsecond "quoted" line.',
        "The addendum.",
    ]


@pytest.mark.parametrize("icd", [9, 10])
def test_mimic4_rows_are_those_typed_by_hand(tmp_path: Path, raw4: Path, icd: int) -> None:
    corpus = four(tmp_path, raw4, icd)
    assert rows(corpus) == EXPECTED4[icd]
    steps = corpus.info.filters
    assert steps["notes_read"] == 8
    assert steps["notes_without_text"] == 1
    assert steps["notes_written"] == len(EXPECTED4[icd])
    if icd == 10:
        assert steps["repeated_notes"] == 1
        assert corpus.info.standing["diagnosis"]["unknown"] == 2  # Q99.Z9, kept and counted


def test_repeated_texts_stay_on_request(tmp_path: Path, raw4: Path) -> None:
    assert "201-2" in rows(four(tmp_path, raw4, keep_repeated=True))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fake") / "files"
    fake(out, admissions=600, characters=900)
    return out


@pytest.mark.parametrize("icd", [9, 10])
def test_mimic4_equals_the_published_steps_on_fake_files(
    tmp_path: Path, files: Path, icd: int
) -> None:
    """Min count 3, so that a small file keeps some codes and loses others."""
    module = published()
    hosp, note = files / "mimic4" / "hosp", files / "mimic4" / "note"
    expected = literal(module.mimic4(hosp, note, icd, 3, module.Steps()))
    corpus = four(tmp_path, files / "mimic4", icd, min_count=3)
    found = read_rows(corpus, "full")
    assert found == expected
    assert len(found) > 100
    assert len(found) < corpus.info.filters["notes_written"]


@pytest.mark.parametrize(("variant", "least"), [("clean", 3), ("full", 1)])
def test_mimic3_equals_the_published_steps_on_fake_files(
    tmp_path: Path, files: Path, variant: str, least: int
) -> None:
    module = published()
    expected = literal(module.mimic3(files / "mimic3", least, module.Steps()))
    corpus = three(tmp_path, files / "mimic3", variant=variant, min_count=least)
    found = read_rows(corpus, "full")
    assert found == expected
    assert len(found) > 100


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_plain_csv_and_parquet_give_the_same_rows(tmp_path: Path, raw4: Path, ending: str) -> None:
    import polars as pl

    for path in list(raw4.rglob("*.csv.gz")):
        plain = path.with_name(path.name.removesuffix(".csv.gz") + ending)
        if ending == ".csv":
            plain.write_bytes(gzip.decompress(path.read_bytes()))
        else:
            pl.read_csv(path).write_parquet(plain)
        path.unlink()
    assert rows(four(tmp_path, raw4)) == EXPECTED4[10]


def test_a_published_split_decides_and_what_it_does_not_name_is_counted(
    tmp_path: Path, raw4: Path
) -> None:
    split = tmp_path / "split.csv"
    split.write_text("_id,split\n201,train\n206,dev\n999,test\n")
    corpus = four(tmp_path, raw4, split=f"published:{split}")
    assert corpus.info.splits["train"].notes == 1
    assert corpus.info.splits["val"].notes == 1
    steps = corpus.info.filters
    assert steps["in_split_file_but_not_in_data"] == 1
    assert steps["not_in_split_file"] == 2


def test_the_same_seed_gives_the_same_corpus(tmp_path: Path, files: Path) -> None:
    hashes = set()
    for name in ("a", "b"):
        source = files / "mimic4"
        mimic4.prepare(
            tmp_path / name, source / "hosp", source / "note", 10, split="stratified", min_count=3
        )
        hashes.add(Corpus(tmp_path / name).info.hash)
    assert len(hashes) == 1


def test_normalised_text_is_that_of_the_word_level_baselines(tmp_path: Path, raw3: Path) -> None:
    assert normalise("Pt. on 40 mg, 12 5 times/day\n[**2150**] B12 7") == (
        "pt on mg times day b12 7"
    )
    corpus = three(tmp_path, raw3, normalise=True)
    assert rows(corpus)["101"][1] == "first line second quoted line the addendum"
    assert list(corpus.documents()) == []


def refusal(tmp_path: Path, raw: Path, **options: Any) -> str:
    with pytest.raises(IcdtuneError) as caught:
        four(tmp_path, raw, **options)
    assert not (tmp_path / "c").exists()
    return str(caught.value)


def test_a_missing_file_or_folder_is_named(tmp_path: Path, raw4: Path) -> None:
    (raw4 / "note").rename(raw4 / "notes")
    assert "note does not exist" in refusal(tmp_path, raw4)
    (raw4 / "hosp" / "procedures_icd.csv.gz").unlink()
    assert "has no procedures_icd.csv.gz" in refusal(tmp_path, raw4)


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path, raw4: Path) -> None:
    write(raw4 / "note" / "discharge.csv.gz", NOTES4.replace(",text\n", ",body\n", 1))
    message = refusal(tmp_path, raw4)
    assert 'has no column "text"' in message
    assert "body" in message


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: data[: len(data) // 2], "damaged or cut short"),
        (lambda data: b"", "is empty"),
        (lambda data: gzip.compress(MIMIC4_NOTES.encode() + b"\n"), "no note is left"),
        (
            lambda data: gzip.compress(gzip.decompress(data).replace(b"Multi", b"M\xfclti")),
            "not UTF-8",
        ),
        (
            lambda data: gzip.compress(gzip.decompress(data).replace(b",203,", b",2o3,")),
            'data row 4: field "hadm_id" is not a whole number',
        ),
        (
            lambda data: gzip.compress(gzip.decompress(data).replace(b"DS-3,12,", b"DS-3,99,")),
            "hadm_id 203 belongs to two subjects",
        ),
    ],
)
def test_bad_note_files_are_refused_and_leave_nothing(
    tmp_path: Path, raw4: Path, damage: Any, problem: str
) -> None:
    path = raw4 / "note" / "discharge.csv.gz"
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(tmp_path, raw4)
    assert problem in message
    assert "quoted" not in message


def test_rows_are_numbered_as_in_the_file_where_others_are_left_out(
    tmp_path: Path, raw3: Path
) -> None:
    write(raw3 / "NOTEEVENTS.csv.gz", NOTES3.replace("4,22,101,", "4,22,1o1,"))
    with pytest.raises(IcdtuneError, match='data row 4: field "hadm_id" is not a whole number'):
        three(tmp_path, raw3)


def test_an_admission_of_two_subjects_in_the_codes_is_refused(tmp_path: Path, raw4: Path) -> None:
    path = raw4 / "hosp" / "diagnoses_icd.csv.gz"
    write(path, DIAGNOSES4 + "77,203,3,E119,10\n")
    assert "hadm_id 203 belongs to two subjects" in refusal(tmp_path, raw4)


def test_malformed_codes_are_set_aside_with_the_reason(tmp_path: Path, raw4: Path) -> None:
    write(raw4 / "hosp" / "diagnoses_icd.csv.gz", DIAGNOSES4 + "12,203,3,119E,10\n")
    corpus = four(tmp_path, raw4)
    assert rows(corpus)["203"][2] == ("I10",)
    found = pq.read_table(tmp_path / "c" / "quarantine.parquet").to_pylist()
    assert found == [{"note_id": "203", "code": "119.E", "reason": "malformed"}]


def test_a_split_file_that_names_no_admission_is_refused(tmp_path: Path, raw4: Path) -> None:
    split = tmp_path / "split.csv"
    split.write_text("_id,split\n999,train\n")
    assert "names none of the notes" in refusal(tmp_path, raw4, split=f"published:{split}")
    assert "choose published" in refusal(tmp_path, raw4, split="halves")


def test_killed_half_way_there_is_no_corpus_or_the_old_one(tmp_path: Path, files: Path) -> None:
    source = files / "mimic4"
    command = [
        *(sys.executable, "-m", "icdtune", "prepare", "mimic4"),
        *("--hosp", str(source / "hosp"), "--note", str(source / "note")),
        *("--split", "random", "--min-count", "3", "--out", str(tmp_path / "c")),
    ]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    before = json.loads((tmp_path / "c" / "corpus.json").read_text())["hash"]
    process = subprocess.Popen([*command, "--overwrite"], start_new_session=True)
    while process.poll() is None and not list(tmp_path.glob(".*/train.parquet")):
        os.sched_yield()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert Corpus(tmp_path / "c").row_hash() == before
