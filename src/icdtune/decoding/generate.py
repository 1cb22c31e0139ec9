"""Batched generation with transformers: prompts are forwarded once, however many answers each gets.

Greedy or sampled; rows that have ended leave the batch. Works on token ids and knows nothing of codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from icdtune.decoding.hardware import half_precision

SPACE = 16
"""Positions by which a cache layer grows at once."""


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
    generator: torch.Generator | None = None,
) -> list[list[Generated]]:
    """Answer each prompt `answers` times.

    Args:
        model: a decoder that takes a cache.
        prompts: token ids of each prompt.
        max_new_tokens: an answer's budget.
        end_ids: tokens that end an answer.
        pad_id: token for the left of shorter prompts.
        answers: how many answers a prompt; they share the forward pass of their prompt.
        temperature: 0 is greedy; else tokens are drawn with `generator`.

    Returns:
        For each prompt its answers.
    """
    device = model.device
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    cache = DynamicCache(config=model.config)
    with _precision(device):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions(mask),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    if answers > 1:
        cache.batch_repeat_interleave(answers)
        mask = mask.repeat_interleave(answers, 0)
    logits = out.logits[:, -1].float().repeat_interleave(answers, 0)
    _roomy(cache)
    place = mask.sum(1)
    total = len(prompts) * answers
    tokens: list[list[int]] = [[] for _ in range(total)]
    chances: list[list[float]] = [[] for _ in range(total)]
    ended = [False] * total
    rows = torch.arange(total, device=device)
    stops = torch.tensor(list(end_ids), device=device)
    for step in range(max_new_tokens):
        chosen, chance = _choose(logits, temperature, generator)
        for row, token, value in zip(rows.tolist(), chosen.tolist(), chance.tolist(), strict=True):
            tokens[row].append(token)
            chances[row].append(value)
        going = ~torch.isin(chosen, stops)
        for row in rows[~going].tolist():
            ended[row] = True
        if step + 1 == max_new_tokens or not bool(going.any()):
            break
        if not bool(going.all()) and int(going.sum()) <= 0.8 * len(going):
            keep = going.nonzero().flatten()
            cache.batch_select_indices(keep)
            rows, mask, place = rows[keep], mask[keep], place[keep]
            chosen, going = chosen[keep], going[keep]
        # Rows that have ended but were not yet taken out go on unheard.
        with _precision(device):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            out = model(
                input_ids=chosen[:, None],
                attention_mask=mask,
                position_ids=place[:, None],
                past_key_values=cache,
                use_cache=True,
            )
        place = place + 1
        logits = out.logits[:, -1].float()
        if not bool(going.all()):
            logits[~going] = float("-inf")
            logits[~going, stops[0]] = 0.0
    flat = [
        _until_end(t, c, e, set(end_ids)) for t, c, e in zip(tokens, chances, ended, strict=True)
    ]
    return [flat[i : i + answers] for i in range(0, total, answers)]


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


def _choose(
    logits: torch.Tensor, temperature: float, generator: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Next token of each row and its probability."""
    chances = torch.softmax(logits if temperature == 0 else logits / temperature, -1)
    if temperature == 0:
        chance, chosen = chances.max(-1)
        return chosen, chance
    # Inverse of the distribution function: one random number a row, not one an entry.
    steps = chances.cumsum(-1)
    place = torch.rand((len(logits), 1), generator=generator, device=logits.device)
    chosen = torch.searchsorted(steps, place * steps[:, -1:], right=True)[:, 0]
    chosen = chosen.clamp_(max=logits.shape[-1] - 1)
    return chosen, chances.gather(-1, chosen[:, None])[:, 0]


def _until_end(ids: list[int], chances: list[float], ended: bool, ends: set[int]) -> Generated:
    size = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
    return Generated(ids[:size], chances[:size], ended)


def _precision(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=half_precision(device))


def _roomy(cache: DynamicCache) -> None:
    """Let the layers of a cache grow in place: plain ones copy everything for every token."""
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layer.__class__ = RoomyLayer
            layer.store = None


class RoomyLayer(DynamicLayer):
    """A dynamic cache layer with spare room behind its last position."""

    keys: torch.Tensor
    values: torch.Tensor
    store: tuple[torch.Tensor, torch.Tensor] | None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append in place; copies once every `SPACE` positions."""
        old, new = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self.store is None or self.store[0].shape[-2] < new:
            self.store = (_grown(self.keys, new), _grown(self.values, new))
        keys, values = self.store
        keys[..., old:new, :] = key_states
        values[..., old:new, :] = value_states
        self.keys, self.values = keys[..., :new, :], values[..., :new, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows."""
        self.store = None
        super().batch_select_indices(indices)


def _grown(states: torch.Tensor, size: int) -> torch.Tensor:
    *shape, length, width = states.shape
    room = states.new_empty((*shape, size + SPACE, width))
    room[..., :length, :] = states
    return room
