"""Time and memory of one evaluation: every metric with bootstrap intervals on a synthetic corpus.

Writes a corpus with Zipf-distributed codes and noisy predictions to a temporary folder, evaluates
them in a fresh process and prints one line of JSON:

    python benchmarks/evaluate.py                                        # 20,000 notes x 400 codes
    python benchmarks/evaluate.py --notes 50000 --codes 10000 --ranking 0
    python benchmarks/evaluate.py --profile 25                           # where the time goes

"open_seconds" is reading corpus, label space and predictions, "evaluate_seconds" the call of
`evaluate`, "process_seconds" all of it with the interpreter's start and imports.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

GOLD_PER_NOTE = 12
NOTES_PER_SUBJECT = 2


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--notes", type=int, default=20_000, help="notes of the evaluated split")
    parser.add_argument("--codes", type=int, default=400, help="size of the label space")
    parser.add_argument("--ranking", type=int, default=100, help="ranked codes a note (0: none)")
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", type=int, default=0, metavar="ROWS", help="profile on stderr")
    # A child starts with its parent's peak memory, so both steps run in processes of their own.
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def draw_notes(
    notes: int, popularity: npt.NDArray[np.float64], rng: np.random.Generator
) -> list[list[int]]:
    """About GOLD_PER_NOTE different codes a note, popular ones more often."""
    sizes = np.maximum(rng.poisson(GOLD_PER_NOTE, notes), 1)
    draws = rng.choice(len(popularity), (notes, 8 * GOLD_PER_NOTE), p=popularity)
    return [
        list(dict.fromkeys(row))[:size]
        for row, size in zip(draws.tolist(), sizes.tolist(), strict=True)
    ]


def make_case(directory: Path, options: argparse.Namespace) -> None:
    """Write corpus, label space and predictions."""
    from icdtune.codes.tables import load_table
    from icdtune.data.labels import LabelRule, LabelSpace, save_labels
    from icdtune.data.predictions import Prediction, PredictionInfo, Predictions
    from icdtune.data.schema import Corpus, Note
    from icdtune.data.writer import CorpusWriter

    rng = np.random.default_rng(options.seed)
    codes = rng.choice(
        load_table("icd10cm").billable_codes(), options.codes, replace=False
    ).tolist()
    popularity = 1 / np.arange(1, len(codes) + 1)
    popularity /= popularity.sum()
    gold: list[list[int]] = []
    with CorpusWriter(
        directory / "corpus",
        name="benchmark",
        code_systems={"diagnosis": "icd10cm"},
        source="benchmarks/evaluate.py",
        options={},
        protected=False,
    ) as writer:
        for split in ("train", "test"):
            gold = draw_notes(options.notes, popularity, rng)
            for row, found in enumerate(gold):
                subject = f"{split}-{row // NOTES_PER_SUBJECT}"
                truth = tuple(codes[code] for code in found)
                writer.add(split, Note(f"{split}-{row}", subject, "A note.", truth))
    corpus = Corpus(directory / "corpus")
    rule = LabelRule(kind="file", source="codes.txt")
    save_labels(corpus, LabelSpace(name="benchmark", rule=rule, codes=codes))

    rows = []
    for row, found in enumerate(gold):
        hits = [code for code in found if rng.random() < 0.6]
        noise = rng.choice(len(codes), 5, p=popularity).tolist()
        said = list(dict.fromkeys([*hits, *noise]))
        rng.shuffle(said)
        ranked = None
        if options.ranking:
            start = int(rng.integers(len(codes)))
            longer = [*said, *found, *range(start, start + 2 * options.ranking)]
            distinct = dict.fromkeys(code % len(codes) for code in longer)
            ranked = tuple(codes[code] for code in list(distinct)[: options.ranking])
        answer = tuple(codes[code] for code in said)
        rows.append(Prediction(f"test-{row}", answer, ranked_codes=ranked))
    info = PredictionInfo(
        coder="noise",
        corpus=corpus.info.name,
        corpus_hash=corpus.info.hash,
        split="test",
        label_space="benchmark",
        seed=options.seed,
        versions={},
        seconds=0.0,
    )
    Predictions(rows).write(directory, info)


def measure(directory: Path, options: argparse.Namespace) -> dict[str, float]:
    """Evaluate in this process."""
    from icdtune.data.labels import Task, load_labels
    from icdtune.data.predictions import read_predictions
    from icdtune.data.schema import Corpus
    from icdtune.evaluation.evaluate import evaluate

    started = time.perf_counter()
    corpus = Corpus(directory / "corpus")
    task = Task(corpus, load_labels(corpus, "benchmark"))
    predictions, _ = read_predictions(directory)
    opened = time.perf_counter()
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    content = evaluate(task, "test", [predictions], resamples=options.resamples, seed=options.seed)
    profile.disable()
    done = time.perf_counter()
    if options.profile:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(options.profile)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return {
        "open_seconds": round(opened - started, 2),
        "evaluate_seconds": round(done - opened, 2),
        "peak_rss_mb": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6),
        "micro_f1": round(content["metrics"]["micro_f1"]["value"], 4),
    }


def main() -> None:
    options = parse()
    if options.make:
        make_case(options.make, options)
        return
    if options.measure:
        print(json.dumps(measure(options.measure, options)))
        return
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, __file__, *sys.argv[1:]]
        subprocess.run([*command, "--make", directory], check=True)
        started = time.perf_counter()
        child = subprocess.run(
            [*command, "--measure", directory], check=True, stdout=subprocess.PIPE, text=True
        )
        seconds = time.perf_counter() - started
    shape = {name: getattr(options, name) for name in ("notes", "codes", "ranking", "resamples")}
    print(json.dumps({**shape, **json.loads(child.stdout), "process_seconds": round(seconds, 2)}))


if __name__ == "__main__":
    main()
