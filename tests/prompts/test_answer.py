import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from icdtune.codes.systems import ICD10CM, ICD10PCS
from icdtune.data.schema import canonical_code, is_canonical
from icdtune.prompts.answer import Dropped, format_answer, parse_answer

DIAGNOSES = {"diagnosis": "icd10cm"}
BOTH = {"diagnosis": "icd10cm", "procedure": "icd10pcs"}
ICD9 = {"diagnosis": "icd9cm", "procedure": "icd9proc"}
SCANS = ["block", "truncated", "anywhere"]

diagnosis_codes = st.from_regex(ICD10CM.grammar, fullmatch=True).map(ICD10CM.dot)
procedure_codes = st.from_regex(ICD10PCS.grammar, fullmatch=True)
pieces = st.sampled_from(
    ["<code>", "</code>", "<CODE>", "</Code>", "<code", ">", ",", ";", "\n", " ", "\u2003", "."]
    + ["I10", "E11.9", "e119", "F329", "f329", "E1.19", "0016070", "0DTJ4ZZ", "İ", "ı10", "ß", "٣"]
)
texts = st.one_of(st.text(), st.lists(st.one_of(pieces, st.text(max_size=3))).map("".join))
systems = st.sampled_from([DIAGNOSES, BOTH, ICD9])
scans = st.sampled_from(SCANS)


def codes(text, scan="block", code_systems=BOTH):
    return parse_answer(text, code_systems, scan).codes


# Total


@given(texts, systems, scans)
@example("İİİ<code>I10", BOTH, "truncated")
@example("</code><code>", BOTH, "anywhere")
def test_every_text_gives_a_set_of_canonical_codes_each_once(text, code_systems, scan):
    answer = parse_answer(text, code_systems, scan)
    assert len(set(answer.codes)) == len(answer.codes)
    assert all(is_canonical(code, code_systems) for code in answer.codes)


@given(texts, systems, scans)
def test_what_stands_at_a_found_code_reads_as_that_code(text, code_systems, scan):
    end = 0
    for found in parse_answer(text, code_systems, scan).found:
        assert end <= found.start < found.end <= len(text)
        assert canonical_code(text[found.start : found.end], code_systems) == found.code
        end = found.end


@given(st.text(st.sampled_from("aI10E.9,;\n ")))
def test_nothing_in_a_block_is_lost(text):
    items = [
        item.strip() for line in text.split("\n") for item in line.replace(";", ",").split(",")
    ]
    answer = parse_answer(f"<code>{text}</code>", BOTH)
    assert len(answer.found) + len(answer.dropped) == len([item for item in items if item])


@given(texts, systems)
def test_a_looser_scan_changes_nothing_about_a_closed_answer(text, code_systems):
    answer = parse_answer(text, code_systems, "block")
    if answer.closed:
        assert parse_answer(text, code_systems, "truncated") == answer
        assert parse_answer(text, code_systems, "anywhere") == answer
    else:
        assert answer.codes == ()


# Round trip


@given(st.sets(st.one_of(diagnosis_codes, procedure_codes)), scans)
def test_a_written_set_is_read_as_that_set(gold, scan):
    answer = parse_answer(format_answer(gold), BOTH, scan)
    assert answer.codes == tuple(sorted(gold))
    assert answer.closed
    assert not answer.dropped


@given(st.sets(diagnosis_codes), texts)
def test_the_answer_is_read_after_any_reasoning(gold, reasoning):
    assert codes(reasoning + format_answer(gold), code_systems=DIAGNOSES) == tuple(sorted(gold))


def test_an_answer_is_written_in_alphabetical_order():
    assert format_answer(["I10", "E11.9"]) == "<code>E11.9, I10</code>"
    assert format_answer([]) == "<code></code>"


def test_an_empty_block_is_an_answer_of_no_codes():
    answer = parse_answer("<code></code>", BOTH)
    assert (answer.codes, answer.dropped, answer.closed) == ((), (), True)


# Which block


def test_the_last_block_wins():
    assert codes("<code>I10</code>, or rather <code>E11.9</code>. Done.") == ("E11.9",)


