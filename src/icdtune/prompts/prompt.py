"""The prompt as parts: instruction, note, optional hint, answer format, worked examples.

Parts are joined here and nowhere else, so that nothing ever has to be searched for in a prompt. A
prompt that is too long is shortened in the note; see `shorten`. Knows nothing of models but their
chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from icdtune.errors import IcdtuneError
from icdtune.prompts.answer import format_answer
from icdtune.prompts.shorten import shorten

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTRUCTION = (
    "You are a medical coder. Read the clinical note and find every ICD-10 code that should be "
    "assigned to this stay, diagnoses and procedures."
)
FORMAT = (
    "Answer with the codes only, in alphabetical order, separated by commas, in one block: "
    "<code>CODE, CODE</code>"
)


@dataclass(frozen=True)
class Example:
    """A coded note that is shown before the question."""

    note: str
    codes: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """Everything that a model is asked about one note.

    Attributes:
        note: the note's text.
        hint: rendered hint (`hints.render_hint`), or empty.
        instruction, answer_format: what to do, how to answer.
        examples: coded notes shown first, as earlier turns of the conversation.
    """

    note: str
    hint: str = ""
    instruction: str = INSTRUCTION
    answer_format: str = FORMAT
    examples: tuple[Example, ...] = ()

    def messages(self) -> list[dict[str, str]]:
        """The conversation, for a chat template."""
        turns = []
        for example in self.examples:
            turns.append({"role": "user", "content": self._question(example.note, "")})
            turns.append({"role": "assistant", "content": format_answer(example.codes)})
        return [*turns, {"role": "user", "content": self._question(self.note, self.hint)}]

    def _question(self, note: str, hint: str) -> str:
        parts = [self.instruction, note, hint, self.answer_format]
        return "\n\n".join(part for part in parts if part)


def render(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that the model reads, up to where its answer begins; thinking is off where it can be."""
    text: str = tokenizer.apply_chat_template(
        prompt.messages(), tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return text


def encode(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of the rendered prompt; what looks like a control token in a note is only text."""
    safe = replace(
        prompt,
        note=_as_text(prompt.note, tokenizer),
        examples=tuple(replace(e, note=_as_text(e.note, tokenizer)) for e in prompt.examples),
    )
    ids: list[int] = tokenizer(render(safe, tokenizer), add_special_tokens=False)["input_ids"]
    return ids


def _as_text(note: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The note with the tokenizer's control tokens broken up: a note cannot end its own turn."""
    for token in tokenizer.all_special_tokens:
        if token in note:
            note = note.replace(token, f"{token[0]} {token[1:]}")
    return note


def fit(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, budget: int) -> list[int]:
    """Token ids of the prompt with its note shortened until it takes at most `budget` tokens.

    Examples' notes are shortened first, all to the same share, then the note. Raises IcdtuneError
    where instruction, hint, answer format and template alone are over the budget.
    """
    ids = encode(prompt, tokenizer)
    if len(ids) <= budget:
        return ids
    bare = len(encode(replace(_with_notes(prompt, 0.0), note=""), tokenizer))
    low, high, best = 0.0, 2.0, encode(_with_notes(prompt, 0.0), tokenizer)
    if len(best) > budget:
        raise IcdtuneError(
            f"the prompt takes {bare} tokens without its note, over the budget of {budget}. "
            f"Raise prompt_budget or ask for fewer examples"
        )
    for _ in range(13):  # to a thousandth of the note
        middle = (low + high) / 2
        ids = encode(_with_notes(prompt, middle), tokenizer)
        if len(ids) <= budget:
            low, best = middle, ids
        else:
            high = middle
    return best


def _with_notes(prompt: Prompt, share: float) -> Prompt:
    """The prompt with its note shortened to `share` of its length, examples' notes to `share` - 1."""
    rest = max(0.0, share - 1)
    examples = tuple(
        replace(example, note=shorten(example.note, int(len(example.note) * rest)))
        for example in prompt.examples
    )
    note = shorten(prompt.note, int(len(prompt.note) * min(1.0, share)))
    return replace(prompt, note=note, examples=examples)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, codes: Sequence[str], where: str) -> None:
    """IcdtuneError where the tokenizer has no chat template or cannot spell the codes."""
    if not getattr(tokenizer, "chat_template", None):
        raise IcdtuneError(
            f"{where}: its tokenizer has no chat template. Use an instruction-tuned model, or add "
            f"chat_template.jinja to its folder"
        )
    for code in codes:
        text = format_answer([code])
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokenizer.decode(ids, skip_special_tokens=True).strip() != text:
            raise IcdtuneError(
                f'{where}: its tokenizer cannot spell "{text}". Use a model whose tokenizer keeps '
                f"upper case, digits and dots"
            )
