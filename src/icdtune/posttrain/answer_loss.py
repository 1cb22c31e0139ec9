"""TRL's SFT trainer with the loss of answer tokens alone, logits of no other token computed.

Rows are padded on the left, so that all answers end at the last column: the model is asked for the
logits of the last columns only. On long prompts the head over the whole vocabulary would otherwise
cost as much as the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from trl import SFTTrainer

from icdtune.coders import processes
from icdtune.coders.training import ByLength
from icdtune.decoding.generate import positions

IGNORED = -100


class AnswerLossTrainer(SFTTrainer):
    """Mean cross-entropy over the labelled tokens of a batch."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy of labelled tokens; their number over the whole update is the divisor."""
        labels = inputs["labels"]
        first = int((labels != IGNORED).any(0).nonzero()[0])
        width = labels.shape[1] - first
        out = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            position_ids=inputs["position_ids"],
            use_cache=False,
            logits_to_keep=width + 1,
        )
        logits, target = out.logits[:, :-1].float(), labels[:, first:]
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            target.reshape(-1),
            ignore_index=IGNORED,
            reduction="mean" if num_items_in_batch is None else "sum",
        )
        if num_items_in_batch is not None:
            loss = loss / num_items_in_batch
        return (loss, out) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> ByLength:
        """Rows of similar length together, in an order of each epoch that a resumed run finds again."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        size *= processes.count()
        lengths = [len(ids) for ids in dataset["input_ids"]]

        def seed() -> int:
            epoch = int(self.state.epoch or 0)
            if isinstance(self.data_collator, Respelled):
                self.data_collator.epoch = epoch
            return int(self.args.seed) + (epoch << 32)

        return ByLength(lengths, size, seed)


class LeftPadded:
    """Collates rows of `input_ids` and `labels`, padded on the left."""

    def __init__(self, pad_id: int) -> None:
        self._pad = pad_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors (rows, tokens): input_ids, labels, attention_mask, position_ids."""
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), width), self._pad)
        labels = torch.full((len(rows), width), IGNORED)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            start = width - len(row["input_ids"])
            ids[i, start:] = torch.tensor(row["input_ids"])
            labels[i, start:] = torch.tensor(row["labels"])
            mask[i, start:] = 1
        return {
            "input_ids": ids,
            "labels": labels,
            "attention_mask": mask,
            "position_ids": positions(mask),
        }


class Respelled(LeftPadded):
    """Collates rows whose answers are spelt anew in every epoch.

    Args:
        spell: token ids of the answer to a row's `note_id` and `codes` in an epoch.
    """

    def __init__(self, pad_id: int, spell: Callable[[str, list[str], int], list[int]]) -> None:
        super().__init__(pad_id)
        self._spell = spell
        self.epoch = 0

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """As without, the answers in this epoch's order."""
        return super().__call__([self._respelled(row) for row in rows])

    def _respelled(self, row: dict[str, Any]) -> dict[str, Any]:
        answer = self._spell(row["note_id"], row["codes"], self.epoch)
        prompt = row["input_ids"][: row["labels"].count(IGNORED)]
        labels = [IGNORED] * len(prompt) + answer
        return {"input_ids": prompt + answer, "labels": labels}
