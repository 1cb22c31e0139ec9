"""Which features and which linear model make a respectable bag of words, chosen on CodiEsp's val.

    python benchmarks/bow_choices.py --source CODIESP_FOLDER --language en

Prints micro-F1 on val for each choice; dev is never read.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from icdtune.coders.classifiers.scoring import best_threshold
from icdtune.data.codiesp import prepare
from icdtune.data.labels import LabelRule, Task, choose_labels
from icdtune.data.schema import Corpus, Note

FEATURES = {
    "words": [{"ngram_range": (1, 1)}],
    "words and bigrams": [{"ngram_range": (1, 2)}],
    "words and characters": [
        {"ngram_range": (1, 1)},
        {"analyzer": "char_wb", "ngram_range": (3, 5), "max_features": 20_000},
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--language", default="en")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder) / "corpus", options.source, options.language)
        corpus = Corpus(Path(folder) / "corpus")
        rule = LabelRule(kind="full", counted_on=["train"])
        task = Task(corpus, choose_labels(corpus, "train", rule))
        result = list(compare(task))
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def compare(task: Task) -> Iterator[dict[str, object]]:
    train, val = list(task.notes("train")), list(task.notes("val"))
    gold, val_gold = indicators(task, train), indicators(task, val) > 0
    missed = sum(len(n.codes or ()) for n in task.corpus.notes("val")) - int(val_gold.sum())
    for name, settings in FEATURES.items():
        vectorizers = [
            TfidfVectorizer(min_df=2, sublinear_tf=True, strip_accents="unicode", **setting)
            for setting in settings
        ]
        texts = [note.text for note in train]
        known = normalize(hstack([v.fit_transform(texts) for v in vectorizers]).tocsr())
        new = normalize(hstack([v.transform([n.text for n in val]) for v in vectorizers]).tocsr())
        gram, kernel = (known @ known.T).toarray(), (new @ known.T).toarray()
        mean = gold.mean(axis=0)
        for alpha in (0.03, 0.1, 0.3, 1.0, 3.0):
            started = time.perf_counter()
            dual = np.linalg.solve(gram + alpha * np.eye(len(gram)), gold - mean)
            yield row(name, f"ridge {alpha}", kernel @ dual + mean, val_gold, missed, started)
        if name != "words":
            continue
        for strength in (1, 10, 100):
            started = time.perf_counter()
            columns = [
                LogisticRegression(C=strength, solver="liblinear", tol=1e-2)
                .fit(known, gold[:, code])
                .decision_function(new)
                for code in range(gold.shape[1])
            ]
            scores = np.stack(columns, axis=1)
            yield row(name, f"logistic C={strength}", scores, val_gold, missed, started)


def row(
    features: str, model: str, scores: np.ndarray, gold: np.ndarray, missed: int, started: float
) -> dict[str, object]:
    seconds = time.perf_counter() - started
    _, f1 = best_threshold(scores.astype(np.float32), gold, missed)
    return {
        "features": features,
        "model": model,
        "val_micro_f1": round(f1, 3),
        "seconds": round(seconds, 1),
    }


def indicators(task: Task, notes: list[Note]) -> np.ndarray:
    """(notes, codes) of 0 and 1."""
    gold = np.zeros((len(notes), len(task.labels.codes)))
    for at, note in enumerate(notes):
        gold[at, [task.labels.index[code] for code in note.codes or ()]] = 1
    return gold


if __name__ == "__main__":
    main()
