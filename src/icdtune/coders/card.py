"""What a coder's folder says of itself: coder.json, and the model card that is written from it.

The card names the data, the stages that led to the weights, what the coder reached wherever it was
evaluated, with intervals, and what the notes it learnt from mean for passing it on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from icdtune.data.labels import Task
from icdtune.data.schema import first_problem
from icdtune.errors import IcdtuneError
from icdtune.files import atomic_file, read_json, write_json

SHOWN = ("micro_f1", "macro_f1", "micro_precision", "micro_recall", "map")
"""Metrics of the card; all are kept in evaluations.json."""


USE = """## Use

    icdtune predict --coder THIS_FOLDER --corpus CORPUS --split test --out PREDICTIONS
"""


class Stage(BaseModel):
    """One training that led to a coder, on which data."""

    coder: str
    options: dict[str, Any]
    corpus: str
    source: str
    protected: bool
    seed: int
    seconds: float
    steps: int | None = None
    tokens: int | None = None


class Data(BaseModel):
    """What there is to know of the corpus that a coder was trained on, beside its name and hash."""

    corpus: str
    source: str
    protected: bool
    notes: dict[str, int]
    codes: int


class CoderInfo(BaseModel):
    """The content of coder.json; `loader` is the class that reads the folder, if not the coder's.

    Of options that are paths the last name is kept: folders travel.
    """

    coder: str
    loader: str | None = None
    about: str = ""
    options: dict[str, Any]
    corpus: str
    corpus_hash: str
    label_space: str
    seed: int
    seconds: float
    versions: dict[str, str]
    data: Data | None = None
    stages: list[Stage] = []

    @property
    def protected(self) -> bool:
        """Whether patient data, or data that nobody remembers, went into the weights."""
        return self.data is None or any(stage.protected for stage in self.stages)


def read_coder_info(folder: Path) -> CoderInfo:
    """What coder.json says; IcdtuneError where the folder is no coder's."""
    path = folder / "coder.json"
    if not path.is_file():
        raise IcdtuneError(
            f"{folder} is not a coder: it has no coder.json. Train one with: icdtune train CODER"
        )
    try:
        return CoderInfo.model_validate(read_json(path))
    except ValidationError as error:
        raise IcdtuneError(f"{path}: {first_problem(error)}. Train the coder again") from None


def data_of(task: Task) -> Data:
    """The corpus and label space of a task."""
    info = task.corpus.info
    return Data(
        corpus=info.name,
        source=info.source,
        protected=info.protected,
        notes={name: split.notes for name, split in info.splits.items()},
        codes=len(task.labels.codes),
    )


def earlier_coder(options: Mapping[str, Any]) -> Path | None:
    """Folder of the coder that a training goes on from, as its start or as its model.

    A start is a coder; a model may be one.
    """
    if "start" in options:
        return Path(str(options["start"]))
    model = Path(str(options.get("model", "")))
    return model if "model" in options and (model / "coder.json").is_file() else None


def stages_of(
    coder: str,
    options: Mapping[str, Any],
    seed: int,
    seconds: float,
    training: Mapping[str, Any],
    data: Data,
) -> list[Stage]:
    """The stages of the coder that a training went on from, and this one.

    Args:
        options: as given; `start` or `model` may name a coder's folder.
        training: what the coder wrote down of its training.
    """
    before = earlier_coder(options)
    earlier = [] if before is None else _stages(read_coder_info(before))
    own = Stage(
        coder=coder,
        options={name: value for name, value in named(options).items() if name != "start"},
        corpus=data.corpus,
        source=data.source,
        protected=data.protected,
        seed=seed,
        seconds=seconds,
        steps=training.get("steps"),
        tokens=training.get("tokens"),
    )
    return [*earlier, own]


def _stages(info: CoderInfo) -> list[Stage]:
    """A coder's stages; one from before they were kept counts as trained on patient data."""
    if info.data is not None:
        return info.stages
    known = info.model_dump(include={"coder", "options", "corpus", "seed", "seconds"})
    return [Stage(**known | {"options": named(info.options)}, source="unknown", protected=True)]


def named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the last name of each that is a path."""
    return {name: _without_folders(value) for name, value in options.items()}


def keep_evaluation(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Put an evaluation of a coder (metrics.json) into its folder and its card.

    One of the same corpus, split, label space and number of notes takes the place of the earlier one.
    """
    info = read_coder_info(folder)
    path = folder / "evaluations.json"
    before: list[dict[str, Any]] = read_json(path) if path.exists() else []
    left_out = ("per_code", "by_frequency", "against")
    own = {name: value for name, value in metrics.items() if name not in left_out}
    kept = [each for each in before if _about(each) != _about(own)] + [own]
    if kept != before:
        write_json(path, kept)
        write_card(folder, info)


