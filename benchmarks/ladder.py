"""Collect what `make ladder` measured: figures and settings, without note text.

    python benchmarks/ladder.py runs --out benchmarks/results/ladder.json
    python benchmarks/ladder.py runs other/runs --out benchmarks/results/ladder.json
    python benchmarks/ladder.py runs --studies credit-variants,credit-finalists --out credit.json

Rows that the first folder left out are taken from the second (SmolLM2's, run on another machine), and
compared with their neighbours, and with SFT, on the notes that both predicted.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from icdtune.coders.card import named
from icdtune.data.labels import Task, read_labels
from icdtune.data.predictions import Predictions, read_predictions
from icdtune.data.schema import Corpus
from icdtune.evaluation.counts import average, count
from icdtune.evaluation.intervals import compare
from icdtune.evaluation.slices import frequency_masks
from icdtune.files import read_json, write_json

METRICS = ("micro_f1", "macro_f1", "micro_precision", "micro_recall", "sample_f1", "map")
LADDER = Path(__file__).parents[1] / "examples" / "ladder.yaml"


def main(
    runs: Path,
    more: Annotated[Path | None, typer.Argument()] = None,
    out: Annotated[Path, typer.Option()] = Path("ladder.json"),
    studies: str = "ladder-full,ladder-top50",
) -> None:
    """Write the figures of those studies that have run, by default the ladder's."""
    found: dict[str, Any] = {}
    for name in studies.split(","):
        path = runs / name / "results.json"
        if not path.exists():
            continue
        found[name] = _figures(read_json(path))
        if more is not None and (more / name / "results.json").exists():
            _add(found[name], name, runs, more)
    write_json(out, found)


def _figures(results: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {
            "name": row["name"],
            "options": row["options"],
            "notes": row["metrics"]["notes"],
            "metrics": {name: row["metrics"]["metrics"][name] for name in METRICS},
            "by_frequency": row["metrics"]["by_frequency"],
            "per_seed": row["per_seed"],
            "seconds": row["seconds"],
            "training": [
                {key: value for key, value in run.items() if key != "history"}
                for run in row.get("training", [])
            ],
        }
        for row in results["coders"]
    ]
    settings = results["settings"]
    corpus = settings["corpus"]
    return {
        "settings": settings | {"corpus": corpus | {"options": named(corpus["options"])}},
        "versions": results["versions"],
        "corpus_hash": results["corpus"]["hash"],
        "rows": rows,
        "comparisons": results["comparisons"],
        "left_out": results["left_out"],
    }


def _add(found: dict[str, Any], name: str, runs: Path, more: Path) -> None:
    """Add the rows of another run that this one lacks, and their paired tests."""
    other = _figures(read_json(more / name / "results.json"))
    assert other["corpus_hash"] == found["corpus_hash"], "the runs are about different corpora"
    have = {row["name"] for row in found["rows"]}
    added = [
        row | {"versions": other["versions"]} for row in other["rows"] if row["name"] not in have
    ]
    found["rows"] += added
    corpus = Corpus(more / name / "corpus")
    labels = read_labels(more / name / "labels.json", corpus.info.code_systems)
    task = Task(corpus, labels)
    study = next(s for s in yaml.safe_load_all(LADDER.read_text()) if s["name"] == name)
    order = [row["name"] for row in study["coders"]]
    new = {row["name"] for row in added}
    pairs = [pair for pair in zip(order, order[1:], strict=False) if new & set(pair)]
    pairs += [(row, "sft") for row in order if row in new]
    for first, second in pairs:
        sides = [
            _predictions((more if row in new else runs) / name, row) for row in (first, second)
        ]
        if not all(sides):  # a row whose predictions were not brought along
            continue
        common = frozenset.intersection(
            *(frozenset(p.note_id for p in runs_of[0]) for runs_of in sides)
        )
        part = replace(task, only=common)
        before, after = (
            average([count(part, "test", run) for run in runs_of]) for runs_of in sides
        )
        tests = compare(
            before,
            after,
            1000,
            0,
            0.95,
            slices=partial(frequency_masks, frequencies=task.frequencies()),
        )
        notes = int(before.sums["notes"].sum())
        found["comparisons"].append(
            {"first": first, "second": second, "notes": notes, "metrics": tests}
        )
        found["left_out"].pop(first, None)
        found["left_out"].pop(second, None)


def _predictions(study: Path, row: str) -> list[Predictions]:
    """What each seed of a row predicted."""
    folders = sorted((study / "coders" / row).glob("seed-*"))
    return [read_predictions(folder / "predictions")[0] for folder in folders]


if __name__ == "__main__":
    typer.run(main)
