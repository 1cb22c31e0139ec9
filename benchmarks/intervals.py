"""How far bootstrap intervals can be believed: the resamples' spread against the true spread.

    python benchmarks/intervals.py

Draws test sets of several sizes from a simulated population with Zipf codes and a coder that errs,
and compares the standard deviation of each metric over test sets with the one that the bootstrap sees
on a single test set, and how far the resamples' mean lies from the metric on the test set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

CODES, NOTES = 600, 40_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[250, 1000, 4000])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = simulate(options.sizes)
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def simulate(sizes: list[int]) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    share = 1 / (np.arange(CODES) + 5)
    share = share / share.sum() * 9
    gold = rng.random((NOTES, CODES)) < np.minimum(share, 0.6)
    recall = 0.2 + 0.6 * (share / share.max()) ** 0.2
    hit = gold & (rng.random(gold.shape) < recall)
    predicted = hit | (~gold & (rng.random(gold.shape) < share * 0.25))
    true, total = hit.astype(np.float32), gold.astype(np.float32) + predicted
    rows = []
    for size in sizes:
        points, spreads, shifts = [], [], []
        for draw in range(120):
            notes = rng.integers(0, NOTES, size)
            point = metrics(true[notes].sum(0), total[notes].sum(0))
            points.append(point)
            if draw < 25:
                weights = np.stack(
                    [np.bincount(rng.integers(0, size, size), minlength=size) for _ in range(200)]
                ).astype(np.float32)
                resampled = metrics(weights @ true[notes], weights @ total[notes])
                spreads.append(resampled.std(axis=-1))
                shifts.append(resampled.mean(axis=-1) - point)
        actual = np.std(points, axis=0)
        for name, spread, seen, shift in zip(
            ("micro_f1", "macro_f1"), actual, np.mean(spreads, 0), np.mean(shifts, 0), strict=True
        ):
            rows.append(
                {
                    "test_notes": size,
                    "metric": name,
                    "true_sd": round(float(spread), 5),
                    "bootstrap_sd": round(float(seen), 5),
                    "ratio": round(float(seen / spread), 2),
                    "bootstrap_shift": round(float(shift), 4),
                }
            )
    return rows


def metrics(true: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Micro- and macro-F1 from counts (..., codes)."""
    f1 = np.divide(2 * true, total, out=np.zeros_like(true), where=total > 0)
    return np.stack([2 * true.sum(-1) / total.sum(-1), f1.mean(-1)])


if __name__ == "__main__":
    main()
