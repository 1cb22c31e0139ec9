"""The neural classifiers as coders: they learn, come back from their folder, and go on when killed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from icdtune.coders.base import load_coder, make_coder, run_coder, train_coder
from icdtune.coders.classifiers.neural import NeuralClassifier
from icdtune.coders.classifiers.presets import load_preset
from icdtune.coders.classifiers.words import NoteWords, Vocabulary, word_vectors
from icdtune.data.labels import LabelRule, Task, choose_labels
from icdtune.data.predictions import read_predictions
from icdtune.data.schema import Note
from icdtune.errors import IcdtuneError

WORDY = ("cnn", "bigru", "caml", "multirescnn", "laat")
SHAPES: dict[str, dict[str, Any]] = {
    "cnn": {"filters": 200, "dropout": 0.0},
    "bigru": {"hidden": 48, "dropout": 0.0},
    "caml": {"filters": 50, "kernel": 5, "dropout": 0.0},
    "multirescnn": {"filters": 20, "kernels": [3, 5], "dropout": 0.0},
    "laat": {"hidden": 32, "projection": 32, "dropout": 0.0},
}
FAST = {"learning_rate": 5e-3, "warmup": 10, "batch": 16, "micro_batch": 16, "max_tokens": 80}


def micro_f1(coder: NeuralClassifier, task: Task, split: str) -> float:
    notes = list(task.notes(split))
    found = list(coder.predict(notes))
    hits = sum(len(set(p.codes) & set(n.codes or ())) for p, n in zip(found, notes, strict=True))
    said = sum(len(p.codes) for p in found)
    return 2 * hits / (said + sum(len(n.codes or ()) for n in notes))


def fitted(name: str, task: Task, work: Path, **options: Any) -> NeuralClassifier:
    coder = make_coder(name, FAST | options)
    assert isinstance(coder, NeuralClassifier)
    coder.fit(task, 1, work)
    return coder


@pytest.mark.parametrize("name", WORDY)
def test_64_notes_are_learnt_by_heart(name: str, task: Task, tmp_path: Path) -> None:
    coder = fitted(name, task, tmp_path, shape=SHAPES[name], epochs=60, min_count=1)
    coder.threshold = 0.5
    assert micro_f1(coder, task, "train") > 0.95


@pytest.mark.parametrize("name", ["plm-icd", "plm-ca"])
def test_64_notes_are_learnt_by_heart_by_an_encoder(
    name: str, task: Task, encoder: Path, tmp_path: Path
) -> None:
    options = {"model": str(encoder), "shape": {"chunk": 32}, "epochs": 80, "max_tokens": 128}
    coder = fitted(name, task, tmp_path, **options)
    coder.threshold = 0.5
    assert micro_f1(coder, task, "train") > 0.95


def test_a_trained_folder_predicts_the_same_with_scores_and_a_ranking(
    task: Task, tmp_path: Path
) -> None:
    options = FAST | {"shape": SHAPES["caml"], "epochs": 3}
    train_coder("caml", task, tmp_path / "coder", 1, options)
    train_coder("caml", task, tmp_path / "again", 1, options)
    found = []
    for name in ("coder", "again"):
        out = tmp_path / f"{name}-predictions"
        run_coder(load_coder(tmp_path / name), "caml", task, "test", 1, out)
        found.append(list(read_predictions(out)[0]))
    assert found[0] == found[1]
    for row in found[0]:
        assert row.scores is not None
        assert row.ranked_scores is not None
        assert row.codes == row.ranked_codes[: len(row.codes)]  # type: ignore[index]
        assert list(row.ranked_scores) == sorted(row.ranked_scores, reverse=True)
        assert all(0 <= score <= 1 for score in row.ranked_scores)


class StoppedError(Exception):
    pass


def test_an_interrupted_training_goes_on_to_the_same_weights(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from icdtune.coders import training

    options = {"shape": SHAPES["laat"] | {"dropout": 0.2}, "epochs": 15}
    whole = fitted("laat", task, tmp_path / "whole", **options)
    on_step_end = training.Bar.on_step_end

    def stop(self: Any, args: Any, state: Any, control: Any, **rest: Any) -> None:
        on_step_end(self, args, state, control, **rest)
        if state.global_step == 30:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(training.Bar, "on_step_end", stop)
        with pytest.raises(StoppedError):
            fitted("laat", task, tmp_path / "parts", **options)
    assert [path.name for path in (tmp_path / "parts").glob("checkpoint-*")] == ["checkpoint-20"]
    parts = fitted("laat", task, tmp_path / "parts", **options)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.threshold == parts.threshold


def test_a_loss_that_is_not_finite_stops_and_names_the_step(task: Task, tmp_path: Path) -> None:
    with pytest.raises(IcdtuneError, match=r"step \d+: (loss|grad_norm) is"):
        fitted("caml", task, tmp_path, shape=SHAPES["caml"], epochs=5, learning_rate=1e36)


def test_presets_have_a_source_and_options_take_their_place() -> None:
    for name in (*WORDY, "plm-icd", "plm-ca"):
        for preset in ("published", "mimic3-clean", "mimic3-full", "mimic3-50", "mimic4", "laptop"):
            assert load_preset(name, preset, {}).source
    settings = load_preset("caml", "mimic4", {"epochs": 3, "shape": {"filters": 7}})
    assert (settings.epochs, settings.learning_rate) == (3, 5e-3)
    assert settings.shape == {"filters": 7, "kernel": 10, "dropout": 0.2}
    with pytest.raises(IcdtuneError, match='caml has no preset "huge". It has: published'):
        make_coder("caml", {"preset": "huge"})
    with pytest.raises(IcdtuneError, match='no option "layers"'):
        make_coder("caml", {"layers": 3})


def test_bad_input_is_named(task: Task, encoder: Path, tmp_path: Path) -> None:
    coder = fitted("caml", task, tmp_path / "a", shape=SHAPES["caml"], epochs=1)
    with pytest.raises(IcdtuneError, match="note x has no letters or digits"):
        coder.predict([Note("x", "x", "...", None)])
    with pytest.raises(IcdtuneError, match="shape does not fit the network"):
        fitted("caml", task, tmp_path / "b", shape={"filters": "many"})
    slow = tmp_path / "slow"
    shutil.copytree(encoder, slow)
    (slow / "tokenizer.json").unlink()
    config = json.loads((slow / "tokenizer_config.json").read_text())
    (slow / "tokenizer_config.json").write_text(
        json.dumps(config | {"tokenizer_class": "ByT5Tokenizer"})
    )
    with pytest.raises(IcdtuneError, match="reads 64 tokens at a time, chunk is 128"):
        fitted("plm-icd", task, tmp_path / "d", model=str(encoder), epochs=1)
    with pytest.raises(IcdtuneError, match="has no fast tokenizer"):
        fitted("plm-icd", task, tmp_path / "c", model=str(slow), epochs=1)


def test_a_label_space_with_codes_that_the_coder_lacks_is_refused(
    task: Task, tmp_path: Path
) -> None:
    coder = fitted("caml", task, tmp_path / "a", shape=SHAPES["caml"], epochs=1)
    codes = [*task.labels.codes, "A00.0", "A00.1"]
    more = task.labels.model_copy(update={"name": "more", "codes": codes})
    with pytest.raises(IcdtuneError, match='"more" has 2 codes that caml was not trained on'):
        run_coder(coder, "caml", replace(task, labels=more), "test", 1, tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_without_gold_to_find_the_threshold_on_nothing_is_trained(
    task: Task, tmp_path: Path
) -> None:
    every = choose_labels(task.corpus, "all", LabelRule(kind="full", counted_on=["train"]))
    seen = {code for note in task.corpus.notes("val") for code in note.codes or ()}
    rest = [code for code in every.codes if code not in seen]
    unseen = replace(task, labels=every.model_copy(update={"codes": rest}))
    with pytest.raises(IcdtuneError, match='split "val": no note has a code'):
        fitted("caml", unseen, tmp_path / "work", shape=SHAPES["caml"], epochs=1)
    assert not (tmp_path / "work").exists()


def test_an_encoder_may_be_used_with_fewer_layers(
    task: Task, encoder: Path, tmp_path: Path
) -> None:
    config = BertConfig.from_pretrained(encoder)
    config.num_hidden_layers = 3
    BertModel(config).save_pretrained(tmp_path / "deep")
    for file in encoder.glob("token*"):
        shutil.copy(file, tmp_path / "deep")
    options = FAST | {"model": str(tmp_path / "deep"), "layers": 2, "epochs": 1}
    options |= {"shape": {"chunk": 32}}
    train_coder("plm-icd", task, tmp_path / "coder", 1, options)
    coder = load_coder(tmp_path / "coder")
    assert len(coder.model.encoder.encoder.layer) == 2  # type: ignore[attr-defined]
    assert len(coder.predict(list(task.notes("test")))) == 20  # type: ignore[arg-type]


def test_the_label_attention_may_have_a_learning_rate_of_its_own(
    task: Task, encoder: Path, tmp_path: Path
) -> None:
    options = FAST | {"model": str(encoder), "shape": {"chunk": 32}, "epochs": 12}
    options |= {"learning_rate": 1e-12, "head_learning_rate": 5e-3, "weight_decay": 0.0}
    coder = fitted("plm-icd", task, tmp_path, **options)
    before = BertModel.from_pretrained(encoder).state_dict()
    after = coder.model.encoder.state_dict()  # type: ignore[attr-defined, operator, union-attr]
    assert all(torch.allclose(before[name].cpu(), after[name].cpu(), atol=1e-6) for name in before)
    losses = [row["loss"] for row in coder.training["history"]]
    assert losses[-1] < 0.8 * losses[0]


def test_gradient_checkpointing_changes_no_weight(
    task: Task, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import modeling_utils

    calls: list[int] = []
    real = modeling_utils.checkpoint

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return real(*args, **options)

    monkeypatch.setattr(modeling_utils, "checkpoint", counted)
    options = {"model": str(encoder), "shape": {"chunk": 32}, "epochs": 2}
    plain = fitted("plm-icd", task, tmp_path / "plain", **options)
    assert not calls
    saving = fitted("plm-icd", task, tmp_path / "saving", gradient_checkpointing=True, **options)
    assert calls
    for one, other in zip(plain.model.parameters(), saving.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_an_encoder_that_was_not_fetched_says_how(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICDTUNE_CACHE", str(tmp_path))
    with pytest.raises(IcdtuneError, match="make minilm"):
        fitted("plm-icd", task, tmp_path / "d", epochs=1)


def test_word_vectors_depend_on_the_seed_alone() -> None:
    notes = [["acute", "heart", "failure"], ["heart", "failure"], ["acute", "pain"]] * 4
    found = NoteWords.of(iter(notes))
    vocabulary = Vocabulary.of(found, 8)
    assert vocabulary.words == ["acute", "failure", "heart"]
    assert vocabulary.encode(["acute", "unheard"]).tolist() == [2, 1]
    ids = vocabulary.encode_all(found)
    assert [own.tolist() for own in ids] == [vocabulary.encode(words).tolist() for words in notes]
    one, same = (word_vectors(vocabulary, ids, 8, 1) for _ in range(2))
    assert (one == same).all()
    assert (one[0] == 0).all()
    assert one[2:].any()
    assert (word_vectors(vocabulary, ids, 8, 2) != one).any()


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=12), max_size=8))
def test_words_are_counted_by_note_and_found_again(notes: list[list[str]]) -> None:
    found = NoteWords.of(iter(notes))
    assert [[found.words[i] for i in ids] for ids in found.notes] == notes
    counts = dict(zip(found.words, found.frequency.tolist(), strict=True))
    assert counts == {word: sum(word in n for n in notes) for word in {w for n in notes for w in n}}
