"""Bad input: status 2, one line that names the place and a way out, nothing left behind.

Every note of these tests holds MARKER, which no message may show.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support import mounted

from icdtune.cli import main
from icdtune.data.schema import NOTE_SCHEMA, Note
from icdtune.data.writer import CorpusWriter

MARKER = "zebrafinch"
WAY_OUT = re.compile(r"(?:\. [A-Z][a-z]+|choose one of |write it as |give )")
"""How a message goes on once it has said what is wrong."""
STAGE = re.compile(r" *\d+\.\d s  \w.*\n")
"""What a study says as a stage begins, before it meets what is wrong."""
TEMPORARY = re.compile(r"(?:^|[/ ])\.\w")
"""The name of a hidden file or folder, which is nothing to the user."""
KINDS = (("Sugar is high", "E11.9"), ("Pressure is high", "I10"), ("The heart fails", "I50.9"))
STUDY = {
    "name": "small",
    "corpus": {"path": "corpus"},
    "coders": [{"name": "words", "coder": "dictionary"}, {"name": "ridge", "coder": "bow"}],
    "evaluation": {"resamples": 5},
}
TRAIN = ("train", "dictionary", "--corpus", "corpus", "--out", "new")
PREDICT = ("predict", "--coder", "dictionary", "--corpus", "corpus", "--out", "new")
EVALUATE = ("evaluate", "predictions", "--corpus", "corpus", "--resamples", "5", "--out", "m.json")
RUN_STUDY = ("study", "study.yaml", "--out", "new")
CHECK = ("corpus", "check", "corpus")
OPENERS = {
    "describe": ("corpus", "describe", "corpus"),
    "check": CHECK,
    "labels": ("labels", "corpus", "--name", "mine"),
    "train": TRAIN,
    "predict": PREDICT,
    "evaluate": EVALUATE,
    "study": RUN_STUDY,
}
"""Every command that opens a corpus."""
PREPARE = ("prepare", "synthetic", "--train", "9", "--val", "3", "--test", "3", "--out")
WRITERS = {
    "prepare": lambda out: (*PREPARE, out),
    "train": lambda out: (*TRAIN[:-1], out),
    "predict": lambda out: (*PREDICT[:-1], out),
    "study": lambda out: (*RUN_STUDY[:-1], out),
}
"""Every command that writes a folder."""


def write_corpus(path, name="marked"):
    description = {"code_systems": {"diagnosis": "icd10cm"}, "source": "a test", "options": {}}
    with CorpusWriter(path, name=name, protected=True, **description) as writer:
        for split, count in (("train", 12), ("val", 4), ("test", 4)):
            for i in range(count):
                words, code = KINDS[i % len(KINDS)]
                note_id = f"{split}-{i}"
                note = Note(
                    note_id, f"subject-{note_id}", f"{words}. {MARKER} {i} ({name}).", (code,)
                )
                writer.add(split, note)


@pytest.fixture(scope="session")
def prototype(tmp_path_factory):
    """A folder with one good thing of every kind."""
    folder = tmp_path_factory.mktemp("prototype")
    write_corpus(folder / "corpus")
    write_corpus(folder / "other", "other")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    (folder / "note.txt").write_text(f"Sugar is high. {MARKER}\n")
    (folder / "codes.txt").write_text("I10\nE11.9\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in (
            TRAIN[:-1] + ("dictionary",),
            ("train", "bow", "--corpus", "corpus", "--out", "bow"),
            PREDICT[:-1] + ("predictions",),
            (*PREDICT[:3], "--corpus", "other", "--out", "other-predictions"),
        ):
            patch.setattr(sys, "argv", ["icdtune", *arguments])
            with pytest.raises(SystemExit) as end:
                main()
            assert not end.value.code, arguments
    return folder


@pytest.fixture
def here(prototype, tmp_path, monkeypatch):
    """A copy of the prototype, to spoil: the working directory."""
    folder = tmp_path / "here"
    shutil.copytree(prototype, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def disk(here):
    """A small file system that ends with the test."""
    with mounted(here / "disk", "256k") as folder:
        yield folder


def everything_in(folder):
    """Every file with its content's hash, every folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


def checked(err):
    """The message of standard error, which is one line, says a way out and shows no note."""
    err = STAGE.sub("", err)
    assert err.startswith("Error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert MARKER not in err
    message = err.removeprefix("Error: ").removesuffix("\n")
    assert WAY_OUT.search(message), f"no way out: {message}"
    assert not TEMPORARY.search(message), f"a temporary name: {message}"
    return message


@pytest.fixture
def refused(here, capsys, monkeypatch):
    """Run a command that must be refused in this process and leave everything as it was."""

    def run(*arguments, untouched=True):
        before = everything_in(here)
        monkeypatch.setattr(sys, "argv", ["icdtune", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert end.value.code == 2
        assert MARKER not in out
        if untouched:
            assert everything_in(here) == before
        return checked(err)

    return run


def start(*arguments, **environment):
    """Run the real command in a process of its own."""
    command = [sys.executable, "-m", "icdtune", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def edit_json(path, **changes):
    path = Path(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop_from_json(path, name):
    path = Path(path)
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != name})
    )


def edit_rows(path, change):
    """Put a parquet file's rows, changed as plain data, in its place."""
    table = pq.read_table(path)
    schema = pa.schema([pa.field(field.name, field.type) for field in table.schema])
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema), path)


