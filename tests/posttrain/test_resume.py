"""A training that was killed goes on where it was, and ends with the same predictions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icdtune.coders.base import load_coder, run_coder, train_coder
from icdtune.data.labels import Task, save_labels
from icdtune.files import read_json, write_json

CHILD = """
import json, os, signal, sys
from pathlib import Path
import icdtune.posttrain
from icdtune.coders.base import train_coder
from icdtune.data.labels import Task, load_labels
from icdtune.data.schema import Corpus

stage, corpus, labels, folder, seed, options, written = json.loads(sys.argv[1])
folder = Path(folder)

def watch(event, args):
    # The first file opened after `written` is there: the process dies in the middle of what follows.
    if event == "open" and str(folder.parent) in str(args[0]):
        if any(folder.parent.glob(f".{folder.name}.training/{written}")):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
corpus = Corpus(Path(corpus))
train_coder(stage, Task(corpus, load_labels(corpus, labels)), folder, seed, options)
"""
STAGES: dict[str, dict[str, Any]] = {
    # Answers in another order in each of three epochs, noise on the embeddings.
    "sft": {
        "steps": 22,
        "batch": 4,
        "prompt_budget": 192,
        "answer_budget": 24,
        "order": "shuffled",
        "neftune": 5.0,
    },
    # Six batches of rollouts, each for two updates; visits that teach nothing are replaced.
    "grpo": {
        "steps": 6,
        "iterations": 2,
        "refill": 1,
        "visits": 2,
        "group": 2,
        "lora_rank": 4,
        "learning_rate": 1e-2,
    },
    # Two rounds of three steps, of up to four: they end before the last step that was possible.
    "phi": {"rounds": 2, "steps": 4, "notes": 6, "visits": 2, "group": 2},
}
Start = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def start(tuned: Path, small_model: Path) -> Start:
    """Options of a stage that starts from the shared models."""
    shared = {"sft": {"model": str(small_model)}}
    return lambda stage: STAGES[stage] | shared.get(stage, {"start": str(tuned)})


def weights(folder: Path) -> bytes:
    """The weights file of a coder: predictions of a small model may be alike by chance."""
    return (folder / "model.safetensors").read_bytes()


def predictions(task: Task, folder: Path) -> bytes:
    """The predictions file of a coder."""
    run_coder(load_coder(folder), "coder", task, "test", 1, folder.parent / "predictions")
    return (folder.parent / "predictions" / "predictions.parquet").read_bytes()


@pytest.fixture(scope="module")
def whole(
    small_task: Task, start: Start, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a stage's coder that was trained without a break."""
    made: dict[str, Path] = {}

    def train(stage: str) -> Path:
        if stage not in made:
            made[stage] = tmp_path_factory.mktemp(stage) / "coder"
            train_coder(stage, small_task, made[stage], 1, start(stage))
        return made[stage]

    return train


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_seed_gives_the_same_predictions_and_another_gives_others(
    stage: str, whole: Callable[[str], Path], start: Start, small_task: Task, tmp_path: Path
) -> None:
    first = whole(stage)
    train_coder(stage, small_task, tmp_path / "again", 1, start(stage))
    assert predictions(small_task, tmp_path / "again") == predictions(small_task, first)
    assert weights(tmp_path / "again") == weights(first)
    histories = [read_json(f / "training.json")["history"] for f in (first, tmp_path / "again")]
    assert histories[0] == histories[1]
    train_coder(stage, small_task, tmp_path / "other", 2, start(stage))
    assert weights(tmp_path / "other") != weights(first)


@pytest.mark.parametrize(
    ("stage", "written"),
    [
        ("sft", "checkpoint-20/whole"),  # dies while it writes the next checkpoint
        ("sft", "checkpoint-22/whole"),  # trained, dies while the coder is saved
        ("grpo", "checkpoint-10/whole"),  # an adapter
        ("phi", "pools-1.json"),  # between two rounds, before the first checkpoint
        ("phi", "pools-2.json"),  # trained, dies in the report
    ],
)
def test_a_killed_training_goes_on_and_ends_with_the_same_predictions(
    stage: str,
    written: str,
    whole: Callable[[str], Path],
    start: Start,
    small_task: Task,
    tmp_path: Path,
) -> None:
    expected = whole(stage)
    save_labels(small_task.corpus, small_task.labels)
    folder, options = tmp_path / "coder", start(stage)
    corpus, labels = str(small_task.corpus.path), small_task.labels.name
    told = json.dumps([stage, corpus, labels, str(folder), 1, options, written])
    died = subprocess.run(
        [sys.executable, "-c", CHILD, told], env=dict(os.environ), capture_output=True, text=True
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not folder.exists()
    work = tmp_path / ".coder.training"
    assert (work / written).exists()
    mark = marked(work)
    train_coder(stage, small_task, folder, 1, options)
    assert predictions(small_task, folder) == predictions(small_task, expected)
    assert weights(folder) == weights(expected)
    training, wanted = read_json(folder / "training.json"), read_json(expected / "training.json")
    assert training["steps"] == wanted["steps"]
    assert len(training["history"]) == len(wanted["history"])
    if mark:
        assert training["history"][0]["loss"] == mark  # it went on, it did not begin again
    assert training["history"][-1] == wanted["history"][-1]
    assert not work.exists()


def marked(work: Path) -> float | None:
    """Leave a loss in the first logged step of the last whole checkpoint, to be found again."""
    found = [path.parent for path in work.glob("checkpoint-*/whole")]
    if not found:
        return None
    last = max(found, key=lambda path: int(path.name.rpartition("-")[2]))
    state = read_json(last / "trainer_state.json")
    first = next(row for row in state["log_history"] if "loss" in row)
    first["loss"] = 123.0
    write_json(last / "trainer_state.json", state)
    return 123.0
