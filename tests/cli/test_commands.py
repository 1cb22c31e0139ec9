"""What each command prints and leaves, on a small synthetic corpus."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from unittest import mock

import pyarrow.parquet as pq
import pytest
import typer

import icdtune
from icdtune.cli import app, main
from icdtune.data.schema import Note
from icdtune.data.writer import CorpusWriter

SIZES = ("--train", "60", "--val", "20", "--test", "20")
SEED = ("--seed", "3")
STUDY = """
name: small
description: two coders, two seeds
corpus: {path: corpus}
labels: {name: top20, kind: top_k, k: 20}
seeds: [1, 2]
coders:
  - {name: words, coder: dictionary}
  - {name: ridge, coder: bow, options: {words: 2000, characters: 0}}
evaluation: {resamples: 20, examples: 3}
"""


@dataclass(frozen=True)
class Result:
    """What a command that ran in this process ended with."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def run(*arguments):
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["icdtune", *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main()
    return Result(end.value.code or 0, out.getvalue(), err.getvalue())


def done(*arguments):
    """Run a command that succeeds and has nothing to say on standard error."""
    result = run(*arguments)
    assert (result.status, result.err) == (0, "")
    return result


def start(*arguments, **environment):
    """Run the real command in a process of its own."""
    command = [sys.executable, "-m", "icdtune", *map(str, arguments)]
    found = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    return Result(found.returncode, found.stdout, found.stderr)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where the session's corpus, coders and predictions are."""
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="session")
def corpus(folder):
    done("prepare", "synthetic", *SIZES, *SEED, "--out", folder / "corpus")
    return folder / "corpus"


@pytest.fixture(scope="session")
def coders(folder, corpus):
    """Folders of both trained coders by name."""
    for name in ("dictionary", "bow"):
        done("train", name, "--corpus", corpus, "--out", folder / name)
    return {name: folder / name for name in ("dictionary", "bow")}


@pytest.fixture(scope="session")
def predictions(folder, corpus, coders):
    """Folders of both coders' predictions of the split "test", by coder."""
    outs = {}
    for name, coder in coders.items():
        outs[name] = folder / f"{name}-test"
        done("predict", "--coder", coder, "--corpus", corpus, "--out", outs[name])
    return outs


@pytest.fixture(scope="session")
def studied(folder, corpus):
    """A study that has run in a process of its own: its folder and what it ended with."""
    (folder / "study.yaml").write_text(STUDY)
    return folder / "runs" / "small", start(
        "study", folder / "study.yaml", "--out", folder / "runs"
    )


# Help and start-up


def commands():
    """Path and click command of every command."""

    def walk(command, path):
        yield path, command
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*path, name))

    return dict(walk(typer.main.get_command(app), ()))


LEAVES = [path for path, command in commands().items() if not hasattr(command, "commands")]


def examples(path):
    """The command lines that a command's help gives as examples."""
    _, _, lines = commands()[path].epilog.partition(": ")
    return lines.split(" | ")


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_help_ends_well_and_shows_an_example(path):
    found = done(*path, "--help").out
    assert "Usage" in found
    if path in LEAVES:
        assert re.search(r"Examples?: icdtune " + path[0], " ".join(found.split()))


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_example_of_a_help_text_is_a_command_line_that_parses(path):
    for example in examples(path):
        first, *arguments = shlex.split(example)
        assert (first, tuple(arguments[: len(path)])) == ("icdtune", path)
        commands()[path].make_context("example", arguments[len(path) :])


def test_the_version_is_the_package_s_own():
    assert start("--version") == Result(0, f"{icdtune.__version__}\n", "")


