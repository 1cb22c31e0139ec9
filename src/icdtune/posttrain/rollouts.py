"""GRPO on code sets: TRL's trainer with visits from a curriculum, and prompts forwarded once a group.

Every private hook of TRL that is overridden stands in this file; `tests/posttrain/test_hooks.py`
fails where an upgrade changes one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from icdtune.coders.generative import GenerativeCoder, end_ids
from icdtune.coders.training import part
from icdtune.decoding.generate import generate
from icdtune.errors import IcdtuneError
from icdtune.posttrain.curriculum import Visit
from icdtune.posttrain.reward import sample_f1
from icdtune.posttrain.shared_prefix import group_size, log_probabilities
from icdtune.prompts.answer import parse_answer
from icdtune.prompts.hints import render_hint

Plan = Callable[[int], Sequence[Visit]]
"""The visits of a step, by its number from 0."""


class CodeSetTrainer(GRPOTrainer):
    """GRPO whose rollouts are answers to the visits of a plan, rewarded by the sample-level F1.

    Args:
        coder: model, tokenizer, budgets and code systems; trained in place.
        plan: visits of each step.
        title: a code's title, for hints.
        config: TRL's arguments; see `grpo_config`.
        visits: visits a step, over all processes.
    """

    def __init__(
        self,
        coder: GenerativeCoder,
        plan: Plan,
        title: Callable[[str], str],
        config: GRPOConfig,
        visits: int,
        **options: Any,
    ) -> None:
        self._coder, self._plan, self._title = coder, plan, title
        # What a step reads is decided by the plan and the step; the data set only counts the rows.
        rows = [{"prompt": "", "place": i % visits} for i in range(visits * config.max_steps)]
        super().__init__(
            model=coder.model,
            args=config,
            reward_funcs=[self._reward],
            train_dataset=Dataset.from_list(rows),
            processing_class=coder.tokenizer,
            **options,
        )

    _buffered_inputs: list[dict[str, Any]] | None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Put the step's visits into the rows, then go on as TRL does."""
        visits = self._plan(self.state.global_step)
        chosen = [visits[row["place"] % len(visits)] for row in inputs]
        self._current = chosen
        rows = [
            {"prompt": v.note.note_id, "gold": list(v.note.codes or ()), "place": row["place"]}
            for v, row in zip(chosen, inputs, strict=True)
        ]
        scored: dict[str, Any] = super()._generate_and_score_completions(rows)
        return scored

    def _generate(self, prompts: list[Any]) -> Any:
        """Answer the visits; each group's prompt is rendered and forwarded once."""
        size = self.num_generations
        heads = self._current[::size]
        coder = self._coder
        ids = [
            coder.prompt(visit.note.text, render_hint(visit.hint, self._title)) for visit in heads
        ]
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        seed = (self.args.seed << 20) + self.state.global_step * 64 + self.accelerator.process_index
        with torch.no_grad():
            groups = generate(
                model,
                ids,
                coder.settings.answer_budget,
                end_ids(model, coder.tokenizer),
                coder.tokenizer.pad_token_id,
                answers=size,
                temperature=self.temperature,
                generator=torch.Generator(model.device).manual_seed(seed),
            )
        model.train()
        answers = [answer for group in groups for answer in group]
        prompt_ids = [prompt for prompt in ids for _ in range(size)]
        completions = [
            coder.tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in answers
        ]
        seen = sum(map(len, prompt_ids)) + sum(len(a.ids) for a in answers)
        self.state.num_input_tokens_seen += seen
        metrics = self._metrics["train"]
        metrics["prompt_tokens"].append(float(sum(map(len, ids))))
        metrics["answer_tokens"].append(float(sum(len(a.ids) for a in answers)))
        metrics["truncated"].append(sum(not a.ended for a in answers) / len(answers))
        metrics["hinted"].append(sum(bool(v.hint) for v in heads) / len(heads))
        return prompt_ids, [a.ids for a in answers], None, completions, None, {}, None, []

    def _reward(self, completions: list[str], gold: list[list[str]], **columns: Any) -> list[float]:
        """Sample-level F1 of each answer against the full gold."""
        settings = self._coder.settings
        rewards = []
        for text, codes in zip(completions, gold, strict=True):
            answer = parse_answer(text, settings.code_systems, settings.scan)
            repeated = sum(item.reason == "duplicate" for item in answer.dropped)
            rewards.append(sample_f1(set(answer.codes), set(codes), repeated))
        return rewards

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As TRL does, but rows are not shuffled over the micro-batches: groups stay whole."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            scored = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(scored, steps)
        return self._buffered_inputs[self._step % steps]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **rest: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Log-probabilities with each group's prompt forwarded once where that is possible."""
        group = group_size(input_ids[:, :-logits_to_keep])
        wrapped = self.accelerator.unwrap_model(model) is not model
        reasons = {
            "the rows do not come in groups of one size": group == 1,
            "the model is wrapped for several processes": wrapped,
            "gradient checkpointing drops the cache": self.args.gradient_checkpointing,
            "the temperature is not 1": self.temperature != 1.0,
        }
        if found := [reason for reason, holds in reasons.items() if holds]:
            warnings.warn(f"prompts are forwarded once an answer: {found[0]}", stacklevel=2)
            plain: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
            plain = super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                **rest,
            )
            return plain
        with self.accelerator.autocast():
            chosen, entropy = log_probabilities(
                model, input_ids, attention_mask, logits_to_keep, group, compute_entropy
            )
        return chosen, entropy, None


def grpo_config(
    common: dict[str, Any], visits: int, group: int, micro: int, rate: float, kl: float
) -> GRPOConfig:
    """TRL's arguments for `visits` groups of `group` answers a step, over all processes.

    At most `micro` groups go into a backward pass of a process.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if visits % processes:
        raise IcdtuneError(
            f"{visits} visits cannot be shared by {processes} processes. Give a multiple of them"
        )
    micro = part(visits // processes, micro)
    parts = visits // processes // micro
    return GRPOConfig(
        **common,
        per_device_train_batch_size=group * micro,
        gradient_accumulation_steps=parts,
        steps_per_generation=parts,
        num_generations=group,
        learning_rate=rate,
        beta=kl,
        temperature=1.0,
        max_completion_length=None,
        loss_type="dapo",
        scale_rewards="group",
        shuffle_dataset=False,
        remove_unused_columns=False,
        mask_truncated_completions=False,
    )


def stop_when(finished: Callable[[int], bool]) -> TrainerCallback:
    """A callback that ends training (and saves) once `finished` says so of the number of updates."""

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if finished(state.global_step):
                control.should_training_stop = control.should_save = True

    return Stop()
