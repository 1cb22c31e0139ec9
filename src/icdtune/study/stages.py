"""A study's stages: where each is kept, and when it counts as done.

A stage is done when its mark says so with the fingerprint of everything that decides its outcome;
a stage whose settings changed is run again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

import icdtune
from icdtune.coders.base import (
    all_options,
    base_model,
    coder_source,
    load_coder,
    option_files,
    run_coder,
    train_coder,
    versions,
)
from icdtune.coders.models import model_path
from icdtune.codes.build import source_version
from icdtune.data import SOURCES
from icdtune.data.labels import Task
from icdtune.data.predictions import Predictions, read_predictions
from icdtune.data.schema import Corpus
from icdtune.errors import IcdtuneError
from icdtune.files import read_json, write_json
from icdtune.options import check_options
from icdtune.study.file import CoderChoice, Study

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One coder with one seed: where it lives."""

    choice: CoderChoice
    seed: int
    folder: Path
    uses: dict[str, Run]

    @property
    def coder(self) -> Path:
        """Folder of the trained coder."""
        return self.folder / "coder"

    @property
    def predictions(self) -> Path:
        """Folder of its predictions."""
        return self.folder / "predictions"


def run_of(folder: Path, choice: CoderChoice, seed: int, study: Study) -> Run:
    """Where a row with one seed is kept, with the runs that it uses."""

    def place(name: str) -> Path:
        return folder / "coders" / name / f"seed-{seed}"

    names = {row.name: row for row in study.coders}
    uses = {
        option: run_of(folder, names[used], seed, study) for option, used in choice.uses.items()
    }
    return Run(choice, seed, place(choice.name), uses)


def notes_seen(task: Task, study: Study, choice: CoderChoice) -> Task:
    """The task on the notes that a row predicts."""
    return task if choice.notes is None else task.sample(study.split, choice.notes)


def fingerprint(value: Any) -> str:
    """Hash of JSON-like settings."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def done(mark: Path, expected: str) -> bool:
    """Whether a stage is done with this fingerprint."""
    return mark.exists() and read_json(mark) == {"fingerprint": expected}


def begin(mark: Path) -> None:
    """Take a stage's mark away before its output is replaced."""
    mark.unlink(missing_ok=True)


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of a file, or of every file of a folder: changes where one of them does."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    found = ((file, file.stat()) for file in files if file.is_file())
    return [(str(file.relative_to(path)), s.st_size, s.st_mtime_ns) for file, s in found]


def _given_corpus(study: Study, corpus: Corpus) -> list[tuple[str, int, int]]:
    """The files of a corpus that the study did not make itself."""
    if study.corpus.path is None:
        return []
    return [entry for entry in _files(corpus.path) if entry[0].endswith(".parquet")]


def prepare_corpus(study: Study, folder: Path, announce: Announce) -> Corpus:
    """The study's corpus, prepared unless done."""
    choice = study.corpus
    if choice.path is not None:
        return Corpus(choice.path)
    if choice.prepare not in SOURCES:
        raise IcdtuneError(
            f'study "{study.name}": unknown corpus source "{choice.prepare}". '
            f"Known: {', '.join(SOURCES)}"
        )
    module_name, _, name = SOURCES[choice.prepare].partition(":")
    module = importlib.import_module(module_name)
    prepare = getattr(module, name)
    where = f'study "{study.name}": corpus source "{choice.prepare}"'
    hidden = ("out", "overwrite", "announce", "called")
    options = check_options(prepare, choice.options, where, hidden)
    path, mark = folder / "corpus", folder / "corpus.stage.json"
    expected = fingerprint(
        [
            [icdtune.__version__, module.VERSION, source_version(), choice.prepare, choice.options],
            [_files(value) for value in options.values() if isinstance(value, Path)],
        ]
    )
    with FileLock(_lock(path)):  # one of several processes prepares it
        if not (done(mark, expected) and path.exists()):
            begin(mark)
            announce(f"prepare {choice.prepare}")
            prepare(path, **options, overwrite=True)
            write_json(mark, {"fingerprint": expected})
    return Corpus(path)


def _lock(path: Path) -> Path:
    """A lock for a path, outside its folder: nothing is left there where the work fails."""
    digest = hashlib.sha256(f"{Path.home()} {path.absolute()}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"icdtune-{digest}.lock"


def keep_labels(study: Study, task: Task, folder: Path) -> None:
    """Write labels.json, and into the study's own corpus, where other commands find it."""
    paths = [folder / "labels.json"]
    if study.corpus.prepare:
        paths.append(task.corpus.path / "labels" / f"{task.labels.name}.json")
    content = task.labels.model_dump()
    for path in paths:
        if not path.exists() or read_json(path) != content:
            write_json(path, content)


def _trained(study: Study, task: Task, run: Run) -> str:
    """Fingerprint of everything that decides a run's trained coder."""
    return fingerprint(
        [
            versions(),
            task.corpus.info.hash,
            _given_corpus(study, task.corpus),
            task.labels.model_dump(),
            run.choice.coder,
            coder_source(run.choice.coder),
            all_options(run.choice.coder, run.choice.options),
            option_files(run.choice.options),
            _base_files(run.choice),
            {option: _trained(study, task, used) for option, used in run.uses.items()},
            run.seed,
        ]
    )


def _base_files(choice: CoderChoice) -> Any:
    """Name, size and time of the base model's files; its name where it comes from a hub."""
    model = base_model(choice.coder, choice.options)
    if model is None:
        return None
    path = Path(model_path(model))
    told = ("README.md", "evaluations.json")  # what a coder's folder says of itself decides nothing
    return [each for each in _files(path) if each[0] not in told] if path.is_dir() else model


def predictions_of(study: Study, task: Task, run: Run, announce: Announce) -> Predictions:
    """Train and predict unless done; the predictions as read back from their file."""
    with FileLock(_lock(run.folder)):  # one of several processes does it
        return _predictions_of(study, task, run, announce)


def _predictions_of(study: Study, task: Task, run: Run, announce: Announce) -> Predictions:
    trained = _trained(study, task, run)
    mark = run.folder / "train.stage.json"
    if not (done(mark, trained) and run.coder.exists()):
        begin(mark)
        announce(f"train {run.choice.name} (seed {run.seed})")
        choice = run.choice
        options = choice.options | {option: str(used.coder) for option, used in run.uses.items()}
        train_coder(choice.coder, task, run.coder, run.seed, options, overwrite=True)
        write_json(mark, {"fingerprint": trained})
    seen = notes_seen(task, study, run.choice)
    predicted = fingerprint([trained, study.split, run.choice.notes])
    mark = run.folder / "predict.stage.json"
    if not (done(mark, predicted) and (run.predictions / "predictions.parquet").exists()):
        begin(mark)
        announce(f"predict {run.choice.name} (seed {run.seed})")
        coder = load_coder(run.coder)
        run_coder(coder, run.choice.name, seen, study.split, run.seed, run.predictions)
        write_json(mark, {"fingerprint": predicted})
    return read_predictions(run.predictions)[0]
