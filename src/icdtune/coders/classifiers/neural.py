"""The neural classifiers as coders: notes to ids, training, a threshold from validation, scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from icdtune.coders.classifiers.presets import Settings, load_preset
from icdtune.coders.classifiers.scoring import Bools, Scores, best_threshold, decide
from icdtune.coders.classifiers.words import Vocabulary, word_vectors, words_of
from icdtune.coders.models import (
    load_tokenizer,
    model_path,
    quiet_libraries,
    read_tokenizer,
)
from icdtune.data.labels import Task
from icdtune.data.predictions import Prediction, Predictions
from icdtune.data.schema import Note
from icdtune.errors import IcdtuneError
from icdtune.files import read_json, write_json
from icdtune.progress import bar, track

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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

    def encode(self, note: Note) -> list[int]:
        """Ids of a note's first tokens; IcdtuneError where it has none."""
        raise NotImplementedError

    def build(self, notes: Sequence[Note], seed: int) -> None:
        """Make the network, and what `encode` needs, from the training notes."""
        raise NotImplementedError

    def fit(self, task: Task, seed: int, work: Path) -> None:
        """Train on "train", find the threshold on "val"; goes on from a checkpoint in `work`."""
        import torch

        from icdtune.coders.training import arguments, history, part, run
        from icdtune.decoding.hardware import best_device, half_precision, use_cores

        use_cores()
        quiet_libraries()
        torch.manual_seed(seed)
        self.codes = list(task.labels.codes)
        train = list(task.notes("train"))
        if not train:
            raise IcdtuneError(f'{task.corpus.path} split "train" has no notes. Train on some')
        self.build(train, seed)
        index = task.labels.index
        rows = [
            {"input_ids": self.encode(note), "codes": [index[code] for code in note.codes or ()]}
            for note in track(train, "Encode", len(train))
        ]
        settings = self.settings
        if settings.prior_bias:
            self._begin_at_priors(rows)
        steps = max(1, round(settings.epochs * len(rows) / settings.batch))
        self.model.to(best_device())
        micro = part(settings.batch, settings.micro_batch)
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
                "gradient_accumulation_steps": settings.batch // micro,
                "remove_unused_columns": False,
                "logging_steps": max(1, steps // 200),
            },
        )
        run(trainer, work, "Train")
        self.model = trainer.accelerator.unwrap_model(trainer.model).eval()
        self.training = {
            "steps": steps,
            "notes": len(rows),
            "history": history(trainer.state.log_history, ("loss", "grad_norm", "learning_rate")),
        }
        self._tune(task)

    def _begin_at_priors(self, rows: Sequence[dict[str, list[int]]]) -> None:
        """Set each label's bias to its log-odds in training, one note added to either side."""
        import torch

        counts = np.bincount([c for row in rows for c in row["codes"]], minlength=len(self.codes))
        odds = np.log((counts + 1) / (len(rows) - counts + 1)).astype(np.float32)
        bias = self.model.label_bias
        with torch.no_grad():
            bias.copy_(torch.from_numpy(odds) if len(bias) == len(odds) else odds.mean())

    def _tune(self, task: Task) -> None:
        """The threshold with the best micro-F1 on "val"; 0.5 where there is no such split."""
        if "val" not in task.corpus.splits:
            return
        notes = list(task.notes("val"))
        index = task.labels.index
        gold: Bools = np.zeros((len(notes), len(self.codes)), bool)
        for row, note in enumerate(notes):
            gold[row, [index[code] for code in note.codes or ()]] = True
        if gold.any():
            self.threshold, _ = best_threshold(self.scores(notes), gold)

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


