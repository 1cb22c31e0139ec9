"""Bag of words: TF-IDF of words and character n-grams, and one ridge regression per code.

Everyone's sanity check, made respectable. Ridge on centred indicators is solved once for all codes,
by the dual where notes are fewer than features; on CodiEsp it beats logistic regression and SVMs of
the same features and takes seconds (docs/coders.md has the figures). Regularisation and threshold
are tuned on validation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from pydantic import Field, PositiveFloat
from safetensors.numpy import save_file

from icdtune.coders.base import read_arrays
from icdtune.coders.classifiers.scoring import Bools, Scores, best_threshold, decide
from icdtune.data.labels import Task
from icdtune.data.predictions import Predictions
from icdtune.data.schema import Note
from icdtune.errors import IcdtuneError
from icdtune.files import read_json, write_json
from icdtune.progress import track

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

Weights = npt.NDArray[np.float16]
BATCH = 512
MIN_DF = 2
DUAL_LIMIT = 12_000
"""Notes up to which the dual (a notes x notes system) is solved directly."""


class Validation(NamedTuple):
    """What penalties and threshold are tuned on."""

    features: sp.csr_matrix
    gold: Bools
    missed: int


class BagOfWords:
    """TF-IDF features with one ridge regression per code; threshold tuned on validation.

    Args:
        words: most frequent words kept as features.
        characters: most frequent character 3- to 5-grams kept as features; 0 for none.
        alphas: ridge penalties tried; the best micro-F1 on validation wins.
    """

    def __init__(
        self,
        words: Annotated[int, Field(ge=0)] = 50_000,
        characters: Annotated[int, Field(ge=0)] = 20_000,
        alphas: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.03, 0.1, 0.3, 1.0),
    ) -> None:
        if words + characters == 0:
            raise IcdtuneError(
                'bow: options "words" and "characters" are both 0. Keep some features'
            )
        self._limits = {"word": words, "char_wb": characters}
        self._alphas = alphas
        self._vectorizers: list[TfidfVectorizer] = []
        self._codes: list[str] = []
        self._threshold = 0.0
        self._weights: Weights = np.zeros((0, 0), np.float16)
        self._mean: npt.NDArray[np.float32] = np.zeros(0, np.float32)
        self._chosen: dict[str, float] = {}

    def fit(self, task: Task, seed: int, work: Path) -> None:
        """Learn from "train", tune on "val". Nothing is random: the seed plays no part."""
        train = list(task.notes("train"))
        present = {code for note in train for code in note.codes or ()}
        self._codes = [code for code in task.labels.codes if code in present]
        if not self._codes:
            raise IcdtuneError(
                f"{task.corpus.path}: no training note carries a code of label space "
                f'"{task.labels.name}". Choose another label space'
            )
        self._vectorizers = [
            _vectorizer(analyzer, limit) for analyzer, limit in self._limits.items() if limit
        ]
        if len(train) < MIN_DF:
            raise IcdtuneError(
                f"{task.corpus.path}: {len(train)} training notes are too few: a word counts as a "
                f"feature from {MIN_DF} notes on. Give more"
            )
        features = self._features([note.text for note in train], fit=True)
        gold, _ = self._indicators(train)
        self._mean = gold.mean(axis=0, dtype=np.float64).astype(np.float32)
        val = self._validation(list(task.notes("val")))
        solve = self._solve_dual if len(train) <= DUAL_LIMIT else self._solve_primal
        self._weights = solve(features, gold - self._mean, val)
        scores = val.features @ self._weights.astype(np.float32) + self._mean
        self._threshold, f1 = best_threshold(scores, val.gold, val.missed)
        self._chosen["val_micro_f1"] = round(f1, 4)

    def predict(self, notes: Iterable[Note]) -> Predictions:
        """Score every code for every note."""
        weights = self._weights.astype(np.float32)

        def rows() -> Iterator[Any]:
            for batch in batched_notes(notes):
                scores: Scores = (
                    self._features([note.text for note in batch]) @ weights + self._mean
                )
                yield from decide([n.note_id for n in batch], self._codes, scores, self._threshold)

        return Predictions(rows(), details=dict(self._chosen))

    def save(self, folder: Path) -> None:
        """Write bow.safetensors (weights, idf) and bow.json (vocabulary, codes, threshold)."""
        arrays: dict[str, npt.NDArray[Any]] = {"weights": self._weights, "mean": self._mean}
        vocabularies = {}
        for vectorizer in self._vectorizers:
            arrays[f"idf_{vectorizer.analyzer}"] = vectorizer.idf_.astype(np.float64)
            words = vectorizer.get_feature_names_out()
            vocabularies[vectorizer.analyzer] = [str(word) for word in words]
        save_file(arrays, folder / "bow.safetensors")
        settings = {
            "codes": self._codes,
            "threshold": self._threshold,
            "chosen": self._chosen,
            "vocabularies": vocabularies,
        }
        write_json(folder / "bow.json", settings)

    @classmethod
    def load(cls, folder: Path) -> BagOfWords:
        """Read a coder back."""
        settings = read_json(folder / "bow.json")
        arrays = read_arrays(folder / "bow.safetensors")
        coder = cls()
        coder._codes, coder._threshold = settings["codes"], settings["threshold"]
        coder._chosen = settings["chosen"]
        coder._weights, coder._mean = arrays["weights"], arrays["mean"]
        width = sum(len(words) for words in settings["vocabularies"].values())
        if coder._weights.shape != (width, len(coder._codes)):
            raise IcdtuneError(f"{folder}: bow.json and bow.safetensors do not belong together")
        for analyzer, words in settings["vocabularies"].items():
            vectorizer = _vectorizer(analyzer, len(words), vocabulary=words)
            vectorizer.idf_ = arrays[f"idf_{analyzer}"]
            coder._vectorizers.append(vectorizer)
        return coder

    def _features(self, texts: list[str], fit: bool = False) -> sp.csr_matrix:
        from sklearn.preprocessing import normalize

        parts = [v.fit_transform(texts) if fit else v.transform(texts) for v in self._vectorizers]
        return normalize(sp.hstack(parts, format="csr", dtype=np.float32), copy=False)

    def _validation(self, notes: list[Note]) -> Validation:
        gold, missed = self._indicators(notes)
        return Validation(self._features([note.text for note in notes]), gold > 0, missed)

    def _indicators(self, notes: list[Note]) -> tuple[Scores, int]:
        """(notes, codes) of 0 and 1, and how many gold codes have no column."""
        column = {code: i for i, code in enumerate(self._codes)}
        gold = np.zeros((len(notes), len(column)), np.float32)
        missed = 0
        for row, note in enumerate(notes):
            for code in note.codes or ():
                if code in column:
                    gold[row, column[code]] = 1
                else:
                    missed += 1
        return gold, missed

    def _solve_dual(self, features: sp.csr_matrix, target: Scores, val: Validation) -> Weights:
        """Weights (features, codes) by the dual: penalties are tried on kernels, notes x notes."""
        from scipy.linalg import cho_factor, cho_solve

        gram = _products(features, features).astype(np.float64)
        kernel = _products(val.features, features)
        best, best_dual = -1.0, np.zeros_like(target)
        for alpha in track(self._alphas, "Fit", len(self._alphas)):
            ridge = gram.copy()
            ridge.flat[:: len(gram) + 1] += alpha
            factor = cho_factor(ridge, lower=True, overwrite_a=True)
            dual = cho_solve(factor, target.astype(np.float64)).astype(np.float32)
            _, f1 = best_threshold(kernel @ dual + self._mean, val.gold, val.missed)
            if f1 > best:
                best, best_dual, self._chosen = f1, dual, {"alpha": alpha}
        weights: Weights = (features.T @ best_dual).astype(np.float16)
        return weights

    def _solve_primal(self, features: sp.csr_matrix, target: Scores, val: Validation) -> Weights:
        """Weights (features, codes) by conjugate gradients, for more notes than the dual holds."""
        from sklearn.linear_model import Ridge

        best, best_weights = -1.0, np.zeros((0, 0), np.float16)
        for alpha in track(self._alphas, "Fit", len(self._alphas)):
            model = Ridge(alpha=alpha, fit_intercept=False, solver="sparse_cg", tol=1e-5)
            weights = np.asarray(model.fit(features, target).coef_.T, np.float32)
            _, f1 = best_threshold(val.features @ weights + self._mean, val.gold, val.missed)
            if f1 > best:
                best, best_weights = f1, weights.astype(np.float16)
                self._chosen = {"alpha": alpha}
        return best_weights


def _products(left: sp.csr_matrix, right: sp.csr_matrix) -> Scores:
    """Inner products of all pairs of rows, (left, right), through dense blocks of both.

    Notes share so many n-grams that the result is dense: a dense product is several times faster than
    a sparse one here, and blocks bound the memory.
    """
    out = np.empty((left.shape[0], right.shape[0]), np.float32)
    for i in range(0, left.shape[0], BATCH):
        rows = left[i : i + BATCH].toarray()
        for j in range(0, right.shape[0], BATCH):
            out[i : i + BATCH, j : j + BATCH] = rows @ right[j : j + BATCH].toarray().T
    return out


def batched_notes(notes: Iterable[Note]) -> Iterator[tuple[Note, ...]]:
    """Notes in batches of `BATCH`."""
    iterator = iter(notes)
    while batch := tuple(islice(iterator, BATCH)):
        yield batch


def _vectorizer(analyzer: str, limit: int, vocabulary: list[str] | None = None) -> TfidfVectorizer:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        analyzer=analyzer,
        ngram_range=(1, 1) if analyzer == "word" else (3, 5),
        min_df=MIN_DF,
        max_features=limit,
        sublinear_tf=True,
        strip_accents="unicode",
        dtype=np.float32,
        vocabulary=vocabulary,
    )
