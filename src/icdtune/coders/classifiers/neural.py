"""The neural classifiers as coders: notes to ids, training, a threshold from validation, scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from icdtune.coders import processes
from icdtune.coders.classifiers.presets import Settings, load_preset
from icdtune.coders.classifiers.scoring import Bools, Scores, best_threshold, decide
from icdtune.coders.classifiers.words import Ids
from icdtune.coders.models import quiet_libraries
from icdtune.data.evidence import Span
from icdtune.data.labels import Task
from icdtune.data.predictions import Prediction, Predictions
from icdtune.data.schema import Note
from icdtune.errors import IcdtuneError
from icdtune.files import read_json, write_json
from icdtune.progress import bar, track

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

CHUNK = 1_000
"""Notes whose scores are in memory at once."""
BATCH_TOKENS = 32_768
"""Tokens of a batch when predicting: bounds the memory."""
Norm = Literal["none", "layer"]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class NeuralClassifier:
    """What all of them share. Subclasses name a network and how a text becomes ids."""

    shows_progress = True
    name: ClassVar[str]
    parts: tuple[str, ...] = ("coders/classifiers", "coders/training.py", "data/normalise.py")
    model: PreTrainedModel

    def __init__(
        self, preset: str, given: dict[str, Any], attention_norm: str, label_block_size: int | None
    ) -> None:
        self.settings: Settings = load_preset(self.name, preset, given)
        self._attention: dict[str, Any] = {
            "attention_norm": attention_norm,
            "label_block_size": label_block_size,
        }
        self.codes: list[str] = []
        self.threshold = 0.5
        self.training: dict[str, Any] = {}

    def encode(self, note: Note) -> Ids:
        """Ids of a note's first tokens; IcdtuneError where it has none."""
        raise NotImplementedError

    def build(self, notes: Iterable[Note], seed: int) -> list[Ids]:
        """Make the network, and what `encode` needs, from the training notes; gives their ids.

        The notes are gone through once, and their texts need not be kept.
        """
        raise NotImplementedError

    def fit(self, task: Task, seed: int, work: Path) -> None:
        """Train on "train", find the threshold on "val"; goes on from a checkpoint in `work`."""
        import torch

        from icdtune.coders.training import arguments, history, part, run
        from icdtune.decoding.hardware import best_device, half_precision, use_cores

        own = processes.share(self.settings.batch)
        use_cores()
        quiet_libraries()
        torch.manual_seed(seed)
        self.codes = list(task.labels.codes)
        ids, _, codes = task.gold("train")
        if not ids:
            raise IcdtuneError(f'{task.corpus.path} split "train" has no notes. Train on some')
        val, gold = self._validation(task)
        index = task.labels.index
        notes = track(task.notes("train", gold=False), "Read notes", len(ids))
        rows = [
            {"input_ids": words, "codes": np.array([index[code] for code in own], np.int32)}
            for words, own in zip(self.build(notes, seed), codes, strict=True)
        ]
        settings = self.settings
        if settings.prior_bias:
            self._begin_at_priors(rows)
        steps = max(1, round(settings.epochs * len(rows) / settings.batch))
        self.model.to(best_device())
        micro = part(own, settings.micro_batch)
        common = arguments(
            work, seed, steps, max(20, steps // 10), half_precision(self.model.device)
        )
        trainer = _trainer(
            self.model,
            rows,
            len(self.codes),
            common
            | {
                "lr_scheduler_type": "linear",
                "learning_rate": settings.learning_rate,
                "weight_decay": settings.weight_decay,
                "warmup_steps": min(settings.warmup, max(1, steps // 10)),
                "per_device_train_batch_size": micro,
                "gradient_accumulation_steps": own // micro,
                "remove_unused_columns": False,
                "logging_steps": max(1, steps // 200),
            },
            settings.head_learning_rate,
        )
        run(trainer, work, "Train")
        self.model = trainer.accelerator.unwrap_model(trainer.model).eval()
        self.training = {
            "steps": steps,
            "notes": len(rows),
            "history": history(trainer.state.log_history, ("loss", "grad_norm", "learning_rate")),
        }
        if processes.first():
            self.threshold, _ = best_threshold(self.scores(val), gold)

    def _begin_at_priors(self, rows: Sequence[dict[str, Ids]]) -> None:
        """Set each label's bias to its log-odds in training, one note added to either side."""
        import torch

        codes = np.concatenate([row["codes"] for row in rows])
        counts = np.bincount(codes, minlength=len(self.codes))
        odds = np.log((counts + 1) / (len(rows) - counts + 1)).astype(np.float32)
        bias = self.model.label_bias
        with torch.no_grad():
            bias.copy_(torch.from_numpy(odds) if len(bias) == len(odds) else odds.mean())

    def _validation(self, task: Task) -> tuple[list[Note], Bools]:
        """Notes and gold that the threshold is found on; IcdtuneError where there is no code."""
        notes = list(task.notes("val"))
        index = task.labels.index
        gold: Bools = np.zeros((len(notes), len(self.codes)), bool)
        for row, note in enumerate(notes):
            gold[row, [index[code] for code in note.codes or ()]] = True
        if not gold.any():
            raise IcdtuneError(
                f'{task.corpus.path} split "val": no note has a code of the label space, and the '
                f"threshold is found there. Give it coded notes"
            )
        return notes, gold

    def scores(self, notes: Sequence[Note], label: str = "Score") -> Scores:
        """Probabilities (notes, codes)."""
        import torch

        from icdtune.decoding.generate import batches
        from icdtune.decoding.hardware import half_precision

        ids = [self.encode(note) for note in notes]
        found: Scores = np.zeros((len(notes), len(self.codes)), np.float32)
        device = self.model.device
        with bar(label) as progress, torch.inference_mode():
            done = 0
            for batch in batches([len(one) for one in ids], BATCH_TOKENS):
                inputs = padded([ids[i] for i in batch])
                with torch.autocast(device.type, torch.bfloat16, enabled=half_precision(device)):
                    logits = self.model(**{k: v.to(device) for k, v in inputs.items()}).logits
                found[batch] = torch.sigmoid(logits.float()).cpu().numpy()
                done += len(batch)
                progress(done, len(notes))
        return found

    def offsets(self, note: Note) -> list[tuple[int, int]]:
        """Characters [start, end) of each id of `encode`."""
        raise NotImplementedError

    def methods(self) -> tuple[str, ...]:
        """Methods of `explain`, the default first."""
        from icdtune.coders.classifiers.attributions import methods

        return methods(self.model)

    def explain(
        self, answered: Iterable[tuple[Note, Sequence[str]]], method: str
    ) -> Iterator[Span]:
        """Spans of each note that its codes rest on; codes that the network does not know have none.

        Args:
            answered: notes with the codes to explain.
            method: one of `methods`; see `attributions.relevance`.
        """
        from icdtune.coders.classifiers.attributions import CUTS, relevance
        from icdtune.decoding.evidence import spans_of

        index = {code: i for i, code in enumerate(self.codes)}
        for note, codes in answered:
            kept = [code for code in codes if code in index]
            if not kept:
                continue
            found = relevance(self.model, self.encode(note), [index[c] for c in kept], method)
            offsets, group = self.offsets(note), 0
            for code, weights in zip(kept, found, strict=True):
                for start, end, score in spans_of(weights, offsets, CUTS[method]):
                    yield Span(note.note_id, code, start, end, group, score, method)
                    group += 1

    def predict(self, notes: Iterable[Note]) -> Predictions:
        """Codes at or over the threshold, and the best hundred as ranking."""
        rows: list[Prediction] = []
        for chunk in _chunks(notes):
            scores = self.scores(chunk, "Predict")
            rows += decide([note.note_id for note in chunk], self.codes, scores, self.threshold)
        return Predictions(rows)

    def save(self, folder: Path) -> None:
        """Write the network, classifier.json and what `encode` needs."""
        self.model.save_pretrained(folder)
        content = {
            "codes": self.codes,
            "threshold": self.threshold,
            "settings": self.settings.model_dump(),
        }
        write_json(folder / "classifier.json", content)
        if self.training:
            write_json(folder / "training.json", self.training)

    @classmethod
    def load(cls, folder: Path) -> NeuralClassifier:
        """Read a coder back, on the GPU where there is one."""
        from icdtune.decoding.hardware import best_device

        quiet_libraries()
        content = read_json(folder / "classifier.json")
        coder: NeuralClassifier = cls()  # type: ignore[call-arg]
        coder.settings = Settings.model_validate(content["settings"])
        coder.codes, coder.threshold = content["codes"], content["threshold"]
        coder.read(folder)
        coder.model.eval().to(best_device())
        return coder

    def read(self, folder: Path) -> None:
        """Read the network and what `encode` needs."""
        raise NotImplementedError


def padded(rows: Sequence[Ids]) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask (notes, tokens), padded right."""
    import torch

    width = max(map(len, rows))
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row)
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _trainer(
    model: PreTrainedModel,
    rows: list[dict[str, Ids]],
    labels: int,
    given: dict[str, Any],
    head_rate: float | None,
) -> Any:
    """A transformers Trainer whose batches hold notes of similar length.

    `head_rate` is the label attention's learning rate, None as for everything else.
    """
    import torch
    from transformers import Trainer, TrainingArguments

    from icdtune.coders.training import ByLength

    def collate(batch: list[dict[str, Ids]]) -> dict[str, torch.Tensor]:
        indicators = torch.zeros((len(batch), labels))
        for i, row in enumerate(batch):
            indicators[i, row["codes"]] = 1
        return padded([row["input_ids"] for row in batch]) | {"labels": indicators}

    class ClassifierTrainer(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> ByLength:
            size = self.args.train_batch_size * self.args.gradient_accumulation_steps
            size *= processes.count()
            lengths = [len(row["input_ids"]) for row in rows]
            return ByLength(
                lengths, size, lambda: self.args.seed + (int(self.state.epoch or 0) << 32)
            )

        def create_optimizer(self, model: Any = None) -> Any:
            new = self.optimizer is None
            optimizer = super().create_optimizer(model)
            if new and head_rate is not None:
                _split_rate(optimizer, self.model, head_rate)
            return optimizer

    return ClassifierTrainer(
        model=model,
        args=TrainingArguments(**given),
        train_dataset=rows,
        data_collator=collate,
    )


def _split_rate(optimizer: torch.optim.Optimizer, model: PreTrainedModel, rate: float) -> None:
    """Move the label attention's parameters into groups of their own with this learning rate."""
    head = {id(p) for name, p in model.named_parameters() if name.startswith("attention.")}
    for group in list(optimizer.param_groups):
        own = [p for p in group["params"] if id(p) in head]
        group["params"] = [p for p in group["params"] if id(p) not in head]
        if own:
            optimizer.add_param_group({**group, "params": own, "lr": rate})


def _chunks(notes: Iterable[Note]) -> Iterator[list[Note]]:
    chunk: list[Note] = []
    for note in notes:
        chunk.append(note)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
