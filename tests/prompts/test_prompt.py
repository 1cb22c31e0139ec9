from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from icdtune.errors import IcdtuneError
from icdtune.prompts.hints import render_hint
from icdtune.prompts.prompt import (
    FORMAT,
    INSTRUCTION,
    Example,
    Prompt,
    check_tokenizer,
    encode,
    fit,
    render,
)
from icdtune.prompts.shorten import MARK

LONG = " ".join(f"fever on day {day}," for day in range(300))
HINT = render_hint(["I10", "Z99.2"], lambda code: f"Title of {code}")
EXAMPLES = (
    Example("A first example note.", ("I10", "E11.9")),
    Example("A second example note.", ("A00.1",)),
)
CODES = ["I10", "E11.9", "S72.001A", "0DTJ4ZZ"]


def question(prompt):
    return prompt.messages()[-1]["content"]


# Parts


def test_the_parts_stand_in_order():
    content = question(Prompt("The note.", hint=HINT))
    assert content == "\n\n".join([INSTRUCTION, "The note.", HINT, FORMAT])


def test_the_hint_stands_after_the_note_and_before_the_answer_format():
    content = question(Prompt("The note.", hint=HINT))
    assert content.index("The note.") < content.index(HINT) < content.index(FORMAT)


def test_a_prompt_without_a_hint_has_no_gap_in_its_place():
    assert question(Prompt("The note.")) == "\n\n".join([INSTRUCTION, "The note.", FORMAT])


def test_the_parts_may_be_worded_otherwise():
    prompt = Prompt("The note.", instruction="Code this.", answer_format="In tags.")
    assert question(prompt) == "Code this.\n\nThe note.\n\nIn tags."


def test_without_examples_the_question_is_the_only_turn():
    assert [turn["role"] for turn in Prompt("The note.").messages()] == ["user"]


def test_examples_are_earlier_turns_answered_in_the_format():
    turns = Prompt("The note.", examples=EXAMPLES).messages()
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"]
    assert "A first example note." in turns[0]["content"]
    assert turns[1]["content"] == "<code>E11.9, I10</code>"
    assert "A second example note." in turns[2]["content"]
    assert turns[3]["content"] == "<code>A00.1</code>"


def test_an_example_is_asked_as_the_question_is_but_without_the_hint():
    turns = Prompt("The note.", hint=HINT, examples=EXAMPLES).messages()
    assert turns[0]["content"] == question(Prompt("A first example note."))
    assert HINT in turns[-1]["content"]


# Through the chat template


def test_a_rendered_prompt_ends_where_the_answer_begins(tokenizer):
    prompt = Prompt("The note.")
    assert render(prompt, tokenizer) == f"<|user|>{question(prompt)}<|end|><|assistant|>"


def test_the_encoded_prompt_spells_the_rendered_one(tokenizer):
    prompt = Prompt("The note: 38.5 °C.", hint=HINT, examples=EXAMPLES)
    assert tokenizer.decode(encode(prompt, tokenizer)) == render(prompt, tokenizer)


# Fitting


def bare(prompt, tokenizer):
    """Tokens of the prompt when nothing is left of its notes but the mark of the cut."""
    examples = tuple(replace(example, note=MARK) for example in prompt.examples)
    return len(encode(replace(prompt, note=MARK, examples=examples), tokenizer))


def test_a_prompt_within_the_budget_stays_as_it_is(tokenizer):
    prompt = Prompt(LONG, hint=HINT)
    ids = encode(prompt, tokenizer)
    assert fit(prompt, tokenizer, len(ids)) == ids
    assert fit(prompt, tokenizer, len(ids) + 100) == ids


def test_a_prompt_one_token_over_the_budget_is_cut_in_its_note(tokenizer):
    prompt = Prompt(LONG, hint=HINT)
    size = len(encode(prompt, tokenizer)) - 1
    ids = fit(prompt, tokenizer, size)
    assert len(ids) <= size
    assert MARK in tokenizer.decode(ids)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(0, 1))
