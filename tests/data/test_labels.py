import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icdtune.data.labels import (
    LabelRule,
    LabelSpace,
    Task,
    choose_labels,
    count_codes,
    load_labels,
    save_labels,
)
from icdtune.data.schema import NOTE_SCHEMA, Corpus, Note
from icdtune.data.writer import CorpusWriter
from icdtune.errors import IcdtuneError

# I10 in three notes, E11.9 and A00.1 in two each, Z99.2 in one of train; J45.909 in val only.
NOTES = {
    "train": [
        ("a", ("E11.9", "I10")),
        ("b", ("I10", "A00.1")),
        ("c", ("Z99.2", "A00.1", "I10", "E11.9")),
        ("d", ()),
    ],
    "val": [("e", ("J45.909", "I10")), ("f", ("J45.909",))],
    "test": [("g", None)],
}


@pytest.fixture
def corpus(tmp_path):
    with CorpusWriter(
        tmp_path / "corpus",
        name="small",
        code_systems={"diagnosis": "icd10cm"},
        source="a test",
        options={},
        protected=False,
    ) as writer:
        for split, rows in NOTES.items():
            for note_id, codes in rows:
                writer.add(split, Note(note_id, f"s-{note_id}", f"Text of {note_id}.", codes))
    return Corpus(tmp_path / "corpus")


def choose(corpus, kind, **rule):
    return choose_labels(corpus, "space", LabelRule(kind=kind, **rule)).codes


def test_the_full_space_is_ordered_by_count_then_code(corpus):
    assert choose(corpus, "full") == ["I10", "A00.1", "E11.9", "Z99.2"]


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_top_k_takes_the_most_frequent_and_breaks_ties_by_code(corpus, k):
    assert choose(corpus, "top_k", k=k) == ["I10", "A00.1", "E11.9", "Z99.2"][:k]


def test_min_count_leaves_out_rare_codes(corpus):
    assert choose(corpus, "full", min_count=2) == ["I10", "A00.1", "E11.9"]
    assert choose(corpus, "full", min_count=3) == ["I10"]
    assert choose(corpus, "top_k", k=9, min_count=3) == ["I10"]


def test_codes_may_be_counted_on_several_splits(corpus):
    assert choose(corpus, "full", counted_on=["val"]) == ["J45.909", "I10"]
    assert choose(corpus, "full", counted_on=["train", "val"]) == [
        "I10",
        "A00.1",
        "E11.9",
        "J45.909",
        "Z99.2",
    ]
    assert count_codes(corpus, ["train", "val"])["I10"] == 4


def test_a_code_that_stands_twice_in_a_note_counts_one_note(corpus):
    """Corpora that other tools wrote may repeat a code."""
    path = corpus.path / "train.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0]["codes"] = ["E11.9", "E11.9", "E11.9", "E11.9", "I10"]
    pq.write_table(pa.Table.from_pylist(rows, NOTE_SCHEMA), path)
    assert count_codes(Corpus(corpus.path), ["train"])["E11.9"] == 2


@pytest.mark.parametrize("rule", [{"kind": "full"}, {"kind": "top_k", "k": 1}])
def test_an_unlabelled_split_cannot_be_counted(corpus, rule):
    with pytest.raises(IcdtuneError, match=r'test\.parquet row 0: field "codes".*unlabelled'):
        choose(corpus, counted_on=["train", "test"], **rule)


def test_an_unknown_split_cannot_be_counted(corpus):
    with pytest.raises(IcdtuneError, match='no split "dev"'):
        choose(corpus, "full", counted_on=["dev"])


def test_a_rule_that_no_code_fits_is_refused(corpus):
    with pytest.raises(IcdtuneError, match='"space" is empty.*min_count'):
        choose(corpus, "full", min_count=99)


@pytest.mark.parametrize(
    "rule", [{"kind": "top_k"}, {"kind": "top_k", "k": 0}, {"kind": "file"}, {"kind": "best"}]
)
def test_a_rule_must_be_complete(rule):
    with pytest.raises(ValueError):
        LabelRule(**rule)


