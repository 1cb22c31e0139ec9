"""Progressive Hint Injection: reinforcement that shows, in training, codes the model keeps missing.

Each round visits only notes with missed codes; half of the visits show some of them as confirmed. After
each round the model predicts its training notes again, without hints, and the pools follow. Rewards
compare with the full gold set, and nothing is ever hinted in evaluation (arXiv 2606.13940).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from icdtune.coders import processes
from icdtune.data.labels import Task
from icdtune.data.schema import Note
from icdtune.files import read_json, write_json
from icdtune.posttrain.curriculum import HintPools, Visit, epoch, hinted_round, refresh
from icdtune.posttrain.grpo import Count, Reinforced, Update
from icdtune.posttrain.presets import with_preset

Predict = Callable[[Sequence[Note]], tuple[dict[str, list[str]], int]]
"""Hint-free prediction: note id -> codes, and the tokens it took."""


class Rounds:
    """The visits of each step, round after round; pools are kept in `work` as they are made.

    Args:
        notes: training notes of the curriculum.
        rounds, steps: rounds, and the most steps of one.
        visits: visits a step.
        seed: of orders and hints.
        work: where pools are kept, so that an interrupted run goes on with the same ones.
        predict: hint-free prediction with the weights as they are now.
    """

    def __init__(
        self,
        notes: Sequence[Note],
        rounds: int,
        steps: int,
        visits: int,
        seed: int,
        work: Path,
        predict: Predict,
    ) -> None:
        self._notes, self._rounds, self._steps, self._visits = notes, rounds, steps, visits
        self._seed, self._work, self._predict = seed, work, predict
        self._predicted: dict[int, dict[str, Any]] = {}
        self._planned: dict[int, list[Visit]] = {}

    def plan(self, step: int) -> list[Visit]:
        """The visits of a step; where it opens a round, the pools are refreshed first."""
        start = 0
        for turn in range(1, self._rounds + 1):
            steps = self.steps(turn)
            if step < start + steps:
                visits, first = self.visits(turn), (step - start) * self._visits
                return [visits[i % len(visits)] for i in range(first, first + self._visits)]
            start += steps
        raise IndexError(f"step {step} is after the last round")

    def finished(self, step: int) -> bool:
        """Whether `step` updates complete the last round."""
        done = 0
        for turn in range(1, self._rounds + 1):
            done += self.steps(turn)
            if step < done:
                return False
        return True

    def steps(self, turn: int) -> int:
        """Steps of a round: one epoch over its visits, or the most allowed."""
        return min(self._steps, -(-len(self.visits(turn)) // self._visits))

    def visits(self, turn: int) -> list[Visit]:
        """A round's visits, at most what its steps can take."""
        if turn not in self._planned:
            size = self._steps * self._visits
            pools = self.pools(turn - 1)
            self._planned[turn] = hinted_round(self._notes, pools, self._seed, turn, size)
        return self._planned[turn]

    def pools(self, turn: int) -> HintPools:
        """The pools after a round (0: before the first); predicts where that was not done yet."""
        return refresh(self._notes, self._refreshed(turn)["predicted"])

    def _refreshed(self, turn: int) -> dict[str, Any]:
        if turn not in self._predicted:
            path = self._work / f"pools-{turn}.json"
            if not path.exists():
                self._predict_share(path)
            self._predicted[turn] = read_json(path)
        return self._predicted[turn]

    def _predict_share(self, path: Path) -> None:
        """Predict this process's share of the notes; the first gathers what all predicted."""
        started, own = time.perf_counter(), processes.rank()
        predicted, tokens = self._predict(self._notes[own :: processes.count()])
        part = path.with_suffix(f".{own}.json")
        write_json(part, {"predicted": predicted, "tokens": tokens})
        processes.wait()
        if processes.first():
            files = [path.with_suffix(f".{rank}.json") for rank in range(processes.count())]
            parts = [read_json(file) for file in files]
            merged = {k: v for each in parts for k, v in each["predicted"].items()}
            tokens = sum(each["tokens"] for each in parts)
            seconds = round(time.perf_counter() - started, 1)
            write_json(path, {"predicted": merged, "tokens": tokens, "seconds": seconds})
            for file in files:
                file.unlink()
        processes.wait()

    def report(self) -> list[dict[str, Any]]:
        """One entry a refresh: pool sizes, mastered notes, recall, and what became of the hints."""
        gold = {note.note_id: set(note.codes or ()) for note in self._notes}
        total = sum(map(len, gold.values()))
        entries = []
        for turn in range(self._rounds + 1):
            pools, made = self.pools(turn), self._refreshed(turn)
            entry: dict[str, Any] = {
                "round": turn,
                "notes": len(pools.pools),
                "unmastered": len(pools.unmastered),
                "pool": pools.size,
                "recall": round(1 - pools.size / total, 6) if total else 1.0,
                "tokens": made["tokens"],
                "seconds": made["seconds"],
            }
            if turn:
                shown = Counter(
                    (visit.note.note_id, code)
                    for visit in self.visits(turn)[: self.steps(turn) * self._visits]
                    for code in visit.hint
                )
                learned = sum(code not in pools.pools[note_id] for note_id, code in shown)
                entry["steps"] = self.steps(turn)
                entry["hinted"] = len(shown)
                entry["hinted_recall"] = round(learned / len(shown), 6) if shown else None
            entries.append(entry)
        return entries


class PHI(Reinforced):
    """A fine-tuned coder reinforced with hints of the codes it keeps missing.

    Args:
        start: folder of the fine-tuned coder.
        preset: a name in presets/posttrain.yaml, as paper-qwen2.5-1.5b-mimic3-full; options given take
            the place of its own.
        rounds: rounds of the curriculum.
        steps: the most updates of a round; a round is one epoch over its notes, or this.
        notes: training notes in the curriculum, drawn with the seed; None is all.
        update: options of `Update`.
    """

    with_preset = staticmethod(partial(with_preset, "phi"))

    def __init__(
        self,
        start: Path,
        rounds: Count = 3,
        steps: Count = 40,
        notes: Count | None = None,
        **update: Any,
    ) -> None:
        super().__init__(start, Update(**update))
        self._rounds, self._steps, self._notes = rounds, steps, notes

    def fit(self, task: Task, seed: int, work: Path) -> None:
        """Train on the split "train", round after round."""
        self.begin(task)
        notes = epoch(list(task.notes("train")), seed, 0)[: self._notes]
        rounds = Rounds(
            notes, self._rounds, self._steps, self._update.visits, seed, work, self._predict_free
        )
        if not rounds.finished(0):
            most = self._rounds * self._steps
            self.reinforce(rounds.plan, most, seed, work, task, rounds.finished)
        self.training["rounds"] = rounds.report()
        self.training["tokens"] += sum(entry["tokens"] for entry in self.training["rounds"])

    def _predict_free(self, notes: Sequence[Note]) -> tuple[dict[str, list[str]], int]:
        """Hint-free greedy answers; one that cannot be read counts as empty."""
        training = self.model.training
        predictions = self.predict(notes)
        self.model.train(training)
        found = {row.note_id: list(row.codes) for row in predictions}
        return found, predictions.tokens or 0