def test_without_a_command_the_help_is_shown():
    found = start()
    assert "Usage" in found.out + found.err
    assert "Traceback" not in found.err


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("train",), ("prepare", "synthetic", "--train", "-1", "--out", "x")],
)
def test_a_command_line_that_cannot_be_parsed_ends_with_status_2(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run(*arguments)
    assert (found.status, found.out) == (2, "")
    assert list(tmp_path.iterdir()) == []


# Codes


def test_show_gives_place_title_and_notes():
    out = start("codes", "show", "i5021")
    assert (out.status, out.err) == (0, "")
    for part in ("I50  Heart failure", "I50.21  Acute systolic (congestive) heart failure"):
        assert part in out.out
    assert "Code first:\n  heart failure complicating abortion" in out.out


def test_show_breaks_no_line_where_it_is_not_a_terminal_that_reads():
    entry = done("codes", "show", "I50.21", "--json").json
    lines = done("codes", "show", "I50.21").out.splitlines()
    assert {f"  {note}" for notes in entry["notes"].values() for note in notes} <= set(lines)


def test_show_as_json_holds_the_whole_entry():
    entry = done("codes", "show", "401.9", "--system", "icd9cm", "--json").json
    assert (entry["system"], entry["code"], entry["billable"]) == ("icd9cm", "401.9", True)
    assert entry["ancestors"]
    assert entry["children"] == []


def test_an_unknown_code_is_one_line_with_the_nearest_codes_and_status_2():
    found = start("codes", "show", "E11.99", "--system", "icd10cm")
    assert (found.status, found.out) == (2, "")
    assert re.fullmatch(r'Error: code "E11\.99" is not in .*closest: E11\.9\b.*\n', found.err)


def test_search_finds_billable_codes_best_first():
    hits = done("codes", "search", "acute", "systolic", "heart", "failure", "--json", "-n", 4).json
    assert hits[0]["code"] == "I50.21"
    assert len(hits) == 4
    assert [h["score"] for h in hits] == sorted((h["score"] for h in hits), reverse=True)
    only = done("codes", "search", "heart", "failure", "--billable", "--json").json
    assert only
    assert all(hit["billable"] for hit in only)


def test_search_prints_a_table():
    out = start("codes", "search", "appendectomy", "--system", "icd9proc")
    assert (out.status, out.err) == (0, "")
    assert "47.0" in out.out


def test_check_tells_each_code_s_standing(tmp_path):
    (tmp_path / "codes.txt").write_text("e119\n\n I10 \n")
    rows = done("codes", "check", "E11", "--file", tmp_path / "codes.txt", "--json").json
    found = [(row["given"], row["code"], row["standing"]) for row in rows]
    assert found == [("E11", "E11", "prefix"), ("e119", "E11.9", "exact"), ("I10", "I10", "exact")]


def test_check_prints_every_code_and_ends_with_status_2_where_one_is_unknown():
    found = run("codes", "check", "I10", "E11.99", "hello", "--json")
    assert found.status == 2
    assert [row["standing"] for row in found.json] == ["exact", "unknown", "malformed"]
    assert found.json[1]["nearest"][0] == "E11.9"
    assert re.fullmatch(r'Error: 2 of 3 codes .*"E11\.99".*closest: E11\.9\b.*\n', found.err)
    table = run("codes", "check", "I10", "E11.99")
    assert table.status == 2
    assert "unknown" in table.out


def test_map_goes_both_ways():
    forth = done("codes", "map", "250.00", "--json").json
    assert [(m["source"], m["target"], m["system"]) for m in forth] == [
        ("250.00", "E11.9", "icd10cm")
    ]
    back = done("codes", "map", "E11.9", "--json").json
    assert ("250.00", "icd9cm") in {(m["target"], m["system"]) for m in back}
    assert "E11.9" in done("codes", "map", "250.00").out


# Corpus and label spaces


def test_describe_tells_splits_and_standing(corpus):
    info = done("corpus", "describe", corpus, "--json").json
    assert {name: split["notes"] for name, split in info["splits"].items()} == {
        "train": 60,
        "val": 20,
        "test": 20,
    }
    assert set(info["standing"]["diagnosis"]) == {"exact"}
    printed = done("corpus", "describe", corpus).out
    assert "diagnosis codes against the tables" in printed
    assert all(name in printed for name in info["splits"])


def test_check_finds_the_hash_that_corpus_json_names(corpus):
    found = done("corpus", "check", corpus, "--json").json
    described = json.loads((corpus / "corpus.json").read_text())
    assert found == {"ok": True, "notes": 100, "hash": described["hash"]}
    assert "100 notes in order" in done("corpus", "check", corpus).out


def test_labels_are_chosen_by_rank_by_count_and_by_list(corpus, tmp_path):
    top = done("labels", corpus, "--name", "top5", "--top-k", 5, "--drop-empty", "--json").json
    space = json.loads((corpus / "labels" / "top5.json").read_text())
    assert top == {"path": str(corpus / "labels" / "top5.json"), "codes": 5}
    assert (len(space["codes"]), space["empty_notes"]) == (5, "drop")
    (tmp_path / "codes.txt").write_text("\n".join(reversed(space["codes"])))
    done("labels", corpus, "--name", "listed", "--file", tmp_path / "codes.txt")
    listed = json.loads((corpus / "labels" / "listed.json").read_text())
    assert listed["codes"] == list(reversed(space["codes"]))
    often = done("labels", corpus, "--name", "often", "--min-count", 4, "--json").json
    every = done("labels", corpus, "--name", "every", "--count-on", "train,val,test", "--json").json
    assert 0 < often["codes"] < every["codes"]


# Train, predict, evaluate


@pytest.mark.parametrize("name", ["dictionary", "bow"])
def test_predictions_cover_the_split_in_its_order(name, corpus, predictions):
    rows = pq.read_table(predictions[name] / "predictions.parquet")
    notes = pq.read_table(corpus / "test.parquet")
    assert rows["note_id"].to_pylist() == notes["note_id"].to_pylist()
    assert any(rows["codes"].to_pylist())
    info = json.loads((predictions[name] / "predictions.json").read_text())
    assert (info["coder"], info["split"], info["label_space"]) == (name, "test", "full")


def test_predict_as_json_gives_the_run_s_description(corpus, coders, tmp_path):
    arguments = ("--corpus", corpus, "--split", "val", "--out", tmp_path / "p", "--json")
    found = done("predict", "--coder", coders["dictionary"], *arguments).json
    assert found == json.loads((tmp_path / "p" / "predictions.json").read_text())
    assert found["split"] == "val"


def test_evaluate_prints_what_it_writes(corpus, predictions, tmp_path):
    arguments = (predictions["bow"], "--corpus", corpus, "--resamples", 20)
    printed = done("evaluate", *arguments, "--json", "--out", tmp_path / "m.json").json
    assert printed == json.loads((tmp_path / "m.json").read_text())
    micro = printed["metrics"]["micro_f1"]
    assert 0 < micro["low"] <= micro["value"] <= micro["high"] < 1
    table = done("evaluate", *arguments).out
    assert "micro_f1" in table
    assert f"{micro['value'] * 100:.1f}" in table
    assert "F1 by training frequency" in table


def test_evaluate_against_other_predictions_pairs_them(corpus, predictions):
    arguments = (predictions["bow"], "--corpus", corpus, "--against", predictions["dictionary"])
    found = done("evaluate", *arguments, "--resamples", 20, "--json").json
    test = found["against"]["micro_f1"]
    assert test["second"] == found["metrics"]["micro_f1"]["value"]
    assert test["difference"] == pytest.approx(test["second"] - test["first"])
    assert "(paired)" in done("evaluate", *arguments, "--resamples", 20).out


def test_evidence_is_scored_compared_and_goes_with_its_predictions(corpus, coders, tmp_path):
    for name in ("dictionary", "bow"):
        given = ("--coder", coders[name], "--corpus", corpus, "--out", tmp_path / name)
        done("predict", *given, "--evidence", "auto")
        assert (tmp_path / name / "evidence.parquet").exists()
    found = done("evaluate", tmp_path / "bow", "--corpus", corpus, "--json").json
    assert found["evidence"]["pairs"] > 0
    assert found["evidence"]["token_precision"]["value"] > 0.3
    against = ("--against", tmp_path / "dictionary")
    printed = done("evaluate", tmp_path / "bow", "--corpus", corpus, *against).out
    assert "Evidence of" in printed
    paired = done("evaluate", tmp_path / "bow", "--corpus", corpus, *against, "--json").json
    assert paired["evidence_against"]["token_f1"]["difference"] == 0  # the same words for both
    done("predict", *given, "--overwrite")
    assert not (tmp_path / "bow" / "evidence.parquet").exists()


def test_several_predictions_are_seeds_of_one_coder(corpus, predictions, tmp_path):
    other = shutil.copytree(predictions["bow"], tmp_path / "other-seed")
    about = json.loads((other / "predictions.json").read_text())
    (other / "predictions.json").write_text(json.dumps(about | {"seed": 99}))
    options = ("--corpus", corpus, "--resamples", 0, "--json")
    both = done("evaluate", predictions["bow"], other, *options).json
    one = done("evaluate", predictions["bow"], *options).json
    assert (both["runs"], one["runs"]) == (2, 1)
    assert both["metrics"]["micro_f1"] == pytest.approx(one["metrics"]["micro_f1"])


def test_runs_of_different_coders_or_the_same_run_twice_are_not_averaged(corpus, predictions):
    for pair in (("bow", "dictionary"), ("bow", "bow")):
        found = run("evaluate", *(predictions[name] for name in pair), "--corpus", corpus)
        assert found.status == 2
        assert "runs of one coder" in found.err or "given twice" in found.err


def test_an_unlabelled_corpus_is_predicted_in_the_coders_own_label_space(coders, tmp_path):
    systems = {"diagnosis": "icd10cm", "procedure": "icd10pcs"}
    path = tmp_path / "unlabelled"
    with CorpusWriter(
        path, name="u", code_systems=systems, source="test", options={}, protected=True
    ) as writer:
        writer.add("test", Note("n", "p", "Known hypertension and sepsis.", None))
    out = tmp_path / "predictions"
    done("predict", "--coder", coders["bow"], "--corpus", path, "--out", out)
    assert pq.read_table(out / "predictions.parquet").num_rows == 1
    about = json.loads((out / "predictions.json").read_text())
    assert about["label_space"] == json.loads((coders["bow"] / "labels.json").read_text())["name"]


def test_a_code_of_both_editions_is_mapped_from_the_one_that_has_a_map():
    assert done("codes", "map", "V10.3", "--json").json[0]["target"] == "Z85.3"
    assert "has no map" in done("codes", "map", "V10.3", "--from", "icd10cm").out


def test_no_hit_says_so():
    assert "no title or inclusion term" in done("codes", "search", "zzzz").out


def test_a_coder_s_option_reaches_it(corpus, tmp_path):
    options = ("--option", "characters=0", "-o", "alphas=[0.1, 1.0]", "--labels", "full")
    done("train", "bow", "--corpus", corpus, "--out", tmp_path / "bow", *options)
    described = json.loads((tmp_path / "bow" / "coder.json").read_text())
    assert described["options"] == {"characters": 0, "alphas": [0.1, 1.0]}


@pytest.mark.parametrize("name", ["dictionary", "bow"])
def test_a_note_file_is_coded_onto_the_screen(name, corpus, coders, tmp_path):
    note = pq.read_table(corpus / "train.parquet")["text"][0].as_py()
    (tmp_path / "note.txt").write_text(note)
    arguments = ("predict", "--coder", coders[name], "--note-file", tmp_path / "note.txt")
    found = done(*arguments, "--json").json
    assert found
    assert all(set(row) == {"code", "title", "score"} for row in found)
    printed = done(*arguments).out
    assert all(row["code"] in printed for row in found)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_predicted_code_that_no_table_holds_is_shown_without_a_title(tmp_path):
    """A corpus may keep such codes, so a coder may predict them."""
    from icdtune.data.schema import Note
    from icdtune.data.writer import CorpusWriter

    described = {"name": "kept", "source": "a test", "options": {}, "protected": False}
    systems = {"diagnosis": "icd10cm"}
    with CorpusWriter(tmp_path / "corpus", code_systems=systems, **described) as writer:
        for split in ("train", "val"):
            for i in range(4):
                name = f"{split}{i}"
                codes = ("E11.99",) if i % 2 else ("I10",)
                text = "Sugar is high." if i % 2 else "Pressure is high."
                writer.add(split, Note(name, name, text, codes))
    done("train", "bow", "--corpus", tmp_path / "corpus", "--out", tmp_path / "bow")
    (tmp_path / "note.txt").write_text("Sugar is high.")
    arguments = ("--coder", tmp_path / "bow", "--note-file", tmp_path / "note.txt", "--json")
    found = {row["code"]: row["title"] for row in done("predict", *arguments).json}
    assert found["E11.99"] in ("", None)


# Determinism


def test_another_process_with_the_same_seed_gives_the_same_rows(
    tmp_path, corpus, predictions, coders
):
    """Neither the process nor its hash seed plays a part."""
    script = tmp_path / "again.py"
    script.write_text(
        "import sys\n"
        "from icdtune.cli import main\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    sys.argv = ['icdtune', *line.split()]\n"
        "    try:\n        main()\n"
        "    except SystemExit as end:\n        assert not end.code, line\n"
    )
    lines = [" ".join(("prepare", "synthetic", *SIZES, *SEED, "--out", "corpus"))]
    for name in coders:
        lines.append(f"train {name} --corpus corpus --out {name}")
        lines.append(f"predict --coder {name} --corpus corpus --out {name}-test")
    subprocess.run(
        [sys.executable, script],
        input="\n".join(lines),
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "77"},
        check=True,
        capture_output=True,
    )
    for path in sorted(corpus.glob("*.parquet")):
        assert pq.read_table(tmp_path / "corpus" / path.name).equals(pq.read_table(path)), path
    assert (tmp_path / "corpus" / "corpus.json").read_bytes() == (
        corpus / "corpus.json"
    ).read_bytes()
    for name, out in predictions.items():
        again = pq.read_table(tmp_path / f"{name}-test" / "predictions.parquet")
        assert again.equals(pq.read_table(out / "predictions.parquet")), name