def set_field(path, row, **values):
    edit_rows(path, lambda rows: [r | values if i == row else r for i, r in enumerate(rows)])


def cut(path, keep=0.5):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * keep)])


def edit_study(**changes):
    Path("study.yaml").write_text(yaml.safe_dump(STUDY | changes))


# Corpora


def other_type(name, kind, convert):
    """A damage: a field of train.parquet becomes another type."""

    def damage():
        table = pq.read_table("corpus/train.parquet")
        column = pa.array([convert(value) for value in table[name].to_pylist()], kind)
        at = table.schema.get_field_index(name)
        pq.write_table(table.set_column(at, name, column), "corpus/train.parquet")

    return damage


def drop_field(name):
    def damage():
        table = pq.read_table("corpus/train.parquet").drop_columns([name])
        pq.write_table(table, "corpus/train.parquet")

    return damage


TRAIN_FILE = r"corpus/train\.parquet"
DAMAGES = {
    "a field is missing": (drop_field("codes"), rf'{TRAIN_FILE} lacks the field "codes"'),
    "codes are text": (
        other_type("codes", pa.string(), ",".join),
        rf'{TRAIN_FILE}: field "codes" is string, not list',
    ),
    "text is a number": (
        other_type("text", pa.int64(), len),
        rf'{TRAIN_FILE}: field "text" is int64, not string',
    ),
    "corpus.json has an unknown field": (
        lambda: edit_json("corpus/corpus.json", colour="red"),
        r'corpus/corpus\.json: field "colour"',
    ),
    "corpus.json lacks a field": (
        lambda: drop_from_json("corpus/corpus.json", "splits"),
        r'corpus/corpus\.json: field "splits"',
    ),
    "corpus.json is cut": (lambda: cut("corpus/corpus.json"), r"corpus/corpus\.json line \d+"),
    "corpus.json is missing": (
        lambda: Path("corpus/corpus.json").unlink(),
        r"corpus is not a corpus: it has no corpus\.json.*icdtune prepare",
    ),
    "an unknown code system": (
        lambda: edit_json("corpus/corpus.json", code_systems={"diagnosis": "icd11"}),
        r'corpus/corpus\.json: field "code_systems.*icd11.*icd10cm',
    ),
    "a malformed code": (
        lambda: set_field("corpus/train.parquet", 3, codes=["I10", "99x"]),
        rf'{TRAIN_FILE} row 3: field "codes": "99x" is not a canonical code of ICD-10-CM',
    ),
    "a code without its dot": (
        lambda: set_field("corpus/train.parquet", 3, codes=["E119"]),
        rf'{TRAIN_FILE} row 3: field "codes": "E119" .*canonical: "E11\.9"',
    ),
    "a null code": (
        lambda: set_field("corpus/train.parquet", 3, codes=["I10", None]),
        rf'{TRAIN_FILE} row 3: field "codes"',
    ),
    "a note id twice": (
        lambda: set_field("corpus/train.parquet", 3, note_id="train-1"),
        rf'{TRAIN_FILE} row 3: field "note_id": train-1 stands twice',
    ),
    "a note id in two splits": (
        lambda: set_field("corpus/val.parquet", 2, note_id="train-1"),
        r'corpus/val\.parquet row 2: field "note_id": train-1',
    ),
    "an empty note id": (
        lambda: set_field("corpus/train.parquet", 3, note_id=" "),
        rf'{TRAIN_FILE} row 3: field "note_id" is empty',
    ),
    "a null subject": (
        lambda: set_field("corpus/train.parquet", 3, subject_id=None),
        rf'{TRAIN_FILE} row 3: field "subject_id" is empty',
    ),
    "a subject in two splits": (
        lambda: set_field("corpus/test.parquet", 2, subject_id="subject-train-1"),
        r'corpus/test\.parquet row 2: field "subject_id": subject subject-train-1 .*"train"',
    ),
    "a parquet file cut short": (
        lambda: cut("corpus/train.parquet"),
        rf"{TRAIN_FILE} is damaged or cut short",
    ),
    "an empty parquet file": (
        lambda: cut("corpus/train.parquet", 0),
        rf"{TRAIN_FILE} is damaged or cut short",
    ),
    "a split's file is missing": (
        lambda: Path("corpus/train.parquet").unlink(),
        rf"{TRAIN_FILE} does not exist",
    ),
    "rows are missing": (
        lambda: edit_rows("corpus/train.parquet", lambda rows: rows[:-2]),
        rf"{TRAIN_FILE} has 10 rows where corpus\.json says 12",
    ),
}


