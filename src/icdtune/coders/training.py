"""What every training run here shares: arguments, resumable checkpoints, a halt at a broken loss.

Runs are transformers `Trainer`s, so `accelerate launch`, trackers and checkpoints work as users know
them. A checkpoint counts once it is whole.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState
from transformers.trainer_pt_utils import get_length_grouped_indices

from icdtune.coders import processes
from icdtune.decoding.hardware import kept_memory
from icdtune.errors import IcdtuneError
from icdtune.progress import bar

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WHOLE = "whole"
"""File that a complete checkpoint holds."""
SMALL = 50_000_000
"""Parameters up to which a model is trained whole unless a LoRA rank is given."""


def arguments(work: Path, seed: int, steps: int, save_every: int, bf16: bool) -> dict[str, Any]:
    """Trainer arguments that are the same for every rung."""
    return {
        "output_dir": str(work),
        "seed": seed,
        "data_seed": seed,
        "max_steps": steps,
        "save_strategy": "steps",
        "save_steps": save_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": bf16,
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": False,
        "max_grad_norm": 1.0,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.0,
    }


def part(whole: int, most: int) -> int:
    """The largest divisor of `whole` that is at most `most`: the size of equal parts."""
    return next(size for size in range(min(whole, most), 0, -1) if whole % size == 0)


class Checkpoints(TrainerCallback):
    """Marks each checkpoint when it is whole, and stops at a loss that is not finite."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint has been written, by every process its part."""
        processes.wait()
        if not processes.first():
            return
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Stop where the last step's loss or gradient is not finite; the checkpoint before stays."""
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                raise IcdtuneError(
                    f"step {state.global_step}: {name} is {value}. The last good checkpoint is in "
                    f"{args.output_dir}; lower learning_rate and train again"
                )


class Bar(TrainerCallback):
    """A progress bar over the updates."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._stack = ExitStack()
        self._progress: Callable[..., None] = lambda done, total=None: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the bar, of several processes the first."""
        if not processes.first():
            return
        self._progress = self._stack.enter_context(bar(self._label))
        self._progress(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move it."""
        self._progress(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take it away."""
        self._stack.close()


def run(
    trainer: Any, work: Path, label: str, finished: Callable[[int], bool] | None = None
) -> None:
    """Train from the last whole checkpoint of `work`, behind one progress bar.

    Args:
        finished: whether so many updates complete a run that may end before its last possible step; it
            is asked with the checkpoint's weights in the model.
    """
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    trainer.add_callback(Checkpoints())
    trainer.add_callback(Bar(label))
    checkpoint = latest_checkpoint(work)
    processes.wait()
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        complete = state.global_step >= trainer.args.max_steps
        if complete or finished is not None:
            trainer._load_from_checkpoint(checkpoint)
        if complete or (finished is not None and finished(state.global_step)):
            # Interrupted between its last checkpoint and its end: `train` would make one more update.
            trainer.state = state
            return
    with kept_memory():
        trainer.train(resume_from_checkpoint=checkpoint)


def latest_checkpoint(work: Path) -> str | None:
    """The last whole checkpoint of a run; broken ones are removed by the process that writes."""
    found: list[tuple[int, Path]] = []
    for path in work.glob("checkpoint-*"):
        if (path / WHOLE).exists():
            found.append((int(path.name.rpartition("-")[2]), path))
        elif processes.first():
            shutil.rmtree(path)
    return str(max(found)[1]) if found else None


class ByLength(torch.utils.data.Sampler[int]):
    """Positions shuffled, rows of similar length in the same batch.

    transformers' own sampler of this kind draws from the global generator, whose state an epoch began
    with is lost to a run that goes on within it.

    Args:
        seed: asked whenever an epoch begins.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: Callable[[], int]) -> None:
        self._lengths, self._batch_size, self._seed = list(lengths), batch_size, seed

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed())
        found = get_length_grouped_indices(self._lengths, self._batch_size, generator=generator)
        return iter(found)


def lora_rank(model: PreTrainedModel, rank: int | None) -> int:
    """The rank to train with; 0 trains the whole model."""
    if rank is not None:
        return rank
    return 0 if sum(p.numel() for p in model.parameters()) <= SMALL else 8


def lora(rank: int, alpha: int, dora: bool = False) -> Any:
    """A PEFT configuration for all linear layers."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_dora=dora,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def history(log: list[dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, float]]:
    """The logged steps with the named values, rounded: the learning curve."""
    rows = []
    for entry in log:
        values = {n: round(float(entry[n]), 6) for n in names if entry.get(n) is not None}
        if values and "loss" in entry:
            rows.append({"step": int(entry["step"]), **values})
    return rows
