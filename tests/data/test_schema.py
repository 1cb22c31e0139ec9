import json
import os
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icdtune.data.evidence import EVIDENCE_SCHEMA
from icdtune.data.schema import (
    NOTE_SCHEMA,
    Corpus,
    Note,
    RowHash,
    Span,
    canonical_code,
    is_canonical,
)
from icdtune.data.writer import CorpusWriter
from icdtune.errors import IcdtuneError

NOTES = {
    "train": [
        Note("a", "s1", "Type 2 diabetes.", ("E11.9", "I10")),
        Note("b", "s1", "Nothing found, ñ ☤ 𝒳.", ()),
        Note("c", "s2", "Heart failure.\nAcute.", ("I50.21",)),
    ],
    "val": [Note("d", "s3", "Hypertension.", ("I10",))],
    "test": [Note("e", "s4", "Not yet coded.", None), Note("f", "s5", "Neither.", None)],
}
SPANS = [Span("a", "E11.9", 0, 6, 0), Span("a", "E11.9", 7, 15, 0), Span("d", "I10", 0, 12, 1)]


def write(path, notes=NOTES, spans=SPANS):
    with CorpusWriter(
        path,
        name="small",
        code_systems={"diagnosis": "icd10cm"},
        source="a test",
        options={},
        protected=False,
        invalid_codes="quarantine",
    ) as writer:
        for split, rows in notes.items():
            for note in rows:
                writer.add(split, note, evidence=[s for s in spans if s.note_id == note.note_id])
    return path


@pytest.fixture
def directory(tmp_path):
    return write(tmp_path / "corpus")


def edit_json(directory, **changes):
    path = directory / "corpus.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_rows(directory, split, change):
    """Put a split's rows, changed as plain data, in place of the split."""
    path = directory / f"{split}.parquet"
    rows = pq.read_table(path).to_pylist()
    schema = pa.schema([pa.field(f.name, f.type) for f in NOTE_SCHEMA])
    pq.write_table(pa.Table.from_pylist(change(rows), schema), path)


def refusal(directory):
    """The message with which a corpus is refused: on opening, or at the latest on reading."""
    with pytest.raises(IcdtuneError) as caught:
        Corpus(directory).row_hash()
    message = str(caught.value)
    assert "\n" not in message
    return message


# Round trip


def test_what_is_written_is_read_back(directory):
    corpus = Corpus(directory)
    assert corpus.splits == list(NOTES)
    assert {split: list(corpus.notes(split)) for split in corpus.splits} == NOTES
    assert list(corpus.evidence()) == SPANS


def test_null_codes_are_unlabelled_and_an_empty_list_is_not(directory):
    corpus = Corpus(directory)
    assert [n.codes for n in corpus.notes("test")] == [None, None]
    assert [n.codes for n in corpus.notes("train")][1] == ()
    assert corpus.info.splits["test"].labelled == 0
    assert corpus.info.splits["train"].labelled == 3


def test_a_corpus_without_evidence_has_no_spans(tmp_path):
    assert list(Corpus(write(tmp_path / "corpus", spans=[])).evidence()) == []


def test_columns_are_read_by_name(directory):
    table = Corpus(directory).columns("train", "subject_id", "note_id")
    assert table.column_names == ["subject_id", "note_id"]
    assert table["note_id"].to_pylist() == ["a", "b", "c"]


def test_an_unknown_split_is_refused_with_those_there_are(directory):
    corpus = Corpus(directory)
    with pytest.raises(IcdtuneError, match='no split "dev".*train, val, test'):
        list(corpus.notes("dev"))
    with pytest.raises(IcdtuneError, match='no split "dev"'):
        corpus.columns("dev", "note_id")


@pytest.mark.parametrize("quarantined", [False, True])
def test_datasets_opens_the_folder_with_all_its_splits(tmp_path, quarantined):
    bad = Note("g", "s6", "Odd.", ("bogus",))
    notes = NOTES | ({"dev": [bad]} if quarantined else {})
    directory = write(tmp_path / "corpus", notes)
    assert (directory / "quarantine.parquet").exists() == quarantined
    (directory / "labels").mkdir()
    (directory / "labels" / "full.json").write_text("{}")
    script = """
import datasets, json, sys
found = datasets.load_dataset(sys.argv[1])
print(json.dumps({split: list(rows) for split, rows in found.items()}))
"""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-c", script, str(directory)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert list(found) == list(notes)
    assert [row["codes"] for row in found["test"]] == [None, None]
    assert found["train"] == [
        {"note_id": n.note_id, "subject_id": n.subject_id, "text": n.text, "codes": list(n.codes)}
        for n in NOTES["train"]
    ]


