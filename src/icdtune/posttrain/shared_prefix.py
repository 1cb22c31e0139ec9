"""Log-probabilities of a group's answers with their common prompt forwarded once.

Exact: the answers attend to the prompt's keys and values, gradient included. Knows nothing of rewards.
"""

from __future__ import annotations

import torch
from transformers import DynamicCache, PreTrainedModel

from icdtune.decoding.generate import positions, prefill


def group_size(prompts: torch.Tensor) -> int:
    """How many rows in succession share their prompt, the same for every group; 1 where none do.

    Args:
        prompts: (rows, tokens), padded alike.
    """
    new = (prompts[1:] != prompts[:-1]).any(-1)
    starts = [0, *(new.nonzero().flatten() + 1).tolist(), len(prompts)]
    sizes = {stop - start for start, stop in zip(starts, starts[1:], strict=False)}
    return sizes.pop() if len(sizes) == 1 else 1


def log_probabilities(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    answer_width: int,
    group: int,
    with_entropy: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability of every answer token, and the entropy where it was drawn.

    Args:
        model: a decoder that takes a cache, without gradient checkpointing.
        input_ids, attention_mask: (rows, prompt + answer); prompts padded left, answers right.
        answer_width: answer tokens a row.
        group: rows in succession that share their prompt.

    Returns:
        Two tensors (rows, answer_width); the second None unless `with_entropy`.
    """
    width = input_ids.shape[1] - answer_width
    prompts, answers = input_ids[::group, :width], input_ids[:, width:]
    mask = attention_mask[::group, :width]
    cache = DynamicCache(config=model.config)
    first = prefill(model, prompts, mask, cache)
    logits = first.repeat_interleave(group, 0)
    if answer_width > 1:
        cache.batch_repeat_interleave(group)
        rest = model(
            input_ids=answers[:, :-1],
            attention_mask=attention_mask[:, :-1],
            position_ids=positions(attention_mask)[:, width:-1],
            cache=cache,
            use_cache=True,
        ).logits
        logits = torch.cat([logits, rest], 1)
    logits = logits.float()
    total = torch.logsumexp(logits, -1)
    chosen = logits.gather(-1, answers[..., None])[..., 0] - total
    if not with_entropy:
        return chosen, None
    with torch.no_grad():
        entropy = total - (torch.softmax(logits, -1) * logits).sum(-1)
    return chosen, entropy
