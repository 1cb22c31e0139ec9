"""Measure whether the synthetic corpus is a fair miniature: neither trivial nor hopeless.

    python benchmarks/synthetic.py --out benchmarks/results/synthetic.json

Writes a corpus of the analysis plan's long-run size, trains the two simple coders on it, runs the
oracle, and prints what docs/analysis-plan.md promises beside what was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from icdtune.coders.base import make_coder
from icdtune.codes.matching import tokens
from icdtune.data.labels import LabelRule, Task, choose_labels
from icdtune.data.predictions import Prediction, Predictions
from icdtune.data.schema import Corpus
from icdtune.data.synthetic import VERSION, default_generator, prepare
from icdtune.data.synthetic.oracle import Oracle
from icdtune.evaluation.evaluate import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--val", type=int, default=500)
    parser.add_argument("--test", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder) / "corpus", options)
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(path: Path, options: argparse.Namespace) -> dict[str, object]:
    started = time.perf_counter()
    prepare(path, options.train, options.val, options.test, "short", options.seed)
    seconds = time.perf_counter() - started
    corpus = Corpus(path)
    full = Task(corpus, choose_labels(corpus, "full", LabelRule(kind="full")))
    top = LabelRule(kind="top_k", k=50)
    top50 = Task(corpus, choose_labels(corpus, "top50", top, "drop"))
    result: dict[str, object] = {
        "generator_version": VERSION,
        "sizes": {"train": options.train, "val": options.val, "test": options.test},
        "seed": options.seed,
        "notes_per_second": round((options.train + options.val + options.test) / seconds),
        "corpus": describe(corpus),
        "lexicon": describe_lexicon(),
    }
    for task in (full, top50):
        result[f"micro_f1_{task.labels.name}"] = {
            "dictionary": score(task, "dictionary"),
            "bow": score(task, "bow"),
            "oracle": score(task, "oracle"),
        }
    return result


def score(task: Task, name: str) -> dict[str, float]:
    """Micro- and macro-F1 on test, with the interval of the first."""
    if name == "oracle":
        generator = default_generator()
        oracle = Oracle(generator.lexicon, generator.templates, generator.titles)
        predictions = Predictions(
            Prediction(note.note_id, task.labels.restrict(oracle.codes(note.text)))
            for note in task.notes("test")
        )
    else:
        coder = make_coder(name, {})
        with tempfile.TemporaryDirectory() as work:
            coder.fit(task, 1, Path(work))
        predictions = coder.predict(task.notes("test"))
    metrics = evaluate(task, "test", [predictions])["metrics"]
    micro = {key: round(value, 4) for key, value in metrics["micro_f1"].items()}
    return micro | {"macro_f1": round(metrics["macro_f1"]["value"], 4)}


def describe(corpus: Corpus) -> dict[str, object]:
    """Sizes, code frequencies, and the slope of the rank-frequency line in log-log."""
    words: list[int] = []
    codes: Counter[str] = Counter()
    for note in corpus.notes("train"):
        words.append(len(note.text.split()))
        codes.update(note.codes or ())
    counts = sorted(codes.values(), reverse=True)
    ranked = np.log(np.arange(1, len(counts) + 1)), np.log(counts)
    used = slice(4, 400)
    slope = float(np.polyfit(ranked[0][used], ranked[1][used], 1)[0])
    return {
        "words_median": statistics.median(words),
        "codes_per_note": round(sum(counts) / len(words), 2),
        "codes_in_train": len(counts),
        "share_below_10": round(sum(c < 10 for c in counts) / len(counts), 3),
        "most_frequent": codes.most_common(5),
        "zipf_slope_ranks_5_to_400": round(slope, 2),
    }


def describe_lexicon() -> dict[str, object]:
    """How much of the lexicon is held out for test."""
    entries = default_generator().lexicon.entries
    visible = {tokens(s) for e in entries for s in e.surfaces(held_out=False)}
    held_out = {tokens(s) for e in entries for s in e.held_out}
    official = {tokens(s) for e in entries for s in (e.title, *e.terms)}
    assert not held_out & official, "a held-out form is a title or inclusion term"
    share = len(held_out) / (len(held_out) + len(visible))
    return {
        "entries": len(entries),
        "surface_forms": len(held_out | visible),
        "held_out_share": math.floor(share * 1000) / 1000,
        "only_implied": sum(e.only_implied for e in entries),
    }


if __name__ == "__main__":
    main()
