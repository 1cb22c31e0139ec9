"""Several processes that train one coder: the same training as one process at the same batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from icdtune.coders.processes import share
from icdtune.data.synthetic import prepare
from icdtune.errors import IcdtuneError

ONE = [sys.executable, "-m", "icdtune"]
TWO = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu"]
TWO += [
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--module",
    "icdtune",
]
OPTIONS = {
    "caml": ["epochs=3", "batch=16", "micro_batch=4", "warmup=2", 'shape={"dropout": 0.0}'],
    "sft": ["steps=6", "batch=8", "micro_batch=2", "answer_budget=40", "prompt_budget=200"],
}


REINFORCED = ["visits=4", "group=3", "micro_groups=1", "learning_rate=1e-3", "kl=0.01"]
STAGES = {
    "grpo": ["steps=4", "refill=1", *REINFORCED],
    "phi": ["rounds=2", "steps=2", "notes=24", "patience=2", *REINFORCED],
}
"""The divergence's coefficient makes the second process compute references as well, patience both
processes predict val, and refills each its own notes."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared") / "corpus"
    prepare(path, train=64, val=16, test=4, concepts=40, seed=4)
    return path


@pytest.mark.parametrize("coder", OPTIONS)
def test_two_processes_give_the_losses_and_weights_of_one(
    coder: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, command in (("one", ONE), ("two", TWO)):
        train(command, coder, corpus, tmp_path / name, OPTIONS[coder])
    one, two = (history(tmp_path / name) for name in ("one", "two"))
    assert len(one) >= 6
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=1e-4)
    assert one[0]["loss"] != pytest.approx(one[-1]["loss"], abs=1e-2)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert max(float((first[key] - second[key]).abs().max()) for key in first) < 1e-3
    assert not list(tmp_path.glob(".*training"))


@pytest.fixture(scope="module")
def tuned(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coder that answers in the right form, so that groups differ in their rewards."""
    path = tmp_path_factory.mktemp("tuned") / "sft"
    options = ["steps=40", "batch=8", "answer_budget=40", "prompt_budget=200"]
    train(ONE, "sft", corpus, path, options)
    return path


@pytest.mark.parametrize("coder", STAGES)
def test_two_processes_sample_and_learn_what_one_does(
    coder: str, corpus: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = [f"start={tuned}", *STAGES[coder]]
    for name, command in (("one", ONE), ("two", TWO)):
        train(command, coder, corpus, tmp_path / name, options)
    one, two = (history(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 4
    assert any(row["reward_std"] > 0 for row in one)
    for name in ("loss", "reward", "kl", "credit_rms", "prompt_tokens", "answer_tokens", "hinted"):
        expected = [row[name] for row in one]
        assert [row[name] for row in two] == pytest.approx(expected, abs=1e-4), name
    first_rounds, second_rounds = (rounds(tmp_path / name) for name in ("one", "two"))
    assert first_rounds == second_rounds
    assert len(first_rounds) == (3 if coder == "phi" else 0)
    assert all("macro_f1" in entry for entry in first_rounds)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    start = load_file(tuned / "model.safetensors")
    assert max(float((first[key] - start[key]).abs().max()) for key in first) > 1e-3
    assert max(float((first[key] - second[key]).abs().max()) for key in first) < 1e-3


def train(command: list[str], coder: str, corpus: Path, out: Path, options: list[str]) -> None:
    arguments = ["train", coder, "--corpus", str(corpus), "--out", str(out)]
    for option in options:
        arguments += ["--option", option]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(f"{out}: {coder}") == 1


def history(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "training.json").read_text())["history"]
    return rows


def rounds(folder: Path) -> list[dict[str, Any]]:
    """PHI's rounds without their clocks."""
    training = json.loads((folder / "training.json").read_text())
    found: list[dict[str, Any]] = training.get("rounds", [])
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in found]


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert share(24) == 8
    with pytest.raises(IcdtuneError, match="batch is 16, which 3 processes cannot share evenly"):
        share(16)
