"""Collect what `make ladder` measured: figures and settings, without note text.

python benchmarks/ladder.py runs --out benchmarks/results/ladder.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from icdtune.files import read_json, write_json

STUDIES = ("ladder-full", "ladder-top50")
METRICS = ("micro_f1", "macro_f1", "micro_precision", "micro_recall", "sample_f1", "map")


def main(runs: Path, out: Annotated[Path, typer.Option()]) -> None:
    """Write the figures of the ladder's studies that have run."""
    found = {name: runs / name / "results.json" for name in STUDIES}
    write_json(out, {n: _figures(read_json(p)) for n, p in found.items() if p.exists()})


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
    return {
        "settings": results["settings"],
        "versions": results["versions"],
        "rows": rows,
        "comparisons": results["comparisons"],
        "left_out": results["left_out"],
    }


if __name__ == "__main__":
    typer.run(main)
