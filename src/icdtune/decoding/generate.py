"""Batched generation with transformers: prompts are forwarded once, however many answers each gets.

Greedy or sampled; prompts whose answers have ended leave the batch. Works on token ids and knows
nothing of codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from icdtune.decoding.grouped import can_group, grouped, grouped_attention, roomy, select
from icdtune.decoding.hardware import half_precision


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer: its token ids (the end token included where it came) and their probabilities."""

    ids: list[int]
    probabilities: list[float]
    ended: bool


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_ids: Sequence[int],
    pad_id: int,
    answers: int = 1,
    temperature: float = 0.0,
    draws: torch.Tensor | None = None,
    top_p: float = 1.0,
) -> list[list[Generated]]:
    """Answer each prompt `answers` times.

    Args:
        model: a decoder that takes a cache.
        prompts: token ids of each prompt.
        max_new_tokens: an answer's budget.
        end_ids: tokens that end an answer.
        pad_id: token for the left of shorter prompts.
        answers: how many answers a prompt; they share the forward pass of their prompt.
        temperature: 0 is greedy; else tokens are drawn with `draws`.
        draws: (prompts x answers, max_new_tokens) numbers in [0, 1), one a token: an answer depends on
            its own row alone, not on what else is in the batch.
        top_p: tokens are drawn from the most likely ones that together have this probability.

    Returns:
        For each prompt its answers.

    Raises:
        ValueError: a temperature above 0 without `draws`.
    """
    if temperature > 0 and draws is None:
        raise ValueError("answers are sampled with draws: give (prompts x answers, max_new_tokens)")
    device = model.device
    cache = DynamicCache(config=model.config)
    together = can_group(model, cache)
    common = _common(prompts) if together else 0
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        start = width - len(prompt)  # padding stands between what all share and the rest
        ids[row, :common] = torch.tensor(prompt[:common])
        ids[row, start + common :] = torch.tensor(prompt[common:])
        mask[row, :common] = mask[row, start + common :] = 1
    ids, mask = ids.to(device), mask.to(device)
    with _precision(device), ExitStack() as stack:
        if common:  # the instruction, worked examples
            prefill(model, ids[:1, :common], mask[:1, :common], cache)
            cache.batch_repeat_interleave(len(prompts))
        first = prefill(model, ids[:, common:], mask, cache)
        place = mask.sum(1).repeat_interleave(answers, 0)
        if together:
            cache = grouped(cache, mask)
            stack.enter_context(grouped_attention(model, cache))
        else:
            if answers > 1:
                cache.batch_repeat_interleave(answers)
            cache = roomy(cache)
            mask = mask.repeat_interleave(answers, 0)
        logits = first[:, -1].float().repeat_interleave(answers, 0)
        total = len(prompts) * answers
        tokens: list[list[int]] = [[] for _ in range(total)]
        chances: list[list[float]] = [[] for _ in range(total)]
        rows = torch.arange(total, device=device)
        going = torch.ones(total, dtype=torch.bool, device=device)
        numbers = None if draws is None else draws.to(device)
        stops = torch.tensor(list(end_ids), device=device)
        for step in range(max_new_tokens):
            own = None if numbers is None else numbers[rows, step]
            chosen, chance = _choose(logits, temperature, own, top_p)
            for row, token, value in zip(
                rows.tolist(), chosen.tolist(), chance.tolist(), strict=True
            ):
                tokens[row].append(token)
                chances[row].append(value)
            going &= ~torch.isin(chosen, stops)
            if step + 1 == max_new_tokens or not bool(going.any()):
                break
            # Groups all of whose answers have ended leave; ended rows of the others go on unheard.
            open_groups = going.view(-1, answers).any(1)
            if int(open_groups.sum()) <= 0.8 * len(open_groups):
                keep = open_groups.repeat_interleave(answers).nonzero().flatten()
                if together:
                    select(cache, open_groups.nonzero().flatten(), keep)
                else:
                    cache.batch_select_indices(keep)
                    mask = mask[keep]
                rows, place, chosen, going = rows[keep], place[keep], chosen[keep], going[keep]
            if not together:
                mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            out = model(
                input_ids=chosen[:, None],
                attention_mask=None if together else mask,
                position_ids=place[:, None],
                cache=cache,
                use_cache=True,
            )
            place = place + 1
            logits = out.logits[:, -1].float()
    flat = [
        _until_end(ids, chance, set(end_ids)) for ids, chance in zip(tokens, chances, strict=True)
    ]
    return [flat[i : i + answers] for i in range(0, total, answers)]


def prefill(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache
) -> torch.Tensor:
    """Forward prompts, or what of them the cache does not hold yet; gradient is kept where it is on.

    Args:
        ids: (rows, tokens) that are new.
        mask: (rows, tokens in the cache + new), 0 where there is padding.
        cache: takes their keys and values.

    Returns:
        Logits (rows, 1, vocabulary) after the last token.
    """
    logits: torch.Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions(mask)[:, -ids.shape[1] :],
        cache=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    return logits


def generate_all(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    token_budget: int,
    each: Callable[[int], Any] = lambda done: None,
    **options: Any,
) -> list[Generated]:
    """One answer a prompt for any number of prompts, batched by length.

    Args:
        token_budget: prompt and answer tokens that a batch may hold at once: bounds the memory.
        each: called with the number of prompts done after each batch.
        options: of `generate`.
    """
    found: list[Generated | None] = [None] * len(prompts)
    done = 0
    lengths = [len(prompt) + options["max_new_tokens"] for prompt in prompts]
    for batch in batches(lengths, token_budget):
        answers = generate(model, [prompts[i] for i in batch], **options)
        for i, answer in zip(batch, answers, strict=True):
            found[i] = answer[0]
        done += len(batch)
        each(done)
    return [answer for answer in found if answer is not None]


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions in batches of similar length; a batch's padded size stays under `budget`.

    One that is longer than the budget is a batch of its own.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position of each token, counted from the first that is not padding."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, each keeping at least one of its own."""
    if len(prompts) == 1:
        return 0
    most = min(map(len, prompts)) - 1
    columns = enumerate(zip(*prompts, strict=False))
    return next(i for i, column in columns if i == most or len(set(column)) > 1)


def _choose(
    logits: torch.Tensor, temperature: float, draws: torch.Tensor | None, top_p: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Next token of each row and its probability (that of all tokens, not of the drawn ones)."""
    chances = torch.softmax(logits if temperature == 0 else logits / temperature, -1)
    if temperature == 0 or draws is None:
        chance, chosen = chances.max(-1)
        return chosen, chance
    # Inverse of the distribution function: one random number a row, not one an entry.
    steps = (chances if top_p == 1 else _nucleus(chances, top_p)).cumsum(-1)
    chosen = torch.searchsorted(steps, draws[:, None] * steps[:, -1:], right=True)[:, 0]
    chosen = chosen.clamp_(max=logits.shape[-1] - 1)
    return chosen, chances.gather(-1, chosen[:, None])[:, 0]


def _nucleus(chances: torch.Tensor, top_p: float) -> torch.Tensor:
    """Probabilities (rows, vocabulary) with 0 outside each row's fewest tokens that reach `top_p`."""
    falling, order = chances.sort(-1, descending=True)
    inside = falling.cumsum(-1) - falling < top_p
    return torch.zeros_like(chances).scatter(-1, order, falling * inside)


def _until_end(ids: list[int], chances: list[float], ends: set[int]) -> Generated:
    size = next((i + 1 for i, token in enumerate(ids) if token in ends), 0)
    return Generated(ids[: size or None], chances[: size or None], size > 0)


def _precision(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=half_precision(device))
