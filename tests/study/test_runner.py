"""Studies run what is missing, resume after SIGKILL, and end with the same predictions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from icdtune.coders.base import option_files
from icdtune.errors import IcdtuneError
from icdtune.study.file import read_study
from icdtune.study.runner import run_part, run_study

STUDY = """\
name: small
corpus:
  prepare: synthetic
  options: {train: 250, val: 60, test: 60, seed: 3}
seeds: [1, 2]
coders:
  - {name: dictionary, coder: dictionary}
  - {name: words, coder: bow, options: {characters: 0}}
evaluation: {resamples: 100, examples: 4}
"""


def write(path: Path, text: str = STUDY) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def predictions(folder: Path) -> dict[str, list[dict[str, object]]]:
    found = sorted(folder.glob("coders/*/seed-*/predictions/predictions.parquet"))
    return {str(path.relative_to(folder)): pq.read_table(path).to_pylist() for path in found}


def metrics(folder: Path) -> dict[str, object]:
    found = sorted(folder.glob("coders/*/metrics.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in found}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("study")
    (study,) = read_study(write(base / "small.yaml"))
    run_study(study, base / "small")
    return base / "small"


def test_a_coders_file_starts_at_the_studys_folder_and_decides_its_outcome(tmp_path: Path) -> None:
    text = (
        STUDY.split("coders:")[0]
        + """coders:
  - {name: sft, coder: sft}
  - {name: phi, coder: phi, uses: {start: sft}, options: {reviewed: added.csv}}
