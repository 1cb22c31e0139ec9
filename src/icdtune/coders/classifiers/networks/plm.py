"""PLM-ICD and PLM-CA: a pre-trained encoder over chunks of a note, then label-wise attention.

PLM-ICD: Huang et al. 2022, with LAAT's attention. PLM-CA: Edin et al. 2024, with label cross-attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from icdtune.coders.classifiers.attention import LabelAttention
from icdtune.coders.classifiers.networks.base import loss_of


class PLMConfig(PretrainedConfig):
    """Configuration: the encoder's own, and `chunk` tokens that it reads at a time.

    Attributes:
        encoder: configuration of the encoder, as a dictionary.
        attention: "projected" (PLM-ICD) or "cross" (PLM-CA).
    """

    model_type = "icdtune_plm"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        labels: int = 1,
        chunk: int = 128,
        attention: str = "projected",
        attention_norm: str = "layer",
        label_block_size: int | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self.encoder, self.labels, self.chunk = encoder or {}, labels, chunk
        self.attention = attention
        self.attention_norm, self.label_block_size = attention_norm, label_block_size


class PLM(PreTrainedModel):
    """Encoder states of all chunks of a note side by side, read by label attention."""

    config_class = PLMConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True

    def __init__(self, config: PLMConfig, encoder: nn.Module | None = None) -> None:
        super().__init__(config)
        if encoder is None:
            given = dict(config.encoder)
            encoder = AutoModel.from_config(AutoConfig.for_model(given.pop("model_type"), **given))
        self.encoder = encoder
        self.attention = LabelAttention(
            config.attention,  # type: ignore[arg-type]
            int(encoder.config.hidden_size),
            config.labels,
            norm=config.attention_norm,  # type: ignore[arg-type]
            label_block_size=config.label_block_size,
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The encoder comes with its weights, the attention initialises itself."""

    @property
    def label_bias(self) -> torch.Tensor:
        """The bias of each label's logit; one for all in PLM-CA."""
        return self.attention.bias

    @property
    def token_embedding(self) -> nn.Embedding:
        """The layer that turns ids into vectors."""
        layer: nn.Embedding = self.encoder.get_input_embeddings()
        return layer

    def label_weights(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Attention (notes, labels asked for, tokens in whole chunks); see `LabelAttention`."""
        return self.attention.weights(*self.states(input_ids, attention_mask), labels)

    def states(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder states (notes, tokens, width) and their mask; chunks of padding are not encoded."""
        notes, size = len(input_ids), self.config.chunk
        pad = -input_ids.shape[1] % size
        ids = nn.functional.pad(input_ids, (0, pad)).view(-1, size)
        mask = nn.functional.pad(attention_mask, (0, pad))
        chunks = mask.view(-1, size)
        used = chunks.any(1)
        out = self.encoder(input_ids=ids[used], attention_mask=chunks[used]).last_hidden_state
        states = out.new_zeros((len(ids), size, out.shape[-1]))
        states[used] = out
        return states.view(notes, -1, out.shape[-1]), mask

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits (notes, labels) and, given indicators, the loss; inputs as of `WordNetwork`."""
        logits = self.attention(*self.states(input_ids, attention_mask)).float()
        return SequenceClassifierOutput(loss=loss_of(logits, labels), logits=logits)
