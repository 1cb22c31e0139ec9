"""Hint pools, drawing weights and hints (REFERENCE, section 1)."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from icdtune.data.schema import Note
from icdtune.posttrain.curriculum import (
    HintPools,
    code_weights,
    draw_hint,
    epoch,
    hinted_round,
    plain_visits,
    refresh,
)

NAMES = [f"A{i:02d}.{j}" for i in range(4) for j in range(4)]
CODES = st.sets(st.sampled_from(NAMES), max_size=9)
PAIRS = st.lists(st.tuples(CODES, CODES), min_size=1, max_size=12)


def note(note_id: str, *codes: str) -> Note:
    return Note(note_id, f"s-{note_id}", f"Text of {note_id}.", tuple(sorted(codes)))


def pools_of(size: int, weights: dict[str, float] | None = None) -> HintPools:
    """One note, "n", that misses so many codes."""
    pool = tuple(NAMES[:size])
    return HintPools({"n": pool}, weights or dict.fromkeys(pool, 1.0), 1.0)


# Weights


def test_a_weight_is_rarity_over_recall() -> None:
    """1/sqrt(4)/1 = 1/2, 1/sqrt(1)/1 = 1 and 1/sqrt(4)/(1/4) = 2; the median is 1, the ceiling 3."""
    weights = code_weights(
        {"common": 4, "rare": 1, "missed": 4}, {"common": 4, "rare": 1, "missed": 1}
    )
    assert weights == pytest.approx({"common": 0.5 ** (1 / 3), "rare": 1.0, "missed": 2 ** (1 / 3)})


def test_a_recall_below_a_twentieth_counts_as_a_twentieth_and_weights_end_at_three_medians() -> (
    None
):
    """Never found, 100 notes: 1/10/0.05 = 2 and no infinity. Never found, once: 20, cut to 3 * 2."""
    weights = code_weights({"a": 100, "b": 100, "once": 1}, {})
    assert weights == pytest.approx({"a": 2 ** (1 / 3), "b": 2 ** (1 / 3), "once": 6 ** (1 / 3)})
    low = code_weights({"a": 100}, {"a": 4})
    assert low == pytest.approx({"a": 2 ** (1 / 3)})


def test_no_codes_have_no_weights() -> None:
    assert code_weights({}, {}) == {}
    assert refresh([note("a")], {"a": []}).weights == {}


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 500), min_size=1), st.randoms())
def test_no_weight_is_over_three_medians_before_the_root(
    frequency: dict[str, int], numbers: random.Random
) -> None:
    hits = {code: numbers.randint(0, count) for code, count in frequency.items()}
    weights = code_weights(frequency, hits)
    raw = sorted(
        1 / count**0.5 / max(hits[code] / count, 0.05) for code, count in frequency.items()
    )
    middle = (raw[(len(raw) - 1) // 2] + raw[len(raw) // 2]) / 2
    assert weights.keys() == frequency.keys()
    assert min(weights.values()) > 0
    assert max(weights.values()) ** 3 <= 3 * middle * (1 + 1e-9)


# Pools


def test_a_refresh_by_hand() -> None:
    notes = [note("a", "I10", "D62"), note("b", "I10"), note("c"), note("d", "I10", "E11.9")]
    predicted = {"a": ["I10", "J18.9"], "b": ["I10"], "c": ["D62"], "d": []}
    found = refresh(notes, predicted)
    assert found.pools == {"a": ("D62",), "b": (), "c": (), "d": ("E11.9", "I10")}
    assert found.unmastered == ["a", "d"]
    assert found.size == 3
    # I10: 3 notes, found in 2; D62 and E11.9: once, never found, 20 each, the median.
    i10 = (1 / 3**0.5 / (2 / 3)) ** (1 / 3)
    assert found.weights == pytest.approx(
        {"I10": i10, "D62": 20 ** (1 / 3), "E11.9": 20 ** (1 / 3)}
    )
    assert found.default == pytest.approx(20 ** (1 / 3))


@given(PAIRS)
def test_a_pool_is_gold_less_predicted(pairs: list[tuple[set[str], set[str]]]) -> None:
    notes = [note(str(i), *gold) for i, (gold, _) in enumerate(pairs)]
    found = refresh(notes, {str(i): predicted for i, (_, predicted) in enumerate(pairs)})
    assert {n: set(pool) for n, pool in found.pools.items()} == {
        str(i): gold - predicted for i, (gold, predicted) in enumerate(pairs)
    }
    assert found.weights.keys() == set().union(*(gold for gold, _ in pairs))


# Hints


@given(PAIRS, st.integers(0, 10**6))
def test_a_hint_is_empty_or_one_to_five_codes_of_the_pool(
    pairs: list[tuple[set[str], set[str]]], seed: int
) -> None:
    notes = [note(str(i), *gold) for i, (gold, _) in enumerate(pairs)]
    pools = refresh(notes, {str(i): predicted for i, (_, predicted) in enumerate(pairs)})
    for visit in hinted_round(notes, pools, seed, 1, len(notes)):
        pool = pools.pools[visit.note.note_id]
        assert pool
        assert set(visit.hint) <= set(pool)
        assert len(set(visit.hint)) == len(visit.hint)
        assert len(visit.hint) <= min(5, len(pool))


def test_half_the_visits_are_hinted_and_every_number_of_codes_is_as_likely() -> None:
    for size, most in ((2, 2), (5, 5), (9, 5)):
        pools = pools_of(size)
        sizes = Counter(len(draw_hint(pools, "n", random.Random(i))) for i in range(6000))
        assert set(sizes) == set(range(most + 1))
        assert sizes[0] == pytest.approx(3000, abs=150)  # four standard deviations
        for count in range(1, most + 1):
            assert sizes[count] == pytest.approx(3000 / most, rel=0.15)


def test_codes_are_drawn_by_weight_without_replacement() -> None:
    """Of three codes with weights 4, 2, 1, two are drawn: the chance of each pair by hand."""
    pools = pools_of(3, dict(zip(NAMES, (4.0, 2.0, 1.0), strict=False)))
    hints = [draw_hint(pools, "n", random.Random(i)) for i in range(30_000)]
    pairs = Counter(hint for hint in hints if len(hint) == 2)
    total = sum(pairs.values())
    assert total > 4000
    a, b, c = NAMES[:3]
    assert pairs[a, b] / total == pytest.approx(4 / 7 * 2 / 3 + 2 / 7 * 4 / 5, abs=0.025)
    assert pairs[a, c] / total == pytest.approx(4 / 7 * 1 / 3 + 1 / 7 * 4 / 6, abs=0.025)
    assert pairs[b, c] / total == pytest.approx(2 / 7 * 1 / 5 + 1 / 7 * 2 / 6, abs=0.025)


def test_the_first_code_and_the_number_of_codes_follow_what_is_stated() -> None:
    """Chi-square over 200,000 visits, of which a tenth shows one code: the first that is drawn."""
    weights = dict(zip(NAMES, (4.0, 2.0, 1.0, 0.5, 3.0, 1.5), strict=False))
    pools = pools_of(6, weights)
    hints = [draw_hint(pools, "n", random.Random(f"first:{i}")) for i in range(200_000)]
    sizes = Counter(map(len, hints))
    assert chisquare([sizes[n] for n in range(6)], [100_000] + [20_000] * 5).pvalue > 1e-3
    first = Counter(hint[0] for hint in hints if len(hint) == 1)
    total = sum(first.values())
    assert total > 19_000
    expected = [total * weight / sum(weights.values()) for weight in weights.values()]
    assert chisquare([first[code] for code in weights], expected).pvalue > 1e-3
    assert chisquare([first[code] for code in weights]).pvalue < 1e-9  # they are far from equal


def test_rare_and_badly_recalled_codes_are_shown_more_often() -> None:
    """Four codes of one pool: in 2 or 30 notes, found in all other notes or in none; hints of one."""
    notes, predicted = [note("n", *NAMES[:4])], {"n": []}
    for code, count, found in zip(NAMES, (1, 1, 29, 29), (1, 0, 29, 0), strict=False):
        for i in range(count):
            notes.append(note(f"{code}-{i}", code))
            predicted[f"{code}-{i}"] = [code] if i < found else []
    pools = refresh(notes, predicted)
    shown: Counter[str] = Counter()
    for i in range(20_000):
        hint = draw_hint(pools, "n", random.Random(i))
        shown.update(hint if len(hint) == 1 else ())
    rare_found, rare_missed, often_found, often_missed = (shown[code] for code in NAMES[:4])
    assert rare_missed > 1.1 * rare_found
    assert often_missed > 1.1 * often_found
    assert rare_missed > 1.1 * often_missed
    assert rare_found > 1.1 * often_found


def test_a_code_without_a_weight_gets_the_median() -> None:
    known = HintPools({"n": ("A", "B")}, {"A": 1.0, "B": 3.0}, 3.0)
    unknown = HintPools({"n": ("A", "B")}, {"A": 1.0}, 3.0)
    for i in range(200):
        drawn = [draw_hint(pools, "n", random.Random(i)) for pools in (known, unknown)]
        assert drawn[0] == drawn[1]


def test_a_note_without_a_pool_gets_no_hint() -> None:
    pools = HintPools({"n": ()}, {}, 1.0)
    assert {draw_hint(pools, name, random.Random(i)) for name in "nx" for i in range(50)} == {()}


def test_a_code_that_a_reviewer_had_to_add_stays_in_the_pool() -> None:
    """Only where the gold holds it: what is hinted is what is rewarded."""
    notes = [note("a", "I10", "D62"), note("b", "I10")]
    found = refresh(notes, {"a": ["D62"], "b": ["I10"]}, {"a": {"D62"}, "b": {"D62"}, "c": {"I10"}})
    assert found.pools == {"a": ("D62", "I10"), "b": ()}


# Rounds

NOTES = [note(f"n{i}", *NAMES[i : i + 5]) for i in range(12)]
NOTHING: dict[str, list[str]] = {n.note_id: [] for n in NOTES}
POOLS = refresh(NOTES, NOTHING)
CHILD = """
import json
from icdtune.data.schema import Note
from icdtune.posttrain.curriculum import hinted_round, refresh
names = json.loads(input())
notes = [Note(f"n{i}", "s", "t", tuple(names[i : i + 5])) for i in range(12)]
visits = hinted_round(notes, refresh(notes, {n.note_id: [] for n in notes}), 3, 2, 12)
print(json.dumps([[v.note.note_id, v.hint] for v in visits]))
"""


def test_annealed_hints_become_rarer_within_a_round_and_end_with_it() -> None:
    notes = [note(f"n{i}", *NAMES[:3]) for i in range(400)]
    pools = refresh(notes, {n.note_id: [] for n in notes})
    hinted = [0, 0, 0, 0]
    for seed in range(40):
        visits = hinted_round(notes, pools, seed, 1, 400, anneal=True)
        for i, visit in enumerate(visits):
            hinted[i // 100] += visit.hinted
    shares = [count / 4000 for count in hinted]  # means of 1/2 (1 - i / 400) over each quarter
    assert shares == pytest.approx([0.4375, 0.3125, 0.1875, 0.0625], abs=0.03)


def test_an_ancestor_is_shown_in_place_of_a_code() -> None:
    def family(note_id: str, code: str) -> str | None:
        return code[:3] if code.endswith(".1") and note_id != "n0" else None

    plain = hinted_round(NOTES, POOLS, 3, 2, 12)
    visits = hinted_round(NOTES, POOLS, 3, 2, 12, family=family)
    assert any(visit.families for visit in visits)
    for before, visit in zip(plain, visits, strict=True):
        kept = {code for code in before.hint if family(visit.note.note_id, code) is None}
        assert set(visit.hint) == kept
        assert set(visit.families) == {code[:3] for code in set(before.hint) - kept}
        assert visit.hinted == before.hinted


def drawn(seed: int, turn: int, size: int = 12) -> list[tuple[str, tuple[str, ...]]]:
    visits = hinted_round(NOTES, POOLS, seed, turn, size)
    return [(visit.note.note_id, visit.hint) for visit in visits]


def test_the_same_key_gives_the_same_visits_in_any_process() -> None:
    """Sets are ordered differently in each: nothing may depend on it."""
    expected = [[note_id, list(hint)] for note_id, hint in drawn(3, 2)]
    for hashing in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", CHILD],
            env=os.environ | {"PYTHONHASHSEED": hashing},
            input=json.dumps(NAMES),
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(found.stdout) == expected


def test_no_hint_depends_on_which_were_drawn_before() -> None:
    whole = drawn(1, 1)
    assert [drawn(1, 1, size) for size in range(13)] == [whole[:size] for size in range(13)]
    alone = [
        draw_hint(POOLS, note_id, random.Random(f"1:1:{i}:{note_id}"))
        for i, (note_id, _) in reversed(list(enumerate(whole)))
    ]
    assert alone[::-1] == [hint for _, hint in whole]
    assert sum(bool(hint) for hint in alone) > 2


def test_another_seed_or_round_gives_another_order_and_other_hints() -> None:
    first = dict(drawn(1, 1))
    for other in (drawn(2, 1), drawn(1, 2)):
        assert [note_id for note_id, _ in other] != list(first)
        assert dict(other) != first
        assert dict(other).keys() == first.keys()


def test_mastered_notes_are_left_out_of_the_round_and_may_come_back() -> None:
    mastered = {"n0", "n5", "n11"}
    predicted = {n.note_id: list(n.codes or ()) if n.note_id in mastered else [] for n in NOTES}
    visits = hinted_round(NOTES, refresh(NOTES, predicted), 1, 1, 100)
    assert sorted(v.note.note_id for v in visits) == sorted(set(NOTHING) - mastered)
    again = hinted_round(NOTES, refresh(NOTES, NOTHING), 1, 2, 100)
    assert {v.note.note_id for v in again} == set(NOTHING)


def test_visits_without_hints_take_every_note_once_an_epoch() -> None:
    visits = list(islice(plain_visits(NOTES, 5), 36))
    orders = [[v.note.note_id for v in visits[i : i + 12]] for i in (0, 12, 24)]
    assert all(sorted(order) == sorted(NOTHING) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert {v.hint for v in visits} == {()}
    assert orders[1] == [n.note_id for n in epoch(NOTES, 5, 1)]
