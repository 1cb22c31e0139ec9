import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from icdtune.prompts.shorten import MARK, course, cut_middle, shorten

COURSE = (
    "".join(f"On day {day} the patient improved under treatment.\n" for day in range(40)) + "\n"
)
BEFORE = (
    "Allergies:\npenicillin\n\nHistory of Present Illness:\nA man of 60 with fever and cough.\n\n"
    "Brief Hospital Course:\n"
)
AFTER = "Medications on Admission:\n1. metformin 500 mg\n\nDischarge Diagnosis:\nPneumonia.\nDiabetes.\n"
NOTE = BEFORE + COURSE + AFTER

words = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="[]"))


def words_of(text):
    return text.replace(MARK, " ").split()


# In the course


def test_only_the_hospital_course_is_cut_where_that_is_enough():
    short = shorten(NOTE, len(NOTE) - 500)
    assert short.startswith(BEFORE)
    assert short.endswith(AFTER)
    assert MARK in short
    assert COURSE not in short


def test_head_and_tail_of_the_course_are_kept():
    body = shorten(NOTE, len(NOTE) - 500).removeprefix(BEFORE).removesuffix(AFTER)
    head, tail = body.split(MARK)
    assert head
    assert tail.strip()
    assert COURSE.startswith(head)
    assert COURSE.endswith(tail)


@given(st.integers(len(NOTE) - len(COURSE), len(NOTE) - 1))
@example(len(NOTE) - len(COURSE))
def test_every_other_section_survives_whole_down_to_an_empty_course(length):
    short = shorten(NOTE, length)
    assert short.startswith(BEFORE)
    assert short.endswith(AFTER)
    assert short.count(MARK) == 1
    assert len(short) <= length + len(MARK)


def test_the_section_after_the_course_still_starts_its_own_line():
    short = shorten(NOTE, len(NOTE) - len(COURSE) + 1)
    assert "\nMedications on Admission:\n" in short


@pytest.mark.parametrize(
    "header", ["Brief Hospital Course:\n", "BRIEF HOSPITAL COURSE:\n", "Brief hospital course: "]
)
def test_the_course_is_found_however_its_header_is_written(header):
    note = f"Allergies:\nnone\n\n{header}{COURSE}{AFTER}"
    start, end = course(note)
    assert note[start:end] == COURSE


def test_a_course_at_the_end_of_a_note_runs_to_its_end():
    assert course(BEFORE + COURSE) == (len(BEFORE), len(BEFORE + COURSE))


def test_a_mention_of_the_course_within_a_line_is_no_header():
    assert course("As in the brief hospital course: nothing new.\n") == (0, 0)


# In the whole


def test_the_middle_of_the_whole_is_cut_where_the_course_is_not_enough():
    length = len(NOTE) - len(COURSE) - 50
    short = shorten(NOTE, length)
    assert short == cut_middle(NOTE, length)
    assert short.startswith("Allergies:")
    assert short.endswith("Diabetes.\n")


def test_the_middle_of_the_whole_is_cut_where_there_is_no_course():
    note = " ".join(f"word{i}" for i in range(200))
    head, tail = shorten(note, 600).split(MARK)
    assert note.startswith(head + " ")
    assert note.endswith(" " + tail)
    assert abs(len(head) - len(tail)) <= len("word100 ")


def test_an_empty_course_does_not_keep_a_note_from_being_cut():
    note = "Brief Hospital Course:\n" + AFTER
    assert len(shorten(note, 40)) <= 40 + len(MARK)


# Bounds


@pytest.mark.parametrize("extra", [0, 1, 1000])
def test_a_note_that_is_short_enough_stays_as_it_is(extra):
    assert shorten(NOTE, len(NOTE) + extra) == NOTE


@given(
    words, st.integers(-5, 300), st.sampled_from(["", "Brief Hospital Course:\n", BEFORE]), words
)
def test_a_shortened_note_is_never_longer_than_asked_but_for_the_mark(head, length, header, tail):
    note = f"{head}\n{header}{tail}\n{AFTER}"
    short = shorten(note, length)
    assert short == note or len(short) <= max(length, 0) + len(MARK)


def test_a_note_cut_to_nothing_is_the_mark():
    assert shorten(NOTE, 0) == MARK
    assert shorten("", 0) == ""


@given(words, st.integers(-5, 100))
@example("abcdefgh", 4)
@example("a b", 2)
@example("a\tb\tc\td", 4)
def test_a_cut_keeps_a_head_and_a_tail_of_whole_words(text, length):
    short = cut_middle(text, length)
    if len(text) <= length or not text:
        assert short in (text, MARK)
        return
    assert len(short) <= max(length, 0) + len(MARK)
    head, tail = short.split(MARK)
    assert text.startswith(head)
    assert text.endswith(tail)
    assert not head or text[len(head)].isspace()
    assert not tail or text[-len(tail) - 1].isspace()


@given(st.lists(st.text("abc", min_size=1, max_size=5), min_size=1), st.integers(0, 100))
def test_a_cut_loses_no_more_than_the_word_it_falls_in_at_each_end(parts, length):
    text = " ".join(parts)
    short = cut_middle(text, length)
    if short != text:
        assert len(short) - len(MARK) >= length - 2 * 6


@given(words, st.integers(0, 50))
def test_a_cut_invents_no_word(text, length):
    assert set(words_of(cut_middle(text, length))) <= set(text.split())
