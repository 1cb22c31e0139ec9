"""The classifiers over a pre-trained encoder: PLM-ICD, PLM-CA."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from icdtune.coders.classifiers.neural import Count, NeuralClassifier, Norm, Rate
from icdtune.coders.classifiers.words import Ids
from icdtune.coders.models import load_tokenizer, model_path, read_tokenizer
from icdtune.data.schema import Note
from icdtune.errors import IcdtuneError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PLMICD(NeuralClassifier):
    """A pre-trained encoder over chunks of a note under label-wise attention (Huang et al. 2022).

    Args:
        model: "minilm", a folder or a hub id of an encoder with a fast tokenizer.
        layers: use the encoder's first so many layers; None is all.
        preset: "published", "laptop", or one of a corpus; see presets/classifiers.
        epochs, learning_rate, head_learning_rate, warmup, weight_decay, batch, micro_batch, max_tokens:
            in place of the preset's.
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
        layers: Count | None = None,
        preset: str = "published",
        epochs: Rate | None = None,
        learning_rate: Rate | None = None,
        head_learning_rate: Rate | None = None,
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
            "head_learning_rate": head_learning_rate,
            "warmup": warmup,
            "weight_decay": weight_decay,
            "batch": batch,
            "micro_batch": micro_batch,
            "max_tokens": max_tokens,
            "shape": shape,
        }
        super().__init__(preset, given, attention_norm, label_block_size)
        self._model, self._layers, self._checkpointing = model, layers, gradient_checkpointing
        self.tokenizer: PreTrainedTokenizerBase

    def build(self, notes: Iterable[Note], seed: int) -> list[Ids]:
        """Load the encoder and put label attention on it; the notes' ids."""
        from transformers import AutoModel

        from icdtune.coders.classifiers.networks.plm import PLM, PLMConfig

        self.tokenizer = load_tokenizer(self._model)
        if not self.tokenizer.is_fast:
            raise IcdtuneError(
                f'model "{self._model}" has no fast tokenizer. Choose an encoder that has one'
            )
        fewer = {} if self._layers is None else {"num_hidden_layers": self._layers}
        encoder = AutoModel.from_pretrained(model_path(self._model), dtype="float32", **fewer)
        config = PLMConfig(
            encoder=encoder.config.to_dict(),
            labels=len(self.codes),
            attention=self.attention,
            **self.settings.shape,
            **self._attention,
        )
        most = getattr(encoder.config, "max_position_embeddings", config.chunk)
        if config.chunk > most:
            raise IcdtuneError(
                f'model "{self._model}" reads {most} tokens at a time, chunk is {config.chunk}. '
                f"Lower it in shape"
            )
        self.model = PLM(config, encoder)
        if self._checkpointing:
            encoder.activation_checkpointing_enable({"use_reentrant": False})
        return [self.encode(note) for note in notes]

    def encode(self, note: Note) -> Ids:
        """Ids of a note's first word pieces; IcdtuneError where it has none."""
        ids: Ids = np.array(self._tokens(note)["input_ids"], np.int32)
        if not len(ids):
            raise IcdtuneError(f"note {note.note_id} has no tokens. Remove it")
        return ids

    def offsets(self, note: Note) -> list[tuple[int, int]]:
        """Where the word pieces of `encode` stand."""
        found: list[tuple[int, int]] = self._tokens(note, offsets=True)["offset_mapping"]
        return found

    def _tokens(self, note: Note, offsets: bool = False) -> Any:
        return self.tokenizer(
            note.text,
            add_special_tokens=False,
            truncation=True,
            max_length=self.settings.max_tokens,
            return_offsets_mapping=offsets,
        )

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
