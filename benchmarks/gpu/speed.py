"""What an update and an answer cost on this machine's GPU: `tiny` on the demo's corpus.

python benchmarks/gpu/speed.py --out benchmarks/results/gpu.json
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import icdtune.posttrain  # noqa: F401 - registers its coders
from icdtune.coders.base import load_coder, run_coder, train_coder, versions
from icdtune.data.labels import LabelRule, Task, choose_labels
from icdtune.data.schema import Corpus
from icdtune.data.synthetic import prepare
from icdtune.decoding.hardware import best_device
from icdtune.files import read_json, write_json


def main(
    sft: int = 60,
    grpo: int = 12,
    notes: int = 1_000,
    out: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Seconds of an SFT update, a GRPO update and greedy answers to `notes` notes."""
    device = best_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    found: dict[str, Any] = {"device": name, "versions": versions(), "notes": notes}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work / "corpus", train=2000, val=100, test=notes, seed=1)
        corpus = Corpus(work / "corpus")
        task = Task(corpus, choose_labels(corpus, "full", LabelRule(kind="full")))
        train_coder("sft", task, work / "sft", 1, {"steps": sft})
        found["sft_update"] = updates(work / "sft", sft)
        options = {"start": str(work / "sft"), "steps": grpo}
        train_coder("grpo", task, work / "grpo", 1, options)
        found["grpo_update"] = updates(work / "grpo", grpo)
        coder = load_coder(work / "grpo")
        started = time.perf_counter()
        run_coder(coder, "grpo", task, "test", 1, work / "predictions")
        found["answers"] = round(time.perf_counter() - started, 1)
    if device.type == "cuda":
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    print(found)
    if out:
        write_json(out, found)


def updates(coder: Path, count: int) -> float:
    """Mean seconds of an update, start and rows included."""
    return round(float(read_json(coder / "training.json")["seconds"]) / count, 3)


if __name__ == "__main__":
    typer.run(main)
