"""Words of the word-level classifiers: normalised text, a vocabulary, and vectors to begin with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icdtune.data.normalise import normalise

PADDING, UNKNOWN = 0, 1
Ids = npt.NDArray[np.int32]


def words_of(text: str, most: int) -> list[str]:
    """The first words of a text, lower case, letters and digits only."""
    return normalise(text).split()[:most]


@dataclass(frozen=True)
class NoteWords:
    """The words of many notes at four bytes each, so that a whole corpus can be gone through again.

    Attributes:
        words: every word, in the order in which it first came.
        frequency: (words,) notes that hold it.
        notes: for each note the places of its words in `words`.
    """

    words: list[str]
    frequency: npt.NDArray[np.int64]
    notes: list[Ids]

    @classmethod
    def of(cls, notes: Iterable[Sequence[str]]) -> NoteWords:
        """Go through notes once; none of their texts is kept."""
        places: defaultdict[str, int] = defaultdict(lambda: len(places))
        kept = [np.array([places[word] for word in words], np.int32) for words in notes]
        frequency = np.zeros(len(places), np.int64)
        for ids in kept:
            frequency[np.unique(ids)] += 1
        return cls(list(places), frequency, kept)


class Vocabulary:
    """Words with ids from 2 on; 0 is padding, 1 is any other word."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._ids = {word: i for i, word in enumerate(self.words, 2)}

    def __len__(self) -> int:
        return len(self.words) + 2

    @classmethod
    def of(cls, found: NoteWords, min_count: int) -> Vocabulary:
        """The words of at least `min_count` notes, most frequent first, equal ones in order."""
        counts = zip(found.words, found.frequency.tolist(), strict=True)
        ranked = sorted(counts, key=lambda item: (-item[1], item[0]))
        return cls([word for word, count in ranked if count >= min_count])

    def encode(self, words: Sequence[str]) -> Ids:
        """Ids of words."""
        return np.array([self._ids.get(word, UNKNOWN) for word in words], np.int32)

    def encode_all(self, found: NoteWords) -> list[Ids]:
        """Ids of the words of every note."""
        ids = self.encode(found.words)
        return [ids[note] for note in found.notes]


def word_vectors(
    vocabulary: Vocabulary, notes: Sequence[Ids], width: int, seed: int, epochs: int = 5
) -> npt.NDArray[np.float32]:
    """word2vec of the notes (CBOW, window 5, as published), one row an id; padding is zero.

    One thread, so that a seed gives the same vectors. The unknown word gets their mean.

    Args:
        notes: ids of each note's words.
    """
    from gensim.models import Word2Vec

    model = Word2Vec(
        _Sentences(vocabulary.words, notes),
        vector_size=width,
        min_count=1,
        workers=1,
        seed=seed,
        epochs=epochs,
        hashfxn=_hash,
    )
    rows = np.zeros((len(vocabulary), width), np.float32)
    for i, word in enumerate(vocabulary.words, 2):
        rows[i] = model.wv[word]
    rows[UNKNOWN] = rows[2:].mean(0) if len(rows) > 2 else 0
    return rows


class _Sentences:
    """The known words of each note, spelt anew in every epoch."""

    def __init__(self, words: Sequence[str], notes: Sequence[Ids]) -> None:
        self._words, self._notes = words, notes

    def __iter__(self) -> Iterator[list[str]]:
        for ids in self._notes:
            yield [self._words[i - 2] for i in ids.tolist() if i > UNKNOWN]


def _hash(word: str) -> int:
    """The same for every process, unlike Python's own."""
    import zlib

    return zlib.crc32(word.encode())
