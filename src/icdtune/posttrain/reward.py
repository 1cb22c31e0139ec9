"""What an answer is worth: functions of code sets. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Set as AbstractSet


def sample_f1(predicted: AbstractSet[str], gold: AbstractSet[str], duplicates: int = 0) -> float:
    """F1 of one note's code set: 2 hits / (predicted + duplicates + gold).

    A code written again is charged as a false positive: where repeats are free, as in the study's
    release, a model may learn to repeat itself without end. Both sets empty score 1, exactly one empty
    scores 0 (arXiv 2606.13940).
    """
    if not predicted and not gold:
        return 1.0
    return 2 * len(predicted & gold) / (len(predicted) + duplicates + len(gold))
