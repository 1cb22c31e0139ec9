"""A realistic results.json: a small corpus and invented coders, scored by the real protocol."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from icdtune.codes.tables import load_table
from icdtune.data.evidence import Span
from icdtune.data.labels import LabelRule, Task, choose_labels
from icdtune.data.predictions import Prediction, Predictions
from icdtune.data.schema import Corpus, Note
from icdtune.data.writer import CorpusWriter
from icdtune.evaluation.counts import average, count
from icdtune.evaluation.evaluate import evaluate
from icdtune.evaluation.intervals import compare

Open = Callable[..., Page]
"""Renders results and opens the page: (results, scheme, width)."""

SYSTEM = "icd10cm"
PHRASES = {
    "I10": "essential hypertension",
    "E78.5": "hyperlipidemia",
    "N17.9": "acute kidney injury",
    "I50.23": "acute on chronic systolic heart failure",
    "I48.91": "atrial fibrillation",
    "E11.22": "type 2 diabetes with diabetic chronic kidney disease",
    "N18.30": "chronic kidney disease",
    "I25.10": "coronary artery disease of the native vessel",
    "J44.1": "COPD exacerbation",
    "J18.9": "pneumonia",
    "K21.9": "GERD without esophagitis",
    "F32.A": "depression",
    "D62": "acute blood loss anemia",
    "E87.1": "hyponatremia",
    "A41.9": "sepsis",
    "J96.01": "acute hypoxic respiratory failure",
    "Z87.891": "former smoker",
    "Z79.4": "on long-term insulin",
    "N39.0": "urinary tract infection",
    "G47.33": "obstructive sleep apnea",
    "E03.9": "hypothyroidism",
    "E87.6": "hypokalemia",
    "K92.2": "gastrointestinal bleed",
    "I21.4": "NSTEMI",
    "M10.9": "gout",
    "F10.20": "alcohol dependence",
    "K70.30": "alcoholic cirrhosis without ascites",
    "I63.9": "ischemic stroke",
    "G40.909": "epilepsy",
    "D50.9": "iron deficiency anemia",
}
RARE_FAMILIES = ("C", "I7", "K5", "L0", "M8", "S7", "T8")
FRAMES = (
    "{} was treated during this stay.",
    "Home medications for {} were continued.",
    "Workup confirmed {}, followed by the primary team.",
    "Known {}, stable at discharge.",
    "Course complicated by {}.",
)


@dataclass(frozen=True)
class Invented:
    """A coder that finds a code with a chance that grows with its training count."""

    name: str
    coder: str
    frequent: float
    rare: float
    spurious: float
    invalid: float = 0.0
    scores: bool = True
    train: float | None = 0.0
    predict: float = 1.0
    tokens: int | None = None
    note: str | None = None


CODERS = (
    Invented("Dictionary", "dictionary", 0.42, 0.40, 1.6, train=None, predict=0.8),
    Invented("Bag of words", "bow", 0.62, 0.06, 1.1, train=4.2, predict=0.3),
    Invented("CAML", "caml", 0.70, 0.08, 1.2, train=412.0, predict=6.1),
    Invented("PLM-ICD", "plm_icd", 0.80, 0.16, 0.9, train=5230.0, predict=31.0),
    Invented("Zero-shot", "zero_shot", 0.38, 0.22, 2.6, 0.5, False, None, 840.0, 1_920_114,
             "answers cut off at 196 tokens in 3 notes"),
    Invented("Retrieve and rerank", "rerank", 0.55, 0.34, 1.5, 0.1, True, None, 1260.0, 2_410_020),
    Invented("SFT", "generative", 0.74, 0.26, 1.1, 0.05, False, 9800.0, 610.0, 1_404_377),
    Invented("SFT + GRPO", "generative", 0.80, 0.32, 0.9, 0.0, False, 30250.0, 604.0, 1_398_610),
    Invented("SFT + hints", "generative", 0.80, 0.4, 0.9, 0.0, False, 33110.0, 606.0, 1_399_004),
)  # fmt: skip


def make_results(
    folder: Path,
    *,
    coders: tuple[Invented, ...] = CODERS,
    seeds: tuple[int, ...] = (1, 2),
    resamples: int = 200,
    protected: bool = False,
) -> dict[str, Any]:
    """Write a corpus of 700 notes into `folder` and return the content of results.json."""
    texts = _write_corpus(folder / "corpus", protected)
    corpus = Corpus(folder / "corpus")
    rule = LabelRule(kind="full", counted_on=["train", "test"])
    task = Task(corpus, choose_labels(corpus, "full", rule))
    runs = {c.name: [_predict(c, task, seed) for seed in seeds] for c in coders}
    counts = {
        name: average([count(task, "test", run) for run in made]) for name, made in runs.items()
    }
    titles = load_table(SYSTEM)
    results: dict[str, Any] = {
        "name": "Hints on a synthetic ward",
        "description": "Nine coders, from a dictionary to a language model trained with hints, "
        "on synthetic discharge summaries.",
        "icdtune_version": "0.1.0",
        "versions": {"torch": "2.13.0", "transformers": "5.2.0", "trl": "1.4.0", "peft": "0.19.1"},
        "settings": {
            "name": "Hints on a synthetic ward",
            "corpus": "corpora/synthetic",
            "label_space": "full",
            "seeds": list(seeds),
            "coders": [{"name": c.name, "coder": c.coder} for c in coders],
        },
        "corpus": corpus.info.model_dump(),
        "split": "test",
        "label_space": {
            "name": "full",
            "size": len(task.labels.codes),
            "rule": rule.model_dump(),
        },
        "seeds": list(seeds),
        "coders": [_coder(c, task, runs[c.name], seeds, resamples) for c in coders],
        "comparisons": [
            {
                "first": first.name,
                "second": second.name,
                "metrics": compare(counts[first.name], counts[second.name], max(resamples, 50)),
            }
            for first, second in zip(coders, coders[1:], strict=False)
        ],
        "examples": [] if protected else _examples(task, texts, runs),
    }
    used = {code for c in results["coders"] for code in c["metrics"]["per_code"]["code"]}
    results["titles"] = {code: titles.title(code) for code in sorted(used) if code in titles}
    return results


def many_codes(results: dict[str, Any], size: int) -> dict[str, Any]:
    """The same results with a per-code table of `size` rows."""
    rng = random.Random(5)
    for coder in results["coders"]:
        coder["metrics"]["per_code"] = {
            "code": [f"X{row:05d}" for row in range(size)],
            "train": [int(3000 / (row + 1)) for row in range(size)],
            "gold": [float(max(1, int(900 / (row + 1)))) for row in range(size)],
            "predicted": [1.0] * size,
            "true_positive": [0.5] * size,
            "f1": [round(rng.random(), 4) for _ in range(size)],
        }
    results["titles"].update({f"X{r:05d}": f"Invented condition number {r}" for r in range(size)})
    return results


def without_intervals(results: dict[str, Any]) -> dict[str, Any]:
    """The same results as a study with no bootstrap writes them."""
    for coder in results["coders"]:
        metrics = coder["metrics"]
        metrics["bootstrap"]["resamples"] = 0
        values = [*metrics["metrics"].values()]
        values += [b[key] for b in metrics["by_frequency"] for key in ("micro_f1", "macro_f1")]
        for value in filter(None, values):
            value.pop("low", None)
            value.pop("high", None)
    results["comparisons"] = []
    return results


def with_training(results: dict[str, Any], *, seeds: int = 2) -> dict[str, Any]:
    """The same results with the last three rows trained: fine-tuned, reinforced, with hint pools."""
    kinds = ("sft", "grpo", "phi")
    for coder in results["coders"]:
        coder.update(notes=None, training=[])
    for coder, kind in zip(results["coders"][-3:], kinds, strict=True):
        coder["training"] = [training_of(kind, seed) for seed in range(1, seeds + 1)]
    for pair in results["comparisons"]:
        pair["notes"] = 200
        value = {"first": 0.21, "second": 0.25, "difference": 0.04, "low": 0.012, "high": 0.071}
        pair["metrics"]["1-9 macro_f1"] = value | {"p": 0.0123}
    results["left_out"] = {}
    return results


def training_of(kind: str, seed: int) -> dict[str, Any]:
    """What one run leaves in training.json: 120 updates of fine-tuning, 30 of reinforcement."""
    rng = random.Random(f"{kind} {seed}")
    steps = 120 if kind == "sft" else 30
    history: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        row = {"step": step, "grad_norm": round(rng.uniform(0.3, 2.0), 4)}
        if kind == "sft":
            row["loss"] = round(0.6 + 9 * 0.95**step + rng.gauss(0, 0.08), 6)
            row["learning_rate"] = 1e-3
        else:
            row["loss"] = round(rng.gauss(-0.02, 0.02), 6)
            row["reward"] = round(0.42 + 0.006 * step + rng.gauss(0, 0.02), 6)
            row |= {"reward_std": 0.08, "frac_reward_zero_std": 0.06, "entropy": 0.9}
            row |= {"truncated": 0.0, "hinted": 0.5 if kind == "phi" else 0.0}
            row |= {"prompt_tokens": 4800.0, "answer_tokens": 3900.0}
        history.append(row)
    made: dict[str, Any] = {"steps": steps, "learning_rate": 1e-4, "lora_rank": 8, "seconds": 512.5}
    made |= {"tokens": 1_000_000 + 100_000 * seed, "history": history}
    if kind == "sft":
        return made | {"notes": 450}
    made |= {"visits": 16, "group": 8, "kl": 0.0}
    if kind == "phi":
        made["rounds"] = [_round(turn, seed) for turn in range(4)]
    return made


def _round(turn: int, seed: int) -> dict[str, Any]:
    pool = 1600 - 250 * turn + 10 * (seed - 1)
    entry = {"round": turn, "notes": 480, "unmastered": 400 - 40 * turn, "pool": pool}
    entry |= {"recall": round(1 - pool / 4000, 6), "tokens": 210_000 + turn, "seconds": 61.5}
    if turn:
        entry |= {"steps": 10, "hinted": 300 - 20 * turn, "hinted_recall": 0.3 + 0.05 * turn}
    return entry


def _write_corpus(path: Path, protected: bool) -> dict[str, tuple[Note, list[Span]]]:
    rng = random.Random(11)
    table = load_table(SYSTEM)
    rare = [c for c in table.billable_codes() if c.startswith(RARE_FAMILIES)]
    pool = [*PHRASES, *rng.sample(rare, 140)]
    weights = [1 / (rank + 2) ** 1.05 for rank in range(len(pool))]
    written: dict[str, tuple[Note, list[Span]]] = {}
    with CorpusWriter(
        path,
        name="synthetic-ward",
        code_systems={"diagnosis": SYSTEM},
        source="icdtune synthetic, seed 11",
        options={"notes": 700},
        protected=protected,
    ) as writer:
        for number in range(700):
            split = "train" if number < 450 else "val" if number < 500 else "test"
            codes = dict.fromkeys(rng.choices(pool, weights, k=rng.randint(4, 13)))
            note_id = f"ward-{number:05d}"
            text, spans = _text(rng, note_id, [*codes], table)
            note = Note(note_id, f"p{number * 2 // 3:05d}-{split}", text, tuple(codes))
            writer.add(split, note, evidence=spans)
            written[note_id] = (note, spans)
    return written


def _text(rng: random.Random, note_id: str, codes: list[str], table: Any) -> tuple[str, list[Span]]:
    text = f"Discharge summary\n\nA {rng.randint(38, 91)} year old patient, T 38.1 °C on arrival.\n"
    text += "\nHospital course\n"
    spans: list[Span] = []
    for group, code in enumerate(codes):
        phrase = PHRASES.get(code) or table.title(code).lower()
        before, after = rng.choice(FRAMES).split("{}")
        sentence = before + (phrase if before else phrase[0].upper() + phrase[1:]) + after
        start = len(text) + len(before)
        spans.append(Span(note_id, code, start, start + len(phrase), group))
        if code == "E11.22" and "N18.30" in codes:
            inner = start + phrase.index("chronic kidney disease")
            spans.append(Span(note_id, "N18.30", inner, start + len(phrase), len(codes)))
        text += sentence + ("\n" if group % 3 == 2 else " ")
    return text + "\n\nDisposition\nHome with services; follow up in two weeks.\n", spans


def _predict(coder: Invented, task: Task, seed: int) -> Predictions:
    rng = random.Random(f"{coder.name} {seed}")
    frequencies = task.frequencies()
    labels = task.labels.codes
    rows = []
    for note in task.notes("test"):
        found: dict[str, float] = {}
        for code in note.codes or ():
            share = min(1.0, frequencies.get(code, 0) / 60)
            if rng.random() < coder.rare + (coder.frequent - coder.rare) * share:
                found[code] = rng.uniform(0.55, 0.99)
        for _ in range(int(rng.expovariate(1 / coder.spurious)) if coder.spurious else 0):
            wrong = labels[min(int(rng.expovariate(0.04)), len(labels) - 1)]
            found.setdefault(wrong, rng.uniform(0.4, 0.7))
        if rng.random() < coder.invalid:
            found["I10.99"] = 0.41
        if rng.random() < coder.invalid:
            found["R07.9"] = 0.4
        ranked = sorted(found, key=lambda code: -found[code])
        scores = tuple(found[code] for code in ranked) if coder.scores else None
        rows.append(Prediction(note.note_id, tuple(ranked), scores))
    return Predictions(rows)


def _coder(
    coder: Invented, task: Task, runs: list[Predictions], seeds: tuple[int, ...], resamples: int
) -> dict[str, Any]:
    alone = [evaluate(task, "test", [run], resamples=0)["metrics"] for run in runs]
    return {
        "name": coder.name,
        "coder": coder.coder,
        "options": {} if coder.coder == "dictionary" else {"epochs": 3, "learning_rate": 2e-4},
        "seconds": {"train": coder.train, "predict": coder.predict},
        "tokens": coder.tokens,
        "metrics": evaluate(task, "test", runs, resamples=resamples),
        "per_seed": [
            {"seed": seed, **{key: one[key]["value"] for key in ("micro_f1", "macro_f1")}}
            for seed, one in zip(seeds, alone, strict=True)
        ],
        "note": coder.note,
    }


def _examples(
    task: Task, texts: dict[str, tuple[Note, list[Span]]], runs: dict[str, list[Predictions]]
) -> list[dict[str, Any]]:
    answers = {name: {row.note_id: row for row in made[0]} for name, made in runs.items()}
    nested = {"E11.22", "N18.30"}
    notes = sorted(task.notes("test"), key=lambda note: not nested <= set(note.codes or ()))[:10]
    return [
        {
            "note_id": note.note_id,
            "text": note.text,
            "gold": list(note.codes or ()),
            "evidence": [
                {"code": span.code, "start": span.start, "end": span.end}
                for span in texts[note.note_id][1]
            ],
            "predicted": {name: _answer(rows[note.note_id]) for name, rows in answers.items()},
        }
        for note in notes
    ]


def _answer(row: Prediction) -> list[dict[str, Any]]:
    scores = row.scores or (None,) * len(row.codes)
    return [{"code": c, "score": s} for c, s in zip(row.codes, scores, strict=True)]
