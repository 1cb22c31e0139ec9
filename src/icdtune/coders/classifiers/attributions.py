"""How much each token of a note counts for a label of a neural classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icdtune.coders.classifiers.words import Ids
from icdtune.decoding.evidence import Cut, Floats

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CUTS = {
    "attention": Cut(0.1, lift=5, reach=1),
    "attingrad": Cut(0.03, reach=1),
    "integrated-gradients": Cut(0.3),
}
"""What becomes a span: chosen on val of the synthetic corpus (docs/classifiers.md)."""
STEPS = 20
"""Points of the path that integrated gradients are taken at."""
ROW_TOKENS = 8_192
"""Tokens forwarded at once for gradients: bounds the memory."""


def relevance(model: PreTrainedModel, ids: Ids, labels: list[int], method: str) -> Floats:
    """Relevance (labels, tokens) of a note's tokens.

    - "attention": the label's attention (networks that have it).
    - "integrated-gradients": Sundararajan et al. 2017, from padding to the note; the norm over a
      token's vector.
    - "attingrad": attention times the norm of input x gradient (Edin et al. 2024).

    Args:
        model: a network of `networks`, in evaluation mode.
        ids: the note.
        labels: positions of the labels.
    """
    if method == "attention":
        weights: Floats = _attention(model, ids, labels)
        return weights
    rows = max(1, ROW_TOKENS // len(ids))
    parts = []
    for start in range(0, len(labels), rows):
        parts.append(_gradients(model, ids, labels[start : start + rows], method))
    found: Floats = np.concatenate(parts)
    if method == "attingrad":
        found *= _attention(model, ids, labels)
    return found


def methods(model: PreTrainedModel) -> tuple[str, ...]:
    """The methods that a network can, its default first."""
    if hasattr(model, "encoder"):  # its states hold their neighbours' words: docs/classifiers.md
        return ("attingrad", "attention", "integrated-gradients")
    if hasattr(model, "attention"):
        return ("attention", "integrated-gradients", "attingrad")
    return ("integrated-gradients",)


def _inputs(model: PreTrainedModel, ids: Ids, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    note = torch.as_tensor(ids, dtype=torch.long, device=model.device).expand(rows, -1)
    return note, torch.ones_like(note)


@torch.inference_mode()
def _attention(model: Any, ids: Ids, labels: list[int]) -> Floats:
    note, mask = _inputs(model, ids, 1)
    weights = model.label_weights(note, mask, torch.tensor(labels, device=note.device))
    found: Floats = weights[0, :, : len(ids)].float().cpu().numpy()
    return found


def _gradients(model: Any, ids: Ids, labels: list[int], method: str) -> Floats:
    from captum.attr import LayerGradientXActivation, LayerIntegratedGradients

    note, mask = _inputs(model, ids, len(labels))
    target = torch.tensor(labels, device=note.device)

    def logits(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model(input_ids=input_ids, attention_mask=attention_mask).logits
        return found

    layer = model.token_embedding
    chunk = getattr(model.config, "chunk", len(ids))  # the layer sees each chunk as a row
    # cuDNN's recurrent layers have no gradient in evaluation mode.
    with torch.backends.cudnn.flags(enabled=False):
        if method == "attingrad":
            found = LayerGradientXActivation(logits, layer).attribute(
                note, target=target, additional_forward_args=(mask,)
            )
        else:
            found = LayerIntegratedGradients(logits, layer).attribute(
                note,
                baselines=torch.full_like(note, layer.padding_idx or 0),
                target=target,
                additional_forward_args=(mask,),
                n_steps=STEPS,
                internal_batch_size=len(labels) * -(-len(ids) // chunk),  # a step at a time
            )
    vectors = found.reshape(len(labels), -1, found.shape[-1])[:, : len(ids)]
    norms: Floats = vectors.norm(dim=-1).detach().float().cpu().numpy()
    return norms