@pytest.mark.parametrize("command", OPENERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_corpus_is_refused_by_every_command(damage, command, refused):
    spoil, message = DAMAGES[damage]
    spoil()
    assert re.search(message, refused(*OPENERS[command]))


@pytest.mark.parametrize("text", ["", " \n\t", None])
@pytest.mark.parametrize("command", ["check", "train", "study"])
def test_an_empty_note_is_named(text, command, refused):
    set_field("corpus/train.parquet", 5, text=text)
    leaves_labels = command == "study"
    found = refused(*OPENERS[command], untouched=not leaves_labels)
    assert re.search(rf'{TRAIN_FILE} row 5: field "text" of note train-5 is empty', found)
    assert not leaves_labels or not list(Path("new").rglob(".*"))


def test_an_empty_note_stops_predictions(refused):
    set_field("corpus/test.parquet", 1, text="")
    found = refused(*PREDICT)
    assert re.search(r'corpus/test\.parquet row 1: field "text" of note test-1 is empty', found)


def test_changed_rows_are_found_by_check(refused):
    set_field("corpus/train.parquet", 5, text=f"Other words. {MARKER}")
    assert re.search(r"corpus: the rows are not those that corpus\.json describes", refused(*CHECK))


def test_notes_in_place_of_codes_are_not_shown(refused):
    edit_rows("corpus/train.parquet", lambda rows: [r | {"codes": [r["text"]]} for r in rows])
    assert re.search(rf'{TRAIN_FILE} row 0: field "codes"', refused(*CHECK))


# Unlabelled splits


@pytest.mark.parametrize(
    ("split", "command"),
    [
        ("train", "train"),
        ("train", "labels"),
        ("train", "study"),
        ("val", "train"),
        ("val", "study"),
        ("test", "evaluate"),
        ("test", "study"),
    ],
)
def test_an_unlabelled_split_is_refused_before_anything_is_written(split, command, refused):
    set_field(f"corpus/{split}.parquet", 1, codes=None)
    found = refused(*OPENERS[command])
    assert re.search(rf"corpus.*{split}.*(note {split}-1|row 1).*null", found)


# Predictions


PREDICTIONS = Path("predictions/predictions.parquet")
SPOILT = {
    "of notes that the split has not": (
        lambda rows: [*rows, rows[0] | {"note_id": "stranger"}],
        r"row 4: .*stranger is not a note of split \"test\"",
    ),
    "of other notes": (
        lambda rows: [r | {"note_id": f"other-{i}"} for i, r in enumerate(rows)],
        r'4 of 4 notes of split "test" are missing, first test-0',
    ),
    "of some notes": (
        lambda rows: rows[1:],
        r'1 of 4 notes of split "test" are missing, first test-0',
    ),
    "of a note twice": (
        lambda rows: [*rows, rows[2]],
        r'field "note_id": test-2 stands twice',
    ),
    "of a note without an id": (
        lambda rows: [*rows[:-1], rows[-1] | {"note_id": None}],
        r'row 3: field "note_id" is null',
    ),
    "without codes": (
        lambda rows: [rows[0] | {"codes": None}, *rows[1:]],
        r'row 0: field "codes" is null',
    ),
    "with too few scores": (
        lambda rows: [*rows[:2], rows[2] | {"scores": [0.5] * 9}, *rows[3:]],
        r'row 2: fields "codes" and "scores" differ in length',
    ),
}


@pytest.mark.parametrize("way", [(), ("--against", "predictions")], ids=["evaluated", "against"])
@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_predictions_are_refused_and_their_file_named(what, way, here, refused):
    shutil.copytree("predictions", "good")
    change, message = SPOILT[what]
    edit_rows(PREDICTIONS, change)
    first = "good" if way else "predictions"
    found = refused("evaluate", first, "--corpus", "corpus", "--out", "m.json", *way)
    assert re.search(message, found)
    assert "predictions/predictions.parquet" in found


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: cut(PREDICTIONS), r"predictions/predictions\.parquet is damaged or cut short"),
        (lambda: PREDICTIONS.unlink(), r"predictions/predictions\.parquet does not exist"),
        (lambda: shutil.rmtree("predictions"), r"predictions.* does not exist"),
        (
            lambda: pq.write_table(pq.read_table(PREDICTIONS).drop_columns(["codes"]), PREDICTIONS),
            r'predictions/predictions\.parquet lacks the field "codes"',
        ),
        (
            lambda: edit_json("predictions/predictions.json", colour="red"),
            r'predictions/predictions\.json: field "colour"',
        ),
        (lambda: cut("predictions/predictions.json"), r"predictions/predictions\.json line \d+"),
    ],
    ids=["cut", "no file", "no folder", "no field", "unknown field", "cut json"],
)
def test_damaged_predictions_are_refused(spoil, message, refused):
    spoil()
    assert re.search(message, refused(*EVALUATE))