# The hash


def test_the_hash_in_corpus_json_is_that_of_the_rows(directory):
    corpus = Corpus(directory)
    assert corpus.row_hash() == corpus.info.hash


def test_the_same_notes_have_the_same_hash(tmp_path, directory):
    again = write(tmp_path / "again", dict(reversed(NOTES.items())))
    assert Corpus(again).info.hash == Corpus(directory).info.hash


CHANGES = {
    "note_id": lambda notes: [replace(notes[0], note_id="z"), *notes[1:]],
    "subject_id": lambda notes: [replace(notes[0], subject_id="z"), *notes[1:]],
    "text": lambda notes: [replace(notes[0], text=notes[0].text + " "), *notes[1:]],
    "a code": lambda notes: [replace(notes[0], codes=("E11.9", "I11.9")), *notes[1:]],
    "order of codes": lambda notes: [replace(notes[0], codes=("I10", "E11.9")), *notes[1:]],
    "null for none": lambda notes: [notes[0], replace(notes[1], codes=None), notes[2]],
    "order of notes": lambda notes: notes[::-1],
    "a note less": lambda notes: notes[1:],
}


@pytest.mark.parametrize("field", CHANGES)
def test_the_hash_changes_with_every_field(tmp_path, directory, field):
    other = write(tmp_path / "other", NOTES | {"train": CHANGES[field](NOTES["train"])}, spans=[])
    assert Corpus(other).info.hash != Corpus(directory).info.hash


def test_the_hash_changes_with_the_split_of_a_note(tmp_path, directory):
    moved = {"train": NOTES["train"], "val": NOTES["val"], "dev": NOTES["test"]}
    assert Corpus(write(tmp_path / "other", moved)).info.hash != Corpus(directory).info.hash


@pytest.mark.parametrize(
    "layout",
    [
        {"row_group_size": 1},
        {"compression": "snappy", "use_dictionary": False},
        {"version": "1.0", "data_page_version": "2.0"},
        {"large": True},
    ],
    ids=str,
)
def test_the_hash_does_not_change_with_file_layout(directory, layout):
    before, layout = Corpus(directory).info.hash, dict(layout)
    for split in NOTES:
        path = directory / f"{split}.parquet"
        table = pq.read_table(path)
        if layout.pop("large", False):
            kinds = [pa.large_string()] * 3 + [pa.large_list(pa.large_string())]
            names = zip(NOTE_SCHEMA.names, kinds, strict=True)
            table = table.cast(pa.schema([pa.field(n, kind) for n, kind in names]))
        table = table.select(["codes", "text", "subject_id", "note_id"])
        pq.write_table(table.append_column("extra", pa.nulls(len(table))), path, **layout)
    assert Corpus(directory).row_hash() == before


@settings(deadline=None)
@given(st.lists(st.text(max_size=3), min_size=3, max_size=3), st.integers(1, 3))
def test_no_two_rows_run_into_each_other_in_the_hash(parts, cut):
    one, two = RowHash(), RowHash()
    one.add("train", Note(parts[0], parts[1], parts[2], ("a", "b")))
    joined = parts[0] + parts[1]
    other = Note(joined[:cut], joined[cut:], parts[2], ("a", "b"))
    two.add("train", other)
    assert (one.hexdigest() == two.hexdigest()) == (other == Note(*parts, ("a", "b")))


# Damaged or wrong corpora: each is refused by file, row and field


def test_a_folder_that_is_no_corpus_tells_how_to_make_one(tmp_path):
    assert "icdtune prepare" in refusal(tmp_path)
    assert str(tmp_path) in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"surprise": 1}, "surprise"),
        ({"splits": {"train": {"notes": 3}}}, "splits.train.subjects"),
        ({"protected": "perhaps"}, "protected"),
        ({"hash": None}, "hash"),
        ({"code_systems": {"diagnosis": 9}}, "code_systems.diagnosis"),
    ],
)
def test_a_wrong_field_of_corpus_json_is_named(directory, changes, field):
    edit_json(directory, **changes)
    message = refusal(directory)
    assert "corpus.json" in message
    assert f'"{field}"' in message


