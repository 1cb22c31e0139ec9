"""Memory of a PLM-ICD update: a formula, checked against what updates here take.

python benchmarks/plm_memory.py check --out benchmarks/results/plm_memory.json

Each size runs in a process of its own, on the CPU; what is measured is what an update adds to the
memory of a process that has run a small one. Weights are random, shapes are the encoders' own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer

from icdtune.files import write_json

app = typer.Typer(pretty_exceptions_enable=False)
GB = 1e9


@dataclass(frozen=True)
class Shape:
    """An encoder: what its configuration says."""

    layers: int
    width: int
    inner: int
    words: int


MINILM = Shape(6, 384, 1_536, 30_522)
ROBERTA = Shape(12, 768, 3_072, 50_265)
SIZES: tuple[tuple[str, Shape, int, int, int, bool], ...] = (
    # name, shape, notes, tokens, labels, bf16
    ("MiniLM", MINILM, 2, 2_048, 2_000, False),
    ("MiniLM", MINILM, 2, 2_048, 8_000, True),
    ("RoBERTa-base", ROBERTA, 1, 2_048, 8_000, True),
    ("RoBERTa-base", ROBERTA, 2, 3_072, 8_000, True),
    ("RoBERTa-base", ROBERTA, 1, 6_144, 8_000, True),
)


def predicted(
    shape: Shape, notes: int, tokens: int, labels: int, bf16: bool, checkpointing: bool = True
) -> dict[str, float]:
    """Bytes that an update holds at its peak, by part.

    - state: weights, gradients and AdamW's two moments in 32 bits, and the 16-bit copies of the
      weights that autocast keeps.
    - encoder: with checkpointing each layer's input and the activations of one layer; without, those
      of every layer. A layer keeps, for a token, 8 vectors of the width (input, query, key, value,
      attention, its output, two norms) and 3 of the inner width (before and after GELU, and its
      gradient).
    - attention: keys and values of the label attention and the states they come from (6 vectors a
      token, gradients included); for a label and note, query, summary and its reading in 32 bits, with
      their gradients (6 vectors).
    """
    part = 2 if bf16 else 4
    d, all_tokens = shape.width, notes * tokens
    encoder = shape.layers * (4 * d * d + 2 * d * shape.inner) + d * (shape.words + 514)
    head = 2 * labels * d + d * d
    state = (encoder + head) * (16 + (2 if bf16 else 0))
    layer = all_tokens * (8 * d * part + 3 * shape.inner * part + 2 * d * 4)
    kept = all_tokens * d * 4 * shape.layers
    activations = kept + layer if checkpointing else shape.layers * layer
    attention = all_tokens * 6 * d * part + notes * labels * d * 6 * 4
    return {"state": state, "encoder": activations, "attention": attention}


@app.command()
def check(out: Annotated[Path | None, typer.Option()] = None) -> None:
    """Predicted and measured gigabytes of each size, with and without checkpointing."""
    rows: list[dict[str, Any]] = []
    for name, shape, notes, tokens, labels, bf16 in SIZES:
        for checkpointing in (True, False):
            if not checkpointing and notes * tokens > 4_096:
                continue
            given = json.dumps([asdict(shape), notes, tokens, labels, bf16, checkpointing])
            done = subprocess.run(
                [sys.executable, __file__, "measure", given], check=True, stdout=subprocess.PIPE
            )
            parts = predicted(shape, notes, tokens, labels, bf16, checkpointing)
            row = {
                "encoder": name,
                "notes": notes,
                "tokens": tokens,
                "labels": labels,
                "bf16": bf16,
                "checkpointing": checkpointing,
                "predicted_gb": round(sum(parts.values()) / GB, 2),
                "parts_gb": {key: round(value / GB, 2) for key, value in parts.items()},
                **json.loads(done.stdout),
            }
            rows.append(row)
            print(row, flush=True)
            if out:
                write_json(out, rows)


@app.command()
def measure(given: str) -> None:
    """Gigabytes that one update adds, and its seconds."""
    from transformers import BertConfig, BertModel

    from icdtune.coders.classifiers.networks.plm import PLM, PLMConfig

    values, notes, tokens, labels, bf16, checkpointing = json.loads(given)
    shape = Shape(**values)

    def update(layers: int, words: int, notes: int, tokens: int, labels: int) -> float:
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=words,
            hidden_size=shape.width,
            num_hidden_layers=layers,
            num_attention_heads=shape.width // 64 if shape.width > 384 else 12,
            intermediate_size=shape.inner,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        encoder = BertModel(config, add_pooling_layer=False)
        model = PLM(PLMConfig(encoder=config.to_dict(), labels=labels), encoder)
        if checkpointing:
            encoder.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        ids = torch.randint(5, words, (notes, tokens))
        gold = torch.zeros(notes, labels)
        for _ in range(2):  # the second has the optimizer's moments beside its activations
            started = perf_counter()
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(ids, torch.ones_like(ids), gold).loss
            loss.backward()
            optimizer.step()
        return perf_counter() - started

    update(1, 100, 1, 128, 10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = update(shape.layers, shape.words, notes, tokens, labels)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps({"measured_gb": round((after - before) / GB, 2), "seconds": round(seconds, 1)})
    )


if __name__ == "__main__":
    app()
