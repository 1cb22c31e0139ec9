"""Bi-GRU: the last states of both directions (Mullenbach et al. 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from icdtune.coders.classifiers.networks.base import WordConfig, WordNetwork


class BiGRUConfig(WordConfig):
    """Configuration: `hidden` units a direction, `layers` of them."""

    model_type = "icdtune_bigru"

    def __init__(self, hidden: int = 512, layers: int = 1, **rest: Any) -> None:
        super().__init__(**rest)
        self.hidden, self.layers = hidden, layers


class BiGRU(WordNetwork):
    """logit = W [last forward state; last backward state] + b."""

    config_class = BiGRUConfig

    def __init__(self, config: BiGRUConfig) -> None:
        super().__init__(config)
        self.rnn = nn.GRU(
            config.embedding, config.hidden, config.layers, batch_first=True, bidirectional=True
        )
        self.out = nn.Linear(2 * config.hidden, config.labels)
        self.post_init()

    def logits(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        lengths = mask.sum(1).cpu()
        packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        _, last = self.rnn(packed)
        out: torch.Tensor = self.out(torch.cat([last[-2], last[-1]], -1))
        return out