"""
    )
    added = tmp_path / "added.csv"
    added.write_text("note_id,code\n")
    (study,) = read_study(write(tmp_path / "small.yaml", text))
    options = study.coders[1].options
    assert options == {"reviewed": str(added)}
    before = option_files(options)
    added.write_text("note_id,code\ntrain-1,I10\n")
    assert len(before) == 1
    assert option_files(options) != before


def test_a_study_leaves_every_stages_output(finished: Path) -> None:
    assert len(predictions(finished)) == 4
    assert set(metrics(finished)) == {"dictionary", "words"}
    results = json.loads((finished / "results.json").read_text())
    assert [row["name"] for row in results["coders"]] == ["dictionary", "words"]
    assert len(results["examples"]) == 4
    assert results["comparisons"][0]["metrics"]["micro_f1"]["p"] <= 1
    for row in results["coders"]:
        assert len(row["per_seed"]) == 2
        assert row["metrics"]["runs"] == 2


def test_seeds_side_by_side_give_the_study_its_predictions(finished: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "small.yaml")
    command = [sys.executable, "-m", "icdtune", "study", str(file), "--out", str(tmp_path)]
    running = [subprocess.Popen([*command, "--seed", str(seed)]) for seed in (1, 2)]
    assert [process.wait() for process in running] == [0, 0]
    assert not (tmp_path / "small" / "results.json").exists()
    (study,) = read_study(file)
    lines: list[str] = []
    run_study(study, tmp_path / "small", lines.append)
    assert {line.split()[0] for line in lines} == {"evaluate", "compare"}
    assert predictions(tmp_path / "small") == predictions(finished)
    assert metrics(tmp_path / "small") == metrics(finished)


def test_rows_side_by_side_give_the_study_its_predictions(finished: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "small.yaml")
    command = [sys.executable, "-m", "icdtune", "study", str(file), "--out", str(tmp_path)]
    rows = ("words", "words", "dictionary")  # the second of two finds the row done
    running = [subprocess.Popen([*command, "--coder", row]) for row in rows]
    assert [process.wait() for process in running] == [0, 0, 0]
    (study,) = read_study(file)
    lines: list[str] = []
    run_study(study, tmp_path / "small", lines.append)
    assert {line.split()[0] for line in lines} == {"evaluate", "compare"}
    assert predictions(tmp_path / "small") == predictions(finished)


def test_a_part_that_the_study_does_not_name_is_refused(tmp_path: Path) -> None:
    (study,) = read_study(write(tmp_path / "s.yaml"))
    with pytest.raises(IcdtuneError, match="has no seed 7. Its seeds: 1, 2"):
        run_part(study, tmp_path / "out", 7)
    with pytest.raises(IcdtuneError, match='has no row "caml". Its rows: dictionary, words'):
        run_part(study, tmp_path / "out", coder="caml")


def test_a_second_run_repeats_nothing(finished: Path) -> None:
    (study,) = read_study(finished.parent / "small.yaml")
    lines: list[str] = []
    before = (finished / "results.json").read_bytes()
    run_study(study, finished, lines.append)
    assert lines == []
    assert (finished / "results.json").read_bytes() == before


def test_a_changed_option_runs_only_what_it_touches(finished: Path) -> None:
    text = STUDY.replace("characters: 0", "characters: 0, words: 500")
    (study,) = read_study(write(finished.parent / "changed.yaml", text))
    lines: list[str] = []
    run_study(study, finished, lines.append)
    assert [line.split(" (")[0] for line in lines] == [
        "train words",
        "predict words",
        "train words",
        "predict words",
        "evaluate words",
        "compare dictionary and words",
    ]
    (study,) = read_study(finished.parent / "small.yaml")
    run_study(study, finished)


STAGES = (
    "corpus.stage.json",
    "coders/dictionary/metrics.json",
    "coders/words/seed-1/coder/coder.json",
    "coders/words/seed-2/predictions/predictions.parquet",
)


@pytest.mark.parametrize("reached", STAGES)
def test_a_killed_study_goes_on_to_the_same_predictions_and_metrics(
    finished: Path, tmp_path: Path, reached: str
) -> None:
    file = write(tmp_path / "small.yaml")
    command = [sys.executable, "-m", "icdtune", "study", str(file), "--out", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    folder = tmp_path / "small"
    while not (folder / reached).exists() and process.poll() is None:
        os.sched_yield()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert predictions(folder) == predictions(finished)
    assert metrics(folder) == metrics(finished)
    assert (folder / "report.html").exists()


def test_two_runs_of_a_study_are_the_same(finished: Path, tmp_path: Path) -> None:
    (study,) = read_study(write(tmp_path / "small.yaml"))
    run_study(study, tmp_path / "small")
    assert predictions(tmp_path / "small") == predictions(finished)
    assert metrics(tmp_path / "small") == metrics(finished)


def test_a_protected_corpus_shows_no_note_in_the_results(finished: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished / "corpus", tmp_path / "corpus")
    info = json.loads((tmp_path / "corpus" / "corpus.json").read_text())
    info["protected"] = True
    (tmp_path / "corpus" / "corpus.json").write_text(json.dumps(info))
    text = STUDY.replace(
        "  prepare: synthetic\n  options: {train: 250, val: 60, test: 60, seed: 3}\n",
        "  path: corpus\n",
    )
    (study,) = read_study(write(tmp_path / "s.yaml", text))
    results = run_study(study, tmp_path / "out")
    assert results["examples"] == []
    texts = pq.read_table(tmp_path / "corpus" / "test.parquet")["text"].to_pylist()
    written = (tmp_path / "out" / "results.json").read_text()
    assert not [text for text in texts if text[:60] in written]


def test_a_study_on_a_table_prepares_anew_when_the_file_changes(tmp_path: Path) -> None:
    parts = ("train", "val", "test")
    lines = [f"Sugar is high {i}.,E11.9,{parts[i % 3]}" for i in range(30)]
    (tmp_path / "notes.csv").write_text("\n".join(["text,codes,part", *lines]))
    text = STUDY.replace(
        "  prepare: synthetic\n  options: {train: 250, val: 60, test: 60, seed: 3}\n",
        "  prepare: table\n  options: {file: notes.csv, text_column: text, codes_column: codes, "
        "split_column: part}\n",
    ).replace("  - {name: words, coder: bow, options: {characters: 0}}\n", "")
    (study,) = read_study(write(tmp_path / "s.yaml", text))
    assert run_study(study, tmp_path / "out")["corpus"]["splits"]["test"]["notes"] == 10
    (tmp_path / "notes.csv").write_text("\n".join(["text,codes,part", *lines[:-1]]))
    assert run_study(study, tmp_path / "out")["corpus"]["splits"]["test"]["notes"] == 9


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("seeds: [1, 2]", "seed: 1"), 'field "seed"'),
        (("coder: bow,", "coder: bow, model: x,"), 'field "coders.1.model"'),
        (("name: words", "name: ../words"), "cannot name a file"),
        (("name: words", "name: dictionary"), "same name"),
        (("prepare: synthetic", "prepare: synthetic\n  path: x"), '"path" or "prepare"'),
        (("resamples: 100", "resamples: -1"), "evaluation.resamples"),
        (("seeds: [1, 2]", "labels: {kind: top_k}"), "needs k"),
        (("name: small", "name: ${NO_SUCH_VARIABLE}"), "NO_SUCH_VARIABLE"),
        (("name: small", "name: [small"), "YAML"),
    ],
)
def test_a_bad_study_file_is_refused_with_its_field(
    tmp_path: Path, change: tuple[str, str], problem: str
) -> None:
    file = write(tmp_path / "s.yaml", STUDY.replace(*change))
    with pytest.raises(IcdtuneError) as caught:
        read_study(file)
    assert problem in str(caught.value)
    assert str(file) in str(caught.value)


def test_an_unknown_corpus_option_is_named(tmp_path: Path) -> None:
    (study,) = read_study(write(tmp_path / "s.yaml", STUDY.replace("train: 250", "trian: 250")))
    with pytest.raises(IcdtuneError, match='no option "trian"'):
        run_study(study, tmp_path / "out")


def test_several_documents_are_several_studies(tmp_path: Path) -> None:
    two = STUDY + "---\n" + STUDY.replace("name: small", "name: other")
    assert [s.name for s in read_study(write(tmp_path / "s.yaml", two))] == ["small", "other"]
    with pytest.raises(IcdtuneError, match="two studies"):
        read_study(write(tmp_path / "s.yaml", STUDY + "---\n" + STUDY))


def test_environment_variables_have_defaults(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    text = STUDY.replace("name: small", "name: ${STUDY_NAME:-fallback}")
    assert read_study(write(tmp_path / "s.yaml", text))[0].name == "fallback"
    monkeypatch.setenv("STUDY_NAME", "given")
    assert read_study(write(tmp_path / "s.yaml", text))[0].name == "given"


def test_a_stage_that_was_replaced_but_not_finished_is_run_again(tmp_path: Path) -> None:
    (study,) = read_study(write(tmp_path / "s.yaml"))
    folder = tmp_path / "small"
    run_study(study, folder)
    expected = predictions(folder), metrics(folder)
    other = STUDY.replace("characters: 0", "characters: 0, words: 300")
    (changed,) = read_study(write(tmp_path / "t.yaml", other))

    def stop_at_evaluation(line: str) -> None:
        if line.startswith("evaluate"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(changed, folder, stop_at_evaluation)
    run_study(study, folder)
    assert (predictions(folder), metrics(folder)) == expected


def test_a_given_corpus_that_changed_is_trained_on_again(finished: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished / "corpus", tmp_path / "corpus")
    text = STUDY.replace(
        "  prepare: synthetic\n  options: {train: 250, val: 60, test: 60, seed: 3}\n",
        "  path: corpus\n",
    )
    (study,) = read_study(write(tmp_path / "s.yaml", text))
    run_study(study, tmp_path / "out")
    lines: list[str] = []
    run_study(study, tmp_path / "out", lines.append)
    assert lines == []
    os.utime(tmp_path / "corpus" / "train.parquet", ns=(1, 1))
    run_study(study, tmp_path / "out", lines.append)
    assert "train words (seed 1)" in lines
