"""Progressive Hint Injection: reinforcement that shows, in training, codes the model keeps missing.

Each round visits only notes with missed codes; half of the visits show some of them as confirmed. After
each round the model predicts its training notes again, without hints, and the pools follow. Rewards
compare with the full gold set, and nothing is ever hinted in evaluation (arXiv 2606.13940).
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from icdtune.coders import processes
from icdtune.codes.systems import get_system
from icdtune.codes.tables import load_table
from icdtune.data.labels import Task
from icdtune.data.predictions import Prediction, Predictions
from icdtune.data.raw import collect
from icdtune.data.schema import Note, canonical_code
from icdtune.data.table import open_table
from icdtune.errors import IcdtuneError
from icdtune.evaluation.counts import count
from icdtune.evaluation.metrics import macro_f1_present, whole
from icdtune.files import read_json, write_json
from icdtune.posttrain.curriculum import HintPools, Visit, epoch, hinted_round, refresh
from icdtune.posttrain.grpo import Count, Reinforced, Update
from icdtune.posttrain.presets import with_preset

Predict = Callable[[Sequence[Note]], tuple[dict[str, list[str]], int]]
"""Hint-free prediction: note id -> codes, and the tokens it took."""
Judge = Callable[[Mapping[str, Sequence[str]]], float]
"""The macro-F1 of predicted codes by note id."""


@dataclass(frozen=True)
class Curriculum:
    """How rounds are made; what the study does not have is off.

    Attributes:
        rounds, steps: rounds, and the most steps of one.
        visits: visits a step.
        seed: of orders and hints.
        anneal: hints become rarer within a round, and end with it.
        ancestors_after: refreshes in a row that a note's code must be missed in before its parent is
            shown in its place; None never does.
        patience: rounds in a row without a better macro-F1 on "val" that end the training; None never.
        parent: a code's parent in the tables, None at the top.
        added: note id -> codes that a reviewer had to add.
    """

    rounds: int
    steps: int
    visits: int
    seed: int
    anneal: bool = False
    ancestors_after: int | None = None
    patience: int | None = None
    parent: Callable[[str], str | None] = lambda code: None
    added: Mapping[str, Collection[str]] = field(default_factory=dict)


class Rounds:
    """The visits of each step, round after round; pools are kept in `work` as they are made.

    Args:
        notes: training notes of the curriculum.
        curriculum: how rounds are made.
        work: where pools are kept, so that an interrupted run goes on with the same ones.
        predict: hint-free prediction with the weights as they are now.
        val: notes that decide whether rounds go on, where there is a patience.
        judge: the macro-F1 of their predicted codes.
    """

    def __init__(
        self,
        notes: Sequence[Note],
        curriculum: Curriculum,
        work: Path,
        predict: Predict,
        val: Sequence[Note] = (),
        judge: Judge = lambda predicted: 0.0,
    ) -> None:
        self._notes, self._rules, self._work = notes, curriculum, work
        self._predict, self._val, self._judge = predict, val, judge
        self._predicted: dict[int, dict[str, Any]] = {}
        self._planned: dict[int, list[Visit]] = {}
        self._step = 0

    def plan(self, step: int) -> list[Visit]:
        """The visits of a step; where it opens a round, the pools are refreshed first."""
        size = self._rules.visits
        turn, start = self._place(step)
        visits, first = self.visits(turn), (step - start) * size
        own = visits[first : first + size]
        # The last step is filled up with the round's first notes; annealed hints have ended by then.
        again = [Visit(v.note) if self._rules.anneal else v for v in visits]
        return own + [again[i % len(again)] for i in range(size - len(own))]

    def finished(self, step: int) -> bool:
        """Whether `step` steps complete the last round."""
        self._step = step
        done = turn = 0
        while self._goes_on(turn):
            turn += 1
            done += self.steps(turn)
            if step < done:
                return False
        return True

    def _place(self, step: int) -> tuple[int, int]:
        """The round of a step and the step that it began with."""
        self._step = step
        start = turn = 0
        while self._goes_on(turn):
            turn += 1
            steps = self.steps(turn)
            if step < start + steps:
                return turn, start
            start += steps
        raise IndexError(f"step {step} is after the last round")

    def _goes_on(self, turn: int) -> bool:
        """Whether a round follows this one (0: before the first)."""
        patience = self._rules.patience
        if turn >= self._rules.rounds:
            return False
        if patience is None or turn < patience:
            return True
        scores = [self._refreshed(t)["macro_f1"] for t in range(turn + 1)]
        return bool(max(scores[-patience:]) > max(scores[:-patience]))

    def steps(self, turn: int) -> int:
        """Steps of a round: one epoch over its visits, or the most allowed."""
        return min(self._rules.steps, -(-len(self.visits(turn)) // self._rules.visits))

    def visits(self, turn: int) -> list[Visit]:
        """A round's visits, at most what its steps can take."""
        if turn not in self._planned:
            rules = self._rules
            missed = self._missed_again(turn)

            def family(note_id: str, code: str) -> str | None:
                return rules.parent(code) if (note_id, code) in missed else None

            self._planned[turn] = hinted_round(
                self._notes,
                self.pools(turn - 1),
                rules.seed,
                turn,
                rules.steps * rules.visits,
                rules.anneal,
                family,
            )
        return self._planned[turn]

    def _missed_again(self, turn: int) -> set[tuple[str, str]]:
        """Notes' codes that were missed in each of the last refreshes before a round."""
        times = self._rules.ancestors_after
        if times is None or times > turn:
            return set()
        return set.intersection(
            *(self.pools(before).missed for before in range(turn - times, turn))
        )

    def pools(self, turn: int) -> HintPools:
        """The pools after a round (0: before the first); predicts where that was not done yet."""
        return refresh(self._notes, self._refreshed(turn)["predicted"], self._rules.added)

    def _refreshed(self, turn: int) -> dict[str, Any]:
        if turn not in self._predicted:
            path = self._work / f"pools-{turn}.json"
            made_at = sum(self.steps(before) for before in range(1, turn + 1))
            if not path.exists():
                if self._step > made_at:
                    raise IcdtuneError(
                        f"{path} is gone, and the coder has gone on since, to step {self._step}. "
                        f"Remove {self._work} and train again"
                    )
                self._predict_share(path, made_at)
            found = read_json(path)
            if found["step"] != made_at:
                raise IcdtuneError(
                    f"{path} was made at step {found['step']}, round {turn} ends at {made_at}: these "
                    f"pools are of another coder. Remove {self._work} and train again"
                )
            self._predicted[turn] = found
        return self._predicted[turn]

    def _predict_share(self, path: Path, step: int) -> None:
        """Predict this process's share of the notes; the first gathers what all predicted."""
        started, own = time.perf_counter(), processes.rank()
        every = [*self._notes, *(self._val if self._rules.patience is not None else ())]
        predicted, tokens = self._predict(every[own :: processes.count()])
        part = path.with_suffix(f".{own}.json")
        write_json(part, {"predicted": predicted, "tokens": tokens})
        processes.wait()
        if processes.first():
            files = [path.with_suffix(f".{rank}.json") for rank in range(processes.count())]
            parts = [read_json(file) for file in files]
            merged = {k: v for each in parts for k, v in each["predicted"].items()}
            made = {
                "step": step,
                "predicted": {note.note_id: merged[note.note_id] for note in self._notes},
                "tokens": sum(each["tokens"] for each in parts),
                "seconds": round(time.perf_counter() - started, 1),
            }
            if self._rules.patience is not None:
                val = {note.note_id: merged[note.note_id] for note in self._val}
                made["macro_f1"] = self._judge(val)
            write_json(path, made)
            for file in files:
                file.unlink()
        processes.wait()

    def report(self) -> list[dict[str, Any]]:
        """One entry a refresh: pool sizes, mastered notes, recall, and what became of the hints."""
        gold = {note.note_id: set(note.codes or ()) for note in self._notes}
        total = sum(map(len, gold.values()))
        entries = []
        for turn in itertools.count():
            pools, made = self.pools(turn), self._refreshed(turn)
            entry: dict[str, Any] = {
                "round": turn,
                "notes": len(pools.pools),
                "unmastered": len(pools.unmastered),
                "pool": pools.size,
                "recall": round(1 - len(pools.missed) / total, 6) if total else 1.0,
                "tokens": made["tokens"],
                "seconds": made["seconds"],
            }
            if "macro_f1" in made:
                entry["macro_f1"] = made["macro_f1"]
            if turn:
                shown = Counter(
                    (visit.note.note_id, code)
                    for visit in self.visits(turn)[: self.steps(turn) * self._rules.visits]
                    for code in visit.hint
                )
                learned = len(shown.keys() - pools.missed)
                entry["steps"] = self.steps(turn)
                entry["hinted"] = len(shown)
                entry["hinted_recall"] = round(learned / len(shown), 6) if shown else None
            entries.append(entry)
            if not self._goes_on(turn):
                return entries
        raise AssertionError("rounds end")