def write_card(folder: Path, info: CoderInfo) -> None:
    """Write README.md from coder.json and what evaluations the folder holds."""
    path = folder / "evaluations.json"
    evaluations: list[dict[str, Any]] = read_json(path) if path.exists() else []
    with atomic_file(folder / "README.md") as temporary:
        temporary.write_text(card(info, evaluations), encoding="utf-8")


def card(info: CoderInfo, evaluations: list[dict[str, Any]]) -> str:
    """The model card."""
    parts = [f"---\n{_metadata(info, evaluations)}---\n# {info.coder}\n", f"{info.about}\n"]
    parts.append(_data_text(info))
    if info.stages:
        parts.append(_stages_text(info.stages))
    parts.append(_evaluations_text(evaluations))
    parts.append(USE)
    return "\n".join(parts)


def _metadata(info: CoderInfo, evaluations: list[dict[str, Any]]) -> str:
    """The head that model hubs read."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-classification",
            task_name="medical coding",
            dataset_type="icdtune",
            dataset_name=each["corpus"],
            dataset_split=each["split"],
            metric_type="f1",
            metric_name=name,
            metric_value=round(each["metrics"][name]["value"], 4),
        )
        for each in evaluations
        if each["runs"] == 1  # a mean over seeds is no result of this one
        for name in ("micro_f1", "macro_f1")
    ]
    found = ModelCardData(
        library_name="icdtune",
        tags=["medical-coding"],
        model_name=info.coder if results else None,
        eval_results=results or None,
    )
    return str(found.to_yaml()) + "\n"


def _data_text(info: CoderInfo) -> str:
    data = info.data
    about = f"hash `{info.corpus_hash[:16]}`"
    space = f"label space `{info.label_space}`"
    if data is not None:
        notes = ", ".join(f"{name} {count:,}" for name, count in data.notes.items())
        about = f"from {data.source}; {about}; notes: {notes}"
        space += f" of {data.codes:,} codes"
    text = f"## Data\n\nTrained on `{info.corpus}` ({about}), {space}.\n"
    if not info.protected:
        return text
    text += """
**Trained on patient data.** A trained coder can reveal notes that it learnt from: keep this folder where
those notes may be.
"""
    sources = " ".join(f"{stage.source} {stage.corpus}" for stage in info.stages)
    if "mimic" in f"{sources} {info.corpus}".lower():
        text += """
The notes are MIMIC's. PhysioNet's data use agreement covers what is derived from them: pass these
weights on only to people who have signed it, or through PhysioNet itself.
"""
    return text


def _stages_text(stages: list[Stage]) -> str:
    lines = [
        "## Stages",
        "",
        "| | options | corpus | seed | steps | tokens | seconds |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for stage in stages:
        options = ", ".join(f"{name}={value}" for name, value in stage.options.items())
        steps = "" if stage.steps is None else f"{stage.steps:,}"
        tokens = "" if stage.tokens is None else f"{stage.tokens:,}"
        about = f"{options or 'defaults'} | {stage.corpus} | {stage.seed}"
        lines.append(f"| {stage.coder} | {about} | {steps} | {tokens} | {stage.seconds:,.0f} |")
    return "\n".join(lines) + "\n"


def _evaluations_text(evaluations: list[dict[str, Any]]) -> str:
    if not evaluations:
        return "## Evaluation\n\nNot evaluated yet: `icdtune evaluate ... --card THIS_FOLDER`.\n"
    lines = [
        "## Evaluation",
        "",
        "In percent, with intervals by patient.",
        "",
        f"| corpus, split, label space, level | notes | {' | '.join(SHOWN)} |",
        f"|---|--:|{'--:|' * len(SHOWN)}",
    ]
    for each in evaluations:
        values = " | ".join(_percent(each["metrics"][name]) for name in SHOWN)
        runs = f" (mean of {each['runs']} seeds)" if each["runs"] > 1 else ""
        level = f"{each['bootstrap']['level']:.0%}"
        where = f"{each['corpus']}, {each['split']}, {each['label_space']}{runs}, {level}"
        lines.append(f"| {where} | {each['notes']:,} | {values} |")
    return "\n".join(lines) + "\n"


def _percent(value: Mapping[str, float]) -> str:
    text = f"{100 * value['value']:.1f}"
    if "low" in value:
        text += f" [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
    return text


def _about(evaluation: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("corpus_hash", "split", "label_space", "notes")
    return tuple(evaluation[name] for name in names)


def _without_folders(value: Any) -> Any:
    """A value; of a path the last name, also in a list. A hub's OWNER/NAME stays."""
    if isinstance(value, (list, tuple)):
        return [_without_folders(each) for each in value]
    path = Path(str(value)).expanduser()
    is_path = isinstance(value, Path) or path.is_absolute() or len(path.parts) > 1 and path.exists()
    return path.name if is_path else value
