"""CNN: one convolution, the strongest response of each filter (Kim 2014; Mullenbach et al. 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from icdtune.coders.classifiers.networks.base import WordConfig, WordNetwork, convolved_mask


class CNNConfig(WordConfig):
    """Configuration: `filters` of width `kernel`."""

    model_type = "icdtune_cnn"

    def __init__(self, filters: int = 500, kernel: int = 4, **rest: Any) -> None:
        super().__init__(**rest)
        self.filters, self.kernel = filters, kernel


class CNN(WordNetwork):
    """logit = W max_t tanh(conv(x))_t + b."""

    config_class = CNNConfig

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config)
        self.conv = nn.Conv1d(
            config.embedding, config.filters, config.kernel, padding=config.kernel // 2
        )
        self.out = nn.Linear(config.filters, config.labels)
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.xavier_uniform_(self.out.weight)
        self.post_init()

    def logits(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        found = torch.tanh(self.conv(words.transpose(1, 2)))
        inside = convolved_mask(mask, self.config.kernel)[:, None]
        strongest = found.masked_fill(inside == 0, float("-inf")).amax(-1)
        out: torch.Tensor = self.out(strongest)
        return out