class WordClassifier(NeuralClassifier):
    """A network over the words of a note; word vectors begin as word2vec of the training notes.

    Args:
        preset: "published", "laptop", or one of a corpus; see presets/classifiers.
        epochs, learning_rate, warmup, weight_decay, batch, micro_batch, max_tokens, min_count,
            word2vec: in place of the preset's.
        shape: fields of the network's configuration, in place of the preset's.
        attention_norm: "layer" keeps label attention finite whatever the encoder gives; "none" is as
            published.
        label_block_size: labels that the attention takes at a time: bounds the memory; None is all.
    """

    def __init__(
        self,
        preset: str = "published",
        epochs: Rate | None = None,
        learning_rate: Rate | None = None,
        warmup: Annotated[int, Field(ge=0)] | None = None,
        weight_decay: Annotated[float, Field(ge=0)] | None = None,
        batch: Count | None = None,
        micro_batch: Count | None = None,
        max_tokens: Count | None = None,
        shape: dict[str, Any] | None = None,
        min_count: Count | None = None,
        word2vec: bool | None = None,
        attention_norm: Norm = "layer",
        label_block_size: Count | None = None,
    ) -> None:
        given = {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "warmup": warmup,
            "weight_decay": weight_decay,
            "batch": batch,
            "micro_batch": micro_batch,
            "max_tokens": max_tokens,
            "shape": shape,
            "min_count": min_count,
            "word2vec": word2vec,
        }
        super().__init__(preset, given, attention_norm, label_block_size)
        self.vocabulary = Vocabulary([])

    def network(self) -> tuple[Any, Any]:
        """Class of the network and of its configuration."""
        raise NotImplementedError

    def build(self, notes: Sequence[Note], seed: int) -> None:
        """Vocabulary and word vectors of the notes, and the network."""
        import torch

        texts = [words_of(note.text, self.settings.max_tokens) for note in notes]
        self.vocabulary = Vocabulary.of(texts, self.settings.min_count)
        network, configuration = self.network()
        try:
            config = configuration(
                words=len(self.vocabulary),
                labels=len(self.codes),
                **self.settings.shape,
                **self._attention,
            )
            self.model = network(config)
        except (TypeError, ValueError) as error:
            raise IcdtuneError(f"{self.name}: shape does not fit the network ({error})") from None
        if self.settings.word2vec:
            vectors = word_vectors(self.vocabulary, texts, config.embedding, seed)
            with torch.no_grad():
                self.model.embed.weight.copy_(torch.from_numpy(vectors))

    def encode(self, note: Note) -> list[int]:
        """Ids of a note's first words; IcdtuneError where it has none."""
        words = words_of(note.text, self.settings.max_tokens)
        if not words:
            raise IcdtuneError(
                f"note {note.note_id} has no letters or digits, so no words. Remove it"
            )
        return self.vocabulary.encode(words)

    def save(self, folder: Path) -> None:
        """Write the network, classifier.json and the vocabulary."""
        super().save(folder)
        write_json(folder / "vocabulary.json", self.vocabulary.words)

    def read(self, folder: Path) -> None:
        """Read network and vocabulary."""
        self.vocabulary = Vocabulary(read_json(folder / "vocabulary.json"))
        self.model = self.network()[0].from_pretrained(folder)


class CNN(WordClassifier):
    """One convolution and its strongest responses (Kim 2014; Mullenbach et al. 2018)."""

    name = "cnn"

    def network(self) -> tuple[Any, Any]:
        """Its network."""
        from icdtune.coders.classifiers.networks.cnn import CNN, CNNConfig

        return CNN, CNNConfig


class BiGRU(WordClassifier):
    """The last states of a bidirectional GRU (Mullenbach et al. 2018)."""

    name = "bigru"

    def network(self) -> tuple[Any, Any]:
        """Its network."""
        from icdtune.coders.classifiers.networks.bigru import BiGRU, BiGRUConfig

        return BiGRU, BiGRUConfig


class CAML(WordClassifier):
    """A convolution under label-wise attention (Mullenbach et al. 2018)."""

    name = "caml"

    def network(self) -> tuple[Any, Any]:
        """Its network."""
        from icdtune.coders.classifiers.networks.caml import CAML, CAMLConfig

        return CAML, CAMLConfig


class MultiResCNN(WordClassifier):
    """Residual convolutions of several widths under label-wise attention (Li and Yu 2020)."""

    name = "multirescnn"

    def network(self) -> tuple[Any, Any]:
        """Its network."""
        from icdtune.coders.classifiers.networks.multirescnn import MultiResCNN, MultiResCNNConfig

        return MultiResCNN, MultiResCNNConfig


class LAAT(WordClassifier):
    """A bidirectional LSTM under projected label-wise attention (Vu et al. 2020)."""

    name = "laat"

    def network(self) -> tuple[Any, Any]:
        """Its network."""
        from icdtune.coders.classifiers.networks.laat import LAAT, LAATConfig

        return LAAT, LAATConfig