class PHI(Reinforced):
    """A fine-tuned coder reinforced with hints of the codes it keeps missing.

    Args:
        start: folder of the fine-tuned coder.
        preset: a name in presets/posttrain.yaml, as paper-qwen2.5-1.5b-mimic3-full; options given take
            the place of its own.
        rounds: rounds of the curriculum.
        steps: the most steps of a round; a round is one epoch over its notes, or this.
        notes: training notes in the curriculum, drawn with the seed; None is all.
        anneal: hints become rarer within a round, from half of the visits to none.
        ancestors_after: show the parent of a code in its place once a note missed the code in so many
            refreshes in a row.
        patience: end after so many rounds in a row without a better macro-F1 on "val"; the coder is that
            of the last round.
        reviewed: a table (CSV, parquet, a spreadsheet) with the columns note_id and code: what reviewers
            had to add to a coder's answers stays in the pools.
        update: options of `Update`.
    """

    with_preset = staticmethod(partial(with_preset, "phi"))

    def __init__(
        self,
        start: Path,
        rounds: Count = 3,
        steps: Count = 40,
        notes: Count | None = None,
        anneal: bool = False,
        ancestors_after: Count | None = None,
        patience: Count | None = None,
        reviewed: Path | None = None,
        **update: Any,
    ) -> None:
        super().__init__(start, Update(**update))
        if self._update.refill:
            raise IcdtuneError(
                "refill would throw hints away that the pools have drawn. Leave it to grpo"
            )
        if reviewed is not None and not reviewed.is_file():  # before hours of other stages
            raise IcdtuneError(f"{reviewed} does not exist. Check the path")
        self._notes, self._reviewed = notes, reviewed
        self._rules = partial(
            Curriculum,
            rounds,
            steps,
            self._update.visits,
            anneal=anneal,
            ancestors_after=ancestors_after,
            patience=patience,
        )
        self._most = rounds * steps

    def fit(self, task: Task, seed: int, work: Path) -> None:
        """Train on the split "train", round after round."""
        notes = epoch(list(task.notes("train")), seed, 0)[: self._notes]
        added = read_added(self._reviewed, notes, task) if self._reviewed else {}
        self.begin(task)
        above = partial(parent, task.corpus.info.code_systems)
        rules: Curriculum = self._rules(seed=seed, parent=above, added=added)
        val = list(task.notes("val")) if rules.patience is not None else []
        judge = partial(macro_f1, task)
        rounds = Rounds(notes, rules, work, self._predict_free, val, judge)
        if not rounds.finished(0):
            self.reinforce(rounds.plan, self._most, seed, work, task, rounds.finished)
        self.training["rounds"] = rounds.report()
        self.training["tokens"] += sum(entry["tokens"] for entry in self.training["rounds"])

    def _predict_free(self, notes: Sequence[Note]) -> tuple[dict[str, list[str]], int]:
        """Hint-free greedy answers; one that cannot be read counts as empty."""
        training = self.model.training
        predictions = self.predict(notes)
        self.model.train(training)
        found = {row.note_id: list(row.codes) for row in predictions}
        return found, predictions.tokens or 0


