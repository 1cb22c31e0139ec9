from hypothesis import given
from hypothesis import strategies as st

from icdtune.prompts.hints import LIMIT, cut, render_hint

TITLES = {"I10": "Essential (primary) hypertension", "E11.9": "Type 2 diabetes mellitus"}


def title(code):
    return TITLES.get(code, "")


def test_a_hint_shows_each_code_with_its_title_in_the_given_order():
    lines = render_hint(["I10", "E11.9"], title).split("\n")
    assert lines[1:-1] == [
        "I10: Essential (primary) hypertension",
        "E11.9: Type 2 diabetes mellitus",
    ]


def test_the_same_codes_give_the_same_hint():
    assert render_hint(["I10", "E11.9"], title) == render_hint(("I10", "E11.9"), title)


def test_a_code_without_a_title_stands_bare():
    assert "\nI10: Essential (primary) hypertension\nZ99.2\n" in render_hint(
        ["I10", "Z99.2"], title
    )


def test_no_codes_give_no_hint():
    assert render_hint([], title) == ""


def test_a_hint_says_that_the_codes_are_confirmed_and_others_remain():
    hint = render_hint(["I10"], title)
    assert hint.startswith("Codes already confirmed")
    assert hint.endswith("find the others.")


def test_a_long_title_is_cut_in_the_hint():
    line = render_hint(["I10"], lambda _: "word " * 60).split("\n")[1]
    assert line.startswith("I10: word word")
    assert line.endswith("word...")
    assert len(line) <= len("I10: ") + LIMIT


def test_a_title_of_exactly_the_limit_stays_whole():
    assert LIMIT == 100
    assert cut("a" * 100) == "a" * 100
    assert cut("a" * 101) == "a" * 97 + "..."


def test_a_title_is_cut_after_a_whole_word_and_without_a_dangling_comma():
    long = "Unspecified injury of the left kidney, " + "initial " * 20
    assert cut(long, 45) == "Unspecified injury of the left kidney..."


@given(st.text(), st.integers(3, 120))
def test_no_title_is_longer_than_the_limit(text, limit):
    short = cut(text, limit)
    assert len(short) <= limit
    if len(text) <= limit:
        assert short == text
    else:
        assert short.endswith("...")
        assert text.startswith(short[:-3])


def test_an_ancestor_is_shown_as_the_place_of_a_code():
    hint = render_hint(["I10"], title, ["E11"])
    assert hint.split("\n")[1:-1] == ["I10: Essential (primary) hypertension", "a code under E11: "]
    assert render_hint([], lambda code: "Diabetes", ["E11"]).split("\n")[1:-1] == [
        "a code under E11: Diabetes"
    ]
