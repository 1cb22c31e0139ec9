"""Label attention of 8,000 labels: plain, fused and in blocks of labels; memory and speed on the CPU.

    python benchmarks/label_attention.py --out benchmarks/results/label_attention.json

Each form runs in a process of its own; peak memory is what it adds to that of a process that has run
the same on a small input.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import torch
import typer

from icdtune.coders.classifiers.attention import LabelAttention
from icdtune.files import write_json

NOTES, TOKENS, WIDTH, LABELS = 2, 4_096, 256, 8_000
BLOCK = 128
FORMS = ("plain", "fused", "blocks")
app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def compare(out: Annotated[Path | None, typer.Option()] = None, repeats: int = 3) -> None:
    """Memory and seconds of both forms, forward and in training."""
    found: dict[str, Any] = {
        "notes": NOTES,
        "tokens": TOKENS,
        "width": WIDTH,
        "labels": LABELS,
        "block": BLOCK,
    }
    for mode in ("forward", "training"):
        for form in FORMS:
            command = [sys.executable, __file__, "measure", mode, form, str(repeats)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[f"{mode} {form}"] = json.loads(done.stdout)
        plain = found[f"{mode} plain"]
        for form in FORMS[1:]:
            own = found[f"{mode} {form}"]
            own["memory_share"] = round(own["added_gb"] / plain["added_gb"], 3)
            own["speed"] = round(plain["seconds"] / own["seconds"], 2)
    print(json.dumps(found, indent=1))
    if out:
        write_json(out, found)


@app.command()
def measure(mode: str, form: str, repeats: int) -> None:
    """One form: median seconds, and memory added at its peak."""
    torch.manual_seed(0)
    attention = _Forced("projected", WIDTH, LABELS, label_block_size=BLOCK)
    states = torch.randn((NOTES, TOKENS, WIDTH), requires_grad=True)
    mask = torch.ones((NOTES, TOKENS))
    attention.form = form
    attention(states[:, :64], mask[:, :64]).sum().backward()  # threads and libraries are up
    states.grad = None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(repeats):
        started = perf_counter()
        if mode == "training":
            attention(states, mask).sum().backward()
        else:
            with torch.no_grad():
                attention(states, mask)
        times.append(perf_counter() - started)
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": round(median(times), 3), "added_gb": round(added / 1e6, 3)}))


class _Forced(LabelAttention):
    """Label attention in the form that is asked for, whatever the widths."""

    form = "fused"

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """As the module does, or plain, or in blocks."""
        if self.form == "fused":
            return super().forward(states, mask)
        self.block = BLOCK if self.form == "blocks" else None
        return self._in_blocks(*self.keys_and_values(states), mask)


if __name__ == "__main__":
    app()