# From a file


def test_a_file_gives_codes_in_its_own_order_whether_seen_or_not(corpus, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("z992\n\n  E11.9  \nI50.21.\nE119\r\ni10")
    space = choose_labels(corpus, "mine", LabelRule(kind="file", source=str(path)))
    assert space.codes == ["Z99.2", "E11.9", "I50.21", "I10"]
    assert space.rule.source == "mine.txt"


@pytest.mark.parametrize(("text", "line"), [("11.E9", 1), ("I10\n\n\nE11.9, I10\n", 4)])
def test_a_malformed_code_in_a_file_names_its_line(corpus, tmp_path, text, line):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(IcdtuneError, match=rf"mine\.txt line {line}: .*ICD-10-CM"):
        choose(corpus, "file", source=str(path))


def test_an_absent_an_empty_and_a_binary_file_are_named(corpus, tmp_path):
    with pytest.raises(IcdtuneError, match=r"no\.txt does not exist"):
        choose(corpus, "file", source=str(tmp_path / "no.txt"))
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(IcdtuneError, match="is empty"):
        choose(corpus, "file", source=str(tmp_path / "empty.txt"))
    (tmp_path / "binary.txt").write_bytes(b"I10\n\xff\xfe\n")
    with pytest.raises(IcdtuneError, match=r"binary\.txt"):
        choose(corpus, "file", source=str(tmp_path / "binary.txt"))


def test_a_file_from_a_spreadsheet_may_begin_with_a_byte_order_mark(corpus, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("E11.9\nI10\n", encoding="utf-8-sig")
    assert choose(corpus, "file", source=str(path)) == ["E11.9", "I10"]


# The space and the task


def space_of(*codes, empty_notes="keep"):
    return LabelSpace(
        name="s", rule=LabelRule(kind="full"), empty_notes=empty_notes, codes=list(codes)
    )


def test_restrict_keeps_the_order_of_the_note():
    space = space_of("I10", "A00.1", "E11.9")
    assert space.restrict(("Z99.2", "E11.9", "I10")) == ("E11.9", "I10")
    assert space.restrict(()) == ()
    assert space.index == {"I10": 0, "A00.1": 1, "E11.9": 2}


def test_notes_without_gold_are_kept_or_dropped_as_the_space_says(corpus):
    kept = Task(corpus, space_of("E11.9"))
    assert [(n.note_id, n.codes) for n in kept.notes("train")] == [
        ("a", ("E11.9",)),
        ("b", ()),
        ("c", ("E11.9",)),
        ("d", ()),
    ]
    dropped = Task(corpus, space_of("E11.9", empty_notes="drop"))
    assert [n.note_id for n in dropped.notes("train")] == ["a", "c"]


@pytest.mark.parametrize("empty_notes", ["keep", "drop"])
def test_gold_agrees_with_the_notes(corpus, empty_notes):
    task = Task(corpus, space_of("E11.9", "J45.909", empty_notes=empty_notes))
    for split in ("train", "val"):
        notes = list(task.notes(split))
        assert task.gold(split) == (
            [n.note_id for n in notes],
            [n.subject_id for n in notes],
            [n.codes for n in notes],
        )


def test_a_task_leaves_the_text_as_it_is(corpus):
    assert [n.text for n in Task(corpus, space_of("I10")).notes("val")] == [
        "Text of e.",
        "Text of f.",
    ]


def test_a_task_may_look_at_some_notes_only(corpus):
    task = Task(corpus, space_of("I10", "E11.9", "J45.909"), only=frozenset({"c", "a", "f"}))
    assert [n.note_id for n in task.notes("train")] == ["a", "c"]
    assert task.gold("train")[0] == ["a", "c"]
    assert task.gold("val")[0] == [n.note_id for n in task.notes("val")] == ["f"]
    assert list(task.notes("test", gold=False)) == []


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, "a"), (2, "ac"), (3, "abc"), (4, "abcd"), (9, "abcd")]
)
def test_a_sample_is_spread_evenly_over_the_split(corpus, count, chosen):
    task = Task(corpus, space_of("I10")).sample("train", count)
    assert [n.note_id for n in task.notes("train")] == list(chosen)
    assert task.gold("train")[0] == list(chosen)


