"""Who the patients are and what they have: the sampling model behind the synthetic notes.

Entries are drawn with Zipf weights by rank. Chronic conditions, histories and statuses belong to the
patient and return at every admission; acute conditions, symptoms and procedures are drawn anew.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from icdtune.data.synthetic.lexicon import Entry, Lexicon
from icdtune.data.synthetic.templates import Person

ZIPF_EXPONENT = 1.0
ZIPF_SHIFT = 4.0
COMPANION = 0.25
PREGNANT = 0.25
LASTING = ("chronic", "history", "status")
PASSING = ("acute", "symptom", "procedure")
MISSED = 0.057
"""Chance to miss a code that is not the principal one: about 5% of all codes."""
SPURIOUS = 0.02


@dataclass(frozen=True, slots=True)
class Admission:
    """One stay.

    Attributes:
        person: age and sex.
        present: entries that the note must state, the principal condition first.
        absent: entries that distractors may name: none of their group is present.
        truth: codes by the coding rules, each with the entries behind it; principal first.
        gold: what the (imperfect) coder wrote down: truth with omissions and additions.
    """

    person: Person
    present: tuple[Entry, ...]
    absent: tuple[Entry, ...]
    truth: dict[str, tuple[Entry, ...]]
    gold: tuple[str, ...]


class Pool:
    """Entries with Zipf weights, to draw from in O(log n)."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        weights = [1 / (entry.rank + ZIPF_SHIFT) ** ZIPF_EXPONENT for entry in entries]
        self._cumulative = list(itertools.accumulate(weights))

    def draw(self, rng: random.Random) -> Entry:
        """One entry."""
        at = bisect.bisect_left(self._cumulative, rng.random() * self._cumulative[-1])
        return self.entries[min(at, len(self.entries) - 1)]


class Hospital:
    """Draws patients and their admissions from the first `concepts` entries of a lexicon."""

    def __init__(self, lexicon: Lexicon, concepts: int) -> None:
        self.lexicon = lexicon
        self.entries = lexicon.entries[:concepts]
        self._everything = Pool(self.entries)
        self._lasting = Pool([entry for entry in self.entries if entry.kind in LASTING])
        self._acute = Pool([entry for entry in self.entries if entry.kind == "acute"])
        self._passing = Pool([entry for entry in self.entries if entry.kind in PASSING])
        self._by_name: dict[str, list[Entry]] = {}
        for entry in self.entries:
            for name in entry.names:
                self._by_name.setdefault(name, []).append(entry)

    def admissions(self, rng: random.Random) -> Iterator[Admission]:
        """The 1-3 stays of one patient."""
        person = Person(min(97, max(18, round(rng.triangular(18, 98, 72)))), rng.random() < 0.5)
        needs = (
            {"pregnancy"} if self._may_be_pregnant(person) and rng.random() < PREGNANT else set()
        )
        lasting = _Drawn(person, needs)
        for _ in range(1 + _binomial(rng, 5, 0.2 + 0.4 * person.age / 97)):
            self._add(lasting, self._lasting.draw(rng), rng)
        for _ in range(rng.choices((1, 2, 3), (0.75, 0.17, 0.08))[0]):
            stay = _Drawn(person, needs)
            self._add(stay, self._acute.draw(rng), rng)
            for entry in lasting.entries:
                self._add(stay, entry, rng, companions=False)
            for _ in range(1 + _binomial(rng, 5, 0.45)):
                self._add(stay, self._passing.draw(rng), rng)
            yield self._finish(stay, rng)

    def _may_be_pregnant(self, person: Person) -> bool:
        return person.female and person.age <= 44

    def _add(
        self, drawn: _Drawn, entry: Entry, rng: random.Random, companions: bool = True
    ) -> None:
        if not drawn.take(entry) or not companions:
            return
        for name in entry.companions:
            if rng.random() < COMPANION and (options := self._by_name.get(name)):
                drawn.take(rng.choice(options))

    def _finish(self, stay: _Drawn, rng: random.Random) -> Admission:
        present = tuple(stay.entries)
        truth = self.lexicon.code(present)
        principal = next(iter(truth))
        gold = [code for code in truth if code == principal or rng.random() >= MISSED]
        for _ in truth:
            if rng.random() < SPURIOUS:
                extra = self._everything.draw(rng).code
                if extra not in truth and extra not in gold:
                    gold.append(extra)
        absent: list[Entry] = []
        for _ in range(24):
            entry = self._everything.draw(rng)
            apart = entry.group not in stay.groups and entry.code not in truth
            if apart and not entry.needs and entry not in absent:
                absent.append(entry)
        return Admission(stay.person, present, tuple(absent), truth, tuple(gold))


class _Drawn:
    """Entries drawn so far that fit the person and each other."""

    def __init__(self, person: Person, needs: set[str]) -> None:
        self.person = person
        self.entries: list[Entry] = []
        self.groups: set[str] = set()
        self._names = set(needs)

    def take(self, entry: Entry) -> bool:
        """Add an entry unless it does not fit; says whether it was added."""
        fits = (
            entry.group not in self.groups
            and entry.age[0] <= self.person.age <= entry.age[1]
            and (entry.sex is None or (entry.sex == "female") == self.person.female)
            and (not entry.needs or bool(entry.needs & self._names))
        )
        if fits:
            self.entries.append(entry)
            self.groups.add(entry.group)
            self._names |= entry.names
        return fits


def _binomial(rng: random.Random, trials: int, chance: float) -> int:
    return sum(rng.random() < chance for _ in range(trials))
