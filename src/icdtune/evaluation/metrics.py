"""Metrics as pure functions of totals: each takes `Totals` and returns one value a resample.

Definitions follow scikit-learn with `zero_division=0`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from icdtune.evaluation.counts import PRECISION_AT, Bools, Counts, Floats, Totals

Metric = Callable[[Totals], Floats]


def whole(counts: Counts) -> Totals:
    """Totals of the whole split: one column."""
    tp, predicted, gold = (
        np.asarray(matrix.sum(axis=0)).reshape(-1, 1)
        for matrix in (counts.true_positive, counts.predicted, counts.gold)
    )
    return Totals(
        tp,
        predicted,
        gold,
        {name: values.sum(keepdims=True) for name, values in counts.sums.items()},
        counts.in_space,
        counts.valid,
        gold.ravel() > 0,
    )


def ratio(top: Floats, bottom: Floats) -> Floats:
    """top / bottom in double precision, 0 where bottom is 0."""
    bottom = np.asarray(bottom, float)
    return np.divide(top, bottom, out=np.zeros(bottom.shape), where=bottom > 0)


def micro_precision(t: Totals) -> Floats:
    """Correct predicted codes / predicted codes."""
    return ratio(t.true_positive.sum(0, dtype=float), t.predicted.sum(0, dtype=float))


def micro_recall(t: Totals) -> Floats:
    """Correct predicted codes / gold codes."""
    return ratio(t.true_positive.sum(0, dtype=float), t.gold.sum(0, dtype=float))


def micro_f1(t: Totals) -> Floats:
    """2 TP / (predicted + gold) over all codes and notes."""
    bottom = t.predicted.sum(0, dtype=float) + t.gold.sum(0, dtype=float)
    return ratio(2 * t.true_positive.sum(0, dtype=float), bottom)


def _mean(values: Floats, codes: Bools) -> Floats:
    """Mean of (codes, resamples) values over the codes that count in each resample."""
    codes = np.broadcast_to(codes, values.shape)
    return ratio((values * codes).sum(0), codes.sum(0))


def _precision(t: Totals) -> Floats:
    return ratio(t.true_positive, t.predicted)


def _recall(t: Totals) -> Floats:
    return ratio(t.true_positive, t.gold)


def _f1(t: Totals) -> Floats:
    return ratio(2 * t.true_positive, t.predicted + t.gold)


def macro_precision(t: Totals) -> Floats:
    """Mean precision over the label space."""
    return _mean(_precision(t), t.in_space[:, None])


def macro_recall(t: Totals) -> Floats:
    """Mean recall over the label space."""
    return _mean(_recall(t), t.in_space[:, None])


def macro_f1(t: Totals) -> Floats:
    """Mean F1 over the label space; a code never seen nor predicted counts as 0."""
    return _mean(_f1(t), t.in_space[:, None])


def macro_f1_present(t: Totals) -> Floats:
    """Mean F1 over the codes with gold in the evaluated split."""
    return _mean(_f1(t), t.gold > 0)


def macro_precision_present(t: Totals) -> Floats:
    """Mean precision over the codes with gold in the evaluated split."""
    return _mean(_precision(t), t.gold > 0)


def macro_recall_present(t: Totals) -> Floats:
    """Mean recall over the codes with gold in the evaluated split."""
    return _mean(_recall(t), t.gold > 0)


def micro_f1_published(t: Totals) -> Floats:
    """Micro-F1 of the published protocol: predictions of codes without gold in the split are dropped."""
    return micro_f1(t.select(t.seen))


def invalid_rate(t: Totals) -> Floats:
    """Share of the predicted codes that the code tables do not hold."""
    return ratio(t.predicted[~t.valid].sum(0, dtype=float), t.predicted.sum(0, dtype=float))


def off_label_rate(t: Totals) -> Floats:
    """Share of the predicted codes outside the label space."""
    return ratio(t.predicted[~t.in_space].sum(0, dtype=float), t.predicted.sum(0, dtype=float))


def codes_per_note(t: Totals) -> Floats:
    """Predicted codes a note."""
    return ratio(t.predicted.sum(0, dtype=float), t.sums["notes"])


def gold_codes_per_note(t: Totals) -> Floats:
    """Gold codes a note."""
    return ratio(t.gold.sum(0, dtype=float), t.sums["notes"])


def exact_match(t: Totals) -> Floats:
    """Share of notes whose predicted set equals the gold set."""
    return ratio(t.sums["exact_match"], t.sums["notes"])


def sample_f1(t: Totals) -> Floats:
    """Mean over notes of the note's F1; both sets empty count as 1."""
    return ratio(t.sums["sample_f1"], t.sums["notes"])


def mean_average_precision(t: Totals) -> Floats:
    """Mean over notes with gold of the average precision of the ranking."""
    return ratio(t.sums["average_precision"], t.sums["coded_notes"])


def _precision_at(k: int) -> Metric:
    def metric(t: Totals) -> Floats:
        return ratio(t.sums[f"precision_at_{k}"], t.sums["notes"])

    metric.__doc__ = f"Share of the first {k} ranked codes that are gold (shorter: misses)."
    return metric


METRICS: dict[str, Metric] = {
    "micro_f1": micro_f1,
    "micro_precision": micro_precision,
    "micro_recall": micro_recall,
    "macro_f1": macro_f1,
    "macro_precision": macro_precision,
    "macro_recall": macro_recall,
    "macro_f1_present": macro_f1_present,
    "macro_precision_present": macro_precision_present,
    "macro_recall_present": macro_recall_present,
    "micro_f1_published": micro_f1_published,
    "sample_f1": sample_f1,
    "exact_match": exact_match,
    "map": mean_average_precision,
    **{f"precision_at_{k}": _precision_at(k) for k in PRECISION_AT},
    "invalid_rate": invalid_rate,
    "off_label_rate": off_label_rate,
    "codes_per_note": codes_per_note,
    "gold_codes_per_note": gold_codes_per_note,
}
"""Name in metrics.json -> function of totals."""

SIZES = frozenset({"codes_per_note", "gold_codes_per_note"})
"""Metrics that are no proportions."""


def on_codes(mask: Bools, metric: Metric) -> Metric:
    """A metric over some codes only."""
    return lambda totals: metric(totals.select(mask))