class PLMICD(NeuralClassifier):
    """A pre-trained encoder over chunks of a note under label-wise attention (Huang et al. 2022).

    Args:
        model: "minilm", a folder or a hub id of an encoder with a fast tokenizer.
        preset: "published", "laptop", or one of a corpus; see presets/classifiers.
        epochs, learning_rate, warmup, weight_decay, batch, micro_batch, max_tokens: in place of
            the preset's.
        shape: fields of the network's configuration, in place of the preset's.
        attention_norm: "layer" keeps label attention finite whatever the encoder gives; "none" is as
            published.
        label_block_size: labels that the attention takes at a time: bounds the memory; None is all.
        gradient_checkpointing: compute the encoder's layers again for their gradients: less memory.
    """

    name = "plm-icd"
    attention: ClassVar[str] = "projected"

    def __init__(
        self,
        model: str = "minilm",
        preset: str = "published",
        epochs: Rate | None = None,
        learning_rate: Rate | None = None,
        warmup: Annotated[int, Field(ge=0)] | None = None,
        weight_decay: Annotated[float, Field(ge=0)] | None = None,
        batch: Count | None = None,
        micro_batch: Count | None = None,
        max_tokens: Count | None = None,
        shape: dict[str, Any] | None = None,
        attention_norm: Norm = "layer",
        label_block_size: Count | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        given = {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "warmup": warmup,
            "weight_decay": weight_decay,
            "batch": batch,
            "micro_batch": micro_batch,
            "max_tokens": max_tokens,
            "shape": shape,
        }
        super().__init__(preset, given, attention_norm, label_block_size)
        self._model, self._checkpointing = model, gradient_checkpointing
        self.tokenizer: PreTrainedTokenizerBase

    def build(self, notes: Sequence[Note], seed: int) -> None:
        """Load the encoder and put label attention on it."""
        from transformers import AutoModel

        from icdtune.coders.classifiers.networks.plm import PLM, PLMConfig

        self.tokenizer = load_tokenizer(self._model)
        if not self.tokenizer.is_fast:
            raise IcdtuneError(
                f'model "{self._model}" has no fast tokenizer. Choose an encoder that has one'
            )
        encoder = AutoModel.from_pretrained(model_path(self._model), dtype="float32")
        config = PLMConfig(
            encoder=encoder.config.to_dict(),
            labels=len(self.codes),
            attention=self.attention,
            **self.settings.shape,
            **self._attention,
        )
        self.model = PLM(config, encoder)
        if self._checkpointing:
            encoder.gradient_checkpointing_enable({"use_reentrant": False})

    def encode(self, note: Note) -> list[int]:
        """Ids of a note's first word pieces; IcdtuneError where it has none."""
        ids: list[int] = self.tokenizer(
            note.text,
            add_special_tokens=False,
            truncation=True,
            max_length=self.settings.max_tokens,
        )["input_ids"]
        if not ids:
            raise IcdtuneError(f"note {note.note_id} has no tokens. Remove it")
        return ids

    def save(self, folder: Path) -> None:
        """Write the network, classifier.json and the tokenizer."""
        super().save(folder)
        self.tokenizer.save_pretrained(folder)

    def read(self, folder: Path) -> None:
        """Read network and tokenizer."""
        from icdtune.coders.classifiers.networks.plm import PLM

        self.tokenizer = read_tokenizer(str(folder), str(folder))
        self.model = PLM.from_pretrained(folder)


class PLMCA(PLMICD):
    """A pre-trained encoder over chunks of a note under label cross-attention (Edin et al. 2024)."""

    name = "plm-ca"
    attention = "cross"


def padded(rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask (notes, tokens), padded right."""
    import torch

    width = max(map(len, rows))
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _trainer(
    model: PreTrainedModel, rows: list[dict[str, list[int]]], labels: int, given: dict[str, Any]
) -> Any:
    """A transformers Trainer whose batches hold notes of similar length."""
    import torch
    from transformers import Trainer, TrainingArguments

    from icdtune.coders.training import ByLength

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        indicators = torch.zeros((len(batch), labels))
        for i, row in enumerate(batch):
            indicators[i, row["codes"]] = 1
        return padded([row["input_ids"] for row in batch]) | {"labels": indicators}

    class ClassifierTrainer(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> ByLength:
            size = self.args.train_batch_size * self.args.gradient_accumulation_steps
            lengths = [len(row["input_ids"]) for row in rows]
            return ByLength(
                lengths, size, lambda: self.args.seed + (int(self.state.epoch or 0) << 32)
            )

    return ClassifierTrainer(
        model=model,
        args=TrainingArguments(**given),
        train_dataset=rows,
        data_collator=collate,
    )


def _chunks(notes: Iterable[Note]) -> Iterator[list[Note]]:
    chunk: list[Note] = []
    for note in notes:
        chunk.append(note)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