def test_a_sample_is_of_the_notes_that_the_space_keeps(corpus):
    task = Task(corpus, space_of("E11.9", empty_notes="drop")).sample("train", 2)
    assert [n.note_id for n in task.notes("train")] == ["a", "c"]


def test_a_sample_of_a_sample_is_the_same_one(corpus):
    task = Task(corpus, space_of("I10")).sample("train", 2)
    assert task.sample("train", 2) == task
    assert task.sample("train", 1).gold("train")[0] == ["a"]


def test_a_sample_has_the_size_asked_for_and_even_gaps(tmp_path):
    with CorpusWriter(
        tmp_path / "many",
        name="many",
        code_systems={"diagnosis": "icd10cm"},
        source="a test",
        options={},
        protected=False,
    ) as writer:
        for i in range(23):
            writer.add("train", Note(str(i), f"s-{i}", f"Text {i}.", ("I10",)))
    task = Task(Corpus(tmp_path / "many"), space_of("I10"))
    for count in range(1, 30):
        places = [int(n) for n in task.sample("train", count).gold("train")[0]]
        assert len(places) == min(count, 23)
        gaps = {b - a for a, b in zip(places, places[1:], strict=False)}
        assert not gaps or max(gaps) - min(gaps) <= 1
        assert places[0] < 23 / count
        assert 23 - places[-1] <= -(-23 // min(count, 23)) + 1


def test_unlabelled_notes_are_refused_where_gold_is_needed(corpus):
    task = Task(corpus, space_of("I10", empty_notes="drop"))
    with pytest.raises(IcdtuneError, match='split "test": note g is unlabelled'):
        list(task.notes("test"))
    with pytest.raises(IcdtuneError, match='split "test": note g is unlabelled'):
        task.gold("test")


def test_unlabelled_notes_can_be_coded(corpus):
    task = Task(corpus, space_of("I10", empty_notes="drop"))
    assert [(n.note_id, n.codes) for n in task.notes("test", gold=False)] == [("g", None)]


# Save and load


def test_a_saved_space_is_loaded_as_it_was(corpus):
    space = choose_labels(corpus, "top2", LabelRule(kind="top_k", k=2), empty_notes="drop")
    assert save_labels(corpus, space) == corpus.path / "labels" / "top2.json"
    assert load_labels(corpus, "top2") == space


def test_saving_labels_leaves_the_corpus_openable_and_its_hash_alone(corpus):
    save_labels(corpus, space_of("I10"))
    again = Corpus(corpus.path)
    assert again.row_hash() == corpus.info.hash


def test_the_full_space_needs_no_file(corpus):
    assert load_labels(corpus, "full").codes == ["I10", "A00.1", "E11.9", "Z99.2"]
    assert not (corpus.path / "labels").exists()


def test_an_absent_space_tells_how_to_make_it(corpus):
    with pytest.raises(IcdtuneError, match=r"top50\.json does not exist.*icdtune labels"):
        load_labels(corpus, "top50")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": ["I10", "E11.9", "I10"]}, '"codes".*twice'),
        ({"codes": ["I10", "e119"]}, r'row 1: field "codes": "e119".*canonical: "E11\.9"'),
        ({"codes": ["I10", "bog.1"]}, 'row 1: field "codes": "bog.1"'),
        ({"codes": "I10"}, '"codes"'),
        ({"empty_notes": "perhaps"}, '"empty_notes"'),
        ({"surprise": 1}, '"surprise"'),
        ({"rule": {"kind": "top_k"}}, '"rule"'),
        ({"rule": {"kind": "full", "colour": 1}}, r'"rule\.colour"'),
    ],
)
def test_a_wrong_field_of_a_saved_space_is_named(corpus, changes, message):
    path = save_labels(corpus, space_of("I10"))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(IcdtuneError, match=rf"labels/s\.json.*{message}"):
        load_labels(corpus, "s")