def test_another_seed_gives_other_notes_and_overwrite_replaces(tmp_path, corpus):
    sizes = ("--train", "5", "--val", "0", "--test", "0")
    for seed in (3, 4):
        done("prepare", "synthetic", *sizes, "--seed", seed, "--out", tmp_path / "c", "--overwrite")
        same = pq.read_table(tmp_path / "c" / "train.parquet").equals(
            pq.read_table(corpus / "train.parquet")[:5]
        )
        assert same == (seed == 3)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


# Studies


def times(folder):
    """When each file of the trained coders and their predictions was written."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    kept = [p for p in files if {"coder", "predictions"} & set(p.relative_to(folder).parts)]
    return {path: path.stat().st_mtime_ns for path in kept}


def test_a_study_ends_with_its_table_and_the_report_s_path(studied):
    folder, ended = studied
    assert ended.status == 0
    assert re.search(r"words .*\d+\.\d \[\d+\.\d, \d+\.\d\]", ended.out)
    assert "ridge - words" in ended.out
    assert f"Report: {folder / 'report.html'}" in ended.out
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_study_announces_each_stage_on_standard_error(studied):
    stages = [line.split(" s  ")[1] for line in studied[1].err.splitlines()]
    assert stages[:2] == ["train words (seed 1)", "predict words (seed 1)"]
    assert len(stages) == 2 * 2 * 2 + 2 + 1


def test_a_second_run_does_nothing_new_and_says_the_same(folder, studied):
    path, ended = studied
    before, results = times(path), (path / "results.json").read_bytes()
    assert len(before) == 2 * 2 * 2 + 2 * (5 + 6)
    again = done("study", folder / "study.yaml", "--out", folder / "runs")
    assert times(path) == before
    assert (path / "results.json").read_bytes() == results
    assert again.out == ended.out


def test_a_study_as_json_is_its_results_and_the_report_s_path(folder, studied):
    path = studied[0]
    (found,) = done("study", folder / "study.yaml", "--out", folder / "runs", "--json").json
    assert found.pop("report") == str(path / "report.html")
    assert found == json.loads((path / "results.json").read_text())
    assert [row["name"] for row in found["coders"]] == ["words", "ridge"]
    assert [part["seed"] for part in found["coders"][0]["per_seed"]] == [1, 2]


def test_report_renders_the_same_page_again(studied):
    path = studied[0]
    before = (path / "report.html").read_bytes()
    (path / "report.html").unlink()
    assert done("report", path).out == f"Report: {path / 'report.html'}\n"
    assert (path / "report.html").read_bytes() == before


def test_a_study_that_prepares_its_corpus_keeps_it(tmp_path):
    (tmp_path / "study.yaml").write_text(
        "name: made\n"
        "corpus: {prepare: synthetic, options: {train: 20, val: 5, test: 5}}\n"
        "coders: [{name: words, coder: dictionary}]\n"
        "evaluation: {resamples: 0}\n"
    )
    first = run("study", tmp_path / "study.yaml", "--out", tmp_path / "runs")
    assert first.err.splitlines()[0].endswith("prepare synthetic")
    corpus = tmp_path / "runs" / "made" / "corpus"
    before = {path: path.stat().st_mtime_ns for path in corpus.iterdir()}
    done("study", tmp_path / "study.yaml", "--out", tmp_path / "runs")
    assert {path: path.stat().st_mtime_ns for path in corpus.iterdir()} == before
    assert done("corpus", "check", corpus).status == 0
