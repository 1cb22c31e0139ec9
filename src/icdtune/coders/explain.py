"""Evidence for predictions: the coder's own where it can say, else the words of a code's titles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from icdtune.coders.base import Coder
from icdtune.codes.tables import load_table
from icdtune.data.evidence import Span, write_evidence
from icdtune.data.labels import Task
from icdtune.data.predictions import Predictions
from icdtune.data.schema import Note
from icdtune.decoding.evidence import lexical_relevance, spans_of, word_offsets
from icdtune.errors import IcdtuneError
from icdtune.progress import track

LEXICAL = "lexical"


@runtime_checkable
class Explainer(Protocol):
    """A coder that says what its codes rest on."""

    def methods(self) -> tuple[str, ...]:
        """Methods it has, its default first."""
        ...

    def explain(
        self, answered: Iterable[tuple[Note, Sequence[str]]], method: str
    ) -> Iterator[Span]:
        """Spans of each note for its codes."""
        ...


def usable_method(coder: Coder, name: str, method: str) -> str:
    """The method that "auto" or a name stands for; IcdtuneError for one that the coder lacks."""
    known = (*(coder.methods() if isinstance(coder, Explainer) else ()), LEXICAL)
    if method != "auto" and method not in known:
        raise IcdtuneError(f'{name} has no evidence "{method}". It has: {", ".join(known)}')
    return known[0] if method == "auto" else method


def run_evidence(
    coder: Coder, task: Task, split: str, predictions: Predictions, path: Path, method: str
) -> int:
    """Write the evidence of every predicted code; gives the number of spans."""
    answered = _answered(task, split, predictions)
    if method == LEXICAL:
        return write_evidence(path, lexical_evidence(answered, title_terms(task)))
    assert isinstance(coder, Explainer)
    return write_evidence(path, coder.explain(answered, method))


def lexical_evidence(
    answered: Iterable[tuple[Note, Sequence[str]]], terms: dict[str, list[str]]
) -> Iterator[Span]:
    """Words of the note that a code's title or inclusion terms hold, as spans.

    Args:
        terms: code -> terms; a code that has none gets no span.
    """
    for note, codes in answered:
        offsets, group = word_offsets(note.text), 0
        for code in codes:
            relevance = lexical_relevance(note.text, offsets, terms.get(code, ()))
            for start, end, score in spans_of(relevance, offsets):
                yield Span(note.note_id, code, start, end, group, score, LEXICAL)
                group += 1


def _answered(
    task: Task, split: str, predictions: Predictions
) -> Iterator[tuple[Note, tuple[str, ...]]]:
    rows = zip(task.notes(split, gold=False), predictions, strict=True)
    for note, row in track(rows, "Evidence", len(predictions)):
        assert note.note_id == row.note_id
        yield note, row.codes


def title_terms(task: Task) -> dict[str, list[str]]:
    """Titles and inclusion terms of the label space's codes."""
    tables: list[Any] = [load_table(name) for name in task.corpus.info.code_systems.values()]
    return {
        code: [table.title(code), *table.note("inclusion_terms", code)]
        for table in tables
        for code in task.labels.codes
        if code in table
    }
