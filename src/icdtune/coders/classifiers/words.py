"""Words of the word-level classifiers: normalised text, a vocabulary, and vectors to begin with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from icdtune.data.normalise import normalise

PADDING, UNKNOWN = 0, 1


def words_of(text: str, most: int) -> list[str]:
    """The first words of a text, lower case, letters and digits only."""
    return normalise(text).split()[:most]


class Vocabulary:
    """Words with ids from 2 on; 0 is padding, 1 is any other word."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._ids = {word: i for i, word in enumerate(self.words, 2)}

    def __len__(self) -> int:
        return len(self.words) + 2

    @classmethod
    def of(cls, notes: Iterable[Sequence[str]], min_count: int) -> Vocabulary:
        """The words of at least `min_count` notes, most frequent first, equal ones in order."""
        counts: Counter[str] = Counter()
        for words in notes:
            counts.update(set(words))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls([word for word, count in ranked if count >= min_count])

    def encode(self, words: Sequence[str]) -> list[int]:
        """Ids of words."""
        return [self._ids.get(word, UNKNOWN) for word in words]


def word_vectors(
    vocabulary: Vocabulary, notes: Sequence[Sequence[str]], width: int, seed: int, epochs: int = 5
) -> npt.NDArray[np.float32]:
    """word2vec of the notes (CBOW, window 5, as published), one row an id; padding is zero.

    One thread, so that a seed gives the same vectors. The unknown word gets their mean.
    """
    from gensim.models import Word2Vec

    known = set(vocabulary.words)
    sentences = [[word for word in words if word in known] for words in notes]
    model = Word2Vec(
        sentences,
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


def _hash(word: str) -> int:
    """The same for every process, unlike Python's own."""
    import zlib

    return zlib.crc32(word.encode())
