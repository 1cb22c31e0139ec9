"""What the two simple coders claim about themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from icdtune.coders.classifiers import bow
from icdtune.coders.classifiers.bow import BagOfWords
from icdtune.coders.classifiers.dictionary import Dictionary
from icdtune.coders.classifiers.scoring import RANKED, best_threshold, decide
from icdtune.data.evidence import Span
from icdtune.data.labels import LabelRule, Task, choose_labels
from icdtune.data.schema import Corpus, Note
from icdtune.data.writer import CorpusWriter


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_threshold_is_the_best_of_all_thresholds(data: st.DataObject) -> None:
    shape = (data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5)))
    cells = shape[0] * shape[1]
    values = data.draw(st.lists(st.integers(0, 6), min_size=cells, max_size=cells))
    scores = np.array(values, np.float32)
    gold = np.array(data.draw(st.lists(st.booleans(), min_size=cells, max_size=cells)), bool)
    threshold, f1 = best_threshold(scores.reshape(shape), gold.reshape(shape))

    def at(value: float) -> float:
        return float(f1_score(gold, scores >= value, zero_division=0))

    assert f1 == pytest.approx(at(threshold))
    assert f1 == pytest.approx(max(at(value) for value in values))


def test_more_codes_over_the_threshold_than_the_ranking_holds_are_all_decided() -> None:
    codes = [f"code{i}" for i in range(RANKED + 40)]
    scores = np.linspace(1, 0, len(codes), dtype=np.float32)[None, :]
    (row,) = decide(["n"], codes, scores, float(scores[0, RANKED + 19]))
    assert row.codes == tuple(codes[: RANKED + 20])
    assert row.ranked_codes == tuple(codes[:RANKED])


def test_equal_scores_keep_the_label_order() -> None:
    scores = np.array([[0.5, 0.9, 0.5, 0.9]], np.float32)
    (row,) = decide(["n"], ["A", "B", "C", "D"], scores, 0.5)
    assert row.codes == ("B", "D", "A", "C")


def task_of(path: Path, notes: Sequence[tuple[str, Note]], evidence: Sequence[Span] = ()) -> Task:
    systems = {"diagnosis": "icd10cm"}
    with CorpusWriter(
        path, name="t", code_systems=systems, source="test", options={}, protected=False
    ) as writer:
        for split, note in notes:
            own = [span for span in evidence if span.note_id == note.note_id]
            writer.add(split, note, evidence=own)
    corpus = Corpus(path)
    rule = LabelRule(kind="full", counted_on=["train", "val"])
    return Task(corpus, choose_labels(corpus, "all", rule))


def test_the_dictionary_finds_titles_and_inclusion_terms_and_learns_which_are_right(
    tmp_path: Path,
) -> None:
    notes = [
        (
            "train",
            Note("a", "a", "Essential (primary) hypertension. Fever, unspecified.", ("I10",)),
        ),
        ("train", Note("b", "b", "High blood pressure and fever, unspecified.", ("I10",))),
        ("train", Note("c", "c", "Febrile.", ("R50.9",))),
        ("val", Note("d", "d", "High blood pressure; fever, unspecified.", ("I10",))),
    ]
    coder = Dictionary()
    coder.fit(task_of(tmp_path / "c", notes), 1, tmp_path)
    (row,) = coder.predict([Note("x", "x", "FEVER, UNSPECIFIED with high  blood pressure", None)])
    assert row.codes == ("I10",)
    assert row.ranked_codes == ("I10", "R50.9")


def test_the_dictionary_learns_discontinuous_mentions_from_evidence(tmp_path: Path) -> None:
    notes = [
        ("train", Note("a", "a", "Rotura ayer de bazo.", ("S36.09XA",))),
        ("val", Note("b", "b", "rotura bazo", ("S36.09XA",))),
    ]
    spans = [Span("a", "S36.09XA", 0, 6, 0), Span("a", "S36.09XA", 15, 19, 0)]
    task = task_of(tmp_path / "c", notes, spans)
    note = Note("x", "x", "Ingresa por rotura bazo.", None)
    learned, plain = Dictionary(evidence=True), Dictionary()
    for coder in (learned, plain):
        coder.fit(task, 1, tmp_path)
    assert next(iter(learned.predict([note]))).codes == ("S36.09XA",)
    assert next(iter(plain.predict([note]))).codes == ()


def test_bag_of_words_separates_what_words_separate(tmp_path: Path) -> None:
    topics = {"I10": "blood pressure tablets", "J18.9": "cough with sputum", "K35.80": "belly pain"}
    notes = []
    for i in range(60):
        code = list(topics)[i % 3]
        split = "train" if i < 45 else "val"
        notes.append((split, Note(f"n{i}", f"p{i}", f"Patient {i}: {topics[code]}.", (code,))))
    coder = BagOfWords()
    coder.fit(task_of(tmp_path / "c", notes), 1, tmp_path)
    for code, words in topics.items():
        (row,) = coder.predict([Note("x", "x", f"New patient: {words}.", None)])
        assert row.codes == (code,)
        assert row.ranked_codes is not None
        assert row.ranked_codes[0] == code


def test_dual_and_primal_solutions_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    notes = []
    for i in range(80):
        chosen = rng.choice(40, 6, replace=False)
        codes = tuple(c for c, w in (("I10", 1), ("J18.9", 2), ("K35.80", 3)) if w in chosen % 5)
        text = " ".join(f"word{w}" for w in chosen)
        notes.append(("train" if i < 60 else "val", Note(f"n{i}", f"p{i}", text, codes)))
    task = task_of(tmp_path / "c", notes)
    dual, primal = BagOfWords(characters=0), BagOfWords(characters=0)
    dual.fit(task, 1, tmp_path)
    monkeypatch.setattr(bow, "DUAL_LIMIT", 10)
    primal.fit(task, 1, tmp_path)
    pairs = zip(dual.predict(task.notes("val")), primal.predict(task.notes("val")), strict=True)
    for one, two in pairs:
        assert one.ranked_codes == two.ranked_codes
        np.testing.assert_allclose(one.ranked_scores, two.ranked_scores, atol=5e-3)
