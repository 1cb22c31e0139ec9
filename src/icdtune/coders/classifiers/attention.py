"""Label-wise attention: every label weighs a note's tokens for itself and reads its own summary.

One module serves CAML, MultiResCNN, LAAT, PLM-ICD and PLM-CA, which differ in how keys and values come
from the tokens and in how a summary is read. Memory does not grow with labels x tokens: where keys and
values are equally wide, torch's fused attention is used; else labels can be taken in blocks, each
computed again for its gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Kind = Literal["tanh", "projected", "cross"]
Norm = Literal["none", "layer"]


class LabelAttention(nn.Module):
    """Logits of all labels from token states.

    With states h_t (after `norm`), label l's weights are a_lt = softmax_t(q_l . k_t) over the tokens
    that are no padding, its summary m_l = sum_t a_lt v_t.

    - "tanh" (CAML, Mullenbach et al. 2018, section 2; MultiResCNN, Li and Yu 2020): h_t = tanh(x_t),
      k_t = v_t = h_t; logit w_l . m_l + b_l.
    - "projected" (LAAT, Vu et al. 2020, section 3.3; PLM-ICD, Huang et al. 2022): k_t = tanh(W h_t),
      v_t = h_t; logit w_l . m_l + b_l.
    - "cross" (PLM-CA, Edin et al. 2024): k_t = K h_t, v_t = V h_t + c; logit w . LayerNorm(m_l) + b, the
      same w for all labels.

    Args:
        kind: one of these.
        width: of the states.
        labels: their number.
        projection: width of the keys of "projected".
        norm: "layer" normalises the states first, which bounds them whatever the encoder gives; "none"
            is as published.
        label_block_size: labels at a time where keys and values differ in width; None is all at once.
    """

    def __init__(
        self,
        kind: Kind,
        width: int,
        labels: int,
        projection: int | None = None,
        norm: Norm = "layer",
        label_block_size: int | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.block = kind, label_block_size
        self.norm = nn.LayerNorm(width) if norm == "layer" else nn.Identity()
        size = (projection or width) if kind == "projected" else width
        self.queries = nn.Parameter(torch.empty(labels, size))
        if kind == "projected":
            self.key = nn.Linear(width, size, bias=False)
        elif kind == "cross":
            self.key = nn.Linear(width, size, bias=False)
            self.value = nn.Linear(width, width)
            self.summary_norm = nn.LayerNorm(width)
        self.read = nn.Parameter(torch.empty(1 if kind == "cross" else labels, width))
        self.bias = nn.Parameter(torch.zeros(1 if kind == "cross" else labels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier for "tanh", normal with 0.03 else: as published."""
        for parameter in (self.queries, self.read):
            if self.kind == "tanh":
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.normal_(parameter, 0.0, 0.03)
        for name in ("key", "value"):
            if hasattr(self, name):
                nn.init.normal_(getattr(self, name).weight, 0.0, 0.03)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits (notes, labels) of states (notes, tokens, width); mask is 0 on padding."""
        keys, values = self.keys_and_values(states)
        if keys.shape[-1] == values.shape[-1]:  # the same operation as an attention head's
            summary = nn.functional.scaled_dot_product_attention(
                self.queries.to(keys.dtype).expand(len(keys), 1, -1, -1),
                keys[:, None],
                values[:, None],
                attn_mask=(mask > 0)[:, None, None, :],
                scale=1.0,
            )
            return self._read(summary[:, 0], self.read, self.bias)
        return self._in_blocks(keys, values, mask)

    def _in_blocks(
        self, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        bias = torch.zeros(mask.shape, device=mask.device).masked_fill(mask == 0, float("-inf"))
        size = self.block or len(self.queries)
        bounded = self.block is not None and torch.is_grad_enabled()
        parts = []
        for start in range(0, len(self.queries), size):
            own = slice(start, start + size)
            inputs = (keys, values, bias, self.queries[own], self.read[own], self.bias[own])
            if bounded:
                parts.append(checkpoint(self._logits, *inputs, use_reentrant=False))
            else:
                parts.append(self._logits(*inputs))
        return torch.cat(parts, 1)

    def keys_and_values(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the tokens, in the type of the states."""
        states = self.norm(states)
        if self.kind == "tanh":
            states = torch.tanh(states)
            return states, states
        if self.kind == "projected":
            return torch.tanh(self.key(states)), states
        return self.key(states), self.value(states)

    def weights(
        self, states: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Attention (notes, labels asked for, tokens) of some labels, by their positions."""
        keys, _ = self.keys_and_values(states)
        scores = self._scores(self.queries[labels], keys)
        return torch.softmax(scores.masked_fill(mask[:, None] == 0, float("-inf")), -1)

    @staticmethod
    def _scores(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Scores in fp32: a sum over a wide state can pass fp16's largest number."""
        with torch.autocast(keys.device.type, enabled=False):
            return torch.einsum("lk,ntk->nlt", queries.float(), keys.float())

    def _logits(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        bias: torch.Tensor,
        queries: torch.Tensor,
        read: torch.Tensor,
        offset: torch.Tensor,
    ) -> torch.Tensor:
        attention = torch.softmax(self._scores(queries, keys) + bias[:, None], -1)
        return self._read(attention.to(values.dtype) @ values, read, offset)

    def _read(
        self, summary: torch.Tensor, read: torch.Tensor, offset: torch.Tensor
    ) -> torch.Tensor:
        """Logits of summaries (notes, labels, width), in fp32."""
        if self.kind == "cross":
            summary = self.summary_norm(summary)
        with torch.autocast(summary.device.type, enabled=False):
            return (summary.float() * read.float()).sum(-1) + offset.float()
