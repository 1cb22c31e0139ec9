"""Which notes a reinforcement step visits, and with which hint.

A visit is one note, once, for a whole group of rollouts; its hint is drawn here, so that every rollout
of the group sees the same. Every draw has an rng of its own, keyed on (seed, round, visit, note id):
it does not matter which process draws, or whether the run was interrupted. Plain data, no model.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from icdtune.data.schema import Note

HINT_PROBABILITY = 0.5
MOST_HINTED = 5
TEMPERATURE = 3.0
LEAST_RECALL = 0.05
CLIP = 3.0


@dataclass(frozen=True, slots=True)
class Visit:
    """A note that a step visits, and what its prompt shows as confirmed.

    Attributes:
        hint: codes.
        families: ancestors that stand for codes the model keeps missing.
    """

    note: Note
    hint: tuple[str, ...] = ()
    families: tuple[str, ...] = ()

    @property
    def hinted(self) -> bool:
        """Whether anything is shown."""
        return bool(self.hint or self.families)


@dataclass(frozen=True)
class HintPools:
    """What the model missed: note id -> its gold codes less its predicted ones, sorted.

    Attributes:
        pools: every note of the refresh; empty where nothing was missed.
        weights: drawing weight of each code of the training gold.
        default: the weight of a code that has none.
        kept: note id -> codes of its pool that were not missed, but that a reviewer had to add.
    """

    pools: dict[str, tuple[str, ...]]
    weights: dict[str, float]
    default: float
    kept: Mapping[str, Collection[str]] = field(default_factory=dict)

    @property
    def unmastered(self) -> list[str]:
        """Notes with something missed."""
        return [note_id for note_id, pool in self.pools.items() if pool]

    @property
    def size(self) -> int:
        """Codes that may be shown, over all notes."""
        return sum(map(len, self.pools.values()))

    @property
    def missed(self) -> set[tuple[str, str]]:
        """(note id, code) of every code that was missed."""
        return {
            (note_id, code)
            for note_id, pool in self.pools.items()
            for code in pool
            if code not in self.kept.get(note_id, ())
        }


def refresh(
    notes: Iterable[Note],
    predicted: Mapping[str, Iterable[str]],
    added: Mapping[str, Collection[str]] = {},
) -> HintPools:
    """Hint pools and drawing weights after predicting training notes without hints.

    Args:
        notes: the notes that were predicted, with their gold.
        predicted: note id -> predicted codes.
        added: note id -> gold codes that a reviewer had to add: they stay in the pool.
    """
    pools: dict[str, tuple[str, ...]] = {}
    kept: dict[str, set[str]] = {}
    frequency: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for note in notes:
        gold, found = set(note.codes or ()), set(predicted[note.note_id])
        kept[note.note_id] = gold & found & set(added.get(note.note_id, ()))
        pools[note.note_id] = tuple(sorted((gold - found) | kept[note.note_id]))
        frequency.update(gold)
        hits.update(gold & found)
    weights = code_weights(frequency, hits)
    return HintPools(pools, weights, median(weights.values()) if weights else 1.0, kept)


def code_weights(frequency: Mapping[str, int], hits: Mapping[str, int]) -> dict[str, float]:
    """w = 1/sqrt(frequency) / max(recall, 0.05), clipped at 3 medians, then ^(1/3).

    Rare and badly recalled codes weigh more (arXiv 2606.13940).
    """
    raw = {
        code: 1 / count**0.5 / max(hits.get(code, 0) / count, LEAST_RECALL)
        for code, count in frequency.items()
    }
    ceiling = CLIP * median(raw.values()) if raw else 0.0
    return {code: min(weight, ceiling) ** (1 / TEMPERATURE) for code, weight in raw.items()}


def draw_hint(
    pools: HintPools, note_id: str, rng: random.Random, probability: float = HINT_PROBABILITY
) -> tuple[str, ...]:
    """The hint of one visit: with the probability 1 to 5 codes without replacement, else none."""
    pool = list(pools.pools.get(note_id, ()))
    if not pool or rng.random() >= probability:
        return ()
    count = rng.randint(1, min(MOST_HINTED, len(pool)))
    drawn = []
    for _ in range(count):
        weights = [pools.weights.get(code, pools.default) for code in pool]
        code = rng.choices(pool, weights)[0]  # normalises over what is left
        pool.remove(code)
        drawn.append(code)
    return tuple(sorted(drawn))


def epoch(notes: Sequence[Note], seed: int, turn: int) -> list[Note]:
    """The notes in the order of one epoch."""
    order = list(notes)
    random.Random(f"epoch:{seed}:{turn}").shuffle(order)
    return order


def hinted_round(
    notes: Sequence[Note],
    pools: HintPools,
    seed: int,
    turn: int,
    size: int,
    anneal: bool = False,
    family: Callable[[str, str], str | None] = lambda note_id, code: None,
) -> list[Visit]:
    """A round's visits: up to `size` notes with a pool, in one shuffled epoch, each with its hint.

    Args:
        anneal: the probability of a hint falls from 1/2 at the first visit to 0 after the last.
        family: of a note's id and a drawn code, the ancestor that is shown in the code's place.
    """
    unmastered = set(pools.unmastered)
    chosen = [note for note in epoch(notes, seed, turn) if note.note_id in unmastered][:size]
    visits = []
    for i, note in enumerate(chosen):
        left = 1 - i / len(chosen) if anneal else 1.0
        rng = random.Random(f"{seed}:{turn}:{i}:{note.note_id}")
        drawn = draw_hint(pools, note.note_id, rng, left * HINT_PROBABILITY)
        above = {code: family(note.note_id, code) for code in drawn}
        shown = tuple(code for code in drawn if above[code] is None)
        families = tuple(sorted({name for name in above.values() if name is not None}))
        visits.append(Visit(note, shown, families))
    return visits


def plain_visits(notes: Sequence[Note], seed: int) -> Iterator[Visit]:
    """Endless hint-free visits, epoch after epoch."""
    turn = 0
    while True:
        for note in epoch(notes, seed, turn):
            yield Visit(note)
        turn += 1