@pytest.mark.parametrize("way", ["evaluated", "against", "second seed"])
def test_predictions_of_another_corpus_are_refused(way, refused):
    """The other corpus has the same note ids, so that only its hash tells."""
    arguments = {
        "evaluated": ("other-predictions",),
        "against": ("predictions", "--against", "other-predictions"),
        "second seed": ("predictions", "other-predictions"),
    }[way]
    found = refused("evaluate", *arguments, "--corpus", "corpus", "--out", "m.json")
    assert re.search(r"other-predictions: predictions of another corpus \(other, hash", found)


@pytest.mark.parametrize("command", ["train", "predict", "evaluate"])
def test_an_absent_label_space_is_named(command, refused):
    found = refused(*OPENERS[command], "--labels", "nope")
    assert re.search(
        r"corpus/labels/nope\.json does not exist\. Make it with: icdtune labels", found
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (*PREDICT, "--split", "nope"),
        (*EVALUATE, "--split", "nope"),
        ("labels", "corpus", "--name", "mine", "--count-on", "nope"),
    ],
    ids=["predict", "evaluate", "labels"],
)
def test_an_absent_split_is_named(arguments, refused):
    found = refused(*arguments)
    assert re.search(r'corpus has no split "nope"\. It has: train, val, test', found)


@pytest.mark.parametrize("name", ["../../outside", "a/b", "", ".."])
def test_a_label_space_has_a_plain_name(name, refused):
    assert "name" in refused("labels", "corpus", "--name", name)


# Study files


BAD_STUDIES = {
    "an unknown field": ({"colour": "red"}, r'study\.yaml: field "colour"'),
    "an unknown field below": (
        {"evaluation": {"resample": 5}},
        r'study\.yaml: field "evaluation\.resample"',
    ),
    "a wrong type": ({"seeds": "many"}, r'study\.yaml: field "seeds"'),
    "no coders": ({"coders": []}, r'study\.yaml: field "coders"'),
    "no corpus": ({"corpus": {}}, r'study\.yaml: field "corpus": .*"path" or "prepare"'),
    "two corpora": (
        {"corpus": {"path": "corpus", "prepare": "synthetic"}},
        r'study\.yaml: field "corpus": .*"path" or "prepare"',
    ),
    "an absent corpus": ({"corpus": {"path": "gone"}}, r"gone is not a corpus"),
    "an unknown source": (
        {"corpus": {"prepare": "mimic-xi"}},
        r'study "small".*"mimic-xi".*Known: synthetic, codiesp',
    ),
    "an unknown corpus option": (
        {"corpus": {"prepare": "synthetic", "options": {"patients": 5}}},
        r'"synthetic" has no option "patients"\. It has: train',
    ),
    "an invalid corpus option": (
        {"corpus": {"prepare": "synthetic", "options": {"profile": "huge"}}},
        r'profile "huge": choose one of short, medium, long',
    ),
    "a corpus option of a wrong type": (
        {"corpus": {"prepare": "synthetic", "options": {"train": "many"}}},
        r"train",
    ),
    "a corpus option that is no number of notes": (
        {"corpus": {"prepare": "synthetic", "options": {"train": -1}}},
        r'option "train": Input should be greater than or equal to 0',
    ),
    "an unknown coder": (
        {"coders": [*STUDY["coders"], {"name": "third", "coder": "nope"}]},
        r'unknown coder "nope"\. Known: dictionary, bow',
    ),
    "a coder of an absent module": (
        {"coders": [*STUDY["coders"], {"name": "third", "coder": "no_such_module:Coder"}]},
        r'coder "no_such_module:Coder" cannot be imported',
    ),
    "an unknown coder option": (
        {"coders": [*STUDY["coders"], {"name": "x", "coder": "bow", "options": {"depth": 3}}]},
        r'coder "bow" has no option "depth"\. It has: words, characters',
    ),
    "two coders of one name": (
        {"coders": [STUDY["coders"][0]] * 2},
        r"study\.yaml: .*two coders have the same name",
    ),
    "two seeds alike": ({"seeds": [1, 1]}, r'study\.yaml: field "seeds"'),
    "a name that is a path": ({"name": "../outside"}, r'study\.yaml: field "name"'),
    "a coder's name that is a path": (
        {"coders": [{"name": "a/b", "coder": "dictionary"}]},
        r'study\.yaml: field "coders\.0\.name"',
    ),
    "an absent split": ({"split": "nope"}, r'corpus has no split "nope"\. It has: train'),
    "top_k without k": ({"labels": {"kind": "top_k"}}, r'study\.yaml: field "labels".*k >= 1'),
    "an absent codes file": (
        {"labels": {"kind": "file", "source": "gone.txt"}},
        r"gone\.txt does not exist",
    ),
    "a variable that is not set": (
        {"description": "${ICDTUNE_NO_SUCH}"},
        r"study\.yaml: environment variable ICDTUNE_NO_SUCH is not set\. Set it",
    ),
}


