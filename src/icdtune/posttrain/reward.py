"""What an answer is worth: functions of code sets. Knows nothing of models.

Every reward here is a function of three weights: of the codes that are right, wrong and missed. Adding
or taking away one code changes one or two of them, which is what code credit asks for (`credit.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

Kind = Literal["f-beta", "per-code"]
LIGHTEST, HEAVIEST = 0.5, 5.0
"""Bounds of a class-balanced weight (arXiv 2606.13940)."""


def f_beta(hits: float, wrong: float, missed: float, beta: float = 1.0) -> float:
    """(1 + b^2) hits / ((1 + b^2) hits + wrong + b^2 missed); 1 where there is nothing at all.

    With b = 1 the sample-level F1: both sets empty score 1, exactly one empty 0 (arXiv 2606.13940).
    """
    square = beta * beta
    right = (1 + square) * hits
    whole = right + wrong + square * missed
    return right / whole if whole else 1.0


def per_code(hits: float, wrong: float, missed: float) -> float:
    """hits / gold - 0.5 wrong / max(predicted, gold), from -0.5 to 1 (arXiv 2606.13940).

    Both sets empty score 1, exactly one empty 0: the study's release gives -0.5 to any prediction on
    an empty gold set.
    """
    gold, predicted = hits + missed, hits + wrong
    if not gold or not predicted:
        return float(gold == predicted)
    return hits / gold - 0.5 * wrong / max(predicted, gold)


def class_weights(frequency: Mapping[str, int]) -> dict[str, float]:
    """(median frequency / frequency)^0.5 within [0.5, 5]: rare codes weigh more (arXiv 2606.13940).

    Args:
        frequency: code -> training notes that hold it, at least 1.
    """
    middle = median(frequency.values()) if frequency else 1.0
    return {
        code: min(max((middle / count) ** 0.5, LIGHTEST), HEAVIEST)
        for code, count in frequency.items()
    }


@dataclass(frozen=True)
class Reward:
    """A reward of code sets.

    Attributes:
        kind: "f-beta", or the study's "per-code".
        beta: above 1 favours recall, below 1 precision.
        weights: weight of a code; 1 for one that has none, and for all where the mapping is empty.
        format_weight: share of the reward that is given for a complete `<code>` block alone.
        charge_repeats: whether a code written again is a false positive more; free repeats, as in the
            study's release, may teach a model to repeat itself without end.
    """

    kind: Kind = "f-beta"
    beta: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    format_weight: float = 0.0
    charge_repeats: bool = True

    def of(self, hits: float, wrong: float, missed: float) -> float:
        """The reward of weights of right, wrong and missed codes, the format apart."""
        if self.kind == "per-code":
            return per_code(hits, wrong, missed)
        return f_beta(hits, wrong, missed, self.beta)

    def tally(
        self, predicted: AbstractSet[str], gold: AbstractSet[str], repeated: Mapping[str, int]
    ) -> tuple[float, float, float]:
        """Weights of the right, wrong and missed codes.

        Args:
            repeated: code -> how often it was written again.
        """
        weight = self.weight
        hits = sum(map(weight, predicted & gold))
        wrong = sum(map(weight, predicted - gold))
        if self.charge_repeats:
            wrong += sum(weight(code) * times for code, times in repeated.items())
        return hits, wrong, sum(map(weight, gold - predicted))

    def weight(self, code: str) -> float:
        """What a code counts."""
        return self.weights.get(code, 1.0)

    def score(
        self,
        predicted: AbstractSet[str],
        gold: AbstractSet[str],
        repeated: Mapping[str, int] | None = None,
        closed: bool = True,
    ) -> float:
        """The reward of an answer.

        Args:
            closed: whether the answer has a complete block.
        """
        value = self.of(*self.tally(predicted, gold, repeated or {}))
        return (1 - self.format_weight) * value + self.format_weight * closed
