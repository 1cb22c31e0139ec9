"""A dictionary matcher: the titles and inclusion terms of the code tables, found in the note.

With `evidence`, the terms are also the mentions that the training split's evidence marks, which is
what a dictionary for a language without code tables needs. A code's score is how often its term was
right on the training split; the threshold is tuned on validation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from icdtune.coders.classifiers.scoring import best_threshold
from icdtune.codes.matching import TermMatcher, tokens
from icdtune.codes.tables import load_table
from icdtune.data.labels import Task
from icdtune.data.predictions import Prediction, Predictions
from icdtune.data.schema import Corpus, Note
from icdtune.files import read_json, write_json
from icdtune.progress import track

PRIOR_RIGHT, PRIOR_SEEN = 0.5, 1.0
"""A term never seen in training counts as right once in two."""


class Dictionary:
    """Finds titles and inclusion terms of the code tables (and marked mentions) in the note.

    Args:
        evidence: also learn the mentions that evidence.parquet marks in the training split.
    """

    def __init__(self, evidence: bool = False) -> None:
        self._evidence = evidence
        self._terms: dict[str, str] = {}
        self._scores: dict[str, float] = {}
        self._threshold = 0.0

    def fit(self, task: Task, seed: int, work: Path) -> None:
        """Collect terms, learn how often each is right, tune the threshold on "val"."""
        self._terms = _table_terms(task)
        train = list(task.notes("train"))
        if self._evidence:
            learned = _marked_terms(task.corpus, train)
            self._terms = learned | self._terms
        self._scores = {}
        matcher = self._matcher()
        seen: Counter[str] = Counter()
        right: Counter[str] = Counter()
        for note in track(train, "Match train", len(train)):
            for term in {term for _, _, term in matcher.find(note.text)}:
                seen[term] += 1
                right[term] += self._terms[term] in (note.codes or ())
        self._scores = {
            term: (right[term] + PRIOR_RIGHT) / (seen[term] + PRIOR_SEEN) for term in seen
        }
        self._tune(list(task.notes("val")))

    def _tune(self, notes: list[Note]) -> None:
        matcher = self._matcher()
        scores: list[float] = []
        hits: list[bool] = []
        total = 0
        for note in notes:
            found = self._found(matcher, note.text)
            total += len(note.codes or ())
            scores += found.values()
            hits += [code in (note.codes or ()) for code in found]
        if not scores:
            return
        missed = total - sum(hits)
        self._threshold, _ = best_threshold(
            np.array([scores], np.float32), np.array([hits], bool), missed
        )

    def predict(self, notes: Iterable[Note]) -> Predictions:
        """Match every note; the ranking is all that was found, the set what passes the threshold."""
        matcher = self._matcher()

        def rows() -> Iterator[Prediction]:
            for note in notes:
                found = self._found(matcher, note.text)
                ranked = sorted(found, key=lambda code: (-found[code], code))
                scores = tuple(float(np.float32(found[code])) for code in ranked)
                count = sum(score >= self._threshold for score in scores)
                yield Prediction(
                    note.note_id,
                    tuple(ranked[:count]),
                    scores[:count],
                    tuple(ranked),
                    scores,
                )

        return Predictions(rows())

    def save(self, folder: Path) -> None:
        """Write dictionary.json: terms with code and score."""
        terms = {term: [code, self._scores.get(term)] for term, code in self._terms.items()}
        content = {"threshold": self._threshold, "terms": terms}
        write_json(folder / "dictionary.json", content)

    @classmethod
    def load(cls, folder: Path) -> Dictionary:
        """Read a coder back."""
        content = read_json(folder / "dictionary.json")
        coder = cls()
        coder._threshold = content["threshold"]
        coder._terms = {term: code for term, (code, _) in content["terms"].items()}
        scores = {term: score for term, (_, score) in content["terms"].items()}
        coder._scores = {term: score for term, score in scores.items() if score is not None}
        return coder

    def _matcher(self) -> TermMatcher[str]:
        return TermMatcher((term, term) for term in self._terms)

    def _found(self, matcher: TermMatcher[str], text: str) -> dict[str, float]:
        """Codes found, each with the best score of its terms."""
        found: dict[str, float] = {}
        for _, _, term in matcher.find(text):
            code = self._terms[term]
            score = self._scores.get(term, PRIOR_RIGHT / PRIOR_SEEN)
            found[code] = max(score, found.get(code, 0.0))
        return found


def _table_terms(task: Task) -> dict[str, str]:
    """Term (tokens joined by spaces) -> code, for the label space; the first code of a term wins."""
    terms: dict[str, str] = {}
    for name in task.corpus.info.code_systems.values():
        table = load_table(name)
        for code in task.labels.codes:
            if code in table:
                for term in (table.title(code), *table.note("inclusion_terms", code)):
                    if found := " ".join(tokens(term)):
                        terms.setdefault(found, code)
    return terms


def _marked_terms(corpus: Corpus, train: list[Note]) -> dict[str, str]:
    """Mention marked in the training split -> the code it is marked with most often.

    A discontinuous mention counts in the order of its pieces.
    """
    texts = {note.note_id: note.text for note in train}
    wanted = {note.note_id: set(note.codes or ()) for note in train}
    pieces: dict[tuple[str, str, int], list[tuple[int, int]]] = defaultdict(list)
    for span in corpus.evidence():
        if span.code in wanted.get(span.note_id, ()):
            pieces[span.note_id, span.code, span.group].append((span.start, span.end))
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for (note_id, code, _), spans in pieces.items():
        mention = " ".join(texts[note_id][a:b] for a, b in spans)
        if term := " ".join(tokens(mention)):
            votes[term][code] += 1
    return {term: max(sorted(codes), key=codes.__getitem__) for term, codes in votes.items()}