def macro_f1(task: Task, predicted: Mapping[str, Sequence[str]]) -> float:
    """Macro-F1 on "val", over the codes that its gold holds."""
    rows = Predictions(Prediction(note_id, tuple(codes)) for note_id, codes in predicted.items())
    return float(macro_f1_present(whole(count(task, "val", rows)))[0])


def parent(code_systems: Mapping[str, str], code: str) -> str | None:
    """The code above a code in the corpus's tables; None for a category."""
    for name in code_systems.values():
        table = load_table(name)
        if code in table:
            above = table.parent(code)
            is_code = above is not None and get_system(name).canonical(above) == above
            return above if is_code else None
    return None


def read_added(path: Path, notes: Sequence[Note], task: Task) -> dict[str, set[str]]:
    """Note id -> codes that reviewers had to add, of the label space and of the curriculum's notes.

    Raises:
        IcdtuneError: no row is about any of them, or a code is not in its note's gold: what is hinted
            must be what is rewarded.
    """
    gold = {note.note_id: set(note.codes or ()) for note in notes}
    added: dict[str, set[str]] = {}
    rows = collect(open_table(path, ["note_id", "code"]), path)
    for row, (key, raw) in enumerate(rows.iter_rows(), 1):
        note_id = (key or "").strip()
        if note_id not in gold:
            continue
        code = canonical_code(raw or "", task.corpus.info.code_systems)
        if code is None or (code in task.labels.index and code not in gold[note_id]):
            raise IcdtuneError(
                f'{path} data row {row}: field "code": note {note_id} has no such code in train. Add it '
                f"to the corpus as well: rewards compare with that"
            )
        if code in task.labels.index:
            added.setdefault(note_id, set()).add(code)
    if not added:
        raise IcdtuneError(
            f"{path} has no row about a note of the curriculum and a code of the label space. Check its "
            f"columns note_id and code, or raise notes"
        )
    return added
