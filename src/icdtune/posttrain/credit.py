"""Which token of an answer earned what: credit for every decision about a code.

An answer is a set, so a code's being in it is a decision of its own. docs/credit.md has the derivation.
Knows nothing of models: texts, code sets, and where tokens stand in a text.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from icdtune.posttrain.reward import Reward
from icdtune.prompts.answer import Answer, Found

SEPARATORS = " ,;\n\t"
"""What stands between the items of an answer."""
FLOOR = 1e-3
"""Least root mean square that credits are divided by: below it there is nothing to learn."""


@dataclass(frozen=True)
class Credited:
    """Credits of one answer's decisions.

    Attributes:
        codes: code -> credit, for every code of the gold set or of any answer of the group.
        repeats: code -> credit of each time it was written again.
    """

    codes: dict[str, float]
    repeats: dict[str, float] = field(default_factory=dict)

    def values(self) -> Iterable[float]:
        """All of them."""
        yield from self.codes.values()
        yield from self.repeats.values()


def repeats(answer: Answer) -> Counter[str]:
    """How often each code of an answer was written again."""
    return Counter(item.code for item in answer.repeated)


def code_credits(
    answers: Sequence[Answer], gold: AbstractSet[str], reward: Reward
) -> list[Credited]:
    """Credit (x - q) d of each code's decision in each answer of a group.

    x: whether the answer holds the code. d: the reward with the code less the reward without it. q:
    share of the group's other answers that hold it. Codes of the gold set and of any answer have one. A
    code written again is one more false positive: its d is negative, its q the share of the others that
    repeat it.

    Args:
        answers: one group's, at least two.
        gold: the full gold set.
    """
    sets = [frozenset(answer.codes) for answer in answers]
    again = [repeats(answer) if reward.charge_repeats else Counter[str]() for answer in answers]
    holders = Counter(code for codes in sets for code in codes)
    repeaters = Counter(code for counts in again for code in counts)
    universe = sorted(gold | holders.keys())
    weights = [(code, reward.weight(code), code in gold) for code in universe]
    others = len(answers) - 1
    found = []
    for codes, counts in zip(sets, again, strict=True):
        hits, wrong, missed = reward.tally(codes, gold, counts)
        value, of = reward.of(hits, wrong, missed), reward.of
        credits = {}
        for code, weight, right in weights:
            there = code in codes
            q = (holders[code] - there) / others
            if q == there:  # all agree
                credits[code] = 0.0
                continue
            change = -weight if there else weight
            if right:
                other = of(hits + change, wrong, missed - change)
            else:
                other = of(hits, wrong + change, missed)
            difference = value - other if there else other - value
            credits[code] = (there - q) * difference
        repeated = {}
        for code in counts:
            q = (repeaters[code] - 1) / others
            without = of(hits, wrong - reward.weight(code), missed)
            repeated[code] = (1 - q) * (value - without)
        found.append(Credited(credits, repeated))
    return found


def token_credits(
    credited: Credited,
    answer: Answer,
    text: str,
    offsets: Sequence[tuple[int, int]],
    ended: bool = True,
) -> list[float]:
    """What each token is credited with.

    A code that is there: on its tokens and the separator before them. One that is not: on the first
    token where the text departs from it, which is the first that differs in the item that stands where
    it should in a sorted answer, or the first of the closing tag. Nothing falls on the opening tag,
    reasoning or what follows the block. An answer without a block gets nothing; one that was cut off
    nothing for its end or its last, perhaps partial, code.

    Args:
        answer: `text` parsed.
        offsets: where each token stands in `text`: [start, end), in characters.
        ended: whether the answer ended by itself.
    """
    values = [0.0] * len(offsets)
    if not answer.start:  # no block was opened: codes that were found anywhere
        return values
    place = _Tokens(offsets)
    items = _items(answer)
    complete = items if answer.closed or ended else items[:-1]
    for item, again in complete:
        credit = credited.repeats.get(item.code, 0.0) if again else credited.codes[item.code]
        before = len(text[answer.start : item.start].rstrip(SEPARATORS)) + answer.start
        for token in place.beginning(before, item.end):
            values[token] += credit
    written = set(answer.codes)
    spelled = [(text[item.start : item.end].upper(), item) for item, _ in complete]
    for code, credit in credited.codes.items():
        if code in written or not credit:
            continue
        follower = next(((t, item) for t, item in spelled if t > code), None)
        if follower is not None:
            spelling, item = follower
            departure = place.holding(item.start + _common(spelling, code))
        elif answer.closed:
            departure = place.holding(answer.end)
        else:
            continue
        if departure is not None:
            values[departure] += credit
    return values


def to_go(
    whole: float,
    text: str,
    offsets: Sequence[tuple[int, int]],
    gold: AbstractSet[str],
    reward: Reward,
    read: Callable[[str], Answer],
) -> list[float]:
    """The other variant: a token's advantage is R(answer) - R(the items completed before it).

    What is taken away depends on earlier tokens alone, so that the gradient of the expected reward stays
    unbiased. An item is complete once a separator or the closing tag stands behind it.

    Args:
        whole: the reward of the answer, its format included.
        offsets: where each token stands in `text`: [start, end), in characters.
        read: parses a text whose block may still be open.
    """
    values, complete, before = [], -1, 0.0
    for start, _ in offsets:
        end = _completed(text[:start])
        if end != complete:
            answer = read(text[:end])
            before = reward.score(set(answer.codes), gold, repeats(answer), answer.closed)
            complete = end
        values.append(whole - before)
    return values


def _completed(text: str) -> int:
    """How much of an answer's beginning is complete: up to its last separator or tag."""
    return max((text.rfind(mark) + 1 for mark in ",;\n>"), default=0)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A sampled answer: its text, where its tokens end in it, and what was read."""

    text: str
    ends: list[int]
    ended: bool
    answer: Answer

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Where each token stands in the text: [start, end), in characters."""
        return list(zip([0, *self.ends[:-1]], self.ends, strict=True))


