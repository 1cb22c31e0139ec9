"""Fine-tuning against TRL's `SFTTrainer` as it comes: tokens a second, and the loss reached.

    python benchmarks/sft.py compare --out benchmarks/results/sft.json

The same model, rows (token for token), updates, rate and precision; TRL pads on the right, draws rows at
random and computes the scores of every token. Sides take turns, each round in fresh processes.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from sides import child, peak, report

SIDES = ("ours", "trl")
HELD_OUT = 200
app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def compare(
    model: str = "tiny",
    layers: int = 0,
    updates: int = 40,
    rounds: int = 2,
    out: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Tokens a second (median of the rounds) and the loss of val's answers after the updates."""
    from icdtune.data.synthetic import prepare

    found: dict[str, Any] = {"model": model, "layers": layers or None}
    found |= {"corpus": "synthetic", "updates": updates, "batch": 8, "held_out": HELD_OUT}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        prepare(corpus, train=8 * updates, val=HELD_OUT, test=10)
        for seed in range(1, rounds + 1):
            for side in SIDES:
                run = child(__file__, "one-side", side, corpus, model, layers, updates, seed)
                runs[side].append(run)
                print(side, run, flush=True)
    for side in SIDES:
        middle = statistics.median(run["tokens_per_second"] for run in runs[side])
        loss = statistics.mean(run["loss"] for run in runs[side])
        memory = max(run["peak_gb"] for run in runs[side])
        found[side] = {"tokens_per_second": middle, "loss": round(loss, 4), "peak_gb": memory}
        found[side]["runs"] = runs[side]
    found["speedup"] = round(
        found["ours"]["tokens_per_second"] / found["trl"]["tokens_per_second"], 2
    )
    report(found, out)


@app.command(hidden=True)
def one_side(side: str, corpus: Path, model: str, layers: int, updates: int, seed: int) -> None:
    """One side's run; prints tokens a second of all updates but the first three."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from icdtune.coders.generative import start_coder
    from icdtune.coders.training import arguments
    from icdtune.data.labels import Task, load_labels
    from icdtune.data.schema import Corpus
    from icdtune.decoding.hardware import half_precision, kept_memory, use_cores
    from icdtune.posttrain.answer_loss import AnswerLossTrainer, LeftPadded
    from icdtune.posttrain.code_order import code_order
    from icdtune.posttrain.sft import training_rows

    use_cores()
    torch.manual_seed(seed)
    opened = Corpus(corpus)
    task = Task(opened, load_labels(opened, "full"))
    coder = start_coder(model, layers or None, (2048, 160), opened.info.code_systems)
    order = code_order("sorted", task, seed)
    train = training_rows(coder, list(task.notes("train")), "train", order)
    val = training_rows(coder, list(task.notes("val")), "val", order)
    moments: list[tuple[float, int]] = []

    class Clock(TrainerCallback):
        """When each update ended, and the tokens forwarded until then, padding left out."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            moments.append((time.perf_counter(), seen[0]))

    seen = [0]

    def counted(collate: Any) -> Any:
        def call(rows: list[dict[str, Any]]) -> Any:
            seen[0] += sum(len(row["input_ids"]) for row in rows)
            return collate(rows)

        return call

    with tempfile.TemporaryDirectory() as work:
        common = arguments(Path(work), seed, updates, 10**6, half_precision(coder.model.device))
        config = SFTConfig(
            **common,
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            warmup_steps=max(1, updates // 10),
            max_length=None,
            **({"dataset_kwargs": {"skip_prepare_dataset": True}} if side == "ours" else {}),
        )
        shared = {"model": coder.model, "args": config, "processing_class": coder.tokenizer}
        trainer: Any
        if side == "ours":
            rows = [{name: row[name] for name in ("input_ids", "labels")} for row in train]
            collate = LeftPadded(coder.tokenizer.pad_token_id)
            trainer = AnswerLossTrainer(
                **shared,
                train_dataset=Dataset.from_list(rows),
                data_collator=counted(collate),
                callbacks=[Clock()],
            )
            with kept_memory():  # as `icdtune train sft` does
                trainer.train()
        else:
            rows = [
                {
                    "input_ids": row["input_ids"],
                    "completion_mask": [int(label >= 0) for label in row["labels"]],
                }
                for row in train
            ]
            trainer = SFTTrainer(
                **shared, train_dataset=Dataset.from_list(rows), callbacks=[Clock()]
            )
            trainer.data_collator = counted(trainer.data_collator)
            trainer.train()
    (first, before), (last, after) = moments[2], moments[-1]
    found = {
        "tokens_per_second": round((after - before) / (last - first)),
        "loss": round(held_out(coder.model, val, LeftPadded(coder.tokenizer.pad_token_id)), 4),
        "peak_gb": peak(),
    }
    print(json.dumps(found))


def held_out(model: Any, rows: list[dict[str, Any]], collate: Any) -> float:
    """Mean cross-entropy of the answers' tokens."""
    import torch

    model.eval()
    loss = tokens = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), 8):
            batch = collate(rows[start : start + 8])
            labels = batch.pop("labels")[:, 1:]
            logits = model(**batch).logits[:, :-1].float()
            loss += float(
                torch.nn.functional.cross_entropy(
                    logits.transpose(1, 2), labels, ignore_index=-100, reduction="sum"
                )
            )
            tokens += int((labels >= 0).sum())
    return loss / tokens


if __name__ == "__main__":
    app()
