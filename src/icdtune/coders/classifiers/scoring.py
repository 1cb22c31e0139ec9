"""From a matrix of scores to predictions: one threshold, tuned on validation for micro-F1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from icdtune.data.predictions import Prediction

RANKED = 100
Scores = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def best_threshold(scores: Scores, gold: Bools, missed: int = 0) -> tuple[float, float]:
    """The threshold with the best micro-F1, and that micro-F1.

    Args:
        scores: (notes, codes).
        gold: (notes, codes).
        missed: gold codes outside the columns; they count as never found.

    Returns:
        Threshold halfway between neighbouring scores (predict score >= threshold), and micro-F1.
    """
    flat, hits = scores.ravel(), gold.ravel()
    order = np.argsort(-flat, kind="stable")
    ranked = flat[order].astype(np.float64)
    found = np.cumsum(hits[order])
    f1 = 2 * found / (np.arange(1, len(ranked) + 1) + hits.sum() + missed)
    f1[:-1][ranked[:-1] == ranked[1:]] = -1.0  # equal scores cannot be told apart
    best = int(np.argmax(f1))
    below = ranked[best + 1] if best + 1 < len(ranked) else ranked[best] - 1.0
    return float((ranked[best] + below) / 2), float(f1[best])


def decide(
    note_ids: Sequence[str], codes: Sequence[str], scores: Scores, threshold: float
) -> Iterator[Prediction]:
    """Predictions of a batch: codes at or over the threshold, and the `RANKED` best as ranking.

    Equal scores are ordered by column. A score is a confidence, not a probability.
    """
    width = min(RANKED, scores.shape[1])
    for note_id, row in zip(note_ids, scores, strict=True):
        part = np.argpartition(-row, width - 1)[:width] if width < len(row) else np.arange(len(row))
        best = part[np.lexsort((part, -row[part]))]
        values = row[best]
        chosen = int((values.astype(np.float64) >= threshold).sum())
        if chosen == width < len(row):  # more than the ranking holds
            over = np.flatnonzero(row.astype(np.float64) >= threshold)
            decided = over[np.lexsort((over, -row[over]))]
        else:
            decided = best[:chosen]
        yield Prediction(
            note_id,
            tuple(codes[i] for i in decided),
            tuple(float(x) for x in row[decided]),
            tuple(codes[i] for i in best),
            tuple(float(x) for x in values),
        )
