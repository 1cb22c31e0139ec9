"""Evidence of the neural classifiers: each method against its definition, spans inside the note."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icdtune.coders.base import make_coder
from icdtune.coders.classifiers.attributions import methods, relevance
from icdtune.coders.classifiers.neural import NeuralClassifier
from icdtune.coders.explain import usable_method
from icdtune.data.labels import Task
from icdtune.errors import IcdtuneError

FAST = {"learning_rate": 5e-3, "warmup": 10, "batch": 16, "micro_batch": 16, "max_tokens": 120}
OPTIONS: dict[str, dict[str, Any]] = {
    "cnn": {"shape": {"filters": 60, "dropout": 0.0}},
    "caml": {"shape": {"filters": 50, "kernel": 4, "dropout": 0.0}},
    "laat": {"shape": {"hidden": 32, "projection": 32, "dropout": 0.0}},
    "plm-icd": {"shape": {"chunk": 32}},
}


@pytest.fixture(scope="module", params=OPTIONS)
def coder(
    request: pytest.FixtureRequest,
    task: Task,
    encoder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> NeuralClassifier:
    options = FAST | OPTIONS[request.param] | {"epochs": 40}
    if request.param == "plm-icd":
        options["model"] = str(encoder)
    made = make_coder(request.param, options)
    assert isinstance(made, NeuralClassifier)
    made.fit(task, 1, tmp_path_factory.mktemp("explained"))
    return made


def test_ids_stand_where_their_words_do(coder: NeuralClassifier, task: Task) -> None:
    for note in task.notes("test"):
        ids, offsets = coder.encode(note), coder.offsets(note)
        assert len(ids) == len(offsets)
        assert all(0 <= start < end <= len(note.text) for start, end in offsets)
        texts: dict[int, set[str]] = {}
        for i, (start, end) in zip(ids, offsets, strict=True):
            texts.setdefault(i, set()).add(note.text[start:end].lower())
        texts.pop(1)  # the unknown word
        assert all(len(found) == 1 for found in texts.values())


def test_attention_is_the_networks_own(coder: NeuralClassifier, task: Task) -> None:
    model: Any = coder.model
    if not hasattr(model, "attention"):
        assert methods(model) == ("integrated-gradients",)
        return
    note = next(iter(task.notes("test")))
    ids = coder.encode(note)
    found = relevance(model, ids, [0, 3], "attention")
    assert found.shape == (2, len(ids))
    given = torch.tensor([ids])
    with torch.no_grad():
        inputs = given if coder.name == "plm-icd" else model.embed(given)
        states, mask = model.states(inputs, torch.ones_like(given))
        keys, _ = model.attention.keys_and_values(states)
    for row, label in enumerate((0, 3)):
        scores = keys[0] @ model.attention.queries[label].detach()
        expected = torch.softmax(scores.masked_fill(mask[0] == 0, -torch.inf), -1)
        assert found[row] == pytest.approx(expected[: len(ids)].numpy(), abs=1e-6)


def test_attingrad_is_attention_times_the_norm_of_input_times_gradient(
    coder: NeuralClassifier, task: Task
) -> None:
    model: Any = coder.model
    if not hasattr(model, "attention"):
        with pytest.raises(
            IcdtuneError, match='cnn has no evidence "attingrad". It has: integrated'
        ):
            usable_method(coder, "cnn", "attingrad")
        return
    ids = coder.encode(next(iter(task.notes("test"))))
    found = relevance(model, ids, [2], "attingrad")[0]
    given = torch.tensor([ids])
    kept: list[torch.Tensor] = []

    def keep(module: Any, args: Any, out: torch.Tensor) -> None:
        out.retain_grad()
        kept.append(out)

    hook = model.token_embedding.register_forward_hook(keep)
    model(input_ids=given, attention_mask=torch.ones_like(given)).logits[0, 2].backward()
    hook.remove()
    vectors = kept[0].reshape(-1, kept[0].shape[-1])[: len(ids)]
    gradient = kept[0].grad.reshape(-1, kept[0].shape[-1])[: len(ids)]  # type: ignore[union-attr]
    product = (vectors * gradient).norm(dim=-1).detach().numpy()
    assert found == pytest.approx(relevance(model, ids, [2], "attention")[0] * product, rel=1e-3)


@pytest.mark.parametrize("method", ["attention", "attingrad", "integrated-gradients"])
def test_without_its_most_relevant_words_a_code_is_less_likely(
    method: str, coder: NeuralClassifier, task: Task
) -> None:
    if method not in coder.methods():
        return
    index = task.labels.index
    changes = []
    for note in list(task.notes("train"))[:12]:
        ids = coder.encode(note)
        label = index[(note.codes or ())[0]]
        order = np.argsort(-relevance(coder.model, ids, [label], method)[0])
        dropped = [
            [token for i, token in enumerate(ids) if i not in set(part.tolist())]
            for part in (order[:8], order[-8:])
        ]
        logits = []
        for one in dropped:
            given = torch.tensor([one])
            with torch.no_grad():
                out = coder.model(input_ids=given, attention_mask=torch.ones_like(given)).logits
            logits.append(float(out[0, label]))
        changes.append(logits[0] - logits[1])
    assert np.mean(changes) < 0


def test_spans_are_in_the_note_and_of_its_codes(coder: NeuralClassifier, task: Task) -> None:
    notes = list(task.notes("train"))[:6]
    answered = [(note, [*(note.codes or ()), "Z99.99"]) for note in notes]
    texts = {note.note_id: note for note in notes}
    for method in coder.methods():
        spans = list(coder.explain(answered, method))
        assert {span.note_id for span in spans} == set(texts)
        for span in spans:
            note = texts[span.note_id]
            assert 0 <= span.start < span.end <= len(note.text)
            assert span.code in (note.codes or ())
            assert span.method == method
            assert span.score is not None
            assert 0 < span.score <= 1
        assert len({(s.note_id, s.group) for s in spans}) == len(spans)
