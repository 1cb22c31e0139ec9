"""Forwarding a group's prompt once is exact: log-probabilities, gradients, entropies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from icdtune.posttrain.shared_prefix import group_size, log_probabilities

VOCABULARY = 60
PROMPTS = [7, 3, 11]
"""Length of each group's prompt."""
ANSWERS = [[4, 6, 1], [2, 2, 5], [6, 3, 4]]
"""Length of each answer of each group."""


def model(attention: str) -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config)


def rows(
    prompts: list[int], answers: list[list[int]]
) -> tuple[torch.Tensor, torch.Tensor, int, list[tuple[list[int], list[int]]]]:
    """Groups as TRL lays them out: prompts padded left, answers right; and each row bare."""
    numbers = torch.Generator().manual_seed(4)

    def tokens(count: int) -> list[int]:
        return torch.randint(1, VOCABULARY, (count,), generator=numbers).tolist()

    width, answer_width = max(prompts), max(map(max, answers))
    ids, mask, bare = [], [], []
    for length, sizes in zip(prompts, answers, strict=True):
        prompt = tokens(length)
        for size in sizes:
            answer = tokens(size)
            left, right = width - length, answer_width - size
            ids.append([0] * left + prompt + answer + [0] * right)
            mask.append([0] * left + [1] * (length + size) + [0] * right)
            bare.append((prompt, answer))
    return torch.tensor(ids), torch.tensor(mask), answer_width, bare


def one_by_one(
    net: LlamaForCausalLM, bare: list[tuple[list[int], list[int]]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Log-probabilities and entropies of each row from a whole forward pass without padding."""
    chosen, entropy = [], []
    for prompt, answer in bare:
        logits = net(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        log = torch.log_softmax(logits, -1)
        chosen.append(log.gather(-1, torch.tensor(answer)[:, None])[:, 0])
        entropy.append(-(log.exp() * log).sum(-1).detach())
    return chosen, entropy


def gradient(net: LlamaForCausalLM, values: list[torch.Tensor]) -> torch.Tensor:
    """Gradient of a sum in which every token, the first included, has a weight of its own."""
    net.zero_grad()
    weighted = [
        (value * torch.linspace(1 + i, 2, len(value))).sum() for i, value in enumerate(values)
    ]
    torch.stack(weighted).sum().backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("prompts", "answers"),
    [
        (PROMPTS, ANSWERS),
        ([9], [[5, 1, 5, 3]]),
        ([4, 8], [[1, 1], [1, 1]]),  # the first token is all there is
        ([4, 8], [[3], [6]]),  # groups of one
    ],
)
def test_values_and_gradients_are_those_of_each_row_alone(
    attention: str, prompts: list[int], answers: list[list[int]]
) -> None:
    net = model(attention)
    ids, mask, width, bare = rows(prompts, answers)
    expected, entropies = one_by_one(net, bare)
    chosen, entropy = log_probabilities(net, ids, mask, width, len(answers[0]), with_entropy=True)
    assert chosen.shape == (len(bare), width)
    assert entropy is not None
    values = [row[: len(answer)] for row, (_, answer) in zip(chosen, bare, strict=True)]
    for value, one in zip(values, expected, strict=True):
        torch.testing.assert_close(value, one, rtol=1e-4, atol=1e-5)
    for row, one in zip(entropy, entropies, strict=True):
        torch.testing.assert_close(row[: len(one)], one, rtol=1e-4, atol=1e-5)
    there, here = gradient(net, expected), gradient(net, values)
    assert there.norm() > 1
    assert (here - there).norm() < 1e-4 * there.norm()


def test_entropies_cost_nothing_where_they_are_not_wanted() -> None:
    ids, mask, width, _ = rows(PROMPTS, ANSWERS)
    assert log_probabilities(model("sdpa"), ids, mask, width, 3)[1] is None


@pytest.mark.parametrize(
    ("prompts", "size"),
    [
        ("aaaa", 4),
        ("aabb", 2),
        ("aabbcc", 2),
        ("ab", 1),
        ("a", 1),
        ("aab", 1),  # unequal groups share nothing
        ("aaabb", 1),
        ("abab", 1),  # only rows in succession count
        ("aaaabb", 1),
        ("aaaabbbb", 4),
    ],
)
def test_a_group_is_rows_in_succession_with_one_prompt(prompts: str, size: int) -> None:
    tokens = {"a": [0, 1, 2], "b": [0, 1, 3], "c": [3, 1, 2]}
    assert group_size(torch.tensor([tokens[p] for p in prompts])) == size


@given(st.integers(1, 6), st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_its_size_divides_the_rows_and_each_group_has_one_prompt(
    repeats: int, prompts: list[int]
) -> None:
    ids = torch.tensor([[5, prompt] for prompt in prompts for _ in range(repeats)])
    size = group_size(ids)
    assert len(ids) % size == 0
    for start in range(0, len(ids), size):
        assert len(ids[start : start + size].unique(dim=0)) == 1
    if all(a != b for a, b in zip(prompts, prompts[1:], strict=False)):
        assert size == repeats
