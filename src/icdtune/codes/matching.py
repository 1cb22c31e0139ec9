"""Find many terms in a text at once: whole tokens, leftmost, longest first.

A token is a run of letters or digits, compared without case. Finding all terms costs one pass over
the text, whatever the number of terms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_TOKEN = re.compile(r"[^\W_]+")


def tokens(text: str) -> tuple[str, ...]:
    """Tokens of a text as they are compared."""
    return tuple(token.casefold() for token in _TOKEN.findall(text))


class TermMatcher(Generic[T]):
    """A trie of terms with a value each; a term given twice keeps its first value."""

    def __init__(self, terms: Iterable[tuple[str, T]]) -> None:
        self._root: dict[str, object] = {}
        for term, value in terms:
            node = self._root
            for token in tokens(term):
                node = node.setdefault(token, {})  # type: ignore[assignment]
            if node is not self._root:
                node.setdefault("", value)  # a token is never empty, so "" is free to end a term

    def find(self, text: str) -> Iterator[tuple[int, int, T]]:
        """Yield (start, end, value) of matches that do not overlap, in character offsets."""
        spans = [match.span() for match in _TOKEN.finditer(text)]
        words = [text[start:end].casefold() for start, end in spans]
        root, count, at = self._root, len(words), 0
        while at < count:
            node, here, last = root.get(words[at]), at + 1, None
            while isinstance(node, dict):
                if "" in node:
                    last = (here, node[""])
                if here == count:
                    break
                node, here = node.get(words[here]), here + 1
            if last is None:
                at += 1
            else:
                yield spans[at][0], spans[last[0] - 1][1], last[1]
                at = last[0]
