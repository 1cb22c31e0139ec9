"""Run a study: do what is missing, keep every stage's output, and render the report.

A stage is done when its mark says so with the fingerprint of everything that decides its outcome;
a stage whose settings changed is run again. An interrupted run goes on where it stopped and ends
with the same predictions and metrics.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import icdtune
import icdtune.posttrain
from icdtune.coders.base import (
    base_model,
    coder_source,
    load_coder,
    make_coder,
    run_coder,
    train_coder,
    versions,
)
from icdtune.coders.models import MissingModelError, model_path
from icdtune.codes.build import source_version
from icdtune.codes.tables import load_table
from icdtune.data import SOURCES
from icdtune.data.labels import LabelSpace, Task, choose_labels
from icdtune.data.predictions import Predictions, read_predictions
from icdtune.data.schema import Corpus
from icdtune.errors import IcdtuneError
from icdtune.evaluation.counts import Counts, average, count
from icdtune.evaluation.evaluate import summarise
from icdtune.evaluation.intervals import compare
from icdtune.evaluation.metrics import METRICS, whole
from icdtune.evaluation.slices import frequency_masks
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


def run_study(study: Study, folder: Path, announce: Announce = lambda line: None) -> dict[str, Any]:
    """Run what is missing of a study and write results.json.

    Args:
        study: the study.
        folder: where its outputs are and go.
        announce: called with one line as each stage begins.

    Returns:
        The content of results.json.
    """
    left_out = _left_out(study)
    rows = [choice for choice in study.coders if choice.name not in left_out]
    corpus = _corpus(study, folder, announce)
    task = Task(corpus, _labels(study, corpus))
    for split in dict.fromkeys(("train", "val", study.split)):
        task.gold(split)
    _keep_labels(study, task, folder)
    made: dict[str, list[tuple[Run, Predictions]]] = {}
    for choice in study.order():
        if choice.name not in left_out:
            runs = [_run_of(folder, choice, seed, study) for seed in study.seeds]
            made[choice.name] = [(run, _predict(study, task, run, announce)) for run in runs]
    counts: dict[str, Counts] = {}
    coders: list[dict[str, Any]] = []
    for choice in rows:
        seen = _seen(task, study, choice)
        runs = [run for run, _ in made[choice.name]]
        parts = [count(seen, study.split, each) for _, each in made[choice.name]]
        counts[choice.name] = average(parts)
        metrics = _metrics(study, seen, choice, counts[choice.name], runs, announce)
        coders.append(_row(choice, runs, parts, metrics))
    results = {
        "name": study.name,
        "description": study.description,
        "icdtune_version": icdtune.__version__,
        "versions": versions(),
        "settings": study.model_dump(mode="json"),
        "corpus": corpus.info.model_dump(),
        "split": study.split,
        "label_space": {
            "name": task.labels.name,
            "size": len(task.labels.codes),
            "rule": task.labels.rule.model_dump(),
            "empty_notes": task.labels.empty_notes,
        },
        "seeds": study.seeds,
        "coders": coders,
        "left_out": left_out,
        "comparisons": _comparisons(study, task, rows, made, folder, announce),
        "examples": [],
        "titles": {},
    }
    results["examples"] = _examples(study, task, rows, folder)
    results["titles"] = _titles(results, corpus)
    write_json(folder / "results.json", results)
    return results


def _left_out(study: Study) -> dict[str, str]:
    """Rows whose base model is missing, with the reason; checks every coder's options."""
    missing: dict[str, str] = {}
    for choice in study.order():
        used = [missing[name] for name in choice.uses.values() if name in missing]
        if used:
            missing[choice.name] = used[0]
            continue
        given = choice.options | dict.fromkeys(choice.uses, ".")
        make_coder(choice.coder, given)  # an unknown coder or option stops before any work
        try:
            if model := base_model(choice.coder, choice.options):
                model_path(model)
        except MissingModelError as error:
            if not choice.optional:
                raise
            missing[choice.name] = str(error)
    if len(missing) == len(study.coders):
        raise IcdtuneError(
            f'study "{study.name}": every row is left out: {next(iter(missing.values()))}'
        )
    return missing


def _run_of(folder: Path, choice: CoderChoice, seed: int, study: Study) -> Run:
    def place(name: str) -> Path:
        return folder / "coders" / name / f"seed-{seed}"

    names = {row.name: row for row in study.coders}
    uses = {
        option: _run_of(folder, names[used], seed, study) for option, used in choice.uses.items()
    }
    return Run(choice, seed, place(choice.name), uses)


def _seen(task: Task, study: Study, choice: CoderChoice) -> Task:
    """The task on the notes that a row predicts."""
    return task if choice.notes is None else task.sample(study.split, choice.notes)


