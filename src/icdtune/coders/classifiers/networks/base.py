"""What the word-level networks share: configuration, embeddings, the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class WordConfig(PretrainedConfig):
    """Configuration of a word-level network.

    Attributes:
        words: size of the vocabulary, padding (0) and unknown (1) included.
        embedding: width of the word vectors.
        labels: number of labels.
        dropout: of the embeddings.
        attention_norm: see `LabelAttention`; networks without label attention ignore it.
        label_block_size: see `LabelAttention`.
    """

    model_type = "icdtune_words"

    def __init__(
        self,
        words: int = 2,
        embedding: int = 100,
        labels: int = 1,
        dropout: float = 0.2,
        attention_norm: str = "layer",
        label_block_size: int | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self.words, self.embedding, self.labels = words, embedding, labels
        self.dropout = dropout
        self.attention_norm, self.label_block_size = attention_norm, label_block_size


class WordNetwork(PreTrainedModel):
    """Word vectors, then what a subclass does with them in `logits`."""

    config_class: type[PretrainedConfig] = WordConfig
    main_input_name = "input_ids"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.words, config.embedding, padding_idx=0)
        self.drop = nn.Dropout(config.dropout)

    def _init_weights(self, module: nn.Module) -> None:
        """Networks initialise themselves: their layers' defaults, and what papers say otherwise."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits (notes, labels) and, given indicators, the mean binary cross-entropy.

        Args:
            input_ids: (notes, tokens), padded right with 0.
            attention_mask: (notes, tokens), 0 on padding.
            labels: (notes, labels) indicators.
        """
        logits = self.logits(self.drop(self.embed(input_ids)), attention_mask).float()
        return SequenceClassifierOutput(loss=loss_of(logits, labels), logits=logits)

    def logits(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits (notes, labels) of word vectors (notes, tokens, width)."""
        raise NotImplementedError

    def label_weights(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Attention (notes, labels asked for, states) of networks that have it; see `LabelAttention`."""
        states, mask = self.states(self.embed(input_ids), attention_mask)
        weights: torch.Tensor = self.attention.weights(states, mask, labels)
        return weights

    @property
    def token_embedding(self) -> nn.Embedding:
        """The layer that turns ids into vectors."""
        return self.embed

    @property
    def label_bias(self) -> torch.Tensor:
        """The bias of each label's logit."""
        bias: torch.Tensor = self.attention.bias if hasattr(self, "attention") else self.out.bias
        return bias


def loss_of(logits: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor | None:
    """Mean binary cross-entropy over notes and labels; None without labels."""
    if labels is None:
        return None
    return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def convolved_mask(mask: torch.Tensor, kernel: int) -> torch.Tensor:
    """Which outputs of a convolution padded by kernel // 2 belong to a note.

    An even kernel gives one output more than there are tokens.
    """
    if kernel % 2:
        return mask
    return torch.cat([mask[:, :1], mask], 1)
