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
