"""Generative coders: what an answer scores, folders that come back, models that cannot be read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icdtune.coders import base
from icdtune.coders.base import TrainableCoder, load_coder, make_coder, run_coder, train_coder
from icdtune.coders.generative import GenerativeCoder, end_ids, spell, start_coder
from icdtune.coders.models import MissingModelError, load_model, load_tokenizer
from icdtune.data.labels import Task
from icdtune.data.predictions import read_predictions
from icdtune.data.schema import Note
from icdtune.decoding.generate import Generated
from icdtune.errors import IcdtuneError
from icdtune.files import read_json, write_json
from icdtune.prompts.answer import format_answer, parse_answer

CODES = ["A41.51", "D62", "E78.5", "E87.6", "F17.210", "I10", "I25.10", "N17.9", "R65.20"]
BUDGETS = {"prompt_budget": 192, "answer_budget": 24}
STEP = {"visits": 2, "group": 2, "steps": 2, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def coder(tuned: Path) -> GenerativeCoder:
    return GenerativeCoder.load(tuned)


def said(coder: GenerativeCoder, text: str, chances: list[float] | None = None) -> Generated:
    """An answer as if it had been generated, each token with a probability of its own."""
    ids = [
        *coder.tokenizer(text, add_special_tokens=False)["input_ids"],
        coder.tokenizer.eos_token_id,
    ]
    if chances is None:
        chances = [(i + 1) / (len(ids) + 1) for i in range(len(ids))]
    return Generated(ids, chances[: len(ids)], True)


def by_offsets(coder: GenerativeCoder, text: str, generated: Generated) -> dict[str, float]:
    """Each code's mean probability, from the tokenizer's own offsets."""
    encoded = coder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    expected = {}
    for item in parse_answer(text, coder.settings.code_systems).found:
        inside = [
            chance
            for (start, end), chance in zip(
                encoded["offset_mapping"], generated.probabilities, strict=False
            )
            if start < item.end and end > item.start
        ]
        expected[item.code] = sum(inside) / len(inside)
    return expected


@given(
    st.lists(st.sampled_from(CODES), min_size=1, unique=True),
    st.lists(st.floats(0.001, 1), min_size=80, max_size=80),
)
def test_a_score_is_the_mean_probability_of_the_tokens_that_spell_the_code(
    coder: GenerativeCoder, codes: list[str], chances: list[float]
) -> None:
    text = format_answer(codes)
    generated = said(coder, text, chances)
    reply = coder.read(generated)
    assert reply.text == text
    assert reply.scores.keys() == set(codes)
    assert reply.scores == pytest.approx(by_offsets(coder, text, generated), rel=1e-6)


def test_a_code_is_scored_where_it_stands_in_the_answer(coder: GenerativeCoder) -> None:
    """Not in the reasoning before it, not where it is repeated, and whatever letters stand around."""
    text = "Fieber über 39 °C, I10 is likely.\n<code>D62, I10, I10, nothing</code>"
    generated = said(coder, text)
    reply = coder.read(generated)
    assert reply.text == text
    assert reply.scores == pytest.approx(by_offsets(coder, text, generated), rel=1e-6)
    assert [item.reason for item in reply.answer.dropped] == ["duplicate", "malformed"]
    spelled, ends = spell(generated.ids, coder.tokenizer)
    assert spelled == text
    assert ends == sorted(ends)
    assert ends[-1] == ends[-2] == len(text)  # the end token spells nothing


def test_an_answer_without_a_block_has_no_codes(coder: GenerativeCoder) -> None:
    for text in ("", "I10 is likely", "<code>I10, D62"):
        reply = coder.read(said(coder, text))
        assert reply.scores == {}
        assert not reply.answer.closed


def test_predictions_are_what_the_answers_say(coder: GenerativeCoder, small_task: Task) -> None:
    notes = list(small_task.notes("train"))
    predictions = coder.predict(notes)
    rows = list(predictions)
    prompts = coder.prompts(note.text for note in notes)
    answers = coder.answer(prompts)
    assert sum(len(row.codes) for row in rows) > 5
    for note, row, answer in zip(notes, rows, answers, strict=True):
        reply = coder.read(answer)
        assert row.note_id == note.note_id
        assert row.answer == reply.text
        assert row.scores is not None
        assert dict(zip(row.codes, row.scores, strict=True)) == reply.scores
        assert list(row.scores) == sorted(row.scores, reverse=True)
    assert max(map(len, prompts)) <= 192
    assert predictions.tokens == sum(map(len, prompts)) + sum(len(a.ids) for a in answers)
    blind = [Note(n.note_id, n.subject_id, n.text, None) for n in notes]
    assert coder.predict(blind).table.equals(predictions.table)


def test_answers_that_did_not_end_or_could_not_be_read_are_counted(
    tuned: Path, small_task: Task
) -> None:
    coder = GenerativeCoder.load(tuned)
    counts = {}
    for budget in (2, 24):
        coder.settings = coder.settings.model_copy(update={"answer_budget": budget})
        notes = list(small_task.notes("train"))
        answers = coder.answer(coder.prompts(note.text for note in notes))
        details = counts[budget] = coder.predict(notes).details
        assert details["truncated"] == sum(not answer.ended for answer in answers)
        texts = [coder.read(answer).answer for answer in answers]
        assert details["unread"] == sum(not answer.closed for answer in texts)
        assert details["dropped"] == sum(len(answer.dropped) for answer in texts)
        assert details["answer_tokens"] == sum(len(answer.ids) for answer in answers)
    assert counts[2]["truncated"] == counts[2]["unread"] == 32  # "<code></code>" is longer
    assert counts[24]["truncated"] < 32


def test_a_token_that_ends_an_answer_is_the_tokenizers_or_the_models(
    coder: GenerativeCoder, tuned: Path
) -> None:
    end = coder.tokenizer.eos_token_id
    assert end_ids(coder.model, coder.tokenizer) == [end]
    other = load_model(str(tuned))
    other.generation_config.eos_token_id = [end + 2, end + 1]
    assert end_ids(other, coder.tokenizer) == [end, end + 1, end + 2]
    other.generation_config.eos_token_id = None
    assert end_ids(other, coder.tokenizer) == [end]


# Folders


def test_a_fine_tuned_coder_comes_back_from_its_folder(
    coder: GenerativeCoder, tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    coder.save(tmp_path)
    loaded = GenerativeCoder.load(tmp_path)
    assert loaded.settings == coder.settings
    before = coder.predict(small_task.notes("test")).table
    assert loaded.predict(small_task.notes("test")).table.equals(before)
    run_coder(load_coder(tuned), "sft", small_task, "test", 1, tmp_path / "predictions")
    assert read_predictions(tmp_path / "predictions")[0].table.equals(before)
    suffixes = {path.suffix for path in tuned.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".md", ".jinja"}  # no pickle


def same_model(loaded: GenerativeCoder, trained: GenerativeCoder) -> None:
    """The loaded weights are those in memory, adapters merged."""
    expected = trained.model
    if hasattr(expected, "merge_and_unload"):
        expected = expected.merge_and_unload()
    torch.testing.assert_close(loaded.model.state_dict(), expected.state_dict())


def test_adapters_upon_adapters_come_back(
    tuned: Path, small_task: Task, tmp_path: Path, made: Callable[..., GenerativeCoder]
) -> None:
    """SFT, then GRPO twice, an adapter each: a folder carries those that came before it."""
    sft = made("sft", tmp_path / "sft", model=str(tuned), steps=3, learning_rate=1e-2, **BUDGETS)
    first = made("grpo", tmp_path / "first", start=tmp_path / "sft", **STEP)
    second = made("grpo", tmp_path / "second", start=tmp_path / "first", **STEP)
    assert sft.settings.adapters == ["."]
    assert first.settings.adapters == ["earlier/0", "."]
    assert second.settings.adapters == ["earlier/0", "earlier/1", "."]
    shutil.rmtree(tmp_path / "sft")  # only the base model is still needed
    shutil.rmtree(tmp_path / "first")
    loaded = GenerativeCoder.load(tmp_path / "second")
    same_model(loaded, second)
    weights = loaded.model.state_dict()
    start = GenerativeCoder.load(tuned).model.state_dict()
    assert any((weights[name] - start[name]).abs().max() > 1e-3 for name in start)
    assert not (tmp_path / "second" / "model.safetensors").exists()


def test_an_adapter_on_whole_weights_is_merged_into_them(
    tuned: Path, tmp_path: Path, made: Callable[..., GenerativeCoder]
) -> None:
    coder = made("grpo", tmp_path / "grpo", start=tuned, **STEP)
    assert coder.settings.adapters == []
    same_model(GenerativeCoder.load(tmp_path / "grpo"), coder)


def test_a_whole_training_on_an_adapter_keeps_whole_weights(
    tuned: Path, tmp_path: Path, made: Callable[..., GenerativeCoder]
) -> None:
    made("sft", tmp_path / "sft", model=str(tuned), steps=2, **BUDGETS)
    coder = made("grpo", tmp_path / "grpo", start=tmp_path / "sft", **STEP | {"lora_rank": 0})
    assert coder.settings.adapters == []
    same_model(GenerativeCoder.load(tmp_path / "grpo"), coder)


@pytest.fixture
def made(small_task: Task, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GenerativeCoder]:
    """Train a stage with an adapter of rank 4 into its folder, and keep it in memory too."""
    kept: list[TrainableCoder] = []

    def keeping(name: str, options: Mapping[str, Any]) -> TrainableCoder:
        kept.append(make_coder(name, options))
        return kept[-1]

    monkeypatch.setattr(base, "make_coder", keeping)

    def train(stage: str, folder: Path, **options: object) -> GenerativeCoder:
        train_coder(stage, small_task, folder, 1, {"lora_rank": 4} | options)
        coder = kept[-1]
        assert isinstance(coder, GenerativeCoder)
        return coder

    return train


def test_a_damaged_folder_is_named(tuned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "coder"

    def damaged(name: str, content: bytes | None) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tuned, folder)
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        return folder

    with pytest.raises(
        IcdtuneError, match=r"generative\.json does not exist.*Train the coder again"
    ):
        load_coder(damaged("generative.json", None))
    with pytest.raises(IcdtuneError, match=r'generative\.json: .*"prompt_budget"'):
        load_coder(damaged("generative.json", b'{"base": "x"}'))
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        with pytest.raises(IcdtuneError, match="Train the coder again"):
            load_coder(damaged(name, None))
    weights = (tuned / "model.safetensors").read_bytes()
    with pytest.raises(IcdtuneError, match=r"cannot be read"):
        load_coder(damaged("model.safetensors", weights[: len(weights) // 2]))


def test_a_lost_adapter_is_named(
    tuned: Path, tmp_path: Path, made: Callable[..., GenerativeCoder]
) -> None:
    made("sft", tmp_path / "sft", model=str(tuned), steps=1, **BUDGETS)
    (tmp_path / "sft" / "adapter_model.safetensors").unlink()
    with pytest.raises(IcdtuneError, match=r"sft lacks adapter_model\.safetensors"):
        GenerativeCoder.load(tmp_path / "sft")


# Base models


def test_a_model_is_loaded_in_full_precision_with_the_layers_asked_for(small_model: Path) -> None:
    whole, half = load_model(str(small_model)), load_model(str(small_model), 1)
    assert len(whole.model.layers) == 2
    assert len(half.model.layers) == 1
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    kept = half.state_dict()
    assert all(torch.equal(kept[name], whole.state_dict()[name]) for name in kept)
    tokenizer = load_tokenizer(str(small_model))
    assert tokenizer.padding_side == "left"


def test_a_tokenizer_without_padding_pads_with_its_end(small_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_model, tmp_path / "model")
    about = read_json(folder / "tokenizer_config.json")
    del about["pad_token"]
    write_json(folder / "tokenizer_config.json", about)
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_folder_without_model_or_tokenizer_is_named(
    name: str, small_model: Path, small_task: Task, tmp_path: Path
) -> None:
    folder = shutil.copytree(small_model, tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(IcdtuneError, match=rf"model holds no \w+: it lacks {name}"):
        train_coder("sft", small_task, tmp_path / "coder", 1, {"model": str(folder), **BUDGETS})


@pytest.mark.parametrize("stage", ["sft", "prompted"])
def test_a_tokenizer_without_chat_template_is_refused(
    stage: str, small_model: Path, small_task: Task, tmp_path: Path
) -> None:
    folder = shutil.copytree(small_model, tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(IcdtuneError, match=r"no chat template.*chat_template\.jinja"):
        train_coder(stage, small_task, tmp_path / "coder", 1, {"model": str(folder), **BUDGETS})


@pytest.mark.parametrize("missing", ["no-such-folder", "weights"])
def test_a_model_that_is_not_there_is_named(
    missing: str, small_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    if missing == "weights":
        shutil.copytree(small_model, folder)
        (folder / "model.safetensors").unlink()
    with pytest.raises(MissingModelError, match="model.*(does not exist|cannot be read)"):
        load_model(str(folder))


# Prompted


def test_examples_come_from_the_training_notes_and_are_drawn_with_the_seed(
    small_model: Path, small_task: Task, tmp_path: Path
) -> None:
    train = {note.text: sorted(note.codes or ()) for note in small_task.notes("train")}
    options = {"model": str(small_model), "shots": 3, "prompt_budget": 480, "answer_budget": 8}
    drawn = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        train_coder("prompted", small_task, tmp_path / name, seed, options)
        coder = load_coder(tmp_path / name)
        assert isinstance(coder, GenerativeCoder)
        drawn.append(coder.settings.examples)
    assert drawn[0] == drawn[1] != drawn[2]
    for examples in drawn:
        assert len(examples) == len({text for text, _ in examples}) == 3
        assert all(codes and train[text] == codes for text, codes in examples)


def test_a_prompted_coder_comes_back_without_weights_of_its_own(
    small_model: Path, small_task: Task, tmp_path: Path
) -> None:
    options = {"model": str(small_model), "shots": 2, "prompt_budget": 1500, "answer_budget": 8}
    train_coder("prompted", small_task, tmp_path / "coder", 1, options)
    assert not list((tmp_path / "coder").glob("*.safetensors"))
    coder = load_coder(tmp_path / "coder")
    assert isinstance(coder, GenerativeCoder)
    base = start_coder(str(small_model), None, (1500, 8), small_task.corpus.info.code_systems)
    same_model(coder, base)
    (prompt,) = coder.prompts(["Has pneumonia."])
    text = coder.tokenizer.decode(prompt)
    assert text.count("<|user|>") == text.count("<|assistant|>") == 3
    for note, codes in coder.settings.examples:
        assert note in text
        assert format_answer(codes) in text
    assert text.rindex("Has pneumonia.") > text.rindex("<|user|>")
    assert len(coder.predict(small_task.notes("test"))) == 8


def test_more_examples_than_the_budget_holds_are_refused(
    small_model: Path, small_task: Task, tmp_path: Path
) -> None:
    options = {"model": str(small_model), "shots": 6, "prompt_budget": 192, "answer_budget": 8}
    train_coder("prompted", small_task, tmp_path / "coder", 1, options)
    with pytest.raises(IcdtuneError, match="over the budget of 192.*fewer examples"):
        load_coder(tmp_path / "coder").predict(small_task.notes("test"))
