"""Training with label attention as published and normalised, at the usual learning rate and at 5x.

python benchmarks/attention_norm.py --out benchmarks/results/attention_norm.json

Synthetic notes, `laptop` settings, dropout as there; the mean loss of the last tenth of the updates, or
the update at which the loss stopped being finite.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from icdtune.coders.base import train_coder
from icdtune.coders.classifiers.presets import load_preset
from icdtune.data.labels import LabelRule, Task, choose_labels
from icdtune.data.schema import Corpus
from icdtune.data.synthetic import prepare
from icdtune.errors import IcdtuneError
from icdtune.files import read_json, write_json

CODERS = ("caml", "multirescnn", "laat")


def main(
    notes: int = 600,
    epochs: int = 6,
    times: float = 5.0,
    out: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Train each coder in four ways."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work / "corpus", train=notes, val=60, test=10, seed=1)
        corpus = Corpus(work / "corpus")
        task = Task(corpus, choose_labels(corpus, "full", LabelRule(kind="full")))
        for coder in CODERS:
            usual = load_preset(coder, "laptop", {}).learning_rate
            for rate in (usual, times * usual):
                for norm in ("none", "layer"):
                    options = {"preset": "laptop", "epochs": epochs, "learning_rate": rate}
                    result = losses(coder, task, work / "coder", options | {"attention_norm": norm})
                    row = {"coder": coder, "learning_rate": rate, "norm": norm} | result
                    rows.append(row)
                    print({key: value for key, value in row.items() if key != "curve"}, flush=True)
    if out:
        write_json(out, {"notes": notes, "epochs": epochs, "rows": rows})


def losses(coder: str, task: Task, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Mean loss at the end, and ten points of its curve."""
    try:
        train_coder(coder, task, folder, 1, options, overwrite=True)
    except IcdtuneError as error:
        if not (found := re.match(r"step (\d+)", str(error))):
            raise
        return {"stopped_at": int(found[1])}
    values = [row["loss"] for row in read_json(folder / "training.json")["history"]]
    parts = np.array_split(np.array(values), 10)
    curve = [round(float(part.mean()), 4) for part in parts]
    return {"loss": curve[-1], "highest": round(max(values), 4), "curve": curve}


if __name__ == "__main__":
    typer.run(main)