def test_the_last_complete_block_wins_over_a_later_open_one():
    for scan in SCANS:
        assert codes("<code>I10</code> and <code>E11.9", scan) == ("I10",)


def test_a_block_starts_at_the_tag_next_to_its_end():
    assert codes("I will use <code> for this: <code>I10</code>") == ("I10",)


def test_tags_are_read_in_any_case():
    assert codes("<CODE>I10</Code>") == ("I10",)
    assert codes("<CODE>I10", "truncated") == ("I10",)


def test_items_may_be_separated_by_commas_semicolons_and_lines():
    assert codes("<code>I10, E11.9;J45.909\n  A00.1\n</code>") == (
        "I10",
        "E11.9",
        "J45.909",
        "A00.1",
    )


@pytest.mark.parametrize("written", ["E11.9", "E119", "e11.9", "E11.9.", "  E11.9\t"])
def test_a_code_is_read_in_any_common_spelling(written):
    assert codes(f"<code>{written}</code>") == ("E11.9",)


def test_codes_stay_in_the_order_of_the_text():
    assert codes("<code>J45.909, A00.1, I10</code>") == ("J45.909", "A00.1", "I10")


# No closing tag


def test_an_answer_without_a_closing_tag_is_no_answer():
    answer = parse_answer("<code>I10, E11.9", BOTH, "block")
    assert answer.codes == ()
    assert not answer.closed
    assert answer.dropped == (Dropped("<code>I10, E11.9", "outside"),)


@pytest.mark.parametrize("scan", ["truncated", "anywhere"])
def test_a_truncated_answer_is_read_on_from_its_last_opening_tag(scan):
    answer = parse_answer("Z99.2 <code> A00.1 <code>I10, E11.9", BOTH, scan)
    assert answer.codes == ("I10", "E11.9")
    assert not answer.closed


def test_letters_that_grow_in_lower_case_do_not_move_a_truncated_answer():
    assert codes("İstanbul: <code>I10, E11.9", "truncated") == ("I10", "E11.9")


def test_codes_in_free_text_are_taken_anywhere_only():
    text = "Hypertension (I10) and diabetes: E11.9. Removal 0DTJ4ZZ, on day 3 of 2024."
    assert codes(text, "anywhere") == ("I10", "E11.9", "0DTJ4ZZ")
    assert codes(text, "truncated") == codes(text, "block") == ()


def test_words_and_plain_numbers_are_no_codes_of_a_free_text():
    answer = parse_answer("Patient was given 500 mg of b12 on 2024.10.11", BOTH, "anywhere")
    assert answer.codes == ()


# Dropped


def test_what_is_no_code_is_dropped_as_malformed():
    answer = parse_answer("<code>I10, hypertension, E1.19</code>", BOTH)
    assert answer.codes == ("I10",)
    assert answer.dropped == (Dropped("hypertension", "malformed"), Dropped("E1.19", "malformed"))


def test_a_code_that_stands_again_is_dropped_as_duplicate():
    answer = parse_answer("<code>E11.9, I10, e119</code>", BOTH)
    assert answer.codes == ("E11.9", "I10")
    assert answer.dropped == (Dropped("e119", "duplicate"),)


@pytest.mark.parametrize("scan", ["block", "truncated"])
def test_a_text_without_tags_is_dropped_as_outside(scan):
    answer = parse_answer("I10, E11.9", BOTH, scan)
    assert answer.dropped == (Dropped("I10, E11.9", "outside"),)


@pytest.mark.parametrize("scan", SCANS)
def test_an_empty_answer_drops_nothing(scan):
    answer = parse_answer(" \n", BOTH, scan)
    assert (answer.codes, answer.dropped, answer.closed) == ((), (), False)


def test_a_well_formed_code_that_does_not_exist_stays():
    assert codes("<code>Z99.999</code>") == ("Z99.999",)


def test_a_procedure_is_no_code_of_a_corpus_of_diagnoses():
    answer = parse_answer("<code>I10, 0DTJ4ZZ</code>", DIAGNOSES)
    assert answer.codes == ("I10",)
    assert answer.dropped == (Dropped("0DTJ4ZZ", "malformed"),)
