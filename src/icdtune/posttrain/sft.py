"""Supervised fine-tuning: notes in, code sets out, loss on the answer only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from icdtune.coders import processes
from icdtune.coders.generative import Budget, GenerativeCoder, start_coder
from icdtune.data.labels import Task
from icdtune.data.schema import Note
from icdtune.errors import IcdtuneError
from icdtune.posttrain.code_order import Order, Ordered, code_order
from icdtune.posttrain.presets import with_preset
from icdtune.progress import track
from icdtune.prompts.answer import Scan, spell_answer
from icdtune.prompts.prompt import check_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # transformers' mark of a token without loss
Rate = Annotated[float, Field(gt=0)]


class SFT(GenerativeCoder):
    """A language model fine-tuned on coded notes.

    Args:
        model: "tiny", "smollm2-135m", a model folder or a hub id.
        layers: keep only the first so many layers of the model.
        preset: a name in presets/posttrain.yaml, as paper-qwen2.5-1.5b-mimic3-full; options given take
            the place of its own.
        steps: updates; None is `epochs`.
        epochs: passes over the training notes.
        batch: notes an update.
        micro_batch: notes a forward pass: bounds the memory.
        learning_rate: peak of a cosine schedule with a warm-up of 0.1; None is 1e-3 for a model that
            is trained whole and 1e-4 for LoRA (the study's released value).
        lora_rank: 0 trains the whole model; None is 0 for small models and 8 (the study's) else.
        dora: LoRA whose weights' sizes are learnt apart from their directions (arXiv 2402.09353).
        neftune: noise on the embeddings while training (arXiv 2310.05914, there 5 to 15); 0 is none.
        checkpointing: forward twice and keep fewer activations: bounds the memory of large models.
        order: of the codes in an answer: "sorted" (as credit expects it), the most frequent first
            ("frequency"), as the note's evidence comes ("evidence"), or anew in every epoch
            ("shuffled").
        prompt_budget, answer_budget: tokens of prompt and answer.
        scan: what is read of an answer without a closing tag: nothing ("block"), or as in the study's
            release what follows the opening one ("truncated").
    """

    with_preset = staticmethod(partial(with_preset, "sft"))

    parts = (
        *GenerativeCoder.parts,
        "posttrain/sft.py",
        "posttrain/presets.py",
        "posttrain/answer_loss.py",
        "posttrain/code_order.py",
        "coders/training.py",
    )

    def __init__(
        self,
        model: str = "tiny",
        layers: Annotated[int, Field(ge=1)] | None = None,
        steps: Annotated[int, Field(ge=1)] | None = None,
        epochs: Rate = 3.0,
        batch: Annotated[int, Field(ge=1)] = 8,
        micro_batch: Annotated[int, Field(ge=1)] = 8,
        learning_rate: Rate | None = None,
        lora_rank: Annotated[int, Field(ge=0)] | None = None,
        dora: bool = False,
        neftune: Annotated[float, Field(ge=0)] = 0.0,
        checkpointing: bool = False,
        order: Order = "sorted",
        prompt_budget: Budget = 2048,
        answer_budget: Budget = 96,
        scan: Scan = "block",
    ) -> None:
        super().__init__()
        self._model, self._layers, self._scan = model, layers, scan
        self._epochs, self._checkpointing = epochs, checkpointing
        self._steps, self._batch, self._micro = steps, batch, micro_batch
        self._rate, self._rank = learning_rate, lora_rank
        self._dora, self._neftune, self._order = dora, neftune, order
        self._budgets = (prompt_budget, answer_budget)

    def fit(self, task: Task, seed: int, work: Path) -> None:
        """Train on the split "train"; goes on from a checkpoint in `work`."""
        import torch

        from icdtune.coders.training import (
            arguments,
            history,
            lora,
            lora_rank,
            part,
            run,
        )
        from icdtune.decoding.hardware import half_precision, use_cores

        use_cores()
        torch.manual_seed(seed)
        coder = start_coder(self._model, self._layers, self._budgets, task.corpus.info.code_systems)
        coder.settings = coder.settings.model_copy(update={"scan": self._scan})
        check_tokenizer(coder.tokenizer, task.labels.codes, f'model "{self._model}"')
        started = time.perf_counter()
        rank = lora_rank(coder.model, self._rank)
        if self._dora and not rank:
            raise IcdtuneError(
                "dora is a form of LoRA, and this model is trained whole. Give a lora_rank"
            )
        ordered = code_order(self._order, task, seed)
        rows = training_rows(coder, list(task.notes("train")), str(task.corpus.path), ordered)
        steps = self._steps or max(1, round(self._epochs * len(rows) / self._batch))
        rate = self._rate or (1e-4 if rank else 1e-3)

        from datasets import Dataset
        from trl import SFTConfig

        from icdtune.posttrain.answer_loss import AnswerLossTrainer, LeftPadded, Respelled

        common = arguments(
            work, seed, steps, max(20, steps // 5), half_precision(coder.model.device)
        )
        own = processes.share(self._batch)
        micro = part(own, self._micro)
        config = SFTConfig(
            **common | {"gradient_checkpointing": self._checkpointing},
            gradient_checkpointing_kwargs={"use_reentrant": False},
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=own // micro,
            learning_rate=rate,
            warmup_steps=max(1, steps // 10),
            neftune_noise_alpha=self._neftune or None,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            max_length=None,
        )
        pad, tokenizer = coder.tokenizer.pad_token_id, coder.tokenizer

        def spell(note_id: str, codes: list[str], epoch: int) -> list[int]:
            return answer_ids(ordered(note_id, codes, epoch), tokenizer)

        collator = Respelled(pad, spell) if self._order == "shuffled" else LeftPadded(pad)
        trainer = AnswerLossTrainer(
            model=coder.model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            data_collator=collator,
            peft_config=lora(rank, rank, self._dora) if rank else None,
        )
        run(trainer, work, "Fine-tune")
        self.tokenizer = coder.tokenizer
        self.model = trainer.accelerator.unwrap_model(trainer.model).eval()
        self.settings = coder.settings.model_copy(
            update={"weights": "here", "adapters": ["."] if rank else []}
        )
        mean = sum(len(row["input_ids"]) for row in rows) / len(rows)
        self.training = {
            "steps": steps,
            "notes": len(rows),
            "learning_rate": rate,
            "lora_rank": rank,
            "tokens": round(mean * steps * self._batch),
            "seconds": round(time.perf_counter() - started, 1),
            "history": history(trainer.state.log_history, ("loss", "grad_norm", "learning_rate")),
        }


def training_rows(
    coder: GenerativeCoder, notes: list[Note], where: str, ordered: Ordered
) -> list[dict[str, Any]]:
    """Token ids of prompt and answer of every note, with its id and codes; labels: -100 on the prompt.

    Raises IcdtuneError where no note has a code, or most answers are longer than the budget.
    """
    if not any(note.codes for note in notes):
        raise IcdtuneError(
            f'{where} split "train": no note has a code of the label space. Train on coded notes'
        )
    rows, long = [], 0
    for note in track(notes, "Prompts", len(notes)):
        prompt = coder.prompts([note.text])[0]
        codes = ordered(note.note_id, note.codes or (), 0)
        answer = answer_ids(codes, coder.tokenizer)
        long += len(answer) > coder.settings.answer_budget
        labels = [IGNORED] * len(prompt) + answer
        ids = {"input_ids": prompt + answer, "labels": labels}
        rows.append({"note_id": note.note_id, "codes": codes, **ids})
    if long > len(rows) / 2:
        raise IcdtuneError(
            f"{long} of {len(rows)} answers are longer than the budget of "
            f"{coder.settings.answer_budget} tokens and would be cut. Raise answer_budget"
        )
    return rows


def answer_ids(codes: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of the answer that states codes in this order, with the token that ends it."""
    ids: list[int] = tokenizer(spell_answer(codes), add_special_tokens=False)["input_ids"]
    return [*ids, int(tokenizer.eos_token_id)]