def test_an_unknown_code_system_is_named_with_its_file(directory):
    edit_json(directory, code_systems={"diagnosis": "icd11"})
    message = refusal(directory)
    assert '"icd11"' in message
    assert "corpus.json" in message


def test_broken_corpus_json_names_its_line(directory):
    (directory / "corpus.json").write_text('{"name": "small",\n"code_systems": oops}')
    assert "corpus.json line 2" in refusal(directory)


def test_a_missing_split_file_is_named(directory):
    (directory / "val.parquet").unlink()
    assert "val.parquet does not exist" in refusal(directory)


@pytest.mark.parametrize("column", NOTE_SCHEMA.names)
def test_a_missing_column_is_named(directory, column):
    path = directory / "train.parquet"
    pq.write_table(pq.read_table(path).drop_columns(column), path)
    message = refusal(directory)
    assert "train.parquet" in message
    assert f'"{column}"' in message


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("note_id", [1, 2, 3]),
        ("subject_id", [1.0, 2.0, 3.0]),
        ("text", [["a"], ["b"], ["c"]]),
        ("codes", ["E11.9", "I10", "I50.21"]),
        ("codes", [[119], [], [1]]),
    ],
)
def test_a_column_of_the_wrong_type_is_named(directory, column, values):
    path = directory / "train.parquet"
    table = pq.read_table(path)
    at = table.column_names.index(column)
    pq.write_table(table.set_column(at, column, pa.array(values)), path)
    message = refusal(directory)
    assert "train.parquet" in message
    assert f'"{column}" is ' in message


def with_row(row, **changes):
    return lambda rows: [r | changes if i == row else r for i, r in enumerate(rows)]


@pytest.mark.parametrize(
    ("row", "changes", "parts"),
    [
        (1, {"codes": ["E11.9", "11.E9"]}, ['"codes"', '"11.E9"', "ICD-10-CM"]),
        (0, {"codes": ["e119"]}, ['"codes"', '"e119"', '"E11.9"']),
        (0, {"codes": ["I10", None]}, ['"codes"']),
        (2, {"text": ""}, ['"text"', "note c"]),
        (2, {"text": " \n"}, ['"text"', "note c"]),
        (2, {"text": None}, ['"text"', "note c"]),
        (1, {"note_id": None}, ['"note_id"']),
        (1, {"note_id": " "}, ['"note_id"']),
        (1, {"subject_id": None}, ['"subject_id"']),
        (1, {"subject_id": ""}, ['"subject_id"']),
        (2, {"note_id": "a"}, ['"note_id"', "a", "twice"]),
    ],
)
def test_a_bad_row_is_named_with_its_file_and_field(directory, row, changes, parts):
    edit_rows(directory, "train", with_row(row, **changes))
    message = refusal(directory)
    for part in (f"train.parquet row {row}", *parts):
        assert part in message


def test_the_row_of_empty_text_is_counted_over_batches(tmp_path):
    rows = [Note(f"n{i}", "s", "Text.", ()) for i in range(3_000)]
    directory = write(tmp_path / "corpus", {"train": rows}, [])
    edit_rows(directory, "train", with_row(2_500, text=""))
    assert "train.parquet row 2500" in refusal(directory)


def test_a_subject_in_two_splits_is_refused_unless_waived(directory):
    edit_rows(directory, "val", with_row(0, subject_id="s2"))
    message = refusal(directory)
    for part in ("val.parquet row 0", '"subject_id"', "s2", '"train"'):
        assert part in message
    edit_json(directory, waivers={"subjects_in_two_splits": 1})
    assert [n.subject_id for n in Corpus(directory).notes("val")] == ["s2"]


def test_another_count_of_rows_than_corpus_json_says_is_refused(directory):
    edit_rows(directory, "train", lambda rows: rows[:2])
    message = refusal(directory)
    for part in ("train.parquet", "2 rows", "corpus.json says 3"):
        assert part in message


def test_a_changed_text_shows_in_the_hash(directory):
    edit_rows(directory, "train", with_row(0, text="Something else."))
    corpus = Corpus(directory)
    assert corpus.row_hash() != corpus.info.hash


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -8])
def test_a_parquet_file_cut_short_is_named(directory, keep):
    path = directory / "train.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    message = refusal(directory)
    assert "train.parquet" in message
    assert "damaged" in message


