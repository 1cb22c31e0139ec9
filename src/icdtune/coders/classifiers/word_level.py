"""The word-level classifiers: CNN, Bi-GRU, CAML, MultiResCNN, LAAT."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from icdtune.coders.classifiers.neural import Count, NeuralClassifier, Norm, Rate
from icdtune.coders.classifiers.words import Ids, NoteWords, Vocabulary, word_vectors, words_of
from icdtune.data.normalise import word_spans
from icdtune.data.schema import Note
from icdtune.errors import IcdtuneError
from icdtune.files import read_json, write_json


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

    network: ClassVar[str]
    """"module:class" in networks."""

    @classmethod
    def _network(cls) -> Any:
        module, _, name = cls.network.partition(":")
        return getattr(import_module(f"icdtune.coders.classifiers.networks.{module}"), name)

    def build(self, notes: Iterable[Note], seed: int) -> list[Ids]:
        """Vocabulary and word vectors of the notes, and the network; their ids."""
        import torch

        found = NoteWords.of(self._words(note) for note in notes)
        self.vocabulary = Vocabulary.of(found, self.settings.min_count)
        encoded = self.vocabulary.encode_all(found)
        del found
        network = self._network()
        try:
            config = network.config_class(
                words=len(self.vocabulary),
                labels=len(self.codes),
                **self.settings.shape,
                **self._attention,
            )
            self.model = network(config)
        except (TypeError, ValueError) as error:
            raise IcdtuneError(f"{self.name}: shape does not fit the network ({error})") from None
        if self.settings.word2vec:
            vectors = word_vectors(self.vocabulary, encoded, config.embedding, seed)
            with torch.no_grad():
                self.model.embed.weight.copy_(torch.from_numpy(vectors))
        return encoded

    def _words(self, note: Note) -> list[str]:
        words = words_of(note.text, self.settings.max_tokens)
        if not words:
            raise IcdtuneError(
                f"note {note.note_id} has no letters or digits, so no words. Remove it"
            )
        return words

    def encode(self, note: Note) -> Ids:
        """Ids of a note's first words; IcdtuneError where it has none."""
        return self.vocabulary.encode(self._words(note))

    def offsets(self, note: Note) -> list[tuple[int, int]]:
        """Where the words of `encode` stand."""
        return word_spans(note.text)[: self.settings.max_tokens]

    def save(self, folder: Path) -> None:
        """Write the network, classifier.json and the vocabulary."""
        super().save(folder)
        write_json(folder / "vocabulary.json", self.vocabulary.words)

    def read(self, folder: Path) -> None:
        """Read network and vocabulary."""
        self.vocabulary = Vocabulary(read_json(folder / "vocabulary.json"))
        self.model = self._network().from_pretrained(folder)


class CNN(WordClassifier):
    """One convolution and its strongest responses (Kim 2014; Mullenbach et al. 2018)."""

    name = "cnn"
    network = "cnn:CNN"


class BiGRU(WordClassifier):
    """The last states of a bidirectional GRU (Mullenbach et al. 2018)."""

    name = "bigru"
    network = "bigru:BiGRU"


class CAML(WordClassifier):
    """A convolution under label-wise attention (Mullenbach et al. 2018)."""

    name = "caml"
    network = "caml:CAML"


class MultiResCNN(WordClassifier):
    """Residual convolutions of several widths under label-wise attention (Li and Yu 2020)."""

    name = "multirescnn"
    network = "multirescnn:MultiResCNN"


class LAAT(WordClassifier):
    """A bidirectional LSTM under projected label-wise attention (Vu et al. 2020)."""

    name = "laat"
    network = "laat:LAAT"
