"""Evidence of trained classifiers against the words of a code's titles and random spans.

python benchmarks/evidence.py CORPUS CODER [CODER ...] --out benchmarks/results/evidence.json

Over the codes that are predicted and whose evidence the corpus marks; differences are paired, over the
same patients. Random spans have the lengths of the default method's.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from icdtune.coders.base import load_coder
from icdtune.coders.card import read_coder_info
from icdtune.coders.classifiers.neural import NeuralClassifier
from icdtune.coders.explain import lexical_evidence, title_terms
from icdtune.data.evidence import Span
from icdtune.data.labels import Task, read_labels
from icdtune.data.schema import Corpus
from icdtune.decoding.evidence import random_spans, word_offsets
from icdtune.evaluation.evidence import compare_evidence, count_evidence, evidence_metrics
from icdtune.files import write_json


def main(
    corpus: Path,
    coders: list[Path],
    split: str = "test",
    methods: str = "",
    notes: Annotated[int | None, typer.Option(help="The first so many.")] = None,
    out: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Score every method of every coder, or those named (with commas between)."""
    opened = Corpus(corpus)
    found: dict[str, Any] = {"corpus_hash": opened.info.hash, "split": split, "coders": []}
    for folder in coders:
        found["coders"].append(scores(opened, folder, split, methods, notes))
    if out:
        write_json(out, found)


def scores(
    corpus: Corpus, folder: Path, split: str, methods: str, most: int | None
) -> dict[str, Any]:
    """Metrics of every method of a coder, and the default's differences from the baselines."""
    coder, info = load_coder(folder), read_coder_info(folder)
    assert isinstance(coder, NeuralClassifier)
    task = Task(corpus, read_labels(folder / "labels.json", corpus.info.code_systems))
    notes = list(task.notes(split))[:most]
    tokens = {note.note_id: (note.subject_id, word_offsets(note.text)) for note in notes}
    predicted = {row.note_id: row.codes for row in coder.predict(notes)}
    answered = [(note, predicted[note.note_id]) for note in notes]
    marked = [span for span in corpus.evidence() if span.note_id in tokens]
    seconds, spans = {}, {}
    for method in methods.split(",") if methods else coder.methods():
        started = time.perf_counter()
        spans[method] = list(coder.explain(answered, method))
        seconds[method] = round(time.perf_counter() - started, 1)
    default = coder.methods()[0]
    spans["lexical"] = list(lexical_evidence(answered, title_terms(task)))
    spans["random"] = randomly(spans[default], tokens)
    counts = {name: count_evidence(own, marked, tokens, predicted) for name, own in spans.items()}
    row = {
        "coder": info.coder,
        "options": info.options,
        "notes": len(notes),
        "pairs": int(counts[default].pairs.sum()),
        "default": default,
        "methods": {name: evidence_metrics(own) for name, own in counts.items()},
        "seconds": seconds,
        "default_minus": {
            name: compare_evidence(counts[name], counts[default]) for name in ("lexical", "random")
        },
    }
    for name, metrics in row["methods"].items():
        print(info.coder, name, {m: round(100 * v["value"], 1) for m, v in metrics.items()})
    for name, difference in row["default_minus"].items():
        print(f"{default} - {name}", {m: rounded(v) for m, v in difference.items()})
    return row


def rounded(entry: dict[str, float]) -> list[float]:
    """Difference, low, high in points."""
    return [round(100 * entry[key], 1) for key in ("difference", "low", "high")]


def randomly(spans: list[Span], tokens: dict[str, tuple[str, list[tuple[int, int]]]]) -> list[Span]:
    """As many spans of the same lengths, anywhere in the same notes."""
    rng = np.random.default_rng(0)
    found = []
    for span in spans:
        offsets = tokens[span.note_id][1]
        length = sum(start < span.end and span.start < end for start, end in offsets)
        ((start, end),) = random_spans(offsets, [length], rng)
        found.append(Span(span.note_id, span.code, start, end, span.group, span.score, "random"))
    return found


if __name__ == "__main__":
    typer.run(main)