@example(0.0)
@example(0.3)
def test_a_fitted_prompt_keeps_to_the_budget_and_all_but_the_note(tokenizer, share):
    prompt = Prompt(LONG, hint=HINT)
    least, whole = bare(prompt, tokenizer), len(encode(prompt, tokenizer))
    budget = least + int((whole - least - 1) * share)
    ids = fit(prompt, tokenizer, budget)
    assert len(ids) <= budget
    text = tokenizer.decode(ids)
    assert text.startswith(f"<|user|>{INSTRUCTION}\n\n")
    assert text.endswith(f"\n\n{HINT}\n\n{FORMAT}<|end|><|assistant|>")
    assert text.count(MARK) == 1


def test_a_fitted_prompt_makes_use_of_its_budget(tokenizer):
    prompt = Prompt(LONG)
    budget = (bare(prompt, tokenizer) + len(encode(prompt, tokenizer))) // 2
    assert len(fit(prompt, tokenizer, budget)) > 0.95 * budget


def test_a_fitted_note_keeps_its_head_and_its_tail(tokenizer):
    prompt = Prompt(LONG)
    ids = fit(prompt, tokenizer, bare(prompt, tokenizer) + 200)
    text = tokenizer.decode(ids)
    assert "\n\nfever on day 0, fever on day 1," in text
    assert "fever on day 298, fever on day 299,\n\n" in text


def test_what_the_chat_template_adds_counts_toward_the_budget(tokenizer, talkative_tokenizer):
    prompt = Prompt(LONG)
    budget = bare(prompt, talkative_tokenizer) + 200
    talkative = fit(prompt, talkative_tokenizer, budget)
    assert len(talkative) <= budget
    notes = [t.decode(fit(prompt, t, budget)) for t in (tokenizer, talkative_tokenizer)]
    assert notes[0].count("fever") > notes[1].count("fever") > 0


def test_example_notes_are_shortened_before_the_note_but_not_their_answers(tokenizer):
    examples = (Example(LONG.replace("fever", "cough"), ("I10", "E11.9")),)
    prompt = Prompt(LONG, hint=HINT, examples=examples)
    budget = (bare(prompt, tokenizer) + len(encode(prompt, tokenizer))) // 2
    ids = fit(prompt, tokenizer, budget)
    assert len(ids) <= budget
    text = tokenizer.decode(ids)
    assert text.count(MARK) == 1
    assert text.count("fever") == LONG.count("fever") > text.count("cough")
    assert "<|assistant|><code>E11.9, I10</code><|end|>" in text
    assert text.count(INSTRUCTION) == text.count(FORMAT) == 2
    assert HINT in text


def test_a_budget_below_the_rest_of_the_prompt_is_refused(tokenizer):
    prompt = Prompt(LONG, hint=HINT)
    least = bare(prompt, tokenizer)
    assert len(fit(prompt, tokenizer, least)) <= least
    with pytest.raises(IcdtuneError) as caught:
        fit(prompt, tokenizer, least - 1)
    message = str(caught.value)
    assert f"budget of {least - 1}" in message
    assert "prompt_budget" in message
    assert "fever" not in message
    assert "\n" not in message


# Tokenizers


def test_a_tokenizer_that_spells_the_codes_is_accepted(tokenizer):
    check_tokenizer(tokenizer, CODES, "models/small")


def test_a_tokenizer_without_a_chat_template_is_refused(templateless_tokenizer):
    with pytest.raises(IcdtuneError, match=r"models/base: .*no chat template\. Use"):
        check_tokenizer(templateless_tokenizer, CODES, "models/base")


def test_a_tokenizer_that_forgets_case_is_refused(lowercasing_tokenizer):
    with pytest.raises(IcdtuneError, match=r"models/uncased: .*cannot spell .*I10.*\. Use"):
        check_tokenizer(lowercasing_tokenizer, CODES, "models/uncased")
