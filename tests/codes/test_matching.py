import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from icdtune.codes.matching import TermMatcher, tokens


def literal_tokens(text):
    """(start, end, folded token) of a text, one character at a time."""
    found, start = [], None
    for at, character in enumerate(text + " "):
        if character.isalnum():
            start = at if start is None else start
        elif start is not None:
            found.append((start, at, text[start:at].casefold()))
            start = None
    return found


def literal_matches(terms, text):
    """What TermMatcher promises, by trying every term at every token: leftmost, then longest."""
    words, at = literal_tokens(text), 0
    patterns = [([word for _, _, word in literal_tokens(term)], value) for term, value in terms]
    found = []
    while at < len(words):
        best = None
        for pattern, value in patterns:
            here = [word for _, _, word in words[at : at + len(pattern)]]
            if pattern and here == pattern and (best is None or len(pattern) > len(best[0])):
                best = (pattern, value)
        if best is None:
            at += 1
        else:
            end = at + len(best[0])
            found.append((words[at][0], words[end - 1][1], best[1]))
            at = end
    return found


# Few distinct characters, so that terms recur; folding case changes the length of ß and İ.
texts = st.text("abAB1ßİΣσς\u0301 -_.\n", max_size=40)


@settings(deadline=None)
@given(st.lists(texts.map(lambda t: t[:6]), max_size=8), texts)
@example(["İa"], "b İa b")
def test_finds_what_a_naive_matcher_finds(terms, text):
    pairs = list(zip(terms, range(len(terms)), strict=True))
    assert list(TermMatcher(pairs).find(text)) == literal_matches(pairs, text)


@settings(deadline=None)
@given(st.lists(texts.map(lambda t: t[:6]), max_size=8), texts)
def test_offsets_cut_out_the_term_and_matches_do_not_overlap(terms, text):
    before = 0
    for start, end, term in TermMatcher((t, t) for t in terms).find(text):
        assert before <= start < end <= len(text)
        assert [w for *_, w in literal_tokens(text[start:end])] == [
            w for *_, w in literal_tokens(term)
        ]
        before = end


def test_the_longest_term_wins_over_the_one_it_begins_with():
    matcher = TermMatcher([("heart", 1), ("heart failure", 2), ("failure acute", 3)])
    assert list(matcher.find("Heart failure, acute heart")) == [(0, 13, 2), (21, 26, 1)]


def test_a_long_term_that_breaks_off_gives_way_to_the_short_one():
    matcher = TermMatcher([("a", 1), ("a b c", 2), ("b", 3)])
    assert list(matcher.find("a b d")) == [(0, 1, 1), (2, 3, 3)]


def test_a_term_matches_whole_tokens_only():
    assert list(TermMatcher([("art", 1)]).find("heart arts art")) == [(11, 14, 1)]


def test_the_first_value_of_a_term_given_twice_stays():
    assert list(TermMatcher([("MI", 1), ("mi", 2)]).find("mi")) == [(0, 2, 1)]


@pytest.mark.parametrize("term", ["", " ", "-", "_"])
def test_a_term_without_tokens_matches_nothing(term):
    assert list(TermMatcher([(term, 1)]).find("a - b _")) == []


def test_a_value_may_be_a_mapping_or_none():
    matcher = TermMatcher([("a", {"b": 1}), ("c", None)])
    assert list(matcher.find("a b c")) == [(0, 1, {"b": 1}), (4, 5, None)]


def test_tokens_are_runs_of_letters_or_digits_without_case():
    assert tokens("Type-2 Diabetes_mellitus (NIDDM)") == (
        "type",
        "2",
        "diabetes",
        "mellitus",
        "niddm",
    )
