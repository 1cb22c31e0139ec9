"""Rewards: worked cases, and what holds of all of them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import fbeta_score

from icdtune.posttrain.reward import Reward

UNIVERSE = ["I10", "E11.9", "D62", "N17.9", "A41.9", "Z99.2"]
CODES = st.frozensets(st.sampled_from(UNIVERSE))
F1, F2, F05 = Reward(), Reward(beta=2.0), Reward(beta=0.5)
PER_CODE = Reward("per-code")
WEIGHTED = Reward(weights={"I10": 0.5, "D62": 5.0})
WITH_FORMAT = Reward(format_weight=0.2)
FREE = Reward(charge_repeats=False)
REWARDS = [F1, F2, F05, PER_CODE, WEIGHTED, Reward("per-code", weights={"D62": 5.0})]


@pytest.mark.parametrize(
    ("reward", "predicted", "gold", "expected"),
    [
        # sample-level F1; both empty 1, exactly one empty 0
        (F1, "", "", 1.0),
        (F1, "I10", "", 0.0),
        (F1, "", "I10", 0.0),
        (F1, "I10", "I10", 1.0),
        (F1, "I10", "D62", 0.0),
        (F1, "I10 D62", "I10", 2 / 3),
        (F1, "I10", "I10 D62 N17.9", 1 / 2),
        (F1, "I10 D62 Z99.2", "I10 D62 N17.9 A41.9", 4 / 7),
        # a code again is a false positive more
        (F1, "I10 I10", "I10", 2 / 3),
        (F1, "I10 I10 I10", "I10", 1 / 2),
        (F1, "D62 D62", "I10", 0.0),
        (F1, "I10 I10", "", 0.0),
        (FREE, "I10 I10", "I10", 1.0),
        (FREE, "I10 D62 D62", "I10", 2 / 3),
        # F-beta: (1 + b^2) hits / ((1 + b^2) hits + wrong + b^2 missed)
        (F2, "", "", 1.0),
        (F2, "I10", "", 0.0),
        (F2, "", "I10", 0.0),
        (F2, "I10", "I10", 1.0),
        (F2, "I10 D62", "I10", 5 / 6),
        (F2, "I10", "I10 D62", 5 / 9),
        (F2, "I10 D62", "I10 N17.9", 5 / 10),
        (F2, "I10 I10", "I10", 5 / 6),
        (F05, "I10 D62", "I10", 1.25 / 2.25),
        (F05, "I10", "I10 D62", 1.25 / 1.5),
        (F05, "D62", "I10", 0.0),
        # per code: hits / gold - 0.5 wrong / max(predicted, gold)
        (PER_CODE, "", "", 1.0),
        (PER_CODE, "I10", "", 0.0),  # the study's release gives -0.5
        (PER_CODE, "", "I10", 0.0),
        (PER_CODE, "I10", "I10", 1.0),
        (PER_CODE, "D62", "I10", -0.5),
        (PER_CODE, "I10 D62", "I10", 1 - 0.5 / 2),
        (PER_CODE, "I10 D62", "I10 N17.9", 1 / 2 - 0.5 / 2),
        (PER_CODE, "I10", "I10 N17.9 A41.9", 1 / 3),
        (PER_CODE, "D62", "I10 N17.9 A41.9", -0.5 / 3),
        (PER_CODE, "I10 I10", "I10", 1 - 0.5 / 2),
        # weights: I10 0.5, D62 5, others 1
        (WEIGHTED, "", "", 1.0),
        (WEIGHTED, "D62", "", 0.0),
        (WEIGHTED, "", "D62", 0.0),
        (WEIGHTED, "I10 D62", "I10 D62", 1.0),
        (WEIGHTED, "D62", "D62 I10", 10 / 10.5),
        (WEIGHTED, "I10", "D62 I10", 1 / 6),
        (WEIGHTED, "D62 N17.9", "D62", 10 / 11),
        (WEIGHTED, "D62 D62", "D62", 10 / 15),
        # the format counts apart
        (WITH_FORMAT, "I10", "I10", 1.0),
        (WITH_FORMAT, "D62", "I10", 0.2),
        (WITH_FORMAT, "I10 D62", "I10", 0.8 * 2 / 3 + 0.2),
    ],
)
def test_worked_cases(reward: Reward, predicted: str, gold: str, expected: float) -> None:
    written = Counter(predicted.split())
    repeated = {code: times - 1 for code, times in written.items() if times > 1}
    assert reward.score(set(written), set(gold.split()), repeated) == pytest.approx(expected)


def test_without_a_complete_block_the_format_earns_nothing() -> None:
    assert WITH_FORMAT.score({"I10"}, {"I10"}, closed=False) == pytest.approx(0.8)
    assert F1.score({"I10"}, {"I10"}, closed=False) == 1.0


@given(CODES, CODES.filter(bool), st.sampled_from([0.5, 1.0, 2.0]))
def test_f_beta_is_that_of_scikit_learn(
    predicted: frozenset[str], gold: frozenset[str], beta: float
) -> None:
    truth = [[code in gold for code in UNIVERSE]]
    guess = [[code in predicted for code in UNIVERSE]]
    expected = fbeta_score(truth, guess, beta=beta, average="samples", zero_division=0)
    assert Reward(beta=beta).score(predicted, gold) == pytest.approx(expected)


@given(CODES, CODES, st.sampled_from(REWARDS))
def test_only_the_gold_set_itself_scores_one(
    predicted: frozenset[str], gold: frozenset[str], reward: Reward
) -> None:
    value = reward.score(predicted, gold)
    assert (value == pytest.approx(1)) == (predicted == gold)
    assert -0.5 <= value <= 1 + 1e-12


@given(CODES, CODES.filter(bool), st.sampled_from(REWARDS))
def test_a_hit_more_raises_it_and_a_false_code_more_never_does(
    predicted: frozenset[str], gold: frozenset[str], reward: Reward
) -> None:
    before = reward.score(predicted, gold)
    for code in gold - predicted:
        assert reward.score(predicted | {code}, gold) > before
    assert reward.score(predicted | {"J18.9"}, gold) <= before
    if predicted & gold:
        assert reward.score(predicted | {"J18.9"}, gold) < before