@pytest.mark.parametrize("what", BAD_STUDIES)
def test_a_bad_study_is_refused_before_anything_is_written(what, refused):
    changes, message = BAD_STUDIES[what]
    edit_study(**changes)
    assert re.search(message, refused(*RUN_STUDY))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: small\ncoders: [a, b\nsplit: test\n", r"study\.yaml line \d+ is not valid YAML"),
        (b"name: {small\n", r"study\.yaml line \d+ is not valid YAML"),
        (b"name: \xff\xfe\n", r"study\.yaml is not UTF-8"),
        (b"name: a\x00b\n", r"study\.yaml.* is not valid YAML"),
        (b"", r"study\.yaml"),
        (b"- a\n- b\n", r"study\.yaml"),
        (f"Sugar is high. {MARKER}\n".encode(), r"study\.yaml"),
    ],
    ids=["bracket", "brace", "latin", "nul", "empty", "list", "note"],
)
def test_a_study_file_that_is_none_is_refused(content, message, refused):
    Path("study.yaml").write_bytes(content)
    assert re.search(message, refused(*RUN_STUDY))


def test_of_several_studies_the_bad_one_is_named(refused):
    Path("study.yaml").write_text(yaml.safe_dump_all([STUDY, STUDY | {"name": "b", "sed": 1}]))
    assert re.search(r'study\.yaml document 2: field "sed"', refused(*RUN_STUDY))


def test_two_studies_of_one_file_have_two_names(refused):
    Path("study.yaml").write_text(yaml.safe_dump_all([STUDY, STUDY]))
    assert re.search(r'study\.yaml: field "name": two studies', refused(*RUN_STUDY))


def codiesp_source(folder):
    """The least CodiEsp: four notes a split."""
    for split in ("train", "dev", "test"):
        for texts in ("text_files", "text_files_en"):
            (folder / split / texts).mkdir(parents=True)
            for i in range(4):
                (folder / split / texts / f"{split}{i}.txt").write_text(f"Text {MARKER}.")
        rows = [f"{split}{i}\ti10\n" for i in range(4)]
        (folder / split / f"{split}D.tsv").write_text("".join(rows))


@pytest.mark.parametrize(
    ("option", "value"), [("language", "fr"), ("task", "X"), ("invalid_codes", "hide")]
)
def test_an_invalid_codiesp_option_is_refused_in_a_study_too(option, value, here, refused):
    codiesp_source(here / "source")
    edit_study(corpus={"prepare": "codiesp", "options": {"source": "source", option: value}})
    assert re.search(rf'"codiesp": option "{option}": Input should be', refused(*RUN_STUDY))


