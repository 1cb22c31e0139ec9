"""From relevance to spans: thresholds, gaps, and the words of a code's terms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icdtune.data.normalise import normalise, word_spans
from icdtune.decoding.evidence import Cut, lexical_relevance, random_spans, spans_of, word_offsets

TEXT = "Admitted with acute kidney injury and sepsis; kidney function later recovered"
OFFSETS = word_offsets(TEXT)


def shown(relevance: list[float], cut: Cut) -> list[str]:
    return [TEXT[start:end] for start, end, _ in spans_of(np.array(relevance), OFFSETS, cut)]


def test_neighbours_join_and_the_strongest_span_comes_first() -> None:
    relevance = [0, 0, 2, 4, 2, 0, 0, 9, 0, 0, 0.0]
    cut = Cut(share=0.2, lift=1, reach=0, gap=0)
    assert shown(relevance, cut) == ["kidney", "acute kidney injury"]
    scores = [score for *_, score in spans_of(np.array(relevance), OFFSETS, cut)]
    assert scores == pytest.approx([9 / 17, 8 / 17])


def test_a_gap_is_taken_along_up_to_its_length() -> None:
    relevance = [0, 0, 5, 0, 5, 0, 0, 0, 0, 0, 5.0]
    assert shown(relevance, Cut(0.5, 1, gap=1)) == ["acute kidney injury", "recovered"]
    assert shown(relevance, Cut(0.5, 1, gap=0)) == ["acute", "injury", "recovered"]
    assert shown(relevance, Cut(0.5, 1, gap=0, most=2)) == ["acute", "injury"]


def test_neighbours_within_reach_are_taken_along() -> None:
    relevance = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 4.0]
    assert shown(relevance, Cut(0.5, 1, reach=1, gap=0)) == [
        "acute kidney injury",
        "later recovered",
    ]


def test_diffuse_or_no_relevance_gives_no_span() -> None:
    assert shown([1.0] * len(OFFSETS), Cut(lift=1.5)) == []
    assert shown([0.0] * len(OFFSETS), Cut()) == []
    assert shown([-1.0, float("nan")] + [0.0] * 9, Cut()) == []


def test_lexical_relevance_is_the_words_of_the_terms() -> None:
    found = lexical_relevance(TEXT, OFFSETS, ["Acute kidney failure, unspecified", "with sepsis"])
    words = [TEXT[start:end] for (start, end), hit in zip(OFFSETS, found, strict=True) if hit]
    assert words == ["acute", "kidney", "sepsis", "kidney"]


def test_random_spans_have_the_lengths_asked_for() -> None:
    rng = np.random.default_rng(0)
    for start, end in random_spans(OFFSETS, [1, 3, 50], rng)[:2]:
        assert 0 <= start < end <= len(TEXT)
    lengths = [len(word_offsets(TEXT[a:b])) for a, b in random_spans(OFFSETS, [1, 3, 50], rng)]
    assert lengths == [1, 3, len(OFFSETS)]


@given(
    st.lists(st.floats(0, 1e6), min_size=11, max_size=11),
    st.floats(0, 1),
    st.integers(0, 3),
)
def test_spans_are_disjoint_ordered_and_hold_the_strongest_token(
    relevance: list[float], share: float, gap: int
) -> None:
    spans = spans_of(np.array(relevance), OFFSETS, Cut(share, lift=0, gap=gap, most=20))
    assert sum(score for *_, score in spans) <= 1 + 1e-9
    assert [s[2] for s in spans] == sorted((s[2] for s in spans), reverse=True)
    places = sorted((start, end) for start, end, _ in spans)
    assert all(a[1] <= b[0] for a, b in zip(places, places[1:], strict=False))
    if sum(relevance) > 0:
        strongest = OFFSETS[int(np.argmax(relevance))]
        assert any(start <= strongest[0] and strongest[1] <= end for start, end in places)


@given(st.text(st.sampled_from("ab1 2.\nÉİKß-"), max_size=40) | st.text(max_size=60))
def test_word_spans_stand_where_the_normalised_words_come_from(text: str) -> None:
    found = [normalise_word(text[start:end]) for start, end in word_spans(text)]
    assert found == normalise(text).split()


def normalise_word(piece: str) -> str:
    """A word as `normalise` spells it: a capital that becomes two characters may lend it one of them."""
    return "".join(c for c in piece.lower() if c in "abcdefghijklmnopqrstuvwxyz0123456789")
