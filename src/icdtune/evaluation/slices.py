"""Slices of the label space: codes by how often the training split showed them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from icdtune.evaluation.counts import Bools, Counts

FREQUENCY_BINS: tuple[tuple[str, int, float], ...] = (
    ("0", 0, 0),
    ("1-9", 1, 9),
    ("10-49", 10, 49),
    (">=50", 50, float("inf")),
)


def frequency_masks(counts: Counts, frequencies: Mapping[str, int]) -> dict[str, Bools]:
    """Bin name -> (codes,) mask of label-space codes with that many training notes."""
    seen = np.array([frequencies.get(code, 0) for code in counts.codes])
    return {
        name: counts.in_space & (seen >= low) & (seen <= high) for name, low, high in FREQUENCY_BINS
    }
