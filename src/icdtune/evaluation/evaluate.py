"""The protocol: one or more predictions of a split in, the content of metrics.json out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icdtune.data.labels import Task
from icdtune.data.predictions import Predictions
from icdtune.evaluation.counts import Bools, Counts, average, count
from icdtune.evaluation.intervals import bootstrap
from icdtune.evaluation.metrics import METRICS, Metric, macro_f1_present, micro_f1, on_codes, ratio
from icdtune.evaluation.slices import frequency_masks
from icdtune.progress import track


def evaluate(
    task: Task,
    split: str,
    predictions: Sequence[Predictions],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Evaluate predictions of one coder; several are runs with different seeds, averaged by count.

    Args:
        task: corpus and label space.
        split: a labelled split.
        predictions: one per run.
        resamples: bootstrap resamples of subjects (0: point values only).
        seed: seed of the bootstrap.
        level: level of the intervals.

    Returns:
        The content of metrics.json (docs/metrics.md).
    """
    counts = average([count(task, split, run) for run in predictions])
    return summarise(counts, task, split, len(predictions), resamples, seed, level)


def summarise(
    counts: Counts, task: Task, split: str, runs: int, resamples: int, seed: int, level: float
) -> dict[str, Any]:
    """The content of metrics.json for counts that are already made."""
    frequencies = task.frequencies() if "train" in task.corpus.splits else {}
    masks = frequency_masks(counts, frequencies) if frequencies else {}
    functions: dict[str, Metric] = dict(METRICS)
    for name, mask in masks.items():
        if mask.any():
            functions[f"{name} micro_f1"] = on_codes(mask, micro_f1)
            functions[f"{name} macro_f1"] = on_codes(mask, macro_f1_present)
    values = bootstrap(counts, functions, resamples, seed, level, track)
    return {
        "corpus": task.corpus.info.name,
        "corpus_hash": task.corpus.info.hash,
        "split": split,
        "label_space": task.labels.name,
        "labels": len(task.labels.codes),
        "notes": int(counts.sums["notes"].sum()),
        "subjects": len(counts.subjects),
        "runs": runs,
        "bootstrap": {"unit": "subject", "resamples": resamples, "seed": seed, "level": level},
        "metrics": {name: values[name] for name in METRICS},
        "by_frequency": _by_frequency(counts, masks, values),
        "per_code": per_code(counts, frequencies),
    }


def per_code(counts: Counts, frequencies: Mapping[str, int]) -> dict[str, list[Any]]:
    """Columns over the codes with gold or predictions: counts of notes and F1."""
    tp, predicted, gold = (
        np.asarray(matrix.sum(axis=0)).ravel()
        for matrix in (counts.true_positive, counts.predicted, counts.gold)
    )
    rows = np.flatnonzero((gold + predicted) > 0)
    f1 = ratio(2 * tp, predicted + gold)
    codes = [counts.codes[row] for row in rows]
    return {
        "code": codes,
        "train": [int(frequencies.get(code, 0)) for code in codes],
        "gold": [round(float(x), 4) for x in gold[rows]],
        "predicted": [round(float(x), 4) for x in predicted[rows]],
        "true_positive": [round(float(x), 4) for x in tp[rows]],
        "f1": [round(float(x), 6) for x in f1[rows]],
    }


def _by_frequency(
    counts: Counts, masks: dict[str, Bools], values: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    gold = np.asarray(counts.gold.sum(axis=0)).ravel()
    return [
        {
            "bin": name,
            "codes": int(mask.sum()),
            "codes_with_gold": int((gold[mask] > 0).sum()),
            "mentions": int(round(float(gold[mask].sum()))),
            "micro_f1": values.get(f"{name} micro_f1"),
            "macro_f1": values.get(f"{name} macro_f1"),
        }
        for name, mask in masks.items()
    ]
