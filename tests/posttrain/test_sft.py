"""Supervised fine-tuning: loss on the answer's tokens alone, and a folder that answers alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icdtune.coders.base import load_coder, make_coder, train_coder
from icdtune.coders.generative import GenerativeCoder, start_coder
from icdtune.coders.training import ByLength
from icdtune.data.labels import Task
from icdtune.errors import IcdtuneError
from icdtune.files import read_json
from icdtune.posttrain.answer_loss import LeftPadded
from icdtune.posttrain.sft import SFT, training_rows
from icdtune.prompts.answer import format_answer

BUDGETS = {"prompt_budget": 192, "answer_budget": 24}
LOSSLESS = -100


def IN_ORDER(note_id: str, codes: Iterable[str], epoch: int) -> list[str]:  # noqa: N802
    return sorted(codes)


@pytest.fixture(scope="module")
def base(small_model: Path, small_task: Task) -> GenerativeCoder:
    """The base model as it comes."""
    return start_coder(str(small_model), None, (192, 24), small_task.corpus.info.code_systems)


@pytest.fixture(scope="module")
def eight(small_task: Task) -> Task:
    """Eight training notes."""
    return small_task.sample("train", 8)


def fitted(task: Task, model: Path, work: Path, **options: Any) -> SFT:
    coder = make_coder("sft", {"model": str(model), **BUDGETS, **options})
    assert isinstance(coder, SFT)
    coder.fit(task, 1, work)
    return coder


def test_only_the_answer_and_its_end_have_a_loss(base: GenerativeCoder, small_task: Task) -> None:
    notes = list(small_task.notes("train"))
    rows = training_rows(base, notes, "corpus", IN_ORDER)
    assert len(rows) == len(notes)
    for note, row in zip(notes, rows, strict=True):
        (prompt,) = base.prompts([note.text])
        answer = row["input_ids"][len(prompt) :]
        assert row["input_ids"][: len(prompt)] == prompt
        assert row["labels"] == [LOSSLESS] * len(prompt) + answer
        assert base.tokenizer.decode(answer[:-1]) == format_answer(note.codes or ())
        assert answer[-1] == base.tokenizer.eos_token_id


def test_a_batch_is_padded_on_the_left_and_padding_has_no_loss() -> None:
    short, long = {"input_ids": [7, 8], "labels": [-100, 8]}, {"input_ids": [4, 5, 6, 9]}
    batch = LeftPadded(0)([short, {**long, "labels": [-100, -100, 6, 9]}])
    assert batch["input_ids"].tolist() == [[0, 0, 7, 8], [4, 5, 6, 9]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 8], [-100, -100, 6, 9]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


@pytest.mark.parametrize("micro", [8, 2])
def test_the_loss_is_the_mean_over_all_answer_tokens_of_an_update(
    base: GenerativeCoder, eight: Task, small_model: Path, tmp_path: Path, micro: int
) -> None:
    """Whatever the micro-batches, in which answers are of different lengths."""
    losses = []
    for row in training_rows(base, list(eight.notes("train")), "corpus", IN_ORDER):
        ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        with torch.no_grad():
            log = torch.log_softmax(base.model(input_ids=ids[None]).logits[0, :-1], -1)
        chosen = log.gather(-1, ids[1:, None])[:, 0]
        losses += (-chosen[labels[1:] != LOSSLESS]).tolist()
    coder = fitted(eight, small_model, tmp_path, steps=1, batch=8, micro_batch=micro)
    (first,) = coder.training["history"]
    assert first["loss"] == pytest.approx(sum(losses) / len(losses), rel=5e-3)


@pytest.mark.parametrize("rank", [0, 4])
def test_eight_notes_are_learnt_by_heart_and_the_folder_answers_as_the_coder_in_memory(
    eight: Task, small_model: Path, tuned: Path, tmp_path: Path, rank: int
) -> None:
    """An adapter learns from a model that knows the format: random weights are none to adapt."""
    options = {"steps": 60, "batch": 8, "learning_rate": 3e-2, "lora_rank": rank}
    coder = fitted(eight, tuned if rank else small_model, tmp_path / "work", **options)
    losses = [row["loss"] for row in coder.training["history"]]
    assert len(losses) == coder.training["steps"] == 60
    assert losses[-1] < losses[0] / 4
    notes = list(eight.notes("train"))
    before = list(coder.predict(notes))
    pairs = zip(before, notes, strict=True)
    assert sum(set(row.codes) == set(note.codes or ()) for row, note in pairs) >= 6
    folder = tmp_path / "coder"
    folder.mkdir()
    coder.save(folder)
    assert (folder / "adapter_model.safetensors").exists() == (rank > 0)
    after = list(GenerativeCoder.load(folder).predict(notes))
    assert [row.answer for row in after] == [row.answer for row in before]
    for one, other in zip(after, before, strict=True):
        # A merged adapter is added in another order: 16-bit arithmetic notices.
        assert one.scores == pytest.approx(other.scores, abs=0 if rank == 0 else 3e-2)


def test_a_trained_folder_holds_its_learning_curve(tuned: Path) -> None:
    coder = load_coder(tuned)
    assert isinstance(coder, GenerativeCoder)
    assert coder.settings.weights == "here"
    training = json_of(tuned / "training.json")
    assert [row["step"] for row in training["history"]] == list(range(1, 61))
    assert {"loss", "grad_norm", "learning_rate"} <= training["history"][-1].keys()
    assert training["notes"] == 32
    assert training["lora_rank"] == 0


def test_checkpointing_changes_nothing_and_an_epoch_is_as_long_as_it_was_asked(
    small_model: Path, eight: Task, tmp_path: Path
) -> None:
    coders = [
        fitted(eight, small_model, tmp_path / str(on), epochs=2.0, batch=4, checkpointing=on)
        for on in (False, True)
    ]
    assert [coder.training["steps"] for coder in coders] == [4, 4]
    assert [coder.model.is_activation_checkpointing for coder in coders] == [False, True]
    torch.testing.assert_close(
        coders[0].model.state_dict(), coders[1].model.state_dict(), rtol=1e-4, atol=1e-5
    )


def test_how_an_open_answer_is_read_is_kept(small_model: Path, eight: Task, tmp_path: Path) -> None:
    coder = fitted(eight, small_model, tmp_path / "work", steps=1, scan="truncated")
    assert coder.settings.scan == "truncated"


def json_of(path: Path) -> Any:
    from icdtune.files import read_json

    return read_json(path)


def test_a_corpus_without_codes_is_refused(
    small_task: Task, small_model: Path, tmp_path: Path
) -> None:
    bare = frozenset(note.note_id for note in small_task.notes("train") if not note.codes)
    assert bare
    task = replace(small_task, only=bare)
    with pytest.raises(IcdtuneError, match='split "train": no note has a code'):
        train_coder("sft", task, tmp_path / "coder", 1, {"model": str(small_model), **BUDGETS})
    assert list(tmp_path.iterdir()) == []


def test_answers_that_would_be_cut_are_refused(
    small_task: Task, small_model: Path, tmp_path: Path
) -> None:
    options = {"model": str(small_model), "prompt_budget": 192, "answer_budget": 4}
    with pytest.raises(
        IcdtuneError, match=r"\d+ of 32 answers are longer.*4 tokens.*answer_budget"
    ):
        train_coder("sft", small_task, tmp_path / "coder", 1, options)
    assert list(tmp_path.iterdir()) == []


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 99)
)
def test_an_epoch_takes_every_row_once_in_an_order_that_its_seed_decides(
    lengths: list[int], size: int, seed: int
) -> None:
    order = list(ByLength(lengths, size, lambda: seed))
    assert sorted(order) == list(range(len(lengths)))
    torch.rand(1)  # whatever else draws numbers
    assert list(ByLength(lengths, size, lambda: seed)) == order


def test_rows_of_similar_length_share_a_batch_and_epochs_differ() -> None:
    lengths = torch.randint(1, 300, (400,), generator=torch.Generator().manual_seed(1)).tolist()
    numbers = iter(range(2))
    sampler = ByLength(lengths, 8, lambda: next(numbers))
    first, second = list(sampler), list(sampler)
    assert first != second
    for order in (first, second):
        spread = [
            max(lengths[i] for i in order[at : at + 8])
            - min(lengths[i] for i in order[at : at + 8])
            for at in range(0, 400, 8)
        ]
        assert sum(spread) / len(spread) < 60  # batches of random rows spread over about 230


# Other ways to train


@pytest.mark.parametrize("options", [{"dora": True, "lora_rank": 4}, {"neftune": 5.0}])
def test_dora_and_noise_train_something_else_and_the_folder_keeps_it(
    small_model: Path, eight: Task, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Noise is for training alone: the folder answers as the coder in memory."""
    plain = {"lora_rank": options.get("lora_rank", 0), "steps": 3, "learning_rate": 1e-2}
    options = plain | options
    losses = []
    for name, more in (("plain", plain), ("other", options)):
        given = {"model": str(small_model), **BUDGETS, **more}
        train_coder("sft", eight, tmp_path / name, 1, given)
        history = read_json(tmp_path / name / "training.json")["history"]
        losses.append([row["loss"] for row in history])
    assert losses[0] != losses[1]
    again = fitted(eight, small_model, tmp_path / "work", **options)
    kept = load_coder(tmp_path / "other")
    assert isinstance(kept, GenerativeCoder)
    trained: Any = again.model
    if options.get("dora"):
        assert any("magnitude" in name for name, _ in trained.named_parameters())
        trained = trained.merge_and_unload()
    torch.testing.assert_close(trained.state_dict(), kept.model.state_dict())


def test_dora_without_a_rank_is_refused(small_model: Path, eight: Task, tmp_path: Path) -> None:
    with pytest.raises(IcdtuneError, match="trained whole. Give a lora_rank"):
        fitted(eight, small_model, tmp_path, dora=True)
