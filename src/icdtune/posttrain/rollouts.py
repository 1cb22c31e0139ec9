"""GRPO on code sets: TRL's trainer with visits from a curriculum, code credit, and shared prompts.

Every private hook of TRL that is overridden stands in this file; `tests/posttrain/test_hooks.py`
fails where an upgrade changes one.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from icdtune.coders import processes
from icdtune.coders.generative import GenerativeCoder, end_ids, spell
from icdtune.coders.training import part
from icdtune.decoding.generate import Generated, batches, generate
from icdtune.decoding.hardware import batch_tokens
from icdtune.posttrain.credit import Objective, Rollout, rms, sum_of_squares
from icdtune.posttrain.curriculum import Visit
from icdtune.posttrain.shared_prefix import in_groups, log_probabilities
from icdtune.posttrain.tree_attention import attend_over_trees, why_not
from icdtune.prompts.answer import Answer, parse_answer
from icdtune.prompts.hints import render_hint

if TYPE_CHECKING:
    from icdtune.posttrain.grpo import Update

Plan = Callable[[int], Sequence[Visit]]
"""The visits of a batch of rollouts, by its number from 0."""
MOST_CUT = 0.2
"""Share of answers that may be cut at their budget before that is said."""
ALIKE = 5
"""Updates in a row without any advantage before that is said."""
CLIP = 0.2
"""How far from 1 a ratio may move (arXiv 2606.13940)."""
VLLM = "http://localhost:8000"
"""Where a vLLM server listens unless it is told otherwise."""


class CodeSetTrainer(GRPOTrainer):
    """GRPO whose rollouts are answers to the visits of a plan, rewarded as code sets.

    Args:
        coder: model, tokenizer, budgets and code systems; trained in place.
        plan: visits of each batch of rollouts.
        title: a code's title, for hints.
        config: TRL's arguments; see `grpo_config`.
        visits: visits a batch of rollouts, over all processes.
        objective: reward and credit.
        refill: how often a visit whose answers nothing tells apart is replaced.
        others: by the number of a batch of rollouts, the visits that replacements are drawn from.
    """

    def __init__(
        self,
        coder: GenerativeCoder,
        plan: Plan,
        title: Callable[[str], str],
        config: GRPOConfig,
        visits: int,
        objective: Objective,
        refill: int = 0,
        others: Plan | None = None,
        **options: Any,
    ) -> None:
        self._objective = objective
        self._refill, self._others = refill, others or plan
        self._alike, self._said = 0, set[str]()
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
        size = self.num_generations
        visits = self._plan(self._batch)
        self._places = [row["place"] for row in inputs[::size]]
        self._current = [visits[place % len(visits)] for place in self._places]
        scored: dict[str, Any] = super()._generate_and_score_completions(inputs)
        advantages = scored["advantages"]
        if self._objective.credit_weight:
            advantages = self._with_credit(advantages, scored["completion_ids"].shape[1])
            scored["advantages"] = advantages
        idle = (advantages.reshape(len(self._current), -1) == 0).all(1)
        self._log("frac_advantage_zero", int(idle.sum()), len(idle))
        self._watch()
        return scored

    @property
    def _batch(self) -> int:
        """The number of this batch of rollouts."""
        return int(self.state.global_step // self.num_iterations)

    def _watch(self) -> None:
        """Say once where nothing can be learnt from the answers, or many of them are cut."""
        metrics = self._metrics["train"]
        cut = metrics["truncated"][-1]
        self._alike = self._alike + 1 if metrics["frac_advantage_zero"][-1] == 1 else 0
        if cut > MOST_CUT and "cut" not in self._said:
            self._said.add("cut")
            budget = self._coder.settings.answer_budget
            warnings.warn(
                f"{cut:.0%} of the answers were cut at {budget} tokens and earn little or nothing. "
                f"Fine-tune with a larger answer_budget, or longer, so that answers end",
                stacklevel=2,
            )
        if self._alike == ALIKE and "alike" not in self._said:
            self._said.add("alike")
            warnings.warn(
                f"nothing told the answers of a note apart for {ALIKE} updates: nothing is "
                f"learnt. See whether the start coder writes codes, or raise group or temperature",
                stacklevel=2,
            )

    def _with_credit(self, advantages: torch.Tensor, width: int) -> torch.Tensor:
        """Advantages (rows) mixed with the credit of each token: (rows, width)."""
        weight, size = self._objective.credit_weight, self.num_generations
        rows: list[list[float]] = []
        decisions: list[float] = []
        for place, visit in enumerate(self._current):
            group = self._rollouts[place * size : (place + 1) * size]
            tokens, values = self._objective.credits(group, _gold(visit), self._opened)
            rows += tokens
            decisions += values
        totals = torch.tensor(
            sum_of_squares(decisions), dtype=torch.float32, device=advantages.device
        )
        size_of_one = rms(*self.accelerator.reduce(totals, "sum").tolist())
        self._metrics["train"]["credit_rms"].append(size_of_one)
        credit = torch.zeros(len(rows), width)
        for row, values in enumerate(rows):
            credit[row, : len(values)] = torch.tensor(values)
        credit = credit.to(advantages.device) / size_of_one
        return (1 - weight) * advantages[:, None] + weight * credit

    def _generate(self, prompts: list[Any]) -> Any:
        """Answer the visits; each group's prompt is rendered and forwarded once."""
        size, count = self.num_generations, len(self._current)
        asked = answered = 0
        groups: list[list[Generated]] = [[] for _ in range(count)]
        rollouts: list[list[Rollout]] = [[] for _ in range(count)]
        ids: list[list[int]] = [[] for _ in range(count)]
        places = list(range(count))
        for attempt in range(self._refill + 1):
            if attempt:
                places = [i for i in places if self._idle(rollouts[i], self._current[i])]
                for i in places:
                    self._current[i] = self._other(i, attempt)
            for i in places:
                visit = self._current[i]
                hint = render_hint(visit.hint, self._title, visit.families)
                ids[i] = self._coder.prompt(visit.note.text, hint)
            found = self._sample([ids[i] for i in places], places, attempt)
            for i, group in zip(places, found, strict=True):
                groups[i] = group
                rollouts[i] = [self._read(answer.ids, answer.ended) for answer in group]
                asked += len(ids[i])
                answered += sum(len(answer.ids) for answer in group)
        answers = [answer for group in groups for answer in group]
        self._rollouts = [rollout for group in rollouts for rollout in group]
        self.state.num_input_tokens_seen += asked * size + answered
        self._log("prompt_tokens", asked)
        self._log("answer_tokens", answered)
        self._log("truncated", sum(not a.ended for a in answers), len(answers))
        self._log("hinted", sum(v.hinted for v in self._current), count)
        texts = [rollout.text for rollout in self._rollouts]
        prompt_ids = [prompt for prompt in ids for _ in range(size)]
        # TRL weighs vLLM's answers by how likely they are here; ours come from the model itself.
        sampled = [a.probabilities for a in answers] if self.use_vllm else None
        return prompt_ids, [a.ids for a in answers], None, texts, sampled, {}, None, []

    def _idle(self, group: Sequence[Rollout], visit: Visit) -> bool:
        """Whether nothing tells the answers of a group apart."""
        gold = _gold(visit)
        if len({self._objective.score(rollout, gold) for rollout in group}) > 1:
            return False
        if not self._objective.credit_weight or self._objective.credit == "to-go":
            return True
        rows, _ = self._objective.credits(group, gold, self._opened)
        return not any(value for row in rows for value in row)

    def _other(self, i: int, attempt: int) -> Visit:
        """The visit that takes the place of one: of another note, if a few draws find one."""
        now, others = self._current[i], self._others(self._batch)
        rng = self._rng("refill", i, attempt)
        drawn = (rng.choice(others) for _ in range(10))
        return next((visit for visit in drawn if visit.note is not now.note), now)

    def _rng(self, what: str, i: int, attempt: int) -> random.Random:
        """Random numbers of the i-th visit here, whichever process holds its place."""
        key = f"{self.args.seed}:{self._batch}:{self._places[i]}"
        return random.Random(f"{what}:{key}:{attempt}" if attempt else key)

    def _sample(
        self, prompts: list[list[int]], places: Sequence[int], attempt: int
    ) -> list[list[Generated]]:
        """A group of answers to each prompt."""
        if not prompts:
            return []
        if self.use_vllm:
            return self._sample_with_vllm(prompts)
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        coder, size = self._coder, self.num_generations
        budget = coder.settings.answer_budget
        draws = [self._draws(self._rng("draws", i, attempt), budget) for i in places]
        most = coder.settings.batch_tokens or batch_tokens(model.device)
        lengths = [len(prompt) + size * budget for prompt in prompts]
        found: dict[int, list[Generated]] = {}
        for together in batches(lengths, most):
            groups = generate(
                model,
                [prompts[i] for i in together],
                budget,
                end_ids(model, coder.tokenizer),
                coder.tokenizer.pad_token_id,
                answers=size,
                temperature=self.temperature,
                top_p=self.top_p,
                draws=torch.cat([draws[i] for i in together]),
            )
            found |= dict(zip(together, groups, strict=True))
        model.train()
        return [found[i] for i in range(len(prompts))]

    def _sample_with_vllm(self, prompts: list[list[int]]) -> list[list[Generated]]:
        """Answers of TRL's vLLM engine, which gets the weights of this update first.

        `probabilities` are log-probabilities, as TRL wants them back.
        """
        size = self.num_generations
        repeated = [prompt for prompt in prompts for _ in range(size)]
        rows, chances = self._generate_single_turn(repeated, None, {}, size)
        ends = end_ids(self.accelerator.unwrap_model(self.model), self._coder.tokenizer)
        found = [
            Generated(ids, row, ids[-1] in ends) for ids, row in zip(rows, chances, strict=True)
        ]
        return [found[i : i + size] for i in range(0, len(found), size)]

    def _draws(self, rng: random.Random, budget: int) -> torch.Tensor:
        """(group, budget) numbers in [0, 1) of a visit."""
        numbers = torch.Generator().manual_seed(rng.getrandbits(63))
        return torch.rand((self.num_generations, budget), generator=numbers)

    def _log(self, name: str, value: float, count: float | None = None) -> None:
        """A sum over all processes, or where a count is given a mean."""
        parts = torch.tensor([value, count or 0.0], device=self.accelerator.device)
        total, number = self.accelerator.reduce(parts, "sum").tolist()
        self._metrics["train"][name].append(total if count is None else total / number)

    def _read(self, ids: list[int], ended: bool) -> Rollout:
        """An answer's text and codes; tokens keep their places, nothing is tokenised again."""
        text, ends = spell(ids, self._coder.tokenizer)
        settings = self._coder.settings
        return Rollout(text, ends, ended, parse_answer(text, settings.code_systems, settings.scan))

    def _reward(self, completions: list[str], **columns: Any) -> list[float]:
        """The reward of each answer against the full gold."""
        size = self.num_generations
        return [
            self._objective.score(rollout, _gold(self._current[row // size]))
            for row, rollout in enumerate(self._rollouts)
        ]

    def _opened(self, text: str) -> Answer:
        """The beginning of an answer, whose block may still be open."""
        return parse_answer(text, self._coder.settings.code_systems, "truncated")

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
        size = self.num_generations
        own = self.accelerator.unwrap_model(model)
        reason = why_not(own)
        if not in_groups(input_ids[:, :-logits_to_keep], size):
            reason = "the rows do not come in whole groups"
        if reason is not None:
            warnings.warn(f"prompts are forwarded once an answer: {reason}", stacklevel=2)
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
        attend_over_trees(own)
        rows = max(size, (batch_size or len(input_ids)) // size * size)
        with self.accelerator.autocast():
            found = [
                log_probabilities(
                    model, ids, mask, logits_to_keep, size, compute_entropy, self.temperature
                )
                for ids, mask in zip(input_ids.split(rows), attention_mask.split(rows), strict=True)
            ]
        entropies = [entropy for _, entropy in found if entropy is not None]
        chosen = torch.cat([values for values, _ in found])
        return chosen, torch.cat(entropies) if entropies else None, None


def grpo_config(
    common: dict[str, Any], update: Update, rate: float, budget: int | None = None
) -> GRPOConfig:
    """TRL's arguments for `visits` groups of `group` answers a step, over all processes.

    At most `micro_groups` groups go into a backward pass of a process. `budget` is an answer's.
    """
    group, own = update.group, processes.share(update.visits, "visits")
    micro = part(own, update.micro_groups)
    parts = own // micro
    settings = common | {
        "gradient_checkpointing": update.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }
    return GRPOConfig(
        **settings,
        per_device_train_batch_size=group * micro,
        gradient_accumulation_steps=parts,
        steps_per_generation=parts,
        num_iterations=update.iterations,
        num_generations=group,
        learning_rate=rate,
        beta=update.kl,
        epsilon=CLIP if update.clip is None else update.clip,
        epsilon_high=update.clip_high,
        importance_sampling_level=update.importance,
        temperature=update.temperature,
        top_p=update.top_p,
        max_completion_length=budget,
        use_vllm=update.rollouts != "transformers",
        vllm_mode="server" if update.rollouts == "vllm-server" else "colocate",
        vllm_server_base_url=(update.vllm_url or VLLM)
        if update.rollouts == "vllm-server"
        else None,
        # A mean over answers where each has one ratio (arXiv 2507.18071), else over all tokens.
        loss_type="grpo" if update.importance == "sequence" else "dapo",
        scale_rewards=update.scale,
        shuffle_dataset=False,
        remove_unused_columns=False,
        mask_truncated_completions=False,
    )


def _gold(visit: Visit) -> frozenset[str]:
    return frozenset(visit.note.codes or ())


def stop_when(finished: Callable[[int], bool]) -> TrainerCallback:
    """A callback that ends training (and saves) once `finished` says so of the number of updates."""

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if finished(state.global_step):
                control.should_training_stop = control.should_save = True

    return Stop()