def fingerprint(value: Any) -> str:
    """Hash of JSON-like settings."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _done(mark: Path, expected: str) -> bool:
    return mark.exists() and read_json(mark) == {"fingerprint": expected}


def _begin(mark: Path) -> None:
    """Take a stage's mark away before its output is replaced."""
    mark.unlink(missing_ok=True)


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of every file of a folder: changes where one of them does."""
    found = ((file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file())
    return [(str(file.relative_to(path)), s.st_size, s.st_mtime_ns) for file, s in found]


def _given_corpus(study: Study, corpus: Corpus) -> list[tuple[str, int, int]]:
    """The files of a corpus that the study did not make itself."""
    if study.corpus.path is None:
        return []
    return [entry for entry in _files(corpus.path) if entry[0].endswith(".parquet")]


def _corpus(study: Study, folder: Path, announce: Announce) -> Corpus:
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
    options = check_options(prepare, choice.options, where, hidden=("out", "overwrite"))
    path, mark = folder / "corpus", folder / "corpus.stage.json"
    expected = fingerprint(
        [
            [icdtune.__version__, module.VERSION, source_version(), choice.prepare, choice.options],
            [_files(value) for value in options.values() if isinstance(value, Path)],
        ]
    )
    if not (_done(mark, expected) and path.exists()):
        _begin(mark)
        announce(f"prepare {choice.prepare}")
        prepare(path, **options, overwrite=True)
        write_json(mark, {"fingerprint": expected})
    return Corpus(path)


def _labels(study: Study, corpus: Corpus) -> LabelSpace:
    choice = study.labels
    return choose_labels(corpus, choice.name, choice.rule, choice.empty_notes)


def _keep_labels(study: Study, task: Task, folder: Path) -> None:
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
            run.choice.options,
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
    return _files(path) if path.is_dir() else model


def _predict(study: Study, task: Task, run: Run, announce: Announce) -> Predictions:
    """Train and predict unless done; the predictions as read back from their file."""
    trained = _trained(study, task, run)
    mark = run.folder / "train.stage.json"
    if not (_done(mark, trained) and run.coder.exists()):
        _begin(mark)
        announce(f"train {run.choice.name} (seed {run.seed})")
        choice = run.choice
        options = choice.options | {option: str(used.coder) for option, used in run.uses.items()}
        train_coder(choice.coder, task, run.coder, run.seed, options, overwrite=True)
        write_json(mark, {"fingerprint": trained})
    seen = _seen(task, study, run.choice)
    predicted = fingerprint([trained, study.split, run.choice.notes])
    mark = run.folder / "predict.stage.json"
    if not (_done(mark, predicted) and (run.predictions / "predictions.parquet").exists()):
        _begin(mark)
        announce(f"predict {run.choice.name} (seed {run.seed})")
        coder = load_coder(run.coder)
        run_coder(coder, run.choice.name, seen, study.split, run.seed, run.predictions)
        write_json(mark, {"fingerprint": predicted})
    return read_predictions(run.predictions)[0]


def _metrics(
    study: Study,
    task: Task,
    choice: CoderChoice,
    counts: Counts,
    runs: list[Run],
    announce: Announce,
) -> dict[str, Any]:
    path = runs[0].folder.parent / "metrics.json"
    mark = runs[0].folder.parent / "evaluate.stage.json"
    marks = [read_json(run.folder / "predict.stage.json") for run in runs]
    options = study.evaluation
    expected = fingerprint([marks, options.model_dump(exclude={"examples"}), list(METRICS)])
    if not (_done(mark, expected) and path.exists()):
        _begin(mark)
        announce(f"evaluate {choice.name}")
        metrics = summarise(
            counts, task, study.split, len(runs), options.resamples, options.seed, options.level
        )
        write_json(path, metrics)
        write_json(mark, {"fingerprint": expected})
    content: dict[str, Any] = read_json(path)
    return content


def _row(
    choice: CoderChoice, runs: list[Run], parts: list[Counts], metrics: dict[str, Any]
) -> dict[str, Any]:
    infos = [read_json(run.predictions / "predictions.json") for run in runs]
    trained = [read_json(run.coder / "coder.json") for run in runs]
    per_seed = []
    for run, part in zip(runs, parts, strict=True):
        totals = whole(part)
        names = ("micro_f1", "macro_f1")
        values = {name: float(METRICS[name](totals)[0]) for name in names}
        per_seed.append({"seed": run.seed, **values})
    tokens = [info["tokens"] for info in infos if info["tokens"] is not None]
    return {
        "name": choice.name,
        "coder": choice.coder,
        "options": choice.options,
        "note": choice.note,
        "seconds": {
            "train": round(sum(info["seconds"] for info in trained) / len(runs), 2),
            "predict": round(sum(info["seconds"] for info in infos) / len(runs), 2),
        },
        "tokens": sum(tokens) // len(tokens) if tokens else None,
        "details": [info["details"] for info in infos],
        "notes": choice.notes,
        "training": [
            read_json(run.coder / "training.json")
            for run in runs
            if (run.coder / "training.json").exists()
        ],
        "metrics": metrics,
        "per_seed": per_seed,
    }


def _comparisons(
    study: Study,
    task: Task,
    rows: list[CoderChoice],
    made: dict[str, list[tuple[Run, Predictions]]],
    folder: Path,
    announce: Announce,
) -> list[dict[str, Any]]:
    """Paired tests between neighbouring rows and those named, on the notes that both predicted."""
    options = study.evaluation
    found: list[dict[str, Any]] = []
    if options.resamples == 0:
        return []
    frequencies = task.frequencies()
    by_name = {row.name: row for row in rows}
    named = [pair for pair in study.compare if set(pair) <= by_name.keys()]
    pairs = [(first.name, second.name) for first, second in itertools.pairwise(rows)]
    for one, other in dict.fromkeys([*pairs, *named]):
        first, second = by_name[one], by_name[other]
        mark = folder / "coders" / second.name / f"compare-{first.name}.json"
        marks = [
            read_json(folder / "coders" / row.name / "evaluate.stage.json")
            for row in (first, second)
        ]
        expected = fingerprint(marks)
        if not (mark.exists() and read_json(mark).get("fingerprint") == expected):
            announce(f"compare {first.name} and {second.name}")
            common = _common(task, study, first, second)
            before, after = (
                average([count(common, study.split, each) for _, each in made[name]])
                for name in (one, other)
            )
            tests = compare(
                before,
                after,
                options.resamples,
                options.seed,
                options.level,
                slices=partial(frequency_masks, frequencies=frequencies),
            )
            notes = int(before.sums["notes"].sum())
            write_json(mark, {"fingerprint": expected, "notes": notes, "metrics": tests})
        content = read_json(mark)
        found.append(
            {
                "first": first.name,
                "second": second.name,
                "notes": content["notes"],
                "metrics": content["metrics"],
            }
        )
    return found


def _common(task: Task, study: Study, first: CoderChoice, second: CoderChoice) -> Task:
    """The task on the notes that two rows predict."""
    only = [seen.only for seen in (_seen(task, study, row) for row in (first, second)) if seen.only]
    return replace(task, only=frozenset.intersection(*only)) if only else task


def _examples(
    study: Study, task: Task, rows: list[CoderChoice], folder: Path
) -> list[dict[str, Any]]:
    """Notes spread evenly over the split, with what each coder's first run said; none if protected."""
    wanted = study.evaluation.examples
    if task.corpus.info.protected or wanted == 0:
        return []
    ids = task.gold(study.split)[0]
    spread = set(ids[:: max(1, len(ids) // wanted)][:wanted])
    chosen = {note.note_id: note for note in task.notes(study.split) if note.note_id in spread}
    evidence: dict[str, list[dict[str, Any]]] = {note_id: [] for note_id in chosen}
    for span in task.corpus.evidence():
        if span.note_id in chosen and span.code in (chosen[span.note_id].codes or ()):
            place = {"code": span.code, "start": span.start, "end": span.end}
            evidence[span.note_id].append(place)
    predicted: dict[str, dict[str, list[dict[str, Any]]]] = {note_id: {} for note_id in chosen}
    for choice in rows:
        path = folder / "coders" / choice.name / f"seed-{study.seeds[0]}" / "predictions"
        for row in read_predictions(path)[0]:
            if row.note_id in chosen:
                scores = row.scores or (None,) * len(row.codes)
                predicted[row.note_id][choice.name] = [
                    {"code": code, "score": score}
                    for code, score in zip(row.codes, scores, strict=True)
                ]
    return [
        {
            "note_id": note_id,
            "text": note.text,
            "gold": list(note.codes or ()),
            "evidence": evidence[note_id],
            "predicted": predicted[note_id],
        }
        for note_id, note in chosen.items()
    ]


def _titles(results: dict[str, Any], corpus: Corpus) -> dict[str, str]:
    """Title of every code that the report shows."""
    codes = {c for row in results["coders"] for c in row["metrics"]["per_code"]["code"]}
    for example in results["examples"]:
        codes.update(example["gold"])
        codes.update(p["code"] for row in example["predicted"].values() for p in row)
    tables = [load_table(name) for name in corpus.info.code_systems.values()]
    titles = {}
    for code in sorted(codes):
        table = next((table for table in tables if code in table), None)
        if table is not None:
            titles[code] = table.title(code)
    return titles
