"""In which order a training answer states its codes: they are a set, so any order is right."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Literal

from icdtune.data.labels import Task
from icdtune.errors import IcdtuneError

Order = Literal["sorted", "frequency", "evidence", "shuffled"]
Ordered = Callable[[str, Iterable[str], int], list[str]]
"""Of a note's id, its codes and the epoch: the codes in their order."""


def code_order(order: Order, task: Task, seed: int) -> Ordered:
    """The order of a note's codes.

    Args:
        order: alphabetical; the most frequent in train first; by the first evidence in the note, codes
            without any last; or anew in every epoch.

    Raises:
        IcdtuneError: "evidence" of a corpus that has none in train.
    """
    if order == "shuffled":
        return lambda note_id, codes, epoch: _shuffled(codes, f"{seed}:{epoch}:{note_id}")
    if order == "frequency":
        frequency = task.frequencies()
        return lambda note_id, codes, epoch: sorted(codes, key=lambda c: (-frequency[c], c))
    if order == "evidence":
        first = _first_evidence(task)
        none = float("inf")
        return lambda note_id, codes, epoch: sorted(
            codes, key=lambda c: (first.get((note_id, c), none), c)
        )
    return lambda note_id, codes, epoch: sorted(codes)


def _shuffled(codes: Iterable[str], key: str) -> list[str]:
    found = sorted(codes)
    random.Random(key).shuffle(found)
    return found


def _first_evidence(task: Task) -> dict[tuple[str, str], float]:
    """(note id, code) -> where its evidence begins first."""
    train = set(task.gold("train")[0])
    first: dict[tuple[str, str], float] = {}
    for span in task.corpus.evidence():
        if span.note_id not in train:
            continue
        key = (span.note_id, span.code)
        first[key] = min(span.start, first.get(key, span.start))
    if not first:
        raise IcdtuneError(
            f"{task.corpus.path} has no evidence for its training notes: codes have no order in it. "
            f"Give another order"
        )
    return first
