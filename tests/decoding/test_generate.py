"""Generation gives what transformers gives, whoever shares the batch, and true probabilities.

Models are in float64 where tokens are compared: autocast leaves it alone, so that no near-tie is
decided by 16-bit rounding.
"""

from __future__ import annotations

from collections import Counter
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from icdtune.decoding.generate import batches, generate, generate_all

VOCABULARY = 200
ENDS = list(range(5, VOCABULARY, 12))
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "sliding window": (MistralForCausalLM, MistralConfig, {"sliding_window": 8}),
}


def make(kind: str = "llama", vocabulary: int = VOCABULARY) -> torch.nn.Module:
    """A model of random weights, large enough that its answers vary."""
    torch.manual_seed(1)
    cls, config, options = MODELS[kind]
    model = cls(config(vocab_size=vocabulary, eos_token_id=None, **SHAPE, **options)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 3
    return model


def prompts(count: int) -> list[list[int]]:
    """Prompts of different lengths, none of which holds the padding token 0."""
    numbers = torch.Generator().manual_seed(2)
    sizes = [int(torch.randint(2, 24, (1,), generator=numbers)) for _ in range(count)]
    return [torch.randint(1, VOCABULARY, (n,), generator=numbers).tolist() for n in sizes]


def draws(seed: int, rows: int, tokens: int) -> torch.Tensor:
    return torch.rand((rows, tokens), generator=torch.Generator().manual_seed(seed))


def greedy(model: torch.nn.Module, asked: list[list[int]], **options: object) -> list[list[int]]:
    found = generate(model, asked, 20, ENDS, 0, **options)
    return [answer.ids for answers in found for answer in answers]


def of_transformers(model: torch.nn.Module, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=ENDS,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", MODELS)
def test_greedy_answers_are_those_of_transformers(kind: str) -> None:
    model = make(kind).double()
    asked = prompts(16)
    expected = [of_transformers(model, prompt) for prompt in asked]
    ended = [ids[-1] in ENDS for ids in expected]
    assert any(ended)
    assert not all(ended)
    assert len({len(ids) for ids in expected}) > 3
    assert greedy(model, asked) == expected
    # Whoever ends leaves the batch: nobody's answer depends on who is in it.
    assert [greedy(model, [prompt])[0] for prompt in asked] == expected


@pytest.mark.parametrize("kind", MODELS)
def test_prompts_that_begin_alike_are_answered_as_others_are(kind: str) -> None:
    model = make(kind).double()
    shared = prompts(1)[0] * 2
    asked = [shared + prompt for prompt in prompts(8)] + [shared]
    expected = [of_transformers(model, prompt) for prompt in asked]
    assert greedy(model, asked) == expected
    assert greedy(model, [shared, shared]) == [expected[-1]] * 2
    even = [shared + prompt[:2] for prompt in prompts(8)]  # nothing is padded
    assert greedy(model, even) == [of_transformers(model, prompt) for prompt in even]


@pytest.mark.parametrize("kind", MODELS)
def test_every_greedy_answer_to_a_prompt_is_the_same_one(kind: str) -> None:
    model = make(kind).double()
    asked = prompts(6)
    single = greedy(model, asked)
    assert greedy(model, asked, answers=3) == [ids for ids in single for _ in range(3)]


@pytest.mark.parametrize("kind", MODELS)
def test_a_seed_gives_the_same_answers_again_and_another_gives_others(kind: str) -> None:
    model = make(kind).double()

    def sample(seed: int) -> list[list[int]]:
        return greedy(model, prompts(4), answers=4, temperature=1.0, draws=draws(seed, 16, 20))

    first = sample(7)
    assert sample(7) == first
    assert sample(8) != first
    assert len(set(map(tuple, first))) > 8


@pytest.mark.parametrize("kind", MODELS)
def test_a_sampled_answer_does_not_depend_on_what_else_is_in_the_batch(kind: str) -> None:
    model = make(kind).double()
    asked, numbers = prompts(5), draws(5, 15, 20)
    together = greedy(model, asked, answers=3, temperature=1.0, draws=numbers)
    alone = [
        answer
        for i, prompt in enumerate(asked)
        for answer in greedy(
            model, [prompt], answers=3, temperature=1.0, draws=numbers[3 * i : 3 * i + 3]
        )
    ]
    assert alone == together


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("answers", "temperature"), [(1, 0.0), (3, 1.0), (3, 0.5), (1, 1.0)])
def test_probabilities_are_those_of_one_forward_pass_over_prompt_and_answer(
    kind: str, answers: int, temperature: float
) -> None:
    model = make(kind).double()
    asked = prompts(5)
    numbers = draws(3, 5 * answers, 12)
    found = generate(
        model, asked, 12, ENDS, 0, answers=answers, temperature=temperature, draws=numbers
    )
    assert [len(group) for group in found] == [answers] * len(asked)
    for prompt, group in zip(asked, found, strict=True):
        for answer in group:
            expected = full_pass(model, prompt, answer.ids, temperature or 1.0)
            assert answer.probabilities == pytest.approx(expected, rel=1e-4)


def test_probabilities_hold_in_the_precision_that_the_machine_decodes_with() -> None:
    model = make()
    asked = prompts(5)
    for prompt, (answer,) in zip(asked, generate(model, asked, 12, ENDS, 0), strict=True):
        expected = full_pass(model, prompt, answer.ids, 1.0)
        # bfloat16 has 8 bits: a logit of about 10 is off by some hundredths.
        assert answer.probabilities == pytest.approx(expected, abs=2e-2)


@torch.no_grad()
def full_pass(
    model: torch.nn.Module, prompt: list[int], answer: list[int], temperature: float
) -> list[float]:
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    chances = torch.softmax(logits / temperature, -1)
    return chances.gather(-1, torch.tensor(answer)[:, None])[:, 0].tolist()


def test_sampling_without_numbers_to_draw_with_is_refused() -> None:
    with pytest.raises(ValueError, match="sampled with draws"):
        generate(make(), prompts(1), 2, ENDS, 0, temperature=1.0)


def test_an_answer_ends_with_the_first_end_token_or_with_its_budget() -> None:
    found = [answer for (answer,) in generate(make().double(), prompts(16), 20, ENDS, 0)]
    assert {answer.ended for answer in found} == {True, False}
    for answer in found:
        assert len(answer.ids) == len(answer.probabilities)
        assert set(answer.ids[:-1]).isdisjoint(ENDS)
        assert (answer.ids[-1] in ENDS) == answer.ended
        assert answer.ended or len(answer.ids) == 20


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_with_the_probabilities_of_the_model(temperature: float) -> None:
    """Pairs of tokens from a vocabulary of five, so that the second draw is judged too."""
    model = make(vocabulary=5).double()
    prompt, count = [1, 2, 3], 4000
    numbers = draws(4, count, 2)
    (group,) = generate(
        model, [prompt], 2, [], 0, answers=count, temperature=temperature, draws=numbers
    )
    counts = Counter(tuple(answer.ids) for answer in group)
    pairs = [(a, b) for a in range(5) for b in range(5)]
    observed = [counts[pair] for pair in pairs]
    expected = [count * prod(full_pass(model, prompt, list(pair), temperature)) for pair in pairs]
    assert min(expected) > 5  # as the test of chi-square wants
    assert chisquare(observed, expected).pvalue > 1e-3
    assert chisquare(observed).pvalue < 1e-9  # they are far from equal, so the first one judges


@pytest.mark.parametrize("top_p", [0.3, 0.7])
def test_only_the_likeliest_tokens_that_reach_top_p_are_drawn(top_p: float) -> None:
    model = make(vocabulary=12).double()
    prompt, count = [1, 2, 3], 2000
    (group,) = generate(
        model,
        [prompt],
        1,
        [],
        0,
        answers=count,
        temperature=1.0,
        draws=draws(4, count, 1),
        top_p=top_p,
    )
    chances = {token: full_pass(model, prompt, [token], 1.0)[0] for token in range(12)}
    inside: dict[int, float] = {}
    for token in sorted(chances, key=lambda t: -chances[t]):
        if sum(inside.values()) < top_p:
            inside[token] = chances[token]
    counts = Counter(answer.ids[0] for answer in group)
    assert counts.keys() <= inside.keys()
    assert 1 < len(inside) < 12
    expected = [count * chance / sum(inside.values()) for chance in inside.values()]
    assert chisquare([counts[token] for token in inside], expected).pvalue > 1e-3
    for answer in group[:50]:
        assert answer.probabilities[0] == pytest.approx(chances[answer.ids[0]])


def test_the_models_attention_is_as_it_was_afterwards() -> None:
    model = make()
    before = model.config._attn_implementation
    generate(model, prompts(2), 4, ENDS, 0, answers=2)
    assert model.config._attn_implementation == before


def test_any_number_of_prompts_is_answered_in_order() -> None:
    model = make().double()
    asked = prompts(11)
    done: list[int] = []
    options = {"max_new_tokens": 20, "end_ids": ENDS, "pad_id": 0}
    found = generate_all(model, asked, 100, done.append, **options)
    assert [answer.ids for answer in found] == greedy(model, asked)
    assert len(done) > 2
    assert done == sorted(done)
    assert done[-1] == len(asked)
    assert generate_all(model, [], 100, **options) == []


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 2000))
def test_batches_hold_every_index_once_within_the_budget(lengths: list[int], budget: int) -> None:
    found = list(batches(lengths, budget))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(st.lists(st.integers(1, 300), min_size=2, max_size=60), st.integers(1, 2000))
def test_batches_are_of_similar_length(lengths: list[int], budget: int) -> None:
    """No prompt of one batch is longer than any of the batch before."""
    found = list(batches(lengths, budget))
    for batch, following in zip(found, found[1:], strict=False):
        assert min(lengths[i] for i in batch) >= max(lengths[i] for i in following)
