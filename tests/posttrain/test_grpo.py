"""The reinforced coder: options, stages that fit, steps, and what is written down."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from icdtune.coders.base import load_coder, train_coder
from icdtune.coders.generative import GenerativeCoder
from icdtune.data.labels import LabelRule, Task, choose_labels
from icdtune.errors import IcdtuneError
from icdtune.files import read_json, write_json
from icdtune.posttrain.curriculum import Visit
from icdtune.posttrain.grpo import GRPO
from icdtune.posttrain.reward import class_weights
from icdtune.posttrain.rollouts import Plan

SMALL = {"visits": 2, "group": 2}


@pytest.mark.parametrize("rank", [0, 4])
def test_the_start_is_the_reference_of_the_divergence(
    tuned: Path, small_task: Task, tmp_path: Path, rank: int
) -> None:
    options = {"start": str(tuned), "steps": 2, "kl": 0.01, "lora_rank": rank, **SMALL}
    train_coder("grpo", small_task, tmp_path / "grpo", 1, options | {"learning_rate": 1e-2})
    history = read_json(tmp_path / "grpo" / "training.json")["history"]
    assert history[0]["kl"] == pytest.approx(0, abs=1e-6)


def test_checkpointing_changes_nothing(tuned: Path, small_task: Task, tmp_path: Path) -> None:
    weights = []
    for on in (False, True):
        coder = GRPO(tuned, steps=2, checkpointing=on, learning_rate=1e-2, **SMALL)
        coder.fit(small_task, 1, tmp_path / str(on))
        assert coder.model.is_activation_checkpointing is on
        weights.append(coder.model.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)


def test_many_cut_answers_and_rewards_that_are_all_alike_are_said_once(
    small_model: Path, small_task: Task, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """A model of random weights neither ends its answers nor writes a code."""
    budgets = {"model": str(small_model), "prompt_budget": 192, "answer_budget": 4}
    train_coder("prompted", small_task, tmp_path / "base", 1, budgets)
    options = {"start": str(tmp_path / "base"), "steps": 6, **SMALL}
    train_coder("grpo", small_task, tmp_path / "grpo", 1, options)
    texts = [str(warning.message) for warning in recwarn]
    assert sum("of the answers were cut at 4 tokens" in text for text in texts) == 1
    assert sum("told the answers of a note apart for 5 updates" in text for text in texts) == 1


def test_a_reference_that_would_not_be_the_start_is_refused(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    options = {"model": str(tuned), "steps": 1, "lora_rank": 4, "answer_budget": 24}
    train_coder("sft", small_task, tmp_path / "sft", 1, options)
    options = {"start": str(tmp_path / "sft"), "steps": 1, "lora_rank": 0, "kl": 0.01, **SMALL}
    with pytest.raises(IcdtuneError, match="not from the start. Give a lora_rank, or kl 0"):
        train_coder("grpo", small_task, tmp_path / "grpo", 1, options)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"format_weight": 0.1, "credit_weight": 1}, "Give a credit_weight below 1, or format_wei"),
        ({"clip_high": 0.3}, "all ratios are 1. Give iterations above 1, or leave clip and clip_"),
        ({"clip": 0.1}, "all ratios are 1. Give iterations above 1, or leave clip and clip_"),
        ({"vllm_url": "http://localhost"}, "is of rollouts vllm-server"),
        ({"rollouts": "vllm", "top_p": 0.9}, "Give top_p 1, or rollouts transformers"),
        ({"rollouts": "vllm-server", "refill": 1}, "Give refill 0, or rollouts vllm"),
        ({"importance": "sequence"}, "Give credit_weight 0, or importance token"),
        pytest.param(
            {"rollouts": "vllm"},
            r'not installed: pip install "icdtune\[vllm\]"',
            marks=pytest.mark.skipif(bool(find_spec("vllm")), reason="vLLM is installed"),
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    tuned: Path, small_task: Task, tmp_path: Path, given: dict[str, Any], problem: str
) -> None:
    options = {"start": str(tuned), "steps": 1, **given, **SMALL}
    with pytest.raises(IcdtuneError, match=problem):
        train_coder("grpo", small_task, tmp_path / "grpo", 1, options)


def test_credit_after_answers_in_another_order_is_refused(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    options = {"model": str(tuned), "steps": 1, "order": "frequency", "answer_budget": 24}
    train_coder("sft", small_task, tmp_path / "sft", 1, options | {"prompt_budget": 192})
    stage = {"start": str(tmp_path / "sft"), "steps": 1, **SMALL}
    with pytest.raises(IcdtuneError, match='order "frequency".*Give credit_weight 0, or credit to'):
        train_coder("grpo", small_task, tmp_path / "grpo", 1, stage)
    train_coder("grpo", small_task, tmp_path / "grpo", 1, stage | {"credit": "to-go"})


def test_steps_are_batches_of_rollouts_and_checkpoints_stand_between_them(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    options = {"start": str(tuned), "steps": 2, "iterations": 3, "learning_rate": 1e-3, **SMALL}
    train_coder("grpo", small_task, tmp_path / "grpo", 1, options)
    training = read_json(tmp_path / "grpo" / "training.json")
    assert training["steps"] == 2
    assert [row["step"] for row in training["history"]] == [1, 2, 3, 4, 5, 6]
    told = [row["step"] for row in training["history"] if "reward" in row]
    assert told == [1, 4]


def test_balanced_weights_come_from_the_training_notes(tuned: Path, small_task: Task) -> None:
    reward = GRPO(tuned, balanced=True)._reward(small_task)
    counts = Counter(c for note in small_task.notes("train") for c in note.codes or ())
    assert reward.weights == class_weights(counts)
    assert len(set(reward.weights.values())) > 1
    assert GRPO(tuned)._reward(small_task).weights == {}


def test_an_epoch_of_grpo_visits_every_note_once(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    notes = len(list(small_task.notes("train")))
    visits = notes // 2
    options = {"start": str(tuned), "epochs": 1, "visits": visits, "group": 2}
    train_coder("grpo", small_task, tmp_path / "grpo", 1, options)
    assert read_json(tmp_path / "grpo" / "training.json")["steps"] == 2
    train_coder("grpo", small_task, tmp_path / "fewer", 1, options | {"steps": 1})
    assert read_json(tmp_path / "fewer" / "training.json")["steps"] == 1


def test_nothing_falls_back(
    tuned: Path, small_task: Task, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    options = {"start": str(tuned), "steps": 1, "kl": 0.01, **SMALL}
    train_coder("grpo", small_task, tmp_path / "grpo", 1, options)
    assert not [w for w in recwarn if "forwarded once an answer" in str(w.message)]


def test_stages_with_different_label_spaces_are_refused(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    rule = LabelRule(kind="top_k", k=5)
    other = replace(small_task, labels=choose_labels(small_task.corpus, "top5", rule))
    for stage in ("grpo", "phi"):
        with pytest.raises(IcdtuneError, match=r'"top10" \(10 codes\).*"top5" \(5 codes\)'):
            train_coder(stage, other, tmp_path / stage, 1, {"start": str(tuned)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["visits", "group", "iterations"])
def test_matching_a_run_with_steps_of_another_size_is_refused(
    tuned: Path, small_task: Task, tmp_path: Path, name: str
) -> None:
    write_json(tmp_path / "phi" / "training.json", SMALL | {"iterations": 1, "steps": 3, name: 7})
    options = {"start": str(tuned), "match": str(tmp_path / "phi"), **SMALL}
    own = SMALL.get(name, 1)
    with pytest.raises(IcdtuneError, match=f"phi was trained with {name} 7, this run has {own}"):
        train_coder("grpo", small_task, tmp_path / "grpo", 1, options)
    assert not (tmp_path / "grpo").exists()


def test_a_plain_run_shows_every_note_once_before_any_twice(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    visited: list[Visit] = []

    class Watched(GRPO):
        def reinforce(self, plan: Plan, steps: int, *rest: Any, **options: Any) -> None:
            visited.extend(visit for step in range(steps) for visit in plan(step))
            assert list(plan(1)) == visited[2:4]  # as after a resumption
            super().reinforce(plan, 1, *rest, **options)

    Watched(tuned, steps=32, **SMALL).fit(small_task, 1, tmp_path)
    ids = [visit.note.note_id for visit in visited]
    every = sorted(note.note_id for note in small_task.notes("train"))
    assert sorted(ids[:32]) == sorted(ids[32:]) == every
    assert ids[:32] != ids[32:]
    assert {visit.hint for visit in visited} == {()}


def test_a_run_writes_down_its_curve(tuned: Path, small_task: Task, tmp_path: Path) -> None:
    options = {"start": str(tuned), "steps": 2, "kl": 0.01, **SMALL}
    train_coder("grpo", small_task, tmp_path / "grpo", 1, options)
    training = read_json(tmp_path / "grpo" / "training.json")
    assert training["steps"] == len(training["history"]) == 2
    wanted = {"loss", "reward", "reward_std", "kl", "truncated", "hinted", "answer_tokens"}
    for row in training["history"]:
        assert wanted <= row.keys()
        assert 0 <= row["reward"] <= 1
        assert row["hinted"] == 0
    assert training["tokens"] == sum(
        row["prompt_tokens"] + row["answer_tokens"] for row in training["history"]
    )
    assert len(load_coder(tmp_path / "grpo").predict(small_task.notes("test"))) == 8


@pytest.mark.parametrize("rank", [0, 4])
def test_a_base_model_that_was_only_prompted_can_be_reinforced(
    tuned: Path, small_task: Task, tmp_path: Path, rank: int
) -> None:
    budgets = {"prompt_budget": 192, "answer_budget": 40}
    options = {"model": str(tuned), **budgets}  # one that writes codes: its answers differ
    train_coder("prompted", small_task, tmp_path / "base", 1, options)
    coder = GRPO(tmp_path / "base", steps=2, learning_rate=0.1, kl=0.1, lora_rank=rank, **SMALL)
    coder.fit(small_task, 1, tmp_path / "work")
    folder = tmp_path / "grpo"
    folder.mkdir()
    coder.save(folder)
    kept = GenerativeCoder.load(folder).model.state_dict()
    trained = (coder.model.merge_and_unload() if rank else coder.model).state_dict()
    base = GenerativeCoder.load(tmp_path / "base").model.state_dict()
    assert kept.keys() == trained.keys() == base.keys()
    torch.testing.assert_close(kept, trained)
    assert any((kept[name] - base[name]).abs().max() > 1e-3 for name in base)
