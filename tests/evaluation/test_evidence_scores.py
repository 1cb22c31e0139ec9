"""Evidence scores: worked cases, scikit-learn's F1 on the same tokens, paired differences."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from icdtune.data.evidence import Span
from icdtune.evaluation.evidence import (
    METRICS,
    compare_evidence,
    count_evidence,
    evidence_metrics,
)

TOKENS = [(i * 2, i * 2 + 1) for i in range(20)]
"""Twenty tokens of one character, a space between them."""


def span(note: str, code: str, first: int, last: int) -> Span:
    return Span(note, code, first * 2, last * 2 + 1, 0)


def test_a_worked_case() -> None:
    notes = {"n": ("s", TOKENS)}
    counts = count_evidence(
        [span("n", "A", 2, 5), span("n", "B", 0, 0), span("n", "C", 1, 1)],
        [span("n", "A", 4, 7), span("n", "B", 9, 9), span("n", "B", 11, 11), span("n", "D", 3, 3)],
        notes,
        {"n": ["A", "B", "C"]},
    )
    # A: 4 found, 4 marked, 2 both. B: 1 found, 2 marked. C is not marked, D is not predicted.
    found = evidence_metrics(counts, resamples=20)
    assert counts.pairs.sum() == 2
    assert found["token_precision"]["value"] == pytest.approx(2 / 5)
    assert found["token_recall"]["value"] == pytest.approx(2 / 6)
    assert found["token_f1"]["value"] == pytest.approx(4 / 11)
    assert found["iou"]["value"] == pytest.approx((2 / 6 + 0) / 2)


def test_a_pair_without_found_spans_counts_as_missed() -> None:
    counts = count_evidence([], [span("n", "A", 0, 1)], {"n": ("s", TOKENS)}, {"n": ["A"]})
    assert counts.pairs.sum() == 1
    assert all(entry["value"] == 0 for entry in evidence_metrics(counts, 10).values())


def random_case(rng: np.random.Generator) -> tuple[list[Span], list[Span], dict[str, list[str]]]:
    found, marked = [], []
    predicted = {f"n{i}": ["A", "B"] for i in range(12)}
    for note in predicted:
        for code in "AB":
            first = int(rng.integers(0, 15))
            marked.append(span(note, code, first, first + int(rng.integers(0, 4))))
            first = min(15, max(0, first + int(rng.integers(-2, 3))))
            found.append(span(note, code, first, first + int(rng.integers(0, 4))))
    return found, marked, predicted


def test_scikit_learn_agrees() -> None:
    found, marked, predicted = random_case(np.random.default_rng(3))
    notes = {note: (f"s{int(note[1:]) % 5}", TOKENS) for note in predicted}
    values = evidence_metrics(count_evidence(found, marked, notes, predicted), 50)
    rows = [
        [
            [
                any(s.start <= start < s.end for s in spans if (s.note_id, s.code) == (n, c))
                for start, _ in TOKENS
            ]
            for n in predicted
            for c in "AB"
        ]
        for spans in (marked, found)
    ]
    truth, answer = np.array(rows[0]), np.array(rows[1])
    flat = (truth.ravel(), answer.ravel())
    assert values["token_f1"]["value"] == pytest.approx(f1_score(*flat))
    assert values["token_precision"]["value"] == pytest.approx(precision_score(*flat))
    assert values["token_recall"]["value"] == pytest.approx(recall_score(*flat))
    assert values["iou"]["value"] == pytest.approx(jaccard_score(truth, answer, average="samples"))
    for entry in values.values():
        assert entry["low"] <= entry["value"] <= entry["high"]


def test_a_difference_is_of_the_same_subjects() -> None:
    found, marked, predicted = random_case(np.random.default_rng(4))
    notes = {note: (note, TOKENS) for note in predicted}
    one = count_evidence(found, marked, notes, predicted)
    best = count_evidence(marked, marked, notes, predicted)
    assert set(compare_evidence(one, one)) == set(METRICS)
    assert all(set(entry.values()) == {0.0} for entry in compare_evidence(one, one).values())
    better = compare_evidence(one, best, resamples=200)["token_f1"]
    assert 0 < better["low"] <= better["difference"] <= better["high"]
