"""Reinforcement of a fine-tuned coder with the reward of its answers' code sets, hint-free."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from icdtune.coders.card import read_coder_info
from icdtune.coders.generative import GenerativeCoder
from icdtune.codes.tables import load_table
from icdtune.data.labels import Task, read_labels
from icdtune.errors import IcdtuneError
from icdtune.files import read_json
from icdtune.posttrain.curriculum import Visit, plain_visits
from icdtune.posttrain.presets import with_preset
from icdtune.posttrain.reward import Kind, Reward, class_weights

if TYPE_CHECKING:
    from icdtune.posttrain.rollouts import Plan

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
STEPS = 120
"""Steps of GRPO where nothing else is said."""
Share = Annotated[float, Field(ge=0, le=1)]
CURVES = (
    "loss",
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "frac_advantage_zero",
    "credit_rms",
    "kl",
    "entropy",
    "grad_norm",
    "truncated",
    "hinted",
    "prompt_tokens",
    "answer_tokens",
)


@dataclass(frozen=True)
class Update:
    """What GRPO and PHI share: rollouts, reward, credit and the step that follows from them.

    Args:
        visits: notes an update.
        group: answers a note; all see the same prompt.
        micro_groups: groups a backward pass: bounds the memory.
        checkpointing: forward twice and keep fewer activations: bounds the memory of large models.
        learning_rate: None is 3e-5 for a model that is trained whole and 1e-5 (the study's) for LoRA.
        lora_rank: 0 trains the whole model; None is 0 for small models and 8 (the study's) else.
        kl: coefficient of the KL divergence from the start (1e-3 in the study).
        reward: "f-beta" or the study's "per-code".
        beta: of f-beta: 1 is the sample-level F1, above 1 favours recall.
        balanced: weigh codes by (median frequency / frequency)^0.5 in train, within [0.5, 5].
        format_weight: share of the reward for a complete code block alone.
        charge_repeats: a code written again is a false positive more (free in the study's release).
        credit_weight: advantage = (1 - weight) x the group's + weight x credit; 0 is plain GRPO (the
            study's). docs/results.md has what 0.5 was chosen on.
        credit: "codes" credits each code's decision, "to-go" what was still to be gained.
        temperature, top_p: of the rollouts; tokens below the most likely `top_p` are never drawn.
        refill: how often a visit whose answers nothing tells apart gives its place to another.
        scale: divide rewards by their deviation in the "group", in the "batch", or by "none".
        iterations: updates that the answers to a batch of visits serve.
        clip, clip_high: how far from 1 the ratio to the policy that answered may move, down and up, in
            later iterations; None is 0.2 (the study's), and `clip`.
        importance: ratios of every "token", or one of the whole "sequence" (without credit).
        rollouts: who samples: "transformers", "vllm" in the training's own processes, or
            "vllm-server" at `vllm_url`; None is http://localhost:8000.
    """

    visits: Count = 16
    group: Annotated[int, Field(ge=2)] = 8
    micro_groups: Count = 4
    checkpointing: bool = False
    learning_rate: Rate | None = None
    lora_rank: Annotated[int, Field(ge=0)] | None = None
    kl: Annotated[float, Field(ge=0)] = 0.0
    reward: Kind = "f-beta"
    beta: Rate = 1.0
    balanced: bool = False
    format_weight: Share = 0.0
    charge_repeats: bool = True
    credit_weight: Share = 0.5
    credit: Literal["codes", "to-go"] = "codes"
    temperature: Rate = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    refill: Annotated[int, Field(ge=0)] = 0
    scale: Literal["group", "batch", "none"] = "group"
    iterations: Count = 1
    clip: Rate | None = None
    clip_high: Rate | None = None
    importance: Literal["token", "sequence"] = "token"
    rollouts: Literal["transformers", "vllm", "vllm-server"] = "transformers"
    vllm_url: str | None = None

    def check(self) -> None:
        """IcdtuneError where options contradict each other."""
        if self.format_weight and self.credit_weight == 1 and self.credit == "codes":
            raise IcdtuneError(
                "no code earns the share of format_weight, and with credit_weight 1 nothing else "
                "reaches the tokens. Give a credit_weight below 1, or format_weight 0"
            )
        if self.iterations == 1 and (self.clip is not None or self.clip_high is not None):
            raise IcdtuneError(
                "nothing is clipped where answers serve one update: all ratios are 1. Give iterations "
                "above 1, or leave clip and clip_high out"
            )
        if self.vllm_url is not None and self.rollouts != "vllm-server":
            raise IcdtuneError("vllm_url is of rollouts vllm-server. Give that, or leave it out")
        if self.rollouts != "transformers":
            self._check_vllm()
        if self.importance == "sequence" and self.credit_weight:
            raise IcdtuneError(
                "one ratio for a whole answer gives every token the mean of the credits. Give "
                "credit_weight 0, or importance token"
            )

    def _check_vllm(self) -> None:
        """IcdtuneError for what cannot be had from vLLM, and where there is none."""
        if self.top_p < 1:
            raise IcdtuneError(
                "vLLM's probabilities are of the drawn tokens alone, training's of all: with top_p "
                "below 1 long answers would hardly count. Give top_p 1, or rollouts transformers"
            )
        if self.refill and self.rollouts == "vllm-server":
            raise IcdtuneError(
                "refill asks each process again on its own, which a vLLM server cannot serve. Give "
                "refill 0, or rollouts vllm"
            )
        if not find_spec("vllm"):
            raise IcdtuneError(
                f'rollouts "{self.rollouts}" needs vLLM, which is not installed: '
                f'pip install "icdtune[vllm]"'
            )


class Reinforced(GenerativeCoder):
    """What GRPO and PHI share: the start, the trainer, and what is written down of a run."""

    parts = (*GenerativeCoder.parts, "posttrain", "coders/training.py")
    shared = Update

    def __init__(self, start: Path, update: Update) -> None:
        super().__init__()
        update.check()
        self._start, self._update = start, update

    def begin(self, task: Task) -> None:
        """Load the fine-tuned coder; IcdtuneError where it was trained for another label space."""
        space = read_labels(self._start / "labels.json", task.corpus.info.code_systems)
        if space.digest != task.labels.digest:
            raise IcdtuneError(
                f'{self._start} was trained for label space "{space.name}" ({len(space.codes)} codes), '
                f'this run is about "{task.labels.name}" ({len(task.labels.codes)} codes). '
                f"Train both stages with the same label space"
            )
        order = answer_order(self._start)
        update = self._update
        if order != "sorted" and update.credit_weight and update.credit == "codes":
            raise IcdtuneError(
                f'{self._start} was fine-tuned on answers in the order "{order}", and credit for codes '
                f"left out looks where they would stand in a sorted one. Give credit_weight 0, or "
                f"credit to-go"
            )
        coder = GenerativeCoder.load(self._start)
        if update.rollouts != "transformers" and coder.settings.layers is not None:
            raise IcdtuneError(
                f"vLLM would load all layers of {coder.settings.base}, {self._start} has "
                f"{coder.settings.layers}. Give rollouts transformers"
            )
        self.model, self.tokenizer, self._given = coder.model, coder.tokenizer, coder.settings
        self.settings = coder.settings.model_copy(update={"adapters": [], "weights": "here"})
        self.training = {
            "steps": 0,
            **{k: v for k, v in asdict(self._update).items() if k != "vllm_url"},
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
        task: Task,
        finished: Callable[[int], bool] | None = None,
        others: Plan | None = None,
    ) -> None:
        """Train on at most `steps` batches of the plan's visits; goes on from a checkpoint.

        Training ends earlier where `finished` says so of the number of batches. `others` gives the
        visits that may take the place of one which teaches nothing.
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
        from icdtune.posttrain.credit import Objective
        from icdtune.posttrain.rollouts import CodeSetTrainer, grpo_config, stop_when

        use_cores()
        torch.manual_seed(seed)
        started = time.perf_counter()
        update = self._update
        rank = lora_rank(self.model, update.lora_rank)
        if update.kl and not rank and self._given.adapters:
            raise IcdtuneError(
                f"{self._start} is an adapter of {self._given.base}: with lora_rank 0 the divergence "
                f"would be from that model, not from the start. Give a lora_rank, or kl 0"
            )
        rate = update.learning_rate or (1e-5 if rank else 3e-5)
        # Checkpoints stand between batches of rollouts, so that none is answered twice.
        each = update.iterations
        updates, save_every = steps * each, max(5, steps // 6) * each
        common = arguments(work, seed, updates, save_every, half_precision(self.model.device)) | {
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": max(1, updates // 20),
        }

        done = None if finished is None else lambda step: finished(step // each)
        trainer = CodeSetTrainer(
            self,
            plan,
            titles(task),
            grpo_config(common, update, rate, self.settings.answer_budget),
            update.visits,
            Objective(self._reward(task), update.credit, update.credit_weight),
            update.refill,
            others,
            peft_config=lora(rank, rank) if rank else None,
            callbacks=[] if done is None else [stop_when(done)],
        )
        run(trainer, work, "Reinforce", done)
        model = trainer.accelerator.unwrap_model(trainer.model)
        curves = history(trainer.state.log_history, CURVES)
        tokens = sum(row.get("prompt_tokens", 0) + row.get("answer_tokens", 0) for row in curves)
        self.training |= {
            "steps": trainer.state.global_step // each,
            "learning_rate": rate,
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

    def _reward(self, task: Task) -> Reward:
        """The reward that was asked for; class weights come from the training notes."""
        update = self._update
        weights: dict[str, float] = {}
        if update.balanced:
            counts = task.frequencies()
            weights = class_weights({c: counts[c] for c in task.labels.codes if counts[c]})
        return Reward(
            update.reward, update.beta, weights, update.format_weight, update.charge_repeats
        )


class GRPO(Reinforced):
    """A fine-tuned coder reinforced with the reward of its answers' code sets.

    Args:
        start: folder of the fine-tuned coder.
        preset: a name in presets/posttrain.yaml, as paper-qwen2.5-1.5b-mimic3-full; options given take
            the place of its own.
        steps: batches of `visits`, each of which serves `iterations` updates; None is `epochs`, or 120
            where that is not given either.
        epochs: passes over the training notes.
        match: folder of a PHI coder whose number of steps is taken instead of either.
        update: options of `Update`.
    """

    with_preset = staticmethod(partial(with_preset, "grpo"))

    def __init__(
        self,
        start: Path,
        steps: Count | None = None,
        epochs: Rate | None = None,
        match: Path | None = None,
        **update: Any,
    ) -> None:
        super().__init__(start, Update(**update))
        self._steps, self._epochs, self._match = steps, epochs, match

    def fit(self, task: Task, seed: int, work: Path) -> None:
        """Train on the split "train"."""
        matched = None if self._match is None else self._matched(self._match)
        self.begin(task)
        notes = list(task.notes("train"))
        steps = self._steps if matched is None else matched
        if steps is None:
            passes = self._epochs
            steps = (
                STEPS if passes is None else math.ceil(passes * len(notes) / self._update.visits)
            )
        order = plain_visits(notes, seed)
        drawn: list[Visit] = []

        def plan(step: int) -> list[Visit]:
            visits = self._update.visits
            needed = (step + 1) * visits
            drawn.extend(itertools.islice(order, max(0, needed - len(drawn))))
            return drawn[needed - visits : needed]

        every = [Visit(note) for note in notes]
        if steps:  # a PHI coder that missed nothing made none
            self.reinforce(plan, steps, seed, work, task, others=lambda step: every)

    def _matched(self, folder: Path) -> int:
        """The steps of another coder; IcdtuneError where its steps are of another size."""
        other: dict[str, Any] = read_json(folder / "training.json")
        for name in ("visits", "group", "iterations"):
            own = getattr(self._update, name)
            theirs = other.get(name, 1)
            if theirs != own:
                raise IcdtuneError(
                    f"{folder} was trained with {name} {theirs}, this run has {own}. "
                    f"Give both the same"
                )
        return int(other["steps"])


def answer_order(folder: Path) -> str:
    """The order of the codes in the answers that a coder was fine-tuned on."""
    stages = read_coder_info(folder).stages
    orders = [stage.options.get("order", "sorted") for stage in stages if stage.coder == "sft"]
    return str(orders[-1]) if orders else "sorted"


def titles(task: Task) -> Callable[[str], str]:
    """Title of a code in the corpus's tables; "" where none holds it."""
    tables = [load_table(name) for name in task.corpus.info.code_systems.values()]

    def title(code: str) -> str:
        return next((table.title(code) for table in tables if code in table), "")

    return title
