"""The text that word-level baselines read: lower case, letters and digits, no numbers standing alone.

The rules of Edin et al. 2023 (after Mullenbach et al. 2018), in their order.
"""

from __future__ import annotations

import re

_OTHER = re.compile(r"[^a-z0-9]+")
_NUMBERS = re.compile(r"(?: [0-9]+)+ ")


def normalise(text: str) -> str:
    """Lower case, other characters to one space, numbers between spaces out.

    A number at the very end or beginning stays, as in the published text.
    """
    text = _OTHER.sub(" ", text.lower())
    return _NUMBERS.sub(" ", text).strip()


_WORD = re.compile(r"[a-z0-9]+")


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each word of `normalise(text)` stands in the text: characters [start, end)."""
    lowered = text.lower()
    origin: list[int] | range = range(len(text))
    if len(lowered) != len(text):  # a few capitals become two characters
        parts = [character.lower() for character in text]
        lowered = "".join(parts)
        origin = [i for i, part in enumerate(parts) for _ in part]
    spans = []
    for match in _WORD.finditer(lowered):
        start, end = match.span()
        standing = start > 0 and end < len(lowered)  # between other characters
        if not (standing and match[0].isdigit()):
            spans.append((origin[start], origin[end - 1] + 1))
    return spans
