"""Log-probabilities of groups' answers with each common prompt forwarded once.

A batch becomes one row without padding between groups: prompt, its answers, the next prompt. Exact,
gradient included, with and without gradient checkpointing. Knows nothing of rewards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from icdtune.posttrain.tree_attention import Group

ROWS = 256
"""Rows of the vocabulary's width whose entropy is computed at once."""


def in_groups(prompts: torch.Tensor, size: int) -> bool:
    """Whether rows come in groups of `size` in succession, each with one prompt.

    Args:
        prompts: (rows, tokens), padded alike.
    """
    if len(prompts) % size:
        return False
    groups = prompts.view(-1, size, prompts.shape[1])
    return bool((groups == groups[:, :1]).all())


def log_probabilities(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    answer_width: int,
    group: int,
    with_entropy: bool = False,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability of every answer token, and the entropy where it was drawn.

    Args:
        model: one that `tree_attention.attend_over_trees` has prepared, or a wrapper around it.
        input_ids, attention_mask: (rows, prompt + answer); prompts padded left, answers right.
        answer_width: answer tokens a row.
        group: rows in succession that share their prompt.
        temperature: the scores are divided by it.

    Returns:
        Two tensors (rows, answer_width), 0 beyond the longest answer of a group; the second None
        unless `with_entropy`.
    """
    width = input_ids.shape[1] - answer_width
    answers, prompts = input_ids[:, width:], input_ids[::group, :width]
    seen = attention_mask[::group, :width].bool()
    prompt_sizes = seen.sum(1).tolist()
    sizes = attention_mask[:, width:].sum(1).view(-1, group).amax(1).clamp(min=1).tolist()
    device = input_ids.device
    row, places, keep, tree, where = [], [], [], [], []
    start = kept = 0
    for i, (prompt, size) in enumerate(zip(prompt_sizes, sizes, strict=True)):
        place = Group(start, prompt, group, size - 1)  # nothing follows from the last token
        row += [prompts[i][seen[i]], answers[i * group : (i + 1) * group, : size - 1].flatten()]
        places.append(torch.arange(prompt, device=device))
        places.append(prompt + torch.arange(size - 1, device=device).repeat(group))
        keep.append(torch.arange(place.middle - 1, place.stop, device=device))
        rest = kept + 1 + torch.arange(group * (size - 1), device=device).view(group, size - 1)
        known = functional.pad(rest, (1, 0), value=kept)  # all first tokens follow from the prompt
        where.append(functional.pad(known, (0, answer_width - size), value=-1))
        tree.append(place)
        start, kept = place.stop, kept + 1 + rest.numel()
    logits = model(
        input_ids=torch.cat(row)[None],
        attention_mask=torch.empty((1, 1, 0, 0), device=device),  # the tree is the mask
        position_ids=torch.cat(places)[None],
        logits_to_keep=torch.cat(keep),
        use_cache=False,
        tree=tuple(tree),
    ).logits[0]
    logits = logits.float() if temperature == 1.0 else logits.float() / temperature
    total = torch.logsumexp(logits, -1)
    index = torch.cat(where)  # of the scores that each token was drawn from
    inside, index = index >= 0, index.clamp(min=0)
    chosen = torch.where(inside, logits[index, answers] - total[index], 0.0)
    if not with_entropy:
        return chosen, None
    entropies = _entropies(logits.detach(), total.detach())
    return chosen, torch.where(inside, entropies[index], 0.0)


def _entropies(logits: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Entropy of each row's distribution, a few rows at a time."""
    found = [
        sums - (torch.exp(part - sums[:, None]) * part).sum(-1)
        for part, sums in zip(logits.split(ROWS), total.split(ROWS), strict=True)
    ]
    return torch.cat(found)
