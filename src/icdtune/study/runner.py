"""Run a study: do what is missing, keep every stage's output, and gather the results.

An interrupted run goes on where it stopped and ends with the same predictions and metrics.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import icdtune
import icdtune.posttrain
from icdtune.coders.base import base_model, make_coder, versions
from icdtune.coders.card import keep_evaluation
from icdtune.coders.models import MissingModelError, model_path
from icdtune.codes.tables import load_table
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
from icdtune.study.file import CoderChoice, Study
from icdtune.study.stages import (
    Announce,
    Run,
    begin,
    done,
    fingerprint,
    keep_labels,
    notes_seen,
    predictions_of,
    prepare_corpus,
    run_of,
)


def run_study(study: Study, folder: Path, announce: Announce = lambda line: None) -> dict[str, Any]:
    """Run what is missing of a study and write results.json.

    Args:
        study: the study.
        folder: where its outputs are and go.
        announce: called with one line as each stage begins.

    Returns:
        The content of results.json.
    """
    left_out, task = _begin(study, folder, announce)
    corpus = task.corpus
    rows = [choice for choice in study.coders if choice.name not in left_out]
    made: dict[str, list[tuple[Run, Predictions]]] = {}
    for choice in study.order():
        if choice.name not in left_out:
            runs = [run_of(folder, choice, seed, study) for seed in study.seeds_of(choice)]
            made[choice.name] = [(run, predictions_of(study, task, run, announce)) for run in runs]
    counts: dict[str, Counts] = {}
    coders: list[dict[str, Any]] = []
    for choice in rows:
        seen = notes_seen(task, study, choice)
        runs = [run for run, _ in made[choice.name]]
        parts = [count(seen, study.split, each) for _, each in made[choice.name]]
        counts[choice.name] = average(parts)
        metrics = _metrics(study, seen, choice, counts[choice.name], runs, announce)
        for run in runs:
            keep_evaluation(run.coder, metrics)
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


def run_part(
    study: Study,
    folder: Path,
    seed: int | None = None,
    coder: str | None = None,
    announce: Announce = lambda line: None,
) -> None:
    """Train and predict what is missing of one seed, of one row, or of both, and gather no results.

    Parts may run side by side, each in a process of its own: a row that several use is waited for.
    `run_study` then finds them done. Raises IcdtuneError for a seed or row that the study does not name.
    """
    if seed is not None and seed not in study.seeds:
        known = ", ".join(map(str, study.seeds))
        raise IcdtuneError(f'study "{study.name}" has no seed {seed}. Its seeds: {known}')
    names = [choice.name for choice in study.coders]
    if coder is not None and coder not in names:
        raise IcdtuneError(
            f'study "{study.name}" has no row "{coder}". Its rows: {", ".join(names)}'
        )
    wanted = study.needed([coder]) if coder else study.order()
    left_out, task = _begin(study, folder, announce)
    for choice in wanted:
        if choice.name not in left_out:
            for one in study.seeds_of(choice):
                if seed in (None, one):
                    predictions_of(study, task, run_of(folder, choice, one, study), announce)


def _begin(study: Study, folder: Path, announce: Announce) -> tuple[dict[str, str], Task]:
    """Check the rows and prepare the corpus: rows left out with the reason, and the task."""
    left_out = _left_out(study)
    corpus = prepare_corpus(study, folder, announce)
    task = Task(corpus, _labels(study, corpus))
    for split in dict.fromkeys(("train", "val", study.split)):
        task.gold(split)
    keep_labels(study, task, folder)
    return left_out, task


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


def _labels(study: Study, corpus: Corpus) -> LabelSpace:
    choice = study.labels
    return choose_labels(corpus, choice.name, choice.rule, choice.empty_notes)


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
    if not (done(mark, expected) and path.exists()):
        begin(mark)
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
    only = [
        seen.only for seen in (notes_seen(task, study, row) for row in (first, second)) if seen.only
    ]
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
