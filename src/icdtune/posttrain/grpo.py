"""Reinforcement of a fine-tuned coder with the sample-level F1 of its answers, hint-free."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from icdtune.coders import processes
from icdtune.coders.generative import GenerativeCoder
from icdtune.codes.tables import load_table
from icdtune.data.labels import Task, read_labels
from icdtune.errors import IcdtuneError
from icdtune.files import read_json
from icdtune.posttrain.curriculum import Visit, plain_visits

if TYPE_CHECKING:
    from icdtune.posttrain.rollouts import Plan

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
CURVES = (
    "loss",
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "kl",
    "entropy",
    "grad_norm",
    "truncated",
    "hinted",
    "prompt_tokens",
    "answer_tokens",
)


class Reinforced(GenerativeCoder):
    """What GRPO and PHI share: the start, the trainer, and what is written down of a run."""

    parts = (*GenerativeCoder.parts, "posttrain", "coders/training.py")

    def __init__(
        self,
        start: Path,
        visits: int,
        group: int,
        micro_groups: int,
        learning_rate: float | None,
        kl: float,
        lora_rank: int | None,
    ) -> None:
        super().__init__()
        self._start = start
        self._visits, self._group, self._micro = visits, group, micro_groups
        self._rate, self._kl, self._rank = learning_rate, kl, lora_rank

    def begin(self, task: Task) -> None:
        """Load the fine-tuned coder; IcdtuneError where it was trained for another label space."""
        space = read_labels(self._start / "labels.json", task.corpus.info.code_systems)
        if space.digest != task.labels.digest:
            raise IcdtuneError(
                f'{self._start} was trained for label space "{space.name}" ({len(space.codes)} codes), '
                f'this run is about "{task.labels.name}" ({len(task.labels.codes)} codes). '
                f"Train both stages with the same label space"
            )
        coder = GenerativeCoder.load(self._start)
        self.model, self.tokenizer, self._given = coder.model, coder.tokenizer, coder.settings
        self.settings = coder.settings.model_copy(update={"adapters": [], "weights": "here"})
        self.training = {
            "steps": 0,
            "visits": self._visits,
            "group": self._group,
            "tokens": 0,
            "seconds": 0.0,
            "history": [],
        }

    def reinforce(
        self,
        plan: Plan,
        steps: int,
        seed: int,
        work: Path,
        title: Callable[[str], str],
        finished: Callable[[int], bool] = lambda step: False,
    ) -> None:
        """Train for at most `steps` updates on the plan's visits; goes on from a checkpoint.

        Training ends earlier where `finished` says so of the number of updates.
        """
        import torch

        from icdtune.coders.training import (
            arguments,
            history,
            lora,
            lora_rank,
            run,
        )
        from icdtune.decoding.hardware import half_precision, use_cores
        from icdtune.posttrain.rollouts import CodeSetTrainer, grpo_config, stop_when

        if processes.count() > 1:
            raise IcdtuneError(
                f"{processes.count()} processes: GRPO and PHI train in one. Run the command without "
                f"accelerate launch, or with --num_processes 1"
            )
        use_cores()
        torch.manual_seed(seed)
        started = time.perf_counter()
        rank = lora_rank(self.model, self._rank)
        rate = self._rate or (1e-5 if rank else 3e-5)
        common = arguments(
            work, seed, steps, max(5, steps // 6), half_precision(self.model.device)
        ) | {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": max(1, steps // 20)}
        trainer = CodeSetTrainer(
            self,
            plan,
            title,
            grpo_config(common, self._visits, self._group, self._micro, rate, self._kl),
            self._visits,
            peft_config=lora(rank, rank) if rank else None,
            callbacks=[stop_when(finished)],
        )
        run(trainer, work, "Reinforce", finished)
        model = trainer.accelerator.unwrap_model(trainer.model)
        curves = history(trainer.state.log_history, CURVES)
        tokens = sum(row.get("prompt_tokens", 0) + row.get("answer_tokens", 0) for row in curves)
        self.training |= {
            "steps": trainer.state.global_step,
            "visits": self._visits,
            "group": self._group,
            "learning_rate": rate,
            "kl": self._kl,
            "lora_rank": rank,
            "tokens": int(tokens),
            "seconds": round(time.perf_counter() - started, 1),
            "history": curves,
        }
        earlier = self._given.adapters
        if rank and self._given.weights == "here" and not earlier:
            model = model.merge_and_unload()
        elif rank:
            self.carried = [self._start / adapter for adapter in earlier]
            names = [f"earlier/{i}" for i in range(len(earlier))]
            self.settings = self.settings.model_copy(update={"adapters": [*names, "."]})
        self.model = model.eval()


class GRPO(Reinforced):
    """A fine-tuned coder reinforced with the sample-level F1 of its answers.

    Args:
        start: folder of the fine-tuned coder.
        steps: updates.
        match: folder of a PHI coder whose number of updates is taken instead of `steps`.
        visits: notes an update.
        group: answers a note.
        micro_groups: groups a backward pass: bounds the memory.
        learning_rate: None is 3e-5 for a model that is trained whole and 1e-5 (the study's) for LoRA.
        kl: coefficient of the KL divergence from the start (1e-3 in the study).
        lora_rank: 0 trains the whole model; None is 0 for small models and 8 (the study's) else.
    """

    def __init__(
        self,
        start: Path,
        steps: Count = 120,
        match: Path | None = None,
        visits: Count = 16,
        group: Annotated[int, Field(ge=2)] = 8,
        micro_groups: Count = 4,
        learning_rate: Rate | None = None,
        kl: Annotated[float, Field(ge=0)] = 0.0,
        lora_rank: Annotated[int, Field(ge=0)] | None = None,
    ) -> None:
        super().__init__(start, visits, group, micro_groups, learning_rate, kl, lora_rank)
        self._steps, self._match = steps, match

    def fit(self, task: Task, seed: int, work: Path) -> None:
        """Train on the split "train"."""
        steps = self._steps if self._match is None else self._matched(self._match)
        self.begin(task)
        order = plain_visits(list(task.notes("train")), seed)
        drawn: list[Visit] = []

        def plan(step: int) -> list[Visit]:
            needed = (step + 1) * self._visits
            drawn.extend(itertools.islice(order, max(0, needed - len(drawn))))
            return drawn[needed - self._visits : needed]

        if steps:  # a PHI coder that missed nothing made none
            self.reinforce(plan, steps, seed, work, titles(task))

    def _matched(self, folder: Path) -> int:
        """The updates of another coder; IcdtuneError where its steps are of another size."""
        other: dict[str, Any] = read_json(folder / "training.json")
        for name, own in (("visits", self._visits), ("group", self._group)):
            if other.get(name) != own:
                raise IcdtuneError(
                    f"{folder} was trained with {name} {other.get(name)}, this run has {own}. "
                    f"Give both the same"
                )
        return int(other["steps"])


def titles(task: Task) -> Callable[[str], str]:
    """Title of a code in the corpus's tables; "" where none holds it."""
    tables = [load_table(name) for name in task.corpus.info.code_systems.values()]

    def title(code: str) -> str:
        return next((table.title(code) for table in tables if code in table), "")

    return title