def test_a_parquet_file_damaged_in_the_middle_is_named(tmp_path):
    notes = {"train": [Note(f"n{i}", "s", f"Text {i * i}.", ("I10",)) for i in range(5_000)]}
    path = write(tmp_path / "corpus", notes, []) / "train.parquet"
    content = bytearray(path.read_bytes())
    content[2_000:12_000] = bytes(10_000)
    path.write_bytes(content)
    assert "train.parquet is damaged" in refusal(tmp_path / "corpus")


@pytest.mark.parametrize("column", ["note_id", "subject_id", "text"])
def test_a_column_that_is_not_utf8_is_named(directory, column):
    path = directory / "train.parquet"
    table = pq.read_table(path)
    latin = pa.array([b"a", b"Coraz\xf3n", b"c"], pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.column_names.index(column), column, latin), path)
    message = refusal(directory)
    assert "train.parquet" in message
    assert f'"{column}"' in message


def test_a_file_that_is_no_parquet_is_named(directory):
    (directory / "val.parquet").write_text("note_id,text\n1,a\n")
    assert "val.parquet is damaged" in refusal(directory)


@pytest.mark.parametrize("column", EVIDENCE_SCHEMA.names)
def test_evidence_without_a_column_is_refused_by_name(directory, column):
    path = directory / "evidence.parquet"
    pq.write_table(pq.read_table(path).drop_columns(column), path)
    with pytest.raises(IcdtuneError, match=rf'evidence\.parquet.*"{column}"'):
        list(Corpus(directory).evidence())


def test_evidence_cut_short_is_named(directory):
    path = directory / "evidence.parquet"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(IcdtuneError, match=r"evidence\.parquet is damaged"):
        list(Corpus(directory).evidence())


# Codes of a corpus

DP9 = {"diagnosis": "icd9cm", "procedure": "icd9proc"}
DP10 = {"diagnosis": "icd10cm", "procedure": "icd10pcs"}


@pytest.mark.parametrize(
    ("systems", "raw", "code"),
    [
        (DP9, "250.00", "250.00"),
        (DP9, "25000", "250.00"),
        (DP9, "99.21", "99.21"),
        (DP9, "992.1", "992.1"),
        (DP9, "9921", "992.1"),
        (DP9, "3995", "39.95"),
        (DP9, "e8001", "E800.1"),
        (DP9, "E11.9", None),
        (DP10, "e119", "E11.9"),
        (DP10, "0bj08zz", "0BJ08ZZ"),
        (DP10, "b020zzz", "B020ZZZ"),
        (DP10, "B020ZZZ", "B020ZZZ"),
        (DP10, "b02.0", "B02.0"),
        (DP10, "b020", "B02.0"),
        (DP10, "E1", None),
    ],
)
def test_a_code_belongs_to_the_system_that_its_dot_or_the_tables_tell(systems, raw, code):
    assert canonical_code(raw, systems) == code
    assert code is None or is_canonical(code, systems)


@settings(deadline=None)
@given(st.sampled_from([DP9, DP10]), st.text("BbE0129.Z", min_size=1, max_size=7))
def test_the_canonical_code_of_a_corpus_is_idempotent(systems, raw):
    code = canonical_code(raw, systems)
    assert code is None or canonical_code(code, systems) == code


def test_a_canonical_code_is_recognised_in_any_system_of_the_corpus():
    assert is_canonical("E11.9", DP10)
    assert is_canonical("0BJ08ZZ", DP10)
    assert not is_canonical("E119", {"diagnosis": "icd10cm"})
    assert not is_canonical("99.21", DP10)


@pytest.mark.parametrize(
    "change",
    [{"start": -5}, {"end": 10**6}, {"note_id": "nobody"}, {"code": "J18.9"}, {"end": 0}],
    ids=lambda change: next(iter(change)) + str(next(iter(change.values()))),
)
def test_evidence_that_fits_no_note_is_found(tmp_path, change):
    systems = {"diagnosis": "icd10cm"}
    with CorpusWriter(
        tmp_path / "c", name="t", code_systems=systems, source="test", options={}, protected=False
    ) as writer:
        note = Note("n", "p", "Known hypertension.", ("I10",))
        writer.add("train", note, evidence=[Span("n", "I10", 6, 18, 0)])
    corpus = Corpus(tmp_path / "c")
    corpus.check_evidence()
    path = tmp_path / "c" / "evidence.parquet"
    (row,) = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([row | change], pq.read_schema(path)), path)
    with pytest.raises(IcdtuneError, match=r"evidence\.parquet"):
        corpus.check_evidence()
