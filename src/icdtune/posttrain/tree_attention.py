"""Attention over groups packed into one row: each prompt once, then its answers side by side.

A prompt attends to itself; an answer to its prompt and to what it wrote before, never to its siblings.
Queries of all answers of a group meet the one copy of their prompt's keys (repeated only for query heads
that share a key's), and the two parts of an answer's attention (prompt, own) are merged by their
log-sum-exp. Exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "icdtune_tree"
KNOWN_LAYERS = {"full_attention", "sliding_attention"}
DROPOUTS = ("attention_dropout", "attn_pdrop")
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Group:
    """Where a group stands in its row: `prompt` tokens, then `answers` answers of `width` each."""

    start: int
    prompt: int
    answers: int
    width: int

    @property
    def middle(self) -> int:
        """Where the answers begin."""
        return self.start + self.prompt

    @property
    def stop(self) -> int:
        """Where the group ends."""
        return self.middle + self.answers * self.width


def why_not(model: PreTrainedModel) -> str | None:
    """Why a model cannot attend over a tree; None where it can."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or KNOWN_LAYERS)
    sinks = any(name.endswith("sinks") for name, _ in model.named_parameters())
    reasons = {
        "its attention cannot be exchanged": not getattr(model, "_supports_attention_backend", 0),
        f"it has layers of the kind {', '.join(sorted(layers - KNOWN_LAYERS))}": layers
        - KNOWN_LAYERS,
        "it caps its attention scores": getattr(config, "attn_logit_softcapping", None),
        "its attention has sinks": sinks,
        "its attention has dropout": any(getattr(config, name, 0) for name in DROPOUTS),
        "it is an encoder and decoder": config.is_encoder_decoder,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def attend_over_trees(model: PreTrainedModel) -> None:
    """Let a model take `tree=groups`; without it, it goes on as with "sdpa"."""
    if model.config._attn_implementation != NAME:
        model.set_attn_implementation(NAME)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    tree: Sequence[Group] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """(1, heads, tokens, width) of a row of groups -> (1, tokens, heads, width)."""
    if tree is None:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return found
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # as autocast does for torch's own
    parts = []
    for group in tree:
        places = slice(group.start, group.middle), slice(group.middle, group.stop)
        before, after = (tuple(x[:, :, place] for x in (query, key, value)) for place in places)
        parts.append(_prompt(before, scale, sliding_window))
        if group.width:
            parts.append(_answers(before, after, group, scale, sliding_window))
    return torch.cat(parts, 2).transpose(1, 2), None


def _prompt(prompt: Tensors, scale: float, window: int | None) -> torch.Tensor:
    """A prompt's attention to itself."""
    query, key, value = prompt
    length = query.shape[2]
    mask = None
    if window is not None and window < length:
        places = torch.arange(length, device=query.device)
        mask = _visible(places, places, window)
    return functional.scaled_dot_product_attention(
        query, *_repeated(query, key, value), attn_mask=mask, is_causal=mask is None, scale=scale
    )


def _answers(
    prompt: Tensors, answers: Tensors, group: Group, scale: float, window: int | None
) -> torch.Tensor:
    """The answers' attention to their prompt and to themselves."""
    query, key, value = answers
    _, prompt_key, prompt_value = prompt
    if window is not None and window >= group.prompt + group.width:
        window = None
    if window is None and query.shape[-1] == value.shape[-1] and _flash(query):
        found: torch.Tensor = _TwoParts.apply(
            query, prompt_key, prompt_value, key, value, group, scale
        )
        return found
    mask = _tree_mask(group, window, query.device)
    keys, values = torch.cat([prompt_key, key], 2), torch.cat([prompt_value, value], 2)
    return functional.scaled_dot_product_attention(
        query, *_repeated(query, keys, values), attn_mask=mask, scale=scale
    )


def _visible(queries: torch.Tensor, keys: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which keys a query sees by their positions: (queries, keys), true where it does."""
    distance = queries[:, None] - keys[None, :]
    return (distance >= 0) & (distance < window) if window else distance >= 0


def _tree_mask(group: Group, window: int | None, device: torch.device) -> torch.Tensor:
    """(answer tokens, prompt and answer tokens): true where a token is seen."""
    own = torch.arange(group.width, device=device).repeat(group.answers)
    answer = torch.arange(group.answers, device=device).repeat_interleave(group.width)
    places = torch.cat([torch.arange(group.prompt, device=device), group.prompt + own])
    mask = _visible(places[group.prompt :], places, window)
    mask[:, group.prompt :] &= answer[:, None] == answer[None, :]
    return mask


def _repeated(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values with a head for every head of the queries."""
    times = query.shape[1] // key.shape[1]
    return repeat_kv(key, times), repeat_kv(value, times)


def _flash(query: torch.Tensor) -> bool:
    """Whether the device has a flash kernel for these queries, which also gives the log-sum-exp."""
    if query.device.type == "cpu":
        return True
    half = query.dtype in (torch.float16, torch.bfloat16)
    return (
        query.device.type == "cuda" and half and query.shape[-1] <= 256 and query.shape[-1] % 8 == 0
    )


class _TwoParts(torch.autograd.Function):
    """Attention to a common prompt, merged with each answer's own.

    A softmax over two sets of keys is the two softmaxes weighted by exp(log-sum-exp of each - of both);
    the kernels' backward pass of a part is right for the whole when given the whole's output and
    log-sum-exp (as in ring attention, arXiv 2310.01889).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        prompt_key: torch.Tensor,
        prompt_value: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        group: Group,
        scale: float,
    ) -> torch.Tensor:
        """Queries (1, heads, answers x width, size); keys and values may have fewer heads."""
        prompt = _repeated(query, prompt_key, prompt_value)
        own_key, own_value = _repeated(query, key, value)
        apart = _apart(query, group), _apart(own_key, group), _apart(own_value, group)
        first, first_sum, first_state = _forward(query, *prompt, False, scale)
        second, second_sum, second_state = _forward(*apart, True, scale)
        second, second_sum = _together(second), _together(second_sum[..., None])[..., 0]
        total = torch.logaddexp(first_sum, second_sum)
        shares = [(part - total).exp()[..., None] for part in (first_sum, second_sum)]
        out = (first.float() * shares[0] + second.float() * shares[1]).to(query.dtype)
        ctx.save_for_backward(query, prompt_key, prompt_value, key, value, out, total)
        ctx.group, ctx.scale, ctx.states = group, scale, (first_state, second_state)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the queries, keys and values."""
        query, prompt_key, prompt_value, key, value, out, total = ctx.saved_tensors
        group, grad = ctx.group, grads[0].contiguous()
        prompt = _repeated(query, prompt_key, prompt_value)
        first = _backward(
            (grad, query, *prompt, out, total.contiguous()), ctx.states[0], False, ctx.scale
        )
        tensors = (grad, query, *_repeated(query, key, value), out)
        apart = [_apart(x, group) for x in tensors]
        sums = _apart(total[..., None], group)[..., 0].contiguous()
        second = _backward((*apart, sums), ctx.states[1], True, ctx.scale)
        heads = key.shape[1]
        own_key, own_value = (_summed(_together(x), heads) for x in second[1:])
        return (
            first[0] + _together(second[0]),
            _summed(first[1], heads),
            _summed(first[2], heads),
            own_key,
            own_value,
            None,
            None,
        )


def _apart(x: torch.Tensor, group: Group) -> torch.Tensor:
    """(1, heads, answers x width, size) -> (answers, heads, width, size)."""
    _, heads, _, size = x.shape
    return x.view(heads, group.answers, group.width, size).transpose(0, 1).contiguous()


def _together(x: torch.Tensor) -> torch.Tensor:
    """The inverse of `_apart`."""
    answers, heads, width, size = x.shape
    return x.transpose(0, 1).reshape(1, heads, answers * width, size)


def _summed(x: torch.Tensor, heads: int) -> torch.Tensor:
    """The gradient of `repeat_kv`: summed over the queries' heads that share a key's."""
    batch, _, length, size = x.shape
    return x.view(batch, heads, -1, length, size).sum(2)


def _forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor, tuple[Any, ...]]:
    """Output, log-sum-exp (rows, heads, queries), and what the backward pass needs besides."""
    if query.device.type == "cpu":
        out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scale
        )
        return out, sums, ()
    found = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, 0.0, causal, False, scale=scale
    )
    out, sums, *state = found
    return out, sums[..., : query.shape[2]], tuple(state[:6])


def _backward(
    tensors: tuple[torch.Tensor, ...], state: tuple[Any, ...], causal: bool, scale: float
) -> tuple[torch.Tensor, ...]:
    """Gradients of queries, keys and values of one part.

    Args:
        tensors: gradient of the whole's output, queries, keys, values, the whole's output and sums.
    """
    found: tuple[torch.Tensor, ...]
    if not state:
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *tensors, 0.0, causal, scale=scale
        )
        return found
    sequences, seed = state[:4], state[4:6]
    found = torch.ops.aten._scaled_dot_product_flash_attention_backward(
        *tensors, *sequences, 0.0, causal, *seed, scale=scale
    )
    return found


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
