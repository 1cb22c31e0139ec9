"""MultiResCNN: residual convolutions of several widths, then label-wise attention (Li and Yu 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from icdtune.coders.classifiers.attention import LabelAttention
from icdtune.coders.classifiers.networks.base import WordConfig, WordNetwork


class MultiResCNNConfig(WordConfig):
    """Configuration: `filters` of each of the odd widths `kernels`."""

    model_type = "icdtune_multirescnn"

    def __init__(
        self, filters: int = 50, kernels: tuple[int, ...] = (3, 5, 9, 15, 19, 25), **rest: Any
    ) -> None:
        super().__init__(**rest)
        self.filters, self.kernels = filters, list(kernels)


class Residual(nn.Module):
    """tanh(norm(conv(tanh(norm(conv(x))))) + norm(conv_1(x))), padding kept at zero."""

    def __init__(self, width: int, filters: int, kernel: int, dropout: float) -> None:
        super().__init__()
        pad = kernel // 2
        self.first = nn.Conv1d(width, filters, kernel, padding=pad, bias=False)
        self.first_norm = nn.BatchNorm1d(filters)
        self.second = nn.Conv1d(filters, filters, kernel, padding=pad, bias=False)
        self.second_norm = nn.BatchNorm1d(filters)
        self.shortcut = nn.Conv1d(width, filters, 1, bias=False)
        self.shortcut_norm = nn.BatchNorm1d(filters)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """States (notes, filters, tokens); `inside` (notes, 1, tokens) is 0 on padding."""
        found = torch.tanh(self.first_norm(self.first(x))) * inside
        found = self.second_norm(self.second(found)) + self.shortcut_norm(self.shortcut(x))
        out: torch.Tensor = self.drop(torch.tanh(found))
        return out


class MultiResCNN(WordNetwork):
    """For each width: tanh(conv(x)), a residual block; side by side into label attention ("tanh")."""

    config_class = MultiResCNNConfig

    def __init__(self, config: MultiResCNNConfig) -> None:
        super().__init__(config)
        width = config.embedding
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=kernel // 2, bias=False)
            for kernel in config.kernels
        )
        self.blocks = nn.ModuleList(
            Residual(width, config.filters, kernel, config.dropout) for kernel in config.kernels
        )
        for conv in self.convs:
            nn.init.xavier_uniform_(conv.weight)
        self.attention = LabelAttention(
            "tanh",
            config.filters * len(config.kernels),
            config.labels,
            norm=config.attention_norm,  # type: ignore[arg-type]
            label_block_size=config.label_block_size,
        )
        self.post_init()

    def states(self, words: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the attention reads, and its mask."""
        inside = mask[:, None].to(words.dtype)
        x = words.transpose(1, 2) * inside
        found = [
            block(torch.tanh(conv(x)) * inside, inside)
            for conv, block in zip(self.convs, self.blocks, strict=True)
        ]
        return torch.cat(found, 1).transpose(1, 2), mask

    def logits(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        out: torch.Tensor = self.attention(*self.states(words, mask))
        return out
