"""Bootstrap intervals by subject, and the paired test between two coders.

Admissions of one patient resemble each other, so patients are resampled, not notes (cluster
bootstrap; Davison and Hinkley 1997, section 3.8). Both coders of a pair see the same resamples.

A resample lacks more than a third of the codes that only one patient has, which moves macro averages
away from their value on the split by more than their spread. Intervals are therefore percentile
intervals after the resamples' mean is moved onto the value on the split (the bootstrap's estimate of
bias, Efron and Tibshirani 1993, section 10.3, taken off every resample).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from icdtune.evaluation.counts import Bools, Counts, Floats, Totals, align_columns
from icdtune.evaluation.metrics import METRICS, SIZES, Metric, macro_f1_present, on_codes, whole

BATCH = 50
PAIRED = ("micro_f1", "macro_f1", "macro_f1_present", "sample_f1", "exact_match", "map")


def resample_weights(
    subjects: int, resamples: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.float32]]:
    """Batches (subjects, <= BATCH) of how often each subject is drawn in each resample."""
    for start in range(0, resamples, BATCH):
        width = min(BATCH, resamples - start)
        weights = np.empty((subjects, width), np.float32)
        for column in range(width):
            drawn = rng.integers(0, subjects, subjects)
            weights[:, column] = np.bincount(drawn, minlength=subjects)
        yield weights


def bootstrap(
    counts: Counts,
    functions: dict[str, Metric],
    resamples: int,
    seed: int,
    level: float = 0.95,
    progress: Callable[..., Iterator[Any]] | None = None,
) -> dict[str, dict[str, float]]:
    """Point value and percentile interval of each function of the totals.

    Intervals of proportions are cut at 0 and 1.

    Returns:
        name -> {"value", "low", "high"}; without "low" and "high" where `resamples` is 0.
    """
    base = whole(counts)
    result = {name: {"value": float(function(base)[0])} for name, function in functions.items()}
    if not resamples:
        return result
    rng = np.random.default_rng(seed)
    draws: dict[str, list[Floats]] = {name: [] for name in functions}
    batches = resample_weights(len(counts.subjects), resamples, rng)
    if progress is not None:
        batches = progress(batches, "Bootstrap", total=-(-resamples // BATCH))
    for totals in _resampled(counts, base, batches):
        for name, function in functions.items():
            draws[name].append(function(totals))
    for name, values in draws.items():
        drawn = np.concatenate(values)
        interval = percentiles(drawn, result[name]["value"], level)
        if name not in SIZES and max(drawn.max(), result[name]["value"]) <= 1:
            interval = {end: min(1.0, max(0.0, value)) for end, value in interval.items()}
        result[name].update(interval)
    return result


def _resampled(
    counts: Counts, base: Totals, batches: Iterator[npt.NDArray[np.float32]]
) -> Iterator[Totals]:
    """Totals of each batch of weights; `base` says which codes the whole split has."""
    matrices = [m.T.tocsr() for m in (counts.true_positive, counts.predicted, counts.gold)]
    for weights in batches:
        tp, predicted, gold = (matrix @ weights for matrix in matrices)
        sums = {name: values @ weights.astype(float) for name, values in counts.sums.items()}
        yield Totals(tp, predicted, gold, sums, base.in_space, base.valid, base.seen)


def percentiles(values: Floats, value: float, level: float) -> dict[str, float]:
    """Percentile interval of resampled values, centred on the value on the split."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) - values.mean() + value
    return {"low": float(low), "high": float(high)}


def compare(
    first: Counts,
    second: Counts,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    names: tuple[str, ...] = PAIRED,
    slices: Callable[[Counts], Mapping[str, Bools]] | None = None,
) -> dict[str, dict[str, float]]:
    """Paired differences, second minus first, over the same subjects.

    The interval is the paired bootstrap's, centred like that of `bootstrap`; the p-value is that of
    an approximate randomisation test that swaps the two coders' answers subject by subject (Noreen
    1989), two-sided, (1 + extreme) / (1 + resamples).

    Args:
        slices: gives masks of codes by name, whose macro-F1 ("NAME macro_f1") is compared as well.

    Returns:
        metric -> {"first", "second", "difference", "low", "high", "p"}.
    """
    first, second = align_columns([first, second])
    functions: dict[str, Metric] = {name: METRICS[name] for name in names}
    for name, mask in (slices(first) if slices else {}).items():
        if mask.any():
            functions[f"{name} macro_f1"] = on_codes(mask, macro_f1_present)
    one, two = whole(first), whole(second)
    result: dict[str, dict[str, float]] = {}
    draws: dict[str, list[Floats]] = {name: [] for name in functions}
    subjects = len(first.subjects)
    pairs = zip(
        _resampled(first, one, resample_weights(subjects, resamples, np.random.default_rng(seed))),
        _resampled(second, two, resample_weights(subjects, resamples, np.random.default_rng(seed))),
        strict=True,
    )
    for a, b in pairs:
        for name, function in functions.items():
            draws[name].append(function(b) - function(a))
    null: dict[str, list[Floats]] = {name: [] for name in functions}
    for a, b in _swapped(first, second, resamples, np.random.default_rng([seed, 1])):
        for name, function in functions.items():
            null[name].append(function(b) - function(a))
    for name, function in functions.items():
        value, other = float(function(one)[0]), float(function(two)[0])
        extreme = np.abs(np.concatenate(null[name])) >= abs(other - value) - 1e-12
        result[name] = {
            "first": value,
            "second": other,
            "difference": other - value,
            **percentiles(np.concatenate(draws[name]), other - value, level),
            "p": (1 + float(extreme.sum())) / (1 + resamples),
        }
    return result


def _swapped(
    first: Counts, second: Counts, resamples: int, rng: np.random.Generator
) -> Iterator[tuple[Totals, Totals]]:
    """Totals of the two coders after swapping the answers for a random half of the subjects."""
    one, two = whole(first), whole(second)
    gain = Counts(
        first.codes,
        first.in_space,
        first.valid,
        second.true_positive - first.true_positive,
        second.predicted - first.predicted,
        second.gold - first.gold,
        {name: second.sums[name] - first.sums[name] for name in first.sums},
        first.subjects,
        first.notes,
    )
    swaps = (
        rng.integers(0, 2, (len(first.subjects), min(BATCH, resamples - start))).astype(np.float32)
        for start in range(0, resamples, BATCH)
    )
    for moved in _resampled(gain, one, swaps):
        yield _shift(one, moved, 1.0), _shift(two, moved, -1.0)


def _shift(base: Totals, moved: Totals, sign: float) -> Totals:
    return Totals(
        base.true_positive + sign * moved.true_positive,
        base.predicted + sign * moved.predicted,
        base.gold + sign * moved.gold,
        {name: base.sums[name] + sign * moved.sums[name] for name in base.sums},
        base.in_space,
        base.valid,
        base.seen,
    )
