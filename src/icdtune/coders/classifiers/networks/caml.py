"""CAML: one convolution, then label-wise attention over it (Mullenbach et al. 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from icdtune.coders.classifiers.attention import LabelAttention
from icdtune.coders.classifiers.networks.base import WordConfig, WordNetwork, convolved_mask


class CAMLConfig(WordConfig):
    """Configuration: `filters` of width `kernel`."""

    model_type = "icdtune_caml"

    def __init__(self, filters: int = 50, kernel: int = 10, **rest: Any) -> None:
        super().__init__(**rest)
        self.filters, self.kernel = filters, kernel


class CAML(WordNetwork):
    """Label attention ("tanh") over the outputs of a convolution."""

    config_class = CAMLConfig

    def __init__(self, config: CAMLConfig) -> None:
        super().__init__(config)
        self.conv = nn.Conv1d(
            config.embedding, config.filters, config.kernel, padding=config.kernel // 2
        )
        nn.init.xavier_uniform_(self.conv.weight)
        self.attention = LabelAttention(
            "tanh",
            config.filters,
            config.labels,
            norm=config.attention_norm,  # type: ignore[arg-type]
            label_block_size=config.label_block_size,
        )
        self.post_init()

    def states(self, words: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the attention reads, and its mask."""
        found = self.conv(words.transpose(1, 2)).transpose(1, 2)
        return found, convolved_mask(mask, self.config.kernel)

    def logits(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        out: torch.Tensor = self.attention(*self.states(words, mask))
        return out
