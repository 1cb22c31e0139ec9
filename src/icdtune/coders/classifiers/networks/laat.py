"""LAAT: a bidirectional LSTM, then label-wise attention through a projection (Vu et al. 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from icdtune.coders.classifiers.attention import LabelAttention
from icdtune.coders.classifiers.networks.base import WordConfig, WordNetwork


class LAATConfig(WordConfig):
    """Configuration: `hidden` units a direction, `projection` of the attention."""

    model_type = "icdtune_laat"

    def __init__(self, hidden: int = 512, projection: int = 512, **rest: Any) -> None:
        super().__init__(**rest)
        self.hidden, self.projection = hidden, projection


class LAAT(WordNetwork):
    """Label attention ("projected") over the states of an LSTM."""

    config_class = LAATConfig

    def __init__(self, config: LAATConfig) -> None:
        super().__init__(config)
        self.rnn = nn.LSTM(config.embedding, config.hidden, batch_first=True, bidirectional=True)
        self.attention = LabelAttention(
            "projected",
            2 * config.hidden,
            config.labels,
            config.projection,
            norm=config.attention_norm,  # type: ignore[arg-type]
            label_block_size=config.label_block_size,
        )
        self.post_init()

    def states(self, words: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the attention reads, and its mask."""
        packed = pack_padded_sequence(
            words, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        found, _ = pad_packed_sequence(
            self.rnn(packed)[0], batch_first=True, total_length=words.shape[1]
        )
        return found, mask

    def logits(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        out: torch.Tensor = self.attention(*self.states(words, mask))
        return out