# Options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*PREPARE, "new", "--profile", "huge"), r'--profile "huge": choose one of short'),
        (
            ("prepare", "codiesp", "--source", "source", "--out", "new", "--language", "fr"),
            r'--language "fr": choose one of en, es',
        ),
        (
            ("prepare", "codiesp", "--source", "source", "--out", "new", "--task", "X"),
            r'--task "X": choose one of D, P, DP',
        ),
        (
            ("prepare", "codiesp", "--source", "source", "--out", "new", "--invalid-codes", "hide"),
            r'--invalid-codes "hide": choose one of keep, quarantine, error',
        ),
        (("prepare", "codiesp", "--out", "new"), r"--source, or --download"),
        ((*TRAIN, "--option", "evidence"), r'--option "evidence": write it as key=value'),
        ((*TRAIN, "--option", "evidence=[1"), r'--option "evidence": .*YAML'),
        ((*TRAIN, "--option", "depth=3"), r'coder "dictionary" has no option "depth"\. It has'),
        (("train", "nope", *TRAIN[2:]), r'unknown coder "nope"\. Known: dictionary, bow'),
        (("train", "no_such_module:Coder", *TRAIN[2:]), r"no_such_module:Coder"),
        (("train", "icdtune.files:nope", *TRAIN[2:]), r"icdtune\.files:nope"),
        (("predict", "--coder", "dictionary", "--corpus", "corpus"), r"--corpus and --out"),
        (("codes", "check"), r"no codes given.*--file"),
        (("codes", "check", "I10", "--system", "icd11"), r"icd11.*icd10cm"),
        (("codes", "show", "I10", "--system", "icd11"), r"icd11.*icd10cm"),
        (("codes", "search", "heart", "--system", "icd11"), r"icd11.*icd10cm"),
        (("codes", "map", "I10", "--from", "icd11"), r"icd11.*icd10cm"),
        (("codes", "map", "0DTJ4ZZ", "--from", "icd10pcs"), r"no map from ICD-10-PCS.*Give"),
        (("codes", "map", "E11.99"), r'"E11\.99" .*closest: E11\.9'),
        (("codes", "show", "???"), r'"\?\?\?" is not written like a code'),
        (("codes", "show", ""), r'"" is not written like a code'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_invalid_option_is_named(arguments, message, refused):
    assert re.search(message, refused(*arguments))


@pytest.mark.parametrize(
    "option", ["words=many", "words=-5", "characters=1.5", "alphas=3", "alphas=[]", "alphas=[x]"]
)
def test_a_coder_option_of_a_wrong_value_is_named(option, refused):
    found = refused("train", "bow", *TRAIN[2:], "--option", option)
    assert option.split("=")[0] in found


def test_a_bag_of_words_without_any_features_is_refused(refused):
    found = refused("train", "bow", *TRAIN[2:], "-o", "words=0", "-o", "characters=0")
    assert "words" in found


def test_a_coder_option_of_a_wrong_type_is_named(refused):
    assert "evidence" in refused(*TRAIN, "--option", "evidence=perhaps")


# Output that is there, or cannot be


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_what_is_there_is_kept_without_overwrite(command, refused):
    Path("new").mkdir()
    Path("new/precious.txt").write_text("mine")
    found = refused(*WRITERS[command]("new"))
    assert re.search(r"new already exists\. .*--overwrite", found)


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_overwrite_replaces_nothing_but_a_folder_of_its_kind(command, refused):
    """A slip in --out must not cost a folder of other work."""
    Path("new").mkdir()
    Path("new/precious.txt").write_text("mine")
    assert "new" in refused(*WRITERS[command]("new"), "--overwrite")


def test_a_coder_does_not_take_the_place_of_its_corpus(refused):
    assert "corpus" in refused(*WRITERS["train"]("corpus"), "--overwrite")


def test_predictions_that_are_there_are_kept_without_overwrite(refused):
    found = refused(*PREDICT[:-1], "other-predictions")
    assert re.search(r"other-predictions.* already exists\. .*--overwrite", found)


@pytest.mark.parametrize("command", WRITERS)
def test_an_output_path_through_a_file_names_the_file(command, refused):
    found = refused(*WRITERS[command]("codes.txt/below"))
    assert re.search(r"codes\.txt.* a file stands in its way", found)


@pytest.mark.parametrize("out", ["codes.txt/m.json", "corpus"])
def test_metrics_cannot_take_a_folder_s_place_or_go_below_a_file(out, refused):
    found = refused(*EVALUATE[:-1], out)
    assert out.split("/")[0] in found


def test_a_cache_below_a_file_is_named(here):
    found = start("codes", "show", "I10", ICDTUNE_CACHE="codes.txt/cache")
    assert (found.returncode, found.stdout) == (2, "")
    assert "codes.txt" in checked(found.stderr)


# Full and read-only disks


def fill(disk, pages):
    """Leave `pages` pages of 4 kB free."""
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free
    filler.write_bytes(bytes(free - pages * 4096))
    assert shutil.disk_usage(disk).free == pages * 4096


@pytest.mark.parametrize(
    ("command", "pages"),
    [(command, pages) for command in ("prepare", "train") for pages in (0, 1, 2)]
    + [("predict", 0), ("predict", 1)],
)
def test_a_full_disk_is_named_and_nothing_is_left_on_it(command, pages, disk, refused):
    if command == "predict":
        (disk / "out").mkdir()
    fill(disk, pages)
    found = refused(*WRITERS[command]("disk/out"))
    assert re.search(r"disk/out.* cannot be written: No space left on device\. Make room", found)


def test_a_full_disk_keeps_other_predictions_without_a_new_description(disk, refused):
    """Predictions of another tool come without predictions.json."""
    (disk / "out").mkdir()
    shutil.copy(PREDICTIONS, disk / "out")
    fill(disk, 1)
    refused(*PREDICT[:-1], "disk/out")


@pytest.mark.parametrize("pages", [0, 1, 3, 6, 12])
def test_a_study_goes_on_once_a_full_disk_has_room(pages, disk, refused, capsys, monkeypatch):
    fill(disk, pages)
    arguments = ("study", "study.yaml", "--out", "disk/runs")
    found = refused(*arguments, untouched=False)
    assert re.search(r"disk/runs.* cannot be written: No space left on device\. Make room", found)
    assert [path for path in disk.rglob("*") if path.name.startswith(".")] == []
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
    monkeypatch.setattr(sys, "argv", ["icdtune", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert "Report: disk/runs/small/report.html" in capsys.readouterr().out


@pytest.mark.parametrize("command", WRITERS)
def test_a_read_only_disk_is_named(command, disk, refused):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    found = refused(*WRITERS[command]("disk/out"))
    assert re.search(r"disk/out.* cannot be written: Read-only file system\. .*another", found)


# Missing and unreadable files


NOTE = ("predict", "--coder", "dictionary", "--note-file")
MISSING = {
    **{
        f"corpus of {k}": tuple("gone" if a == "corpus" else a for a in v)
        for k, v in OPENERS.items()
        if k in ("labels", "train", "predict", "evaluate")
    },
    "corpus to describe": ("corpus", "describe", "gone"),
    "corpus to check": ("corpus", "check", "gone"),
    "coder": ("predict", "--coder", "gone", *PREDICT[3:]),
    "coder of a note": ("predict", "--coder", "gone", "--note-file", "note.txt"),
    "note file": (*NOTE, "gone"),
    "codes file of labels": ("labels", "corpus", "--name", "mine", "--file", "gone"),
    "codes file to check": ("codes", "check", "--file", "gone"),
    "predictions": ("evaluate", "gone", *EVALUATE[2:]),
    "other predictions": (*EVALUATE, "--against", "gone"),
    "study file": ("study", "gone", "--out", "new"),
    "study to report": ("report", "gone"),
    "lexicon": (*PREPARE, "new", "--lexicon", "gone"),
    "source": ("prepare", "codiesp", "--source", "gone", "--out", "new"),
}


@pytest.mark.parametrize("what", MISSING)
def test_what_is_missing_is_named(what, refused):
    found = refused(*MISSING[what])
    assert "gone" in found


@pytest.mark.parametrize(
    "arguments",
    [
        (*NOTE, "corpus"),
        ("codes", "check", "--file", "corpus"),
        ("labels", "corpus", "--name", "mine", "--file", "corpus"),
        ("study", "corpus", "--out", "new"),
        (*PREPARE, "new", "--lexicon", "codes.txt"),
        ("prepare", "codiesp", "--source", "codes.txt", "--out", "new"),
        ("corpus", "check", "codes.txt"),
        ("predict", "--coder", "codes.txt", *PREDICT[3:]),
        ("evaluate", "codes.txt", *EVALUATE[2:]),
        ("report", "codes.txt"),
    ],
    ids=" ".join,
)
def test_a_folder_is_no_file_and_a_file_no_folder(arguments, refused):
    found = refused(*arguments)
    assert "corpus" in found or "codes.txt" in found


@pytest.mark.parametrize(
    "arguments",
    [
        (*NOTE, "latin.txt"),
        ("codes", "check", "--file", "latin.txt"),
        ("labels", "corpus", "--name", "mine", "--file", "latin.txt"),
    ],
    ids=["note", "codes", "labels"],
)
def test_a_text_file_that_is_not_utf8_is_named(arguments, refused):
    Path("latin.txt").write_bytes(f"I10\nni\xf1o {MARKER}\n".encode("latin-1"))
    assert re.search(r"latin\.txt.*UTF-8", refused(*arguments))


def test_evidence_that_cannot_be_written_is_refused(refused):
    Path("note.txt").write_text("Pneumonia.")
    found = refused(*NOTE, "note.txt", "--evidence", "auto")
    assert "--evidence writes a file. Give --corpus and --out" in found
    found = refused(*PREDICT, "--evidence", "attention")
    assert 'dictionary has no evidence "attention". It has: lexical' in found


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_note_file_is_named(content, refused):
    Path("empty.txt").write_text(content)
    assert re.search(r"empty\.txt is empty\. Give a note", refused(*NOTE, "empty.txt"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("labels", "corpus", "--name", "mine", "--file", "note.txt"),
        ("codes", "check", "--file", "note.txt"),
    ],
    ids=["labels", "check"],
)
def test_a_note_given_for_a_list_of_codes_is_not_shown_in_the_message(
    arguments, here, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["icdtune", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "note.txt" in checked(capsys.readouterr().err)


def test_a_bad_line_of_a_codes_file_is_named(refused):
    Path("codes.txt").write_text("I10\n\n99x\n")
    found = refused("labels", "corpus", "--name", "mine", "--file", "codes.txt")
    assert re.search(r'codes\.txt line 3: .*"99x" is not a canonical code of ICD-10-CM', found)


def test_a_label_space_without_codes_is_refused(refused):
    found = refused("labels", "corpus", "--name", "mine", "--min-count", "99")
    assert re.search(r'label space "mine" is empty.*Lower min_count', found)


# Cards and hubs


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("corpus", "corpus is not a coder: it has no coder.json"),
        ("bow", "the predictions are of dictionary (seed 1), bow is bow (seed 1)"),
    ],
)
def test_metrics_go_into_the_card_of_the_coder_that_predicted(card, message, refused):
    assert refused(*EVALUATE, "--card", card).startswith(message)


@pytest.mark.parametrize(
    "arguments",
    [
        (*TRAIN, "--push", "me/coder"),
        ("train", "dictionary", "--out", "dictionary", "--push", "me/coder"),
    ],
)
def test_a_coder_of_patient_data_is_not_sent(arguments, refused):
    assert "Give --allow-protected where your agreement covers" in refused(*arguments)


def test_a_coder_that_started_from_patient_data_is_not_sent(refused):
    """The corpus of this training is open; its start is not."""
    edit_json("corpus/corpus.json", protected=False)
    arguments = ("train", "grpo", "--start", "bow", "--corpus", "corpus", "--out", "new")
    message = refused(*arguments, "--push", "me/coder")
    assert message.startswith("bow was trained on patient data")


# Coder folders


WEIGHTS = [
    ("dictionary", "dictionary.json"),
    ("bow", "bow.json"),
    ("bow", "bow.safetensors"),
]


def with_coder(name, way):
    end = ("--note-file", "note.txt") if way == "note" else PREDICT[3:]
    return ("predict", "--coder", name, *end)


@pytest.mark.parametrize("way", ["split", "note"])
@pytest.mark.parametrize(("coder", "file"), WEIGHTS)
def test_a_coder_without_its_weights_is_named(coder, file, way, refused):
    Path(coder, file).unlink()
    found = refused(*with_coder(coder, way))
    assert re.search(rf"{coder}.*{re.escape(file)}.*Train the coder again", found)


@pytest.mark.parametrize("keep", [0, 0.5])
@pytest.mark.parametrize(("coder", "file"), WEIGHTS)
def test_a_coder_whose_weights_are_cut_is_named(coder, file, keep, refused):
    cut(Path(coder, file), keep)
    assert f"{coder}/{file}" in refused(*with_coder(coder, "split"))


@pytest.mark.parametrize(("coder", "file"), WEIGHTS[:2])
def test_a_coder_whose_weights_lack_a_field_is_named(coder, file, refused):
    drop_from_json(Path(coder, file), "threshold")
    assert re.search(rf"{coder}.*threshold", refused(*with_coder(coder, "split")))


@pytest.mark.parametrize("field", ["coder", "label_space", "seed"])
def test_a_coder_whose_description_lacks_a_field_is_named(field, refused):
    drop_from_json("dictionary/coder.json", field)
    found = refused(*with_coder("dictionary", "split"))
    assert re.search(rf'dictionary/coder\.json: field "{field}"', found)


def test_a_coder_of_an_unknown_kind_is_named(refused):
    edit_json("dictionary/coder.json", coder="nope")
    assert re.search(r'unknown coder "nope"', refused(*with_coder("dictionary", "split")))


def test_a_coder_whose_description_is_cut_is_named(refused):
    cut("dictionary/coder.json")
    assert "dictionary/coder.json line" in refused(*with_coder("dictionary", "split"))


# Results of a study


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"name": "x", "coders": []}'])
def test_results_that_are_none_give_no_report(content, refused):
    Path("study").mkdir()
    Path("study/results.json").write_text(content)
    assert "study/results.json" in refused("report", "study")


# The real process: the same, with whatever else it might print


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (lambda: cut("corpus/val.parquet"), TRAIN, r"corpus/val\.parquet is damaged"),
        (
            lambda: set_field("corpus/train.parquet", 2, text=""),
            ("train", "bow", *TRAIN[2:]),
            r"corpus/train\.parquet row 2",
        ),
        (
            lambda: Path("bow/bow.safetensors").unlink(),
            with_coder("bow", "note"),
            r"bow.*bow\.safetensors",
        ),
        (
            lambda: edit_rows(PREDICTIONS, lambda rows: rows[1:]),
            EVALUATE,
            r"1 of 4 notes of split",
        ),
        (lambda: edit_study(colour="red"), RUN_STUDY, r'study\.yaml: field "colour"'),
    ],
    ids=["cut corpus", "empty note", "no weights", "missing predictions", "unknown field"],
)
def test_the_real_command_prints_one_line_and_leaves_nothing(spoil, arguments, message, here):
    spoil()
    before = everything_in(here)
    found = start(*arguments)
    assert (found.returncode, found.stdout) == (2, "")
    assert re.search(message, checked(found.stderr))
    assert everything_in(here) == before


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_the_real_command_leaves_nothing_on_a_full_disk(command, disk, here):
    fill(disk, 1)
    before = everything_in(here)
    found = start(*WRITERS[command]("disk/out"))
    assert (found.returncode, found.stdout) == (2, "")
    assert "No space left" in checked(found.stderr)
    assert everything_in(here) == before


def test_notes_have_the_text_that_the_corpus_declares(prototype):
    """What the other tests rely on: every note holds the marker."""
    for split in ("train", "val", "test"):
        texts = pq.read_table(prototype / "corpus" / f"{split}.parquet", schema=NOTE_SCHEMA)["text"]
        assert all(MARKER in text for text in texts.to_pylist())
