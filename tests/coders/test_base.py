"""The coder contract: trained folders come back, errors name what is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


# The work folder of a training that was interrupted

STOPPING = """
from icdtune.data.predictions import Prediction, Predictions
from icdtune.files import read_json, write_json


class Stopping:
    \"\"\"Counts its attempts in the work folder, and fails until `attempts` were made.\"\"\"

    def __init__(self, attempts: int = 3, keep: bool = True, start: str = "") -> None:
        self.attempts, self.keep, self.made = attempts, keep, 0

    def fit(self, task, seed, work):
        path = work / "checkpoint" / "made.json" if self.keep else work / "made.json"
        self.made = (read_json(path) if path.exists() else 0) + 1
        write_json(path, self.made)
        if self.made < self.attempts:
            raise KeyboardInterrupt

    def predict(self, notes):
        return Predictions(Prediction(note.note_id, ()) for note in notes)

    def save(self, folder):
        write_json(folder / "made.json", self.made)

    @classmethod
    def load(cls, folder):
        return cls()
"""


@pytest.fixture
def stopping(tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Train a coder of one's own until it is done or stops; the attempts that its folder tells of."""
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "stopping_coder.py").write_text(STOPPING)
    monkeypatch.syspath_prepend(tmp_path / "plugin")
    monkeypatch.delitem(sys.modules, "stopping_coder", raising=False)

    def train(seed: int = 1, **options: Any) -> int:
        folder = tmp_path / "out" / "coder"
        train_coder("stopping_coder:Stopping", task, folder, seed, options)
        return int(json.loads((folder / "made.json").read_text()))

    return train


def test_an_interrupted_training_finds_its_checkpoints_again(
    stopping: Callable[..., int], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for made in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            stopping()
        assert [path.name for path in out.iterdir()] == [".coder.training"]
        work = out / ".coder.training"
        assert json.loads((work / "checkpoint" / "made.json").read_text()) == made
    spent = json.loads((work / "seconds.json").read_text())
    (work / "seconds.json").write_text(json.dumps(spent + 1000))
    assert stopping() == 3
    assert [path.name for path in out.iterdir()] == ["coder"]
    assert json.loads((out / "coder" / "coder.json").read_text())["seconds"] > 1000  # all of it


def test_checkpoints_of_other_settings_are_thrown_away(
    stopping: Callable[..., int], tmp_path: Path
) -> None:
    changes: list[dict[str, Any]] = [{}, {"seed": 2}, {"seed": 2, "attempts": 4}]
    for change in changes:
        with pytest.raises(KeyboardInterrupt):
            stopping(**change)
        path = tmp_path / "out" / ".coder.training" / "checkpoint" / "made.json"
        assert json.loads(path.read_text()) == 1
    with (tmp_path / "plugin" / "stopping_coder.py").open("a") as source:
        source.write("\n# another version\n")
    with pytest.raises(KeyboardInterrupt):
        stopping(**changes[-1])
    assert json.loads(path.read_text()) == 1


def test_an_interruption_without_a_checkpoint_leaves_nothing(
    stopping: Callable[..., int], tmp_path: Path
) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stopping(keep=False, attempts=2)
        assert list((tmp_path / "out").iterdir()) == []


def test_a_coder_that_started_from_a_folder_begins_again_where_that_was_trained_again(
    stopping: Callable[..., int], tmp_path: Path, task: Task
) -> None:
    """Options that name a coder's folder stand for what it holds."""
    start = tmp_path / "start"
    made = []
    for seed in (1, 2):
        train_coder("bow", task, start, seed, {"characters": 0}, overwrite=True)
        with pytest.raises(KeyboardInterrupt):
            stopping(start=str(start))
        work = tmp_path / "out" / ".coder.training"
        made.append(json.loads((work / "checkpoint" / "made.json").read_text()))
    assert made == [1, 1]
