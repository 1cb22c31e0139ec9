import random
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from icdtune.data.evidence import Span
from icdtune.data.schema import Corpus, Note
from icdtune.data.writer import CorpusWriter
from icdtune.errors import IcdtuneError

D = {"diagnosis": "icd10cm"}
DP = {"diagnosis": "icd10cm", "procedure": "icd10pcs"}
NINE = {"diagnosis": "icd9cm", "procedure": "icd9proc"}


def writer(path, systems=None, **options):
    return CorpusWriter(
        path,
        name="small",
        code_systems=systems or D,
        source="a test",
        options={"seed": 1},
        protected=False,
        **options,
    )


def note(note_id, codes=("E11.9",), subject=None, text="A short case."):
    return Note(note_id, subject or f"s-{note_id}", text, codes)


def write(path, *rows, error=None, **options):
    """Write a corpus of (split, note, where, evidence) rows; raise `error` before it ends."""
    with writer(path, **options) as corpus:
        for row in rows:
            corpus.add(*row)
        if error is not None:
            raise error


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def noise(characters, seed="noise"):
    """Text that no compression makes small."""
    return random.Random(seed).randbytes(characters // 2).hex()


# What is written


def test_codes_are_written_canonically_once_and_in_the_order_given(tmp_path):
    with writer(tmp_path / "c") as corpus:
        raw = ("i5021", "E11.9", "I50.21.", "e119", "I10")
        written = corpus.add("train", note("a", raw))
    assert written.codes == ("I50.21", "E11.9", "I10")
    (back,) = Corpus(tmp_path / "c").notes("train")
    assert back == written


def test_unlabelled_and_coded_as_nothing_stay_apart(tmp_path):
    with writer(tmp_path / "c") as corpus:
        corpus.add("train", note("a", None))
        corpus.add("train", note("b", ()))
    corpus = Corpus(tmp_path / "c")
    assert [n.codes for n in corpus.notes("train")] == [None, ()]
    assert corpus.info.splits["train"].labelled == 1


def test_counts_of_a_split_are_those_of_its_notes(tmp_path):
    with writer(tmp_path / "c") as corpus:
        corpus.add("train", note("a", ("E11.9", "I10"), subject="s"))
        corpus.add("train", note("b", ("I10",), subject="s"))
        corpus.add("train", note("c", None))
        corpus.filters["short_notes"] += 2
    info = Corpus(tmp_path / "c").info
    counts = info.splits["train"]
    assert (counts.notes, counts.subjects, counts.labelled) == (3, 2, 2)
    assert (counts.mentions, counts.distinct_codes) == (3, 2)
    assert info.filters == {"short_notes": 2}
    assert info.options == {"seed": 1}


def test_splits_stand_in_their_usual_order(tmp_path):
    with writer(tmp_path / "c") as corpus:
        for split in ("dev", "test", "val", "train"):
            corpus.add(split, note(split))
    assert Corpus(tmp_path / "c").splits == ["train", "val", "test", "dev"]


def test_more_notes_than_a_batch_come_back_in_order(tmp_path):
    with writer(tmp_path / "c") as corpus:
        for i in range(9_000):
            corpus.add("train", note(f"n{i}"))
    assert [n.note_id for n in Corpus(tmp_path / "c").notes("train")] == [
        f"n{i}" for i in range(9_000)
    ]


def test_evidence_comes_back_in_characters_of_the_note(tmp_path):
    text = "Diabétes ☤ 𝒳 tipo 2"
    start = text.index("tipo")
    spans = [Span("a", "E11.9", 0, 8, 0), Span("a", "E11.9", start, start + 6, 0)]
    with writer(tmp_path / "c") as corpus:
        corpus.add("train", note("a", text=text), evidence=spans)
    corpus = Corpus(tmp_path / "c")
    assert list(corpus.evidence()) == spans
    (back,) = corpus.notes("train")
    assert [back.text[s.start : s.end] for s in corpus.evidence()] == ["Diabétes", "tipo 2"]


@pytest.mark.parametrize("written", ["E11.9", "e119", "E119.", "e11.9"])
def test_the_code_of_evidence_may_be_in_any_notation_too(tmp_path, written):
    with writer(tmp_path / "c") as corpus:
        corpus.add("train", note("a", ("E119",)), evidence=[Span("a", written, 0, 1, 0)])
    assert [span.code for span in Corpus(tmp_path / "c").evidence()] == ["E11.9"]


def test_evidence_for_a_code_that_was_set_aside_is_left_out(tmp_path):
    spans = [Span("a", "E11.9", 0, 1, 0), Span("a", "E11.99", 2, 3, 1)]
    with writer(tmp_path / "c", invalid_codes="quarantine") as corpus:
        corpus.add("train", note("a", ("E11.9", "E11.99")), evidence=spans)
    assert list(Corpus(tmp_path / "c").evidence()) == spans[:1]


def test_two_code_systems_share_a_note(tmp_path):
    with writer(tmp_path / "c", DP) as corpus:
        corpus.add("train", note("a", ("e119", "0bj08zz", "E11.99", "0ZZZZZZ")))
    corpus = Corpus(tmp_path / "c")
    (back,) = corpus.notes("train")
    assert back.codes == ("E11.9", "0BJ08ZZ", "E11.99", "0ZZZZZZ")
    assert corpus.info.standing == {
        "diagnosis": {"exact": 1, "unknown": 1},
        "procedure": {"exact": 1, "unknown": 1},
    }


def test_the_dot_tells_diagnoses_from_procedures_in_icd9(tmp_path):
    with writer(tmp_path / "c", NINE) as corpus:
        corpus.add("train", note("a", ("250.00", "99.21", "992.1", "e8001")))
    (back,) = Corpus(tmp_path / "c").notes("train")
    assert back.codes == ("250.00", "99.21", "992.1", "E800.1")


# Unknown and malformed codes


def test_an_unknown_code_is_kept_and_counted(tmp_path):
    with writer(tmp_path / "c") as corpus:
        corpus.add("train", note("a", ("E11.99", "E11.9", "E11")))
        corpus.add("train", note("b", ("E11.99",)))
    corpus = Corpus(tmp_path / "c")
    assert [n.codes for n in corpus.notes("train")] == [("E11.99", "E11.9", "E11"), ("E11.99",)]
    assert corpus.info.standing == {"diagnosis": {"exact": 1, "prefix": 1, "unknown": 2}}
    assert not (tmp_path / "c" / "quarantine.parquet").exists()


def test_quarantine_sets_unknown_and_malformed_codes_aside(tmp_path):
    with writer(tmp_path / "c", invalid_codes="quarantine") as corpus:
        corpus.add("train", note("a", ("E11.99", "E11.9", "bogus")))
        corpus.add("train", note("b", ("bogus",)))
    corpus = Corpus(tmp_path / "c")
    assert [n.codes for n in corpus.notes("train")] == [("E11.9",), ()]
    assert pq.read_table(tmp_path / "c" / "quarantine.parquet").to_pylist() == [
        {"note_id": "a", "code": "E11.99", "reason": "unknown"},
        {"note_id": "a", "code": "bogus", "reason": "malformed"},
        {"note_id": "b", "code": "bogus", "reason": "malformed"},
    ]
    assert corpus.info.standing == {"diagnosis": {"exact": 1, "malformed": 2, "unknown": 1}}


def test_a_refused_unknown_code_names_place_field_and_nearest_code(tmp_path):
    bad = ("train", note("a", ("E11.99",)), "notes.csv row 812")
    with pytest.raises(IcdtuneError) as caught:
        write(tmp_path / "c", bad, invalid_codes="error")
    message = str(caught.value)
    for part in ("notes.csv row 812", '"codes"', '"E11.99"', "E11.9)", "quarantine"):
        assert part in message
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("policy", ["keep", "error"])
def test_a_malformed_code_names_place_and_field(tmp_path, policy):
    bad = ("train", note("a", ("E11.9", "11.E9")), "notes.csv row 812")
    with pytest.raises(IcdtuneError) as caught:
        write(tmp_path / "c", bad, invalid_codes=policy)
    for part in ("notes.csv row 812", '"codes"', '"11.E9"', "ICD-10-CM", "quarantine"):
        assert part in str(caught.value)
    assert everything_in(tmp_path) == []


# Bad notes: each is refused by place and field, and leaves nothing

BAD = {
    "empty text": ("train", note("b", text=" \n\t"), ['"text"']),
    "no text": ("train", note("b", text=""), ['"text"']),
    "no note_id": ("train", note(" ", subject="s"), ['"note_id"']),
    "no subject_id": ("train", note("b", subject=" "), ['"subject_id"']),
    "note_id twice": ("train", note("a", subject="s2"), ['"note_id"', "a", "twice"]),
    "note_id in two splits": ("val", note("a", subject="s2"), ['"note_id"', "a", "twice"]),
    "subject in two splits": (
        "val",
        note("b", subject="s-a"),
        ['"subject_id"', "s-a", '"train"', '"val"'],
    ),
    "half a surrogate pair": ("train", note("b", text="a \ud83d b"), ['"text"']),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_note_names_place_and_field_and_leaves_nothing(tmp_path, case):
    split, bad_note, parts = BAD[case]
    bad = (split, bad_note, "notes.csv row 2")
    with pytest.raises(IcdtuneError) as caught:
        write(tmp_path / "c", ("train", note("a"), "notes.csv row 1"), bad)
    for part in ("notes.csv row 2", *parts):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything_in(tmp_path) == []


def test_an_error_after_unwritable_text_still_leaves_nothing(tmp_path):
    unwritable = ("train", note("a", text="a \ud83d b"))
    with pytest.raises((IcdtuneError, RuntimeError)):
        write(tmp_path / "c", unwritable, error=RuntimeError("the source broke off"))
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("span", [(-1, 3), (0, 14), (3, 3), (5, 2), (13, 14)])
def test_evidence_outside_the_text_names_place_and_code(tmp_path, span):
    bad = ("train", note("a"), "notes.csv row 1", [Span("a", "E11.9", *span, 0)])
    with pytest.raises(IcdtuneError) as caught:
        write(tmp_path / "c", bad)
    for part in ("notes.csv row 1", "evidence", "E11.9", f"{span[0]}-{span[1]}", "13 characters"):
        assert part in str(caught.value)
    assert everything_in(tmp_path) == []


def test_a_message_without_a_place_names_corpus_split_and_note(tmp_path):
    with (
        pytest.raises(IcdtuneError, match=r'c split "train" note a'),
        writer(tmp_path / "c") as corpus,
    ):
        corpus.add("train", note("a", text=""))


def test_messages_never_hold_the_text(tmp_path):
    with pytest.raises(IcdtuneError) as caught, writer(tmp_path / "c") as corpus:
        corpus.add(
            "train", note("a", text="Maria has diabetes"), "row 1", [Span("a", "E11.9", 0, 99, 0)]
        )
    assert "Maria" not in str(caught.value)


def test_a_source_without_notes_is_refused(tmp_path):
    with pytest.raises(IcdtuneError, match="a test gave no notes"), writer(tmp_path / "c"):
        pass
    assert everything_in(tmp_path) == []


# The target


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_nothing(tmp_path, error):
    rows = [
        ("train", note("a"), "", [Span("a", "E11.9", 0, 1, 0)]),
        ("val", note("b", ("bogus",))),
    ]
    with pytest.raises(error):
        write(tmp_path / "c", *rows, error=error, invalid_codes="quarantine")
    assert everything_in(tmp_path) == []


def test_nothing_is_seen_at_the_target_before_the_end(tmp_path):
    with writer(tmp_path / "c") as corpus:
        corpus.add("train", note("a"))
        assert not (tmp_path / "c").exists()
    assert everything_in(tmp_path) == ["c", "c/README.md", "c/corpus.json", "c/train.parquet"]


def test_a_corpus_is_not_replaced_unasked(tmp_path):
    with writer(tmp_path / "c") as corpus:
        corpus.add("train", note("old"))
    with pytest.raises(IcdtuneError, match="already exists.*--overwrite"):
        writer(tmp_path / "c")
    assert [n.note_id for n in Corpus(tmp_path / "c").notes("train")] == ["old"]
    assert names_in(tmp_path) == ["c"]


def test_overwrite_replaces_the_whole_corpus_at_the_end(tmp_path):
    with writer(tmp_path / "c") as corpus:
        corpus.add("train", note("old"), evidence=[Span("old", "E11.9", 0, 1, 0)])
        corpus.add("val", note("old-val"))
    with writer(tmp_path / "c", overwrite=True) as corpus:
        corpus.add("train", note("new"))
        assert [n.note_id for n in Corpus(tmp_path / "c").notes("train")] == ["old"]
    assert [n.note_id for n in Corpus(tmp_path / "c").notes("train")] == ["new"]
    assert everything_in(tmp_path) == ["c", "c/README.md", "c/corpus.json", "c/train.parquet"]


def test_a_failed_overwrite_keeps_the_old_corpus(tmp_path):
    with writer(tmp_path / "c") as corpus:
        corpus.add("train", note("old"))
    with pytest.raises(IcdtuneError, match="twice"):
        write(tmp_path / "c", ("train", note("new")), ("train", note("new")), overwrite=True)
    corpus = Corpus(tmp_path / "c")
    assert [n.note_id for n in corpus.notes("train")] == ["old"]
    assert corpus.row_hash() == corpus.info.hash
    assert names_in(tmp_path) == ["c"]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "file" / "c"):
        with pytest.raises(IcdtuneError, match="file"):
            writer(target)
    assert (tmp_path / "file").read_text() == "mine"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("notes", [1, 5_000], ids=["at the end", "while streaming"])
def test_a_full_disk_leaves_nothing(small_disk, notes):
    rows = [
        (split, note(f"{split}{i}", text=noise(500_000 // notes, seed=f"{split}{i}")))
        for i in range(notes)
        for split in ("train", "val")
    ]
    with pytest.raises(IcdtuneError):
        write(small_disk / "c", *rows)
    assert everything_in(small_disk) == []


def test_a_full_disk_leaves_the_old_corpus(small_disk):
    with writer(small_disk / "c") as corpus:
        corpus.add("train", note("old"))
    with pytest.raises(IcdtuneError), writer(small_disk / "c", overwrite=True) as corpus:
        corpus.add("train", note("new", text=noise(400_000)))
    assert [n.note_id for n in Corpus(small_disk / "c").notes("train")] == ["old"]
    assert names_in(small_disk) == ["c"]


def test_a_read_only_disk_is_refused_and_left_as_it_was(small_disk):
    with writer(small_disk / "c") as corpus:
        corpus.add("train", note("old"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = everything_in(small_disk)
    for target, overwrite in ((small_disk / "new", False), (small_disk / "c", True)):
        with pytest.raises(IcdtuneError):
            writer(target, overwrite=overwrite)
    assert everything_in(small_disk) == before
    assert [n.note_id for n in Corpus(small_disk / "c").notes("train")] == ["old"]


@pytest.mark.parametrize("name", ["evidence", "quarantine", "../train", ""])
def test_a_split_takes_no_other_files_name(tmp_path, name):
    systems = {"diagnosis": "icd10cm"}
    with (
        pytest.raises(IcdtuneError, match="name"),
        CorpusWriter(
            tmp_path / "c",
            name="t",
            code_systems=systems,
            source="test",
            options={},
            protected=False,
        ) as writer,
    ):
        writer.add(name, Note("n", "p", "text", ()))
    assert not list(tmp_path.iterdir())


def test_a_published_split_may_share_subjects_and_counts_them(tmp_path):
    systems = {"diagnosis": "icd10cm"}
    settings = {"name": "t", "code_systems": systems, "source": "test", "options": {}}
    with CorpusWriter(tmp_path / "c", **settings, protected=False, published_split=True) as writer:
        for number, split in enumerate(("train", "val", "test")):
            writer.add(split, Note(f"n{number}", "p", "text", ()))
        writer.add("test", Note("n9", "q", "text", ()))
    assert Corpus(tmp_path / "c").info.waivers == {"subjects_in_two_splits": 1}