@dataclass(frozen=True)
class Objective:
    """What rollouts are worth, and how that is shared by their tokens.

    Attributes:
        credit: "codes" credits each code's decision in the group, "to-go" what was still to be gained.
        credit_weight: advantage = (1 - weight) x the group's + weight x credit; 0 is plain GRPO.
    """

    reward: Reward = field(default_factory=Reward)
    credit: Literal["codes", "to-go"] = "codes"
    credit_weight: float = 0.0

    def score(self, rollout: Rollout, gold: AbstractSet[str]) -> float:
        """The reward of an answer, its format included."""
        answer = rollout.answer
        return self.reward.score(set(answer.codes), gold, repeats(answer), answer.closed)

    def credits(
        self, group: Sequence[Rollout], gold: AbstractSet[str], read: Callable[[str], Answer]
    ) -> tuple[list[list[float]], list[float]]:
        """Credit of every token of a group's answers, and the values to scale it by.

        Args:
            read: parses a text whose block may still be open.
        """
        if self.credit == "to-go":
            rows = [
                to_go(self.score(one, gold), one.text, one.offsets, gold, self.reward, read)
                for one in group
            ]
            return rows, [value for row in rows for value in row]
        credited = code_credits([one.answer for one in group], gold, self.reward)
        rows = [
            token_credits(own, one.answer, one.text, one.offsets, one.ended)
            for own, one in zip(credited, group, strict=True)
        ]
        return rows, [value for own in credited for value in own.values()]


def sum_of_squares(credits: Iterable[float]) -> tuple[float, int]:
    """Sum of the squares of credits and their number: add them over processes, then `rms`."""
    values = list(credits)
    return sum(value * value for value in values), len(values)


def rms(squares: float, count: float) -> float:
    """Root mean square over decisions, with a floor."""
    return max((squares / count) ** 0.5 if count else 0.0, FLOOR)


def _items(answer: Answer) -> list[tuple[Found, bool]]:
    """Codes and repeated codes in the order of the text, with whether they are repeated."""
    both = [(item, False) for item in answer.found] + [(item, True) for item in answer.repeated]
    return sorted(both, key=lambda entry: entry[0].start)


def _common(first: str, second: str) -> int:
    """Characters that two texts begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


class _Tokens:
    """Tokens by where they stand; empty ones (special tokens) stand nowhere."""

    def __init__(self, offsets: Sequence[tuple[int, int]]) -> None:
        self._offsets = offsets
        self._starts = [start for start, _ in offsets]

    def beginning(self, start: int, end: int) -> list[int]:
        """Tokens whose first character is in [start, end)."""
        between = range(bisect_left(self._starts, start), bisect_left(self._starts, end))
        return [i for i in between if self._offsets[i][0] < self._offsets[i][1]]

    def holding(self, place: int) -> int | None:
        """The token of a character."""
        token = bisect_right(self._starts, place) - 1
        return token if token >= 0 and place < self._offsets[token][1] else None
