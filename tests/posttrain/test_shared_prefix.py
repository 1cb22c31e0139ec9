"""Forwarding a group's prompt once is exact: log-probabilities, gradients, entropies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from icdtune.posttrain import tree_attention
from icdtune.posttrain.shared_prefix import in_groups, log_probabilities
from icdtune.posttrain.tree_attention import attend_over_trees, why_not

VOCABULARY = 60
PROMPTS = [7, 3, 11]
"""Length of each group's prompt."""
ANSWERS = [[4, 6, 1], [2, 2, 5], [6, 3, 4]]
"""Length of each answer of each group."""
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
}
SHAPES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "one key head": LlamaConfig(**SHAPE | {"num_key_value_heads": 1}),
    "a key head each": LlamaConfig(**SHAPE | {"num_key_value_heads": 4}),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen2, tied": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "mistral, window of 4": MistralConfig(**SHAPE, sliding_window=4),
    "mistral, window of 12": MistralConfig(**SHAPE, sliding_window=12),
    "qwen2, one layer with a window": Qwen2Config(
        **SHAPE,
        use_sliding_window=True,
        sliding_window=5,
        layer_types=["full_attention", "sliding_attention"],
    ),
}


def model(shape: str, lora: bool = False, checkpointing: bool = False) -> Any:
    torch.manual_seed(3)
    net = AutoModelForCausalLM.from_config(SHAPES[shape], attn_implementation="sdpa")
    if checkpointing:
        net.activation_checkpointing_enable({"use_reentrant": False})
        net.enable_input_require_grads()
    if lora:
        net = get_peft_model(net, LoraConfig(r=4, lora_alpha=4, target_modules="all-linear"))
        for name, weights in net.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.2)
    return net.train()


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
    net: Any, bare: list[tuple[list[int], list[int]]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Log-probabilities and entropies of each row from a whole forward pass without padding."""
    chosen, entropy = [], []
    for prompt, answer in bare:
        logits = net(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        log = torch.log_softmax(logits, -1)
        chosen.append(log.gather(-1, torch.tensor(answer)[:, None])[:, 0])
        entropy.append(-(log.exp() * log).sum(-1).detach())
    return chosen, entropy


def gradient(net: Any, values: list[torch.Tensor]) -> torch.Tensor:
    """Gradient of a sum in which every token, the first included, has a weight of its own."""
    net.zero_grad()
    weighted = [
        (value * torch.linspace(1 + i, 2, len(value))).sum() for i, value in enumerate(values)
    ]
    torch.stack(weighted).sum().backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.requires_grad])


def compare(net: Any, prompts: list[int], answers: list[list[int]]) -> None:
    ids, mask, width, bare = rows(prompts, answers)
    expected, entropies = one_by_one(net, bare)
    there = gradient(net, expected)
    assert why_not(net) is None
    attend_over_trees(net)
    chosen, entropy = log_probabilities(net, ids, mask, width, len(answers[0]), with_entropy=True)
    assert chosen.shape == (len(bare), width)
    assert entropy is not None
    values = [row[: len(answer)] for row, (_, answer) in zip(chosen, bare, strict=True)]
    for value, one in zip(values, expected, strict=True):
        torch.testing.assert_close(value, one, rtol=1e-4, atol=1e-5)
    for row, one in zip(entropy, entropies, strict=True):
        torch.testing.assert_close(row[: len(one)], one, rtol=1e-4, atol=1e-5)
    here = gradient(net, values)
    assert there.norm() > 1
    assert (here - there).norm() < 1e-4 * there.norm()
    again, _ = one_by_one(net, bare)  # without a tree it goes on as before
    for value, one in zip(again, expected, strict=True):
        torch.testing.assert_close(value, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_each_row_alone(
    shape: str, lora: bool, checkpointing: bool
) -> None:
    compare(model(shape, lora, checkpointing), PROMPTS, ANSWERS)


@pytest.mark.parametrize("shape", ["llama", "mistral, window of 4"])
@pytest.mark.parametrize(
    ("prompts", "answers"),
    [
        ([9], [[5, 1, 5, 3]]),
        ([4, 4], [[3, 3], [3, 3]]),  # nothing to pad
        ([4, 8], [[1, 1], [1, 1]]),  # the first token is all there is
        ([4, 8, 6], [[1, 1], [3, 2], [1, 1]]),
        ([4, 8], [[3], [6]]),  # groups of one
        ([1, 1], [[3, 2], [2, 1]]),
    ],
)
def test_groups_of_every_size(shape: str, prompts: list[int], answers: list[list[int]]) -> None:
    compare(model(shape), prompts, answers)


@pytest.mark.parametrize("shape", ["llama", "qwen3"])
def test_a_kernel_without_log_sum_exp_gives_the_same(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_attention, "_flash", lambda query: False)
    compare(model(shape), PROMPTS, ANSWERS)


def test_checkpointing_forwards_every_layer_again() -> None:
    net = model("llama", checkpointing=True)
    attend_over_trees(net)
    calls = []
    net.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    ids, mask, width, _ = rows(PROMPTS, ANSWERS)
    log_probabilities(net, ids, mask, width, 3)[0].sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_scores_are_divided_by_the_temperature(temperature: float) -> None:
    net = model("llama")
    attend_over_trees(net)
    ids, mask, width, bare = rows(PROMPTS, ANSWERS)
    chosen, _ = log_probabilities(net, ids, mask, width, 3, temperature=temperature)
    for row, (prompt, answer) in zip(chosen, bare, strict=True):
        logits = net(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        log = torch.log_softmax(logits / temperature, -1)
        expected = log.gather(-1, torch.tensor(answer)[:, None])[:, 0]
        torch.testing.assert_close(row[: len(answer)], expected, rtol=1e-4, atol=1e-5)


def test_the_prompt_is_forwarded_once_and_nothing_is_padded() -> None:
    net = model("llama")
    attend_over_trees(net)
    widths = []
    net.model.layers[0].register_forward_pre_hook(lambda _, given: widths.append(given[0].shape))
    ids, mask, width, _ = rows(PROMPTS, ANSWERS)
    log_probabilities(net, ids, mask, width, 3)
    longest = [max(sizes) - 1 for sizes in ANSWERS]  # nothing follows from the last token
    assert widths == [(1, sum(PROMPTS) + 3 * sum(longest), SHAPE["hidden_size"])]


def test_entropies_cost_nothing_where_they_are_not_wanted() -> None:
    net = model("llama")
    attend_over_trees(net)
    ids, mask, width, _ = rows(PROMPTS, ANSWERS)
    assert log_probabilities(net, ids, mask, width, 3)[1] is None


def test_a_model_whose_attention_is_another_is_told_so() -> None:
    shape = {k: v for k, v in SHAPE.items() if k != "initializer_range"}
    capped = AutoModelForCausalLM.from_config(Gemma2Config(**shape, head_dim=8))
    assert why_not(capped) == "it caps its attention scores"
    dropping = AutoModelForCausalLM.from_config(LlamaConfig(**shape, attention_dropout=0.1))
    assert why_not(dropping) == "its attention has dropout"
    gpt2 = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=2)
    assert why_not(AutoModelForCausalLM.from_config(gpt2)) == "its attention has dropout"
    bloom = BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=1, n_head=2)
    assert why_not(AutoModelForCausalLM.from_config(bloom)) == "its attention cannot be exchanged"


@pytest.mark.parametrize(
    ("prompts", "size", "expected"),
    [
        ("aaaa", 4, True),
        ("aaaa", 2, True),  # two visits to one note
        ("aabb", 2, True),
        ("aabb", 4, False),
        ("aab", 2, False),
        ("abab", 2, False),
        ("ab", 1, True),
    ],
)
def test_a_group_is_rows_in_succession_with_one_prompt(
    prompts: str, size: int, expected: bool
) -> None:
    tokens = {"a": [0, 1, 2], "b": [0, 1, 3]}
    assert in_groups(torch.tensor([tokens[p] for p in prompts]), size) is expected


@given(st.integers(1, 6), st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_repeated_prompts_are_groups(repeats: int, prompts: list[int]) -> None:
    ids = torch.tensor([[5, prompt] for prompt in prompts for _ in range(repeats)])
    assert in_groups(ids, repeats)
