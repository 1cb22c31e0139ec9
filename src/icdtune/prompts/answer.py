"""Answers: how a code set is written, and how any text is read as one.

The parser is total: every text gives a set of canonical codes and a list of what was dropped and why.
Knows nothing of label spaces: a well-formed code outside the space stays, and counts as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from icdtune.data.schema import canonical_code

OPEN, CLOSE = "<code>", "</code>"
Scan = Literal["block", "truncated", "anywhere"]
Reason = Literal["malformed", "duplicate", "outside"]

_BLOCK = re.compile(rf"{OPEN}((?:(?!{OPEN}).)*?){CLOSE}", re.S | re.I)
_OPENING = re.compile(OPEN, re.I)
_ITEM = re.compile(r"[^,;\n]+")
_TOKEN = re.compile(r"(?<![\w.])[0-9A-Za-z][0-9A-Za-z.]{2,8}(?![\w])")


@dataclass(frozen=True, slots=True)
class Found:
    """A code of an answer and the characters [start, end) that hold it."""

    code: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was not taken: its text and why."""

    text: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer read.

    Attributes:
        found: the codes in the order of the text, each once.
        dropped: everything that stood for a code and was not taken.
        closed: whether a complete `<code>...</code>` block was there.
        repeated: codes that were written again, and where; they are in `dropped`, too.
        start, end: the characters [start, end) that were read: the inside of the block.
    """

    found: tuple[Found, ...]
    dropped: tuple[Dropped, ...]
    closed: bool
    repeated: tuple[Found, ...] = ()
    start: int = 0
    end: int = 0

    @property
    def codes(self) -> tuple[str, ...]:
        """The code set, in the order of the text."""
        return tuple(item.code for item in self.found)


def format_answer(codes: Iterable[str]) -> str:
    """The answer that states a set: `<code>A, B</code>`, in alphabetical order."""
    return spell_answer(sorted(codes))


def spell_answer(codes: Sequence[str]) -> str:
    """The answer that states codes in the order given."""
    return f"{OPEN}{', '.join(codes)}{CLOSE}"


def parse_answer(text: str, code_systems: Mapping[str, str], scan: Scan = "block") -> Answer:
    """Read any text as a set of canonical codes.

    The last complete block counts; what stands before it is reasoning. Without one, `scan` decides:
    "block" takes nothing, "truncated" reads on from the last opening tag (as the study's release
    does, which rewards an answer that never ends), "anywhere" also looks for well-formed codes in a
    text without tags, which is how a model that was never shown the format gets its best chance.
    """
    systems = dict(code_systems)
    blocks = list(_BLOCK.finditer(text))
    if blocks:
        return _read(_items(text, *blocks[-1].span(1)), systems, blocks[-1].span(1), closed=True)
    openings = list(_OPENING.finditer(text))
    if scan != "block" and openings:
        stretch = openings[-1].end(), len(text)
        return _read(_items(text, *stretch), systems, stretch, closed=False)
    if scan == "anywhere":
        tokens = ((m.group(), m.start(), m.end()) for m in _TOKEN.finditer(text))
        likely = (
            item for item in tokens if any(c.isdigit() for c in item[0]) and item[0].isupper()
        )
        return _read(likely, systems, (0, len(text)), closed=False)
    dropped = (Dropped(text, "outside"),) if text.strip() else ()
    return Answer((), dropped, closed=False)


def _items(text: str, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """The comma-separated items of a stretch, without the space around them."""
    for match in _ITEM.finditer(text, start, end):
        item = match.group()
        left = match.start() + len(item) - len(item.lstrip())
        if item := item.strip():
            yield item, left, left + len(item)


def _read(
    items: Iterable[tuple[str, int, int]],
    systems: dict[str, str],
    stretch: tuple[int, int],
    closed: bool,
) -> Answer:
    found: dict[str, Found] = {}
    repeated: list[Found] = []
    dropped: list[Dropped] = []
    for item, start, end in items:
        code = canonical_code(item, systems)
        if code is None:
            dropped.append(Dropped(item, "malformed"))
        elif code in found:
            dropped.append(Dropped(item, "duplicate"))
            repeated.append(Found(code, start, end))
        else:
            found[code] = Found(code, start, end)
    return Answer(
        tuple(found.values()), tuple(dropped), closed, tuple(repeated), stretch[0], stretch[1]
    )
