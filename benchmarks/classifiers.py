"""The classifiers' ranking from what has run of examples/classifiers.yaml: figures without note text.

python benchmarks/classifiers.py examples/classifiers.yaml runs --out benchmarks/results/classifiers.json

Rows are ranked by micro-F1; neighbours are compared on the notes that both predicted. It needs the
predictions alone, so that runs on several machines can be put side by side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from icdtune.data.labels import Task, choose_labels
from icdtune.data.predictions import read_predictions
from icdtune.data.schema import Corpus
from icdtune.evaluation.counts import Counts, average, count
from icdtune.evaluation.evaluate import summarise
from icdtune.evaluation.intervals import compare
from icdtune.evaluation.metrics import METRICS, whole
from icdtune.files import read_json, write_json
from icdtune.study.file import CoderChoice, Study, read_study
from icdtune.study.stages import prepare_corpus

SHOWN = ("micro_f1", "macro_f1", "micro_precision", "micro_recall", "map")


def main(
    file: Path,
    runs: Path,
    out: Annotated[Path, typer.Option()],
    device: Annotated[str, typer.Option(help="What it ran on.")] = "",
) -> None:
    """Write each study's table."""
    found = {study.name: table(study, runs / study.name) for study in read_study(file)}
    write_json(out, {"device": device, "studies": found})


def table(study: Study, folder: Path) -> dict[str, Any]:
    """A study's rows, best first, and the paired tests of neighbours."""
    corpus = prepare_corpus(study, folder, print)
    choice = study.labels
    task = Task(corpus, choose_labels(corpus, choice.name, choice.rule, choice.empty_notes))
    rows, counts = [], {}
    for coder in study.coders:
        parts, row = one(study, task, corpus, folder / "coders" / coder.name, coder)
        if parts:
            counts[coder.name] = average(parts)
            metrics = summarise(counts[coder.name], task, study.split, len(parts), 1000, 0, 0.95)
            row["metrics"] = {name: metrics["metrics"][name] for name in SHOWN}
            row["by_frequency"] = metrics["by_frequency"]
            rows.append(row)
            print(study.name, coder.name, round(100 * row["metrics"]["micro_f1"]["value"], 1))
    rows.sort(key=lambda row: -row["metrics"]["micro_f1"]["value"])
    names = [row["name"] for row in rows]
    tests = [
        {
            "first": lower,
            "second": higher,
            "metrics": compare(counts[lower], counts[higher], names=("micro_f1", "macro_f1")),
        }
        for higher, lower in zip(names, names[1:], strict=False)
    ]
    return {"corpus_hash": corpus.info.hash, "split": study.split, "rows": rows, "tests": tests}


def one(
    study: Study, task: Task, corpus: Corpus, folder: Path, coder: CoderChoice
) -> tuple[list[Counts], dict[str, Any]]:
    """A row's counts for every seed that has run, and what is said about it."""
    parts, seconds, per_seed, versions = [], [], [], {}
    for seed in study.seeds_of(coder):
        place = folder / f"seed-{seed}"
        if not (place / "predictions" / "predictions.parquet").exists():
            continue
        predictions, info = read_predictions(place / "predictions")
        assert info is not None
        assert info.corpus_hash == corpus.info.hash, f"{place} is about another corpus"
        parts.append(count(task, study.split, predictions))
        versions = info.versions
        trained = read_json(place / "coder" / "coder.json")
        seconds.append([trained["seconds"], info.seconds])
        totals = whole(parts[-1])
        values = {m: float(METRICS[m](totals)[0]) for m in ("micro_f1", "macro_f1")}
        per_seed.append({"seed": seed} | values)
    row = {
        "name": coder.name,
        "options": coder.options,
        "seconds": seconds,
        "per_seed": per_seed,
        "versions": versions,
    }
    return parts, row


if __name__ == "__main__":
    typer.run(main)
