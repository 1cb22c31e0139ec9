"""Credit of codes: its values against definition and exact gradient, and the tokens it falls on."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icdtune.posttrain.credit import (
    FLOOR,
    Credited,
    code_credits,
    repeats,
    rms,
    sum_of_squares,
    to_go,
    token_credits,
)
from icdtune.posttrain.reward import Reward, class_weights
from icdtune.prompts.answer import Answer, format_answer, parse_answer

SYSTEMS = {"diagnosis": "icd10cm"}
CODES = ["A41.9", "D62", "E11.9", "I10", "N17.9"]
sets = st.frozensets(st.sampled_from(CODES))
rewards = st.sampled_from(
    [
        Reward(),
        Reward(beta=2.0),
        Reward("per-code"),
        Reward(weights={"A41.9": 5.0, "D62": 0.5}),
        Reward(charge_repeats=False),
    ]
)


def read(text: str) -> Answer:
    return parse_answer(text, SYSTEMS)


def written(codes: frozenset[str] | set[str]) -> Answer:
    return read(format_answer(codes))


@given(st.lists(sets, min_size=2, max_size=5), sets, rewards)
def test_credit_is_x_less_q_times_d(
    answers: list[frozenset[str]], gold: frozenset[str], reward: Reward
) -> None:
    found = code_credits([written(codes) for codes in answers], gold, reward)
    universe = gold.union(*answers)
    for i, (codes, credited) in enumerate(zip(answers, found, strict=True)):
        assert set(credited.codes) == universe
        others = [other for j, other in enumerate(answers) if j != i]
        for code, value in credited.codes.items():
            d = reward.score(codes | {code}, gold) - reward.score(codes - {code}, gold)
            q = sum(code in other for other in others) / len(others)
            assert value == pytest.approx(((code in codes) - q) * d, abs=1e-12)


@pytest.mark.parametrize("size", [2, 3])
def test_its_expectation_is_the_gradient_of_the_expected_reward(size: int) -> None:
    """Independent inclusions with probabilities p: every group there is, weighed by its chance."""
    chances = {"A41.9": 0.8, "D62": 0.3, "I10": 0.5}
    gold, reward = frozenset({"A41.9", "I10", "N17.9"}), Reward()
    possible = {
        frozenset(c for c, there in zip(chances, bits, strict=True) if there): math.prod(
            p if there else 1 - p for p, there in zip(chances.values(), bits, strict=True)
        )
        for bits in itertools.product([True, False], repeat=len(chances))
    }
    estimate, mean = dict.fromkeys(chances, 0.0), dict.fromkeys(chances, 0.0)
    for group in itertools.product(possible, repeat=size):
        chance = math.prod(possible[codes] for codes in group)
        first = code_credits([written(codes) for codes in group], gold, reward)[0]
        for code, p in chances.items():
            credit = first.codes.get(code, 0.0)
            estimate[code] += chance * credit * ((code in group[0]) - p)  # d log / d logit
            mean[code] += chance * credit
    for code, p in chances.items():
        with_, without = (
            sum(
                weight * reward.score(codes | {code} if add else codes - {code}, gold)
                for codes, weight in possible.items()
            )
            for add in (True, False)
        )
        assert estimate[code] == pytest.approx(p * (1 - p) * (with_ - without), abs=1e-12)
        assert mean[code] == pytest.approx(0, abs=1e-12)


def test_sampled_groups_come_to_the_same_gradient() -> None:
    draw, chances, gold = random.Random(1), {"A41.9": 0.7, "D62": 0.4}, frozenset({"A41.9"})
    total, groups = dict.fromkeys(chances, 0.0), 4_000
    for _ in range(groups):
        group = [frozenset(c for c, p in chances.items() if draw.random() < p) for _ in range(4)]
        for codes, one in zip(
            group, code_credits([written(c) for c in group], gold, Reward()), strict=True
        ):
            for code, p in chances.items():
                total[code] += one.codes.get(code, 0.0) * ((code in codes) - p) / (4 * groups)
    # E[R | A41.9] - E[R | not]: 0.6 x 1 + 0.4 x 2/3; for D62: 0.7 x (2/3 - 1)
    assert total["A41.9"] == pytest.approx(0.21 * (0.6 + 0.8 / 3), abs=0.01)
    assert total["D62"] == pytest.approx(0.24 * 0.7 * (-1 / 3), abs=0.01)


@given(st.lists(sets, min_size=2, max_size=4), sets, st.randoms())
def test_the_order_of_codes_does_not_matter(
    answers: list[frozenset[str]], gold: frozenset[str], rng: random.Random
) -> None:
    shuffled = []
    for codes in answers:
        order = sorted(codes)
        rng.shuffle(order)
        shuffled.append(read(f"<code>{', '.join(order)}</code>"))
    assert code_credits(shuffled, gold, Reward()) == code_credits(
        [written(codes) for codes in answers], gold, Reward()
    )


@given(st.lists(sets, min_size=1, max_size=4), sets, rewards)
def test_nothing_is_charged_to_a_perfect_answer(
    others: list[frozenset[str]], gold: frozenset[str], reward: Reward
) -> None:
    first = code_credits([written(gold), *map(written, others)], gold, reward)[0]
    assert all(value >= 0 for value in first.values())


@given(st.lists(sets, min_size=2, max_size=4), sets, rewards)
def test_signs_are_those_of_hits_false_positives_and_misses(
    answers: list[frozenset[str]], gold: frozenset[str], reward: Reward
) -> None:
    found = code_credits([written(codes) for codes in answers], gold, reward)
    for codes, one in zip(answers, found, strict=True):
        for code, value in one.codes.items():
            good = (code in codes) == (code in gold)
            assert value * (1 if good else -1) >= 0


def test_a_hint_that_all_copy_and_a_code_that_nobody_writes_get_none() -> None:
    answers = [written({"I10"}), written({"I10", "D62"})]
    for one in code_credits(answers, frozenset({"I10", "E11.9"}), Reward()):
        assert one.codes["I10"] == 0
        assert one.codes["E11.9"] == 0
        assert one.codes["D62"] != 0


def test_a_code_written_again_is_one_more_false_positive() -> None:
    twice, once = read("<code>D62, I10, I10</code>"), written({"D62", "I10"})
    gold = frozenset({"D62", "I10"})
    first, second = code_credits([twice, once], gold, Reward())
    assert repeats(twice) == {"I10": 1}
    assert first.repeats == {"I10": pytest.approx(4 / 5 - 1)}
    assert second.repeats == {}
    free = Reward(charge_repeats=False)
    assert code_credits([twice, once], gold, free)[0].repeats == {}
    both = code_credits([twice, twice], gold, Reward())
    assert both[0].repeats == {"I10": 0.0}  # all do: nothing to tell them apart


VALUES: Mapping[str, float] = {
    "A41.9": 1,
    "D62": 2,
    "E11.9": 4,
    "E11.65": 8,
    "I10": 16,
    "N17.9": 32,
}
REPEATED: Mapping[str, float] = {"I10": 100, "D62": 200}
CASES = [
    # every code is there: on its tokens and the separator before them
    (
        "<code>|A41|.9|, |D62|, |E11|.9|, |E11|.65|, |I10|, |N17|.9|</code>|",
        [0, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 16, 16, 32, 32, 32, 0, 0],
    ),
    # a token that holds the separator and the code's beginning
    ("<code>|A41.9|, D|62|, E11.9, |E11.65|, I10|, N17.9|</code>", [0, 1, 2, 2, 4, 8, 16, 32, 0]),
    # the separator in two tokens
    ("<code>|A41.9|,| |D62|</code>", [0, 1, 2, 2, 2, 4 + 8 + 16 + 32]),
    # nothing is there: the first token of the closing tag
    ("<code>|</code>|", [0, 63, 0]),
    ("<code>|</|code>|", [0, 63, 0, 0]),
    # a missing code before the first: on the first token that differs
    ("<code>|D62|</code>", [0, 2 + 1, 4 + 8 + 16 + 32]),
    # within a category: the suffix differs, and the shared stem is not charged
    ("<code>|E11|.|9|</code>", [0, 4 + 1 + 2, 4, 4 + 8, 16 + 32]),
    ("<code>|E11|.9|</code>", [0, 4 + 1 + 2, 4 + 8, 16 + 32]),
    # between two: on the follower, not on its separator
    ("<code>|A41.9|, |I10|</code>", [0, 1, 16, 16 + 2 + 4 + 8, 32]),
    # one that would be last: the end of the block
    ("<code>|A41.9|, |D62|, |E11.9|, |E11.65|, |I10|</code>", [0, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32]),
    # not sorted: the first item that is greater
    ("<code>|N17.9|, |A41.9|</code>", [0, 32 + 2 + 4 + 8 + 16, 1, 1, 0]),
    # a code again, on that item
    ("<code>|D62|, |I10|, |I10|</code>", [0, 2 + 1, 16, 16 + 4 + 8, 100, 100, 32]),
    ("<code>|D62|, |D62|</code>", [0, 2 + 1, 200, 200, 4 + 8 + 16 + 32]),
    # reasoning before and words after carry nothing
    ("He has| I10.|<code>|I10|</code>| bye", [0, 0, 0, 16 + 1 + 2 + 4 + 8, 32, 0]),
    # no block: the group's advantage alone
    ("I10, |D62", [0, 0]),
    ("", []),
    # the last block counts
    ("<code>|D62|</code>|<code>|I10|</code>", [0, 0, 0, 0, 16 + 1 + 2 + 4 + 8, 32]),
    # what is no code carries nothing
    ("<code>|A41.9|, |sepsis|, |I10|</code>", [0, 1, 0, 0, 16, 16 + 2 + 4 + 8, 32]),
    # lower case, and a special token in the middle
    ("<code>|a41.9||, |i10|</code>", [0, 1, 0, 16, 16 + 2 + 4 + 8, 32]),
    # an opening tag in the same token as the first code's beginning
    ("<code>E11|.9|</code>", [1 + 2, 4 + 8, 16 + 32]),
    ("<|code|>|I10|<|/code>", [0, 0, 0, 16 + 1 + 2 + 4 + 8, 32, 0]),
]


def tokens(pieces: str) -> tuple[str, list[tuple[int, int]]]:
    """The text of pieces between bars, and where each stands."""
    parts = pieces.split("|") if pieces else []
    ends = list(itertools.accumulate(map(len, parts)))
    return "".join(parts), list(zip([0, *ends[:-1]], ends, strict=True)) if parts else []


@pytest.mark.parametrize(("pieces", "expected"), CASES)
def test_which_token_carries_what(pieces: str, expected: list[float]) -> None:
    text, offsets = tokens(pieces)
    credited = Credited(dict(VALUES), dict(REPEATED))
    assert token_credits(credited, read(text), text, offsets) == expected


def test_an_answer_that_was_cut_off_has_no_credit_for_its_end_or_a_part_of_a_code() -> None:
    text, offsets = tokens("<code>|A41|.9|, |E11")
    answer = parse_answer(text, SYSTEMS, "truncated")  # the study's release reads such answers
    assert answer.codes == ("A41.9", "E11")
    credited = Credited({**VALUES, "E11": 64})
    found = token_credits(credited, answer, text, offsets, ended=False)
    assert found == [0, 1, 1, 0, 0]
    assert token_credits(credited, read(text), text, offsets, ended=False) == [0] * 5


def test_codes_found_without_a_block_have_no_tokens_of_their_own() -> None:
    text, offsets = tokens("He has |I10|, and |D62|")
    answer = parse_answer(text, SYSTEMS, "anywhere")
    assert answer.codes == ("I10", "D62")
    assert token_credits(Credited(dict(VALUES)), answer, text, offsets) == [0] * 5


@given(st.lists(sets, min_size=2, max_size=4), sets)
def test_credit_on_tokens_adds_up_to_that_of_the_decisions(
    answers: list[frozenset[str]], gold: frozenset[str]
) -> None:
    """One token an item: each decision falls on one token."""
    read_ = [written(codes) for codes in answers]
    for codes, answer, one in zip(answers, read_, code_credits(read_, gold, Reward()), strict=True):
        pieces = ["<code>", *(f"{', ' if i else ''}{c}" for i, c in enumerate(sorted(codes)))]
        text, offsets = tokens("|".join([*pieces, "</code>"]))
        values = token_credits(one, answer, text, offsets)
        assert sum(values) == pytest.approx(sum(one.codes.values()), abs=1e-12)


def left_to_gain(text: str, offsets: list[tuple[int, int]], gold: set[str]) -> list[float]:
    whole = Reward().score(set(read(text).codes), gold, repeats(read(text)))
    opened = partial(parse_answer, code_systems=SYSTEMS, scan="truncated")
    return to_go(whole, text, offsets, gold, Reward(), opened)


def test_what_is_left_to_gain() -> None:
    """R = 2 hits / (predicted + gold): 0, then 2/3 with D62, 1/2 with I10, and 1/2 to the end."""
    text, offsets = tokens("So|<code>|D62|, |I10|</code>|")
    gold, after_first, whole = {"D62", "E11.9"}, 2 / 3, 1 / 2
    late = whole - after_first  # the separator completes D62: what it is worth is that token's
    assert left_to_gain(text, offsets, gold) == pytest.approx(
        [whole, whole, whole, whole, late, late, 0]
    )
    assert left_to_gain("none", [(0, 4)], gold) == [0.0]


def test_an_answer_that_never_closes_is_charged_for_what_it_had() -> None:
    text, offsets = tokens("<code>|D62|, |D62")
    assert left_to_gain(text, offsets, {"D62"}) == pytest.approx([0, 0, 0, -1])


def test_of_two_blocks_the_first_counts_until_the_second_closes() -> None:
    """As the parser reads such a text: the token that closes the second gives up the first."""
    text, offsets = tokens("<code>|D62|</code>|<code>|I10|</code>|")
    assert left_to_gain(text, offsets, {"D62"}) == pytest.approx([0, 0, 0, -1, -1, -1, 0])


@given(st.lists(st.sampled_from([*CODES, ", ", "<code>", "</code>", "sepsis"]), max_size=8))
def test_what_is_taken_away_depends_on_earlier_tokens_alone(pieces: list[str]) -> None:
    """Another ending changes a token's advantage by the whole answers' difference."""
    gold = {"D62", "I10"}
    text, offsets = tokens("|".join(pieces))
    longer, more = tokens("|".join([*pieces, ", ", "I10", "</code>"]))
    values, others = left_to_gain(text, offsets, gold), left_to_gain(longer, more, gold)
    shifts = [b - a for a, b in zip(values, others, strict=False)]
    assert shifts == pytest.approx([shifts[0]] * len(shifts) if shifts else [])


@given(st.lists(st.floats(-2, 2)))
def test_the_root_mean_square_has_a_floor(values: list[float]) -> None:
    found = rms(*sum_of_squares(values))
    exact = math.sqrt(sum(v * v for v in values) / len(values)) if values else 0.0
    assert found == pytest.approx(max(exact, FLOOR))


def test_rare_codes_weigh_more_within_bounds() -> None:
    weights = class_weights({"a": 1, "b": 4, "c": 4, "d": 100, "e": 1000})
    assert weights == {"a": 2.0, "b": 1.0, "c": 1.0, "d": 0.5, "e": 0.5}
    assert class_weights({"a": 1, "b": 100, "c": 100})["a"] == 5.0
    assert class_weights({}) == {}
