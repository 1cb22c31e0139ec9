"""From how much each token counts for a code to the spans of a note that a reader is shown.

Knows nothing of models: relevance comes in as numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icdtune.codes.matching import tokens

Floats = npt.NDArray[np.floating]
Offsets = Sequence[tuple[int, int]]
WORD = re.compile(r"[^\W_]+")
EMPTY = frozenset(
    (
        "a",
        "an",
        "and",
        "any",
        "as",
        "at",
        "by",
        "for",
        "from",
        "in",
        "is",
        "of",
        "on",
        "or",
        "other",
    )
    + ("specified", "the", "to", "unspecified", "with", "without")
)
"""Words of titles that say nothing about a code."""


@dataclass(frozen=True)
class Cut:
    """Which tokens make a span.

    Attributes:
        share: a token counts from this share of the strongest token's relevance on.
        lift: and from so many times the tokens' mean on, so that diffuse relevance gives no spans.
        reach: tokens on either side of one that counts which are taken along: states of a network
            know their neighbours, and the strongest one stands for a phrase.
        gap: tokens between two taken ones which are taken along.
        most: spans a code.
    """

    share: float = 0.1
    lift: float = 3.0
    reach: int = 0
    gap: int = 2
    most: int = 3


def spans_of(relevance: Floats, offsets: Offsets, cut: Cut = Cut()) -> list[tuple[int, int, float]]:
    """The strongest spans (start, end, score), strongest first; none where nothing is relevant.

    Args:
        relevance: (tokens,); what is not positive counts as 0.
        offsets: each token's characters [start, end).

    Returns:
        Character offsets, and the span's share of all relevance.
    """
    weights = np.maximum(np.nan_to_num(np.asarray(relevance, float)), 0)
    total = weights.sum()
    if total <= 0:
        return []
    chosen = np.flatnonzero(weights >= max(cut.share * weights.max(), cut.lift * weights.mean()))
    if not len(chosen):
        return []
    near = (chosen[:, None] + np.arange(-cut.reach, cut.reach + 1)).ravel()
    chosen = np.unique(near.clip(0, len(weights) - 1))
    borders = np.flatnonzero(np.diff(chosen) > cut.gap + 1) + 1
    found = []
    for part in np.split(chosen, borders):
        first, last = int(part[0]), int(part[-1])
        score = float(weights[first : last + 1].sum() / total)
        found.append((offsets[first][0], offsets[last][1], score))
    return sorted(found, key=lambda span: (-span[2], span[0]))[: cut.most]


def word_offsets(text: str) -> list[tuple[int, int]]:
    """Characters [start, end) of the runs of letters and digits."""
    return [match.span() for match in WORD.finditer(text)]


def lexical_relevance(text: str, offsets: Offsets, terms: Iterable[str]) -> Floats:
    """1 for the words that a code's terms hold (see `codes.tables`), 0 for others and empty words."""
    words = {word for term in terms for word in tokens(term)} - EMPTY
    found = [text[start:end].casefold() in words for start, end in offsets]
    return np.array(found, float)


def random_spans(
    offsets: Offsets, lengths: Sequence[int], rng: np.random.Generator
) -> list[tuple[int, int]]:
    """A span of each length, in tokens, anywhere in the note."""
    found = []
    for length in lengths:
        first = int(rng.integers(0, max(1, len(offsets) - length + 1)))
        last = min(first + length, len(offsets)) - 1
        found.append((offsets[first][0], offsets[last][1]))
    return found
