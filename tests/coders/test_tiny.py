"""The shipped base model's tokenizer: a code is the same tokens wherever it stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icdtune.coders.models import load_tokenizer
from icdtune.codes.systems import ICD10CM
from icdtune.codes.tables import load_table
from icdtune.data.synthetic import default_generator
from icdtune.prompts.answer import format_answer

TOKENIZER = load_tokenizer("tiny")
USED = sorted(default_generator().titles)
DIAGNOSES = load_table(ICD10CM.name).billable_codes()


def pieces(text: str) -> list[str]:
    return [TOKENIZER.decode(i) for i in TOKENIZER(text, add_special_tokens=False)["input_ids"]]


@given(
    st.one_of(st.sampled_from(USED), st.sampled_from(DIAGNOSES)),
    st.sampled_from(["", "see ", "line\n", "<code>", "<code>I10, ", "(x) "]),
    st.sampled_from(["", "</code>", ", I10", ": title", " title", "\n", "; "]),
)
def test_a_code_is_the_same_tokens_in_titles_hints_and_answers(
    code: str, before: str, after: str
) -> None:
    alone, within = pieces(code), pieces(before + code + after)
    assert "".join(alone) == code
    starts = [i for i in range(len(within)) if within[i : i + len(alone)] == alone]
    assert any(len("".join(within[:i])) == len(before) for i in starts)


@pytest.mark.parametrize("code", ["E11.9", "I25.10", "K35.80", "Z79.4"])
def test_a_common_diagnosis_is_two_tokens(code: str) -> None:
    assert pieces(code) == [code[:3], code[3:]]


def test_an_answer_reads_back_as_it_was_written() -> None:
    text = format_answer(USED[:40])
    assert "".join(pieces(text)) == text
