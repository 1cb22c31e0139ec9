"""The reward: sample-level F1 with the study's two edge cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icdtune.posttrain.reward import sample_f1

CODES = st.frozensets(st.sampled_from(["I10", "E11.9", "D62", "N17.9", "A41.9", "Z99.2"]))


@pytest.mark.parametrize(
    ("predicted", "gold", "expected"),
    [
        ("", "", 1.0),  # nothing to find, nothing said
        ("I10", "", 0.0),
        ("", "I10", 0.0),
        ("I10", "I10", 1.0),
        ("I10", "D62", 0.0),
        ("I10 D62", "I10", 2 / 3),  # precision 1/2, recall 1
        ("I10", "I10 D62 N17.9", 1 / 2),  # precision 1, recall 1/3
        ("I10 D62 Z99.2", "I10 D62 N17.9 A41.9", 4 / 7),
    ],
)
def test_worked_cases(predicted: str, gold: str, expected: float) -> None:
    assert sample_f1(set(predicted.split()), set(gold.split())) == pytest.approx(expected)


@given(CODES, CODES)
def test_it_is_the_harmonic_mean_of_precision_and_recall(
    predicted: frozenset[str], gold: frozenset[str]
) -> None:
    value = sample_f1(predicted, gold)
    hits = len(predicted & gold)
    if hits:
        precision, recall = hits / len(predicted), hits / len(gold)
        assert value == pytest.approx(2 * precision * recall / (precision + recall))
    else:
        assert value == (predicted == gold)
    assert (value == 1) == (predicted == gold)


@given(CODES, CODES.filter(bool))
def test_a_hit_more_raises_it_and_a_false_code_more_lowers_it(
    predicted: frozenset[str], gold: frozenset[str]
) -> None:
    before = sample_f1(predicted, gold)
    for code in gold - predicted:
        assert sample_f1(predicted | {code}, gold) > before
    if predicted & gold:
        assert sample_f1(predicted | {"J18.9"}, gold) < before
