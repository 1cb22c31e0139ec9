"""The coder contract: trained folders come back, errors name what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icdtune.coders.base import load_coder, make_coder, run_coder, train_coder
from icdtune.data.labels import LabelRule, Task, choose_labels, load_labels
from icdtune.data.predictions import read_predictions
from icdtune.data.schema import Corpus, Note
from icdtune.data.synthetic import prepare
from icdtune.data.writer import CorpusWriter
from icdtune.errors import IcdtuneError

CLASSIFIERS = ("dictionary", "bow")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    path = tmp_path_factory.mktemp("coders") / "corpus"
    prepare(path, train=300, val=80, test=80, seed=4)
    corpus = Corpus(path)
    return Task(corpus, load_labels(corpus, "full"))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_trained_coder_comes_back_from_its_folder_with_the_same_predictions(
    name: str, task: Task, tmp_path: Path
) -> None:
    coder = make_coder(name, {})
    coder.fit(task, 1, tmp_path)
    before = coder.predict(task.notes("test")).table
    train_coder(name, task, tmp_path / "coder", 1, {})
    loaded = load_coder(tmp_path / "coder")
    after, info = run_coder(loaded, name, task, "test", 1, tmp_path / "predictions")
    assert after.table.equals(before)
    assert read_predictions(tmp_path / "predictions")[0].table.equals(before)
    assert info.corpus_hash == task.corpus.info.hash
    files = list((tmp_path / "coder").iterdir())
    assert {"coder.json", "README.md"} <= {path.name for path in files}
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}  # no pickle


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_predictions_are_sets_by_falling_confidence_and_read_no_gold(
    name: str, task: Task, tmp_path: Path
) -> None:
    coder = make_coder(name, {})
    coder.fit(task, 1, tmp_path)
    predictions = coder.predict(task.notes("test"))
    rows = list(predictions)
    assert sum(len(row.codes) for row in rows) > len(rows)
    for row in rows:
        assert row.scores is not None
        assert row.ranked_codes is not None
        assert row.ranked_scores is not None
        assert list(row.scores) == sorted(row.scores, reverse=True)
        assert list(row.ranked_scores) == sorted(row.ranked_scores, reverse=True)
        assert row.ranked_codes[: len(row.codes)] == row.codes
        assert len(set(row.ranked_codes)) == len(row.ranked_codes)
        assert set(row.ranked_codes) <= set(task.labels.codes)
    blind = [Note(n.note_id, n.subject_id, n.text, None) for n in task.notes("test")]
    assert coder.predict(blind).table.equals(predictions.table)


def test_an_unknown_coder_or_option_is_named() -> None:
    with pytest.raises(IcdtuneError, match='unknown coder "bag"'):
        make_coder("bag", {})
    with pytest.raises(IcdtuneError, match='no option "word"'):
        make_coder("bow", {"word": 1})
    with pytest.raises(IcdtuneError, match="cannot be imported"):
        make_coder("no_such_module:Coder", {})


def test_a_folder_without_coder_or_weights_is_named(task: Task, tmp_path: Path) -> None:
    with pytest.raises(IcdtuneError, match=r"no coder\.json"):
        load_coder(tmp_path)
    folder = tmp_path / "coder"
    train_coder("bow", task, folder, 1, {"characters": 0})
    (folder / "bow.safetensors").unlink()
    with pytest.raises(IcdtuneError, match=r"lacks bow\.safetensors"):
        load_coder(folder)
    (folder / "coder.json").write_text(json.dumps({"name": "bow"}))
    with pytest.raises(IcdtuneError, match='field "coder"'):
        load_coder(folder)


def test_training_refuses_unlabelled_notes_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    systems = {"diagnosis": "icd10cm"}
    with CorpusWriter(
        path, name="t", code_systems=systems, source="test", options={}, protected=False
    ) as writer:
        writer.add("train", Note("a", "a", "Has pneumonia.", ("J18.9",)))
        writer.add("train", Note("b", "b", "Not coded yet.", None))
        writer.add("val", Note("c", "c", "Has pneumonia.", ("J18.9",)))
    corpus = Corpus(path)
    rule = LabelRule(kind="full", counted_on=["val"])
    task = Task(corpus, choose_labels(corpus, "val", rule))
    with pytest.raises(IcdtuneError, match="note b is unlabelled"):
        train_coder("bow", task, tmp_path / "coder", 1, {})
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
