"""Attention of a group's answers to their common prompt, whose keys and values are kept once.

Plain caches hold the prompt once for every answer, and read all of it for every token: on a CPU that
is most of the cost of sampling. Here the queries of a group are multiplied with the one copy. Exact.
Groups of one gain as well: torch's bfloat16 attention of a single query takes a CPU six times as long
as these products (64 rows, 360 tokens, AVX-512 BF16).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

NAME = "icdtune_grouped"
GROWTH = 16
"""Positions by which a layer's room grows at once."""


class RoomyLayer(DynamicLayer):
    """A cache layer with spare room behind its last position: plain ones copy everything each time."""

    keys: torch.Tensor
    values: torch.Tensor
    store: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append in place; copies once every `GROWTH` positions."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys = key_states[..., :0, :]
            self.values = value_states[..., :0, :]
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


class GroupedLayer(RoomyLayer):
    """The answers' keys and values, with the prompts' beside: (prompts, heads, tokens, width)."""

    prompt_keys: torch.Tensor
    prompt_values: torch.Tensor
    bias: torch.Tensor


def roomy(cache: DynamicCache) -> DynamicCache:
    """The cache with plain layers replaced by ones that grow in place."""
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[i] = _moved(RoomyLayer(), layer.keys, layer.values)
    return cache


def can_group(model: PreTrainedModel, cache: DynamicCache) -> bool:
    """Whether a model's layers all keep a plain cache and its attention can be exchanged."""
    supported = bool(getattr(model, "_supports_attention_backend", False))
    return supported and all(type(layer) is DynamicLayer for layer in cache.layers)


def grouped(cache: DynamicCache, mask: torch.Tensor) -> DynamicCache:
    """A cache for the answers to prompts that `cache` holds.

    Args:
        mask: (prompts, tokens), 0 where a prompt is padded.
    """
    answers = DynamicCache()
    answers.layers = []
    for layer in cache.layers:
        new = GroupedLayer()
        new.prompt_keys, new.prompt_values = layer.keys, layer.values
        new.bias = torch.zeros(mask.shape, dtype=layer.keys.dtype, device=mask.device)
        new.bias = new.bias.masked_fill(mask == 0, float("-inf"))[:, None, None, :]
        answers.layers.append(new)
    return answers


def select(cache: DynamicCache, prompts: torch.Tensor, rows: torch.Tensor) -> None:
    """Keep some prompts of a grouped cache, and the rows of their answers."""
    for layer in cache.layers:
        layer.prompt_keys, layer.prompt_values = (
            layer.prompt_keys[prompts],
            layer.prompt_values[prompts],
        )
        layer.bias = layer.bias[prompts]
    cache.batch_select_indices(rows)


@contextmanager
def grouped_attention(model: PreTrainedModel, cache: DynamicCache) -> Iterator[None]:
    """Let the model attend through a grouped cache meanwhile."""
    before = model.config._attn_implementation
    _ACTIVE.append(cache)
    try:
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(before)
        _ACTIVE.pop()


_ACTIVE: list[DynamicCache] = []


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """One token a row: (rows, heads, 1, width) queries over the prompt's and the row's own keys."""
    layer = _ACTIVE[-1].layers[module.layer_idx]
    rows, heads, _, width = query.shape
    prompts, shared, length, _ = layer.prompt_keys.shape
    group, repeat = rows // prompts, heads // shared
    scale = width**-0.5 if scaling is None else scaling
    own = query.view(rows, shared, repeat, width)
    common = own.view(prompts, group, shared, repeat, width).transpose(1, 2)
    common = common.reshape(prompts, shared, group * repeat, width)
    before = common @ layer.prompt_keys.transpose(-1, -2) * scale + layer.bias
    after = own @ key.transpose(-1, -2) * scale
    after = after.view(prompts, group, shared, repeat, -1).transpose(1, 2)
    after = after.reshape(prompts, shared, group * repeat, -1)
    weights = torch.softmax(torch.cat([before, after], -1).float(), -1).to(value.dtype)
    out = weights[..., :length] @ layer.prompt_values
    out = out.view(prompts, shared, group, repeat, width).transpose(1, 2)
    rest = weights[..., length:].view(prompts, shared, group, repeat, -1).transpose(1, 2)
    rest = rest.reshape(rows, shared, repeat, -1) @ value
    return (out.reshape(rows, shared, repeat, width) + rest).reshape(rows, 1, heads, width), None


AttentionInterface.register(NAME, _attend)


def _moved(layer: RoomyLayer, keys: torch.Tensor, values: torch.Tensor) -> RoomyLayer:
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer


def _grown(states: torch.Tensor, size: int) -> torch.Tensor:
    *shape, length, width = states.shape
    room = states.new_empty((*shape, size + GROWTH, width))
    room[..., :length, :] = states
    return room
