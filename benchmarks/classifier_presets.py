"""Settings tried for the classifiers' `laptop` and `codiesp` presets, on val with seed 1.

python benchmarks/classifier_presets.py studies --out runs/presets.yaml
python benchmarks/gpu/study.py runs/presets.yaml --out runs/presets --workers 8
python benchmarks/classifier_presets.py gather runs/presets.yaml runs/presets --out FILE
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from icdtune.data.labels import Task, choose_labels
from icdtune.data.predictions import read_predictions
from icdtune.data.schema import Corpus
from icdtune.evaluation.evaluate import evaluate
from icdtune.files import write_json
from icdtune.study.file import read_study
from icdtune.study.stages import prepare_corpus

app = typer.Typer()
WORDS = {"cnn": 1e-3, "bigru": 2e-3, "caml": 5e-3, "multirescnn": 2e-3, "laat": 2e-3}
"""Word-level models with the learning rate to begin with."""
ENCODERS = ("plm-icd", "plm-ca")
CODIESP = "${CODIESP_DIR:-../../shared/data/codiesp}"
CORPORA: dict[str, dict[str, Any]] = {
    "synthetic": {
        "prepare": "synthetic",
        "options": {"train": 2000, "val": 500, "test": 10, "profile": "short", "seed": 1},
    },
    "codiesp-en": {
        "prepare": "codiesp",
        "options": {"source": CODIESP, "language": "en", "task": "D"},
    },
    "codiesp-es": {
        "prepare": "codiesp",
        "options": {"source": CODIESP, "language": "es", "task": "D"},
    },
}


def variants(model: str, corpus: str) -> list[dict[str, Any]]:
    """Options tried in place of the preset's: epochs first, then what else may matter."""
    long = corpus != "synthetic"
    if model in ENCODERS:
        epochs = (10, 30) if long else (4, 10)
        tried = [{"epochs": e, "learning_rate": r} for e in epochs for r in (1e-4, 3e-4)]
        for rate, head in ((3e-4, 1e-3), (3e-4, 3e-3), (1e-4, 3e-3)):
            options = {"epochs": epochs[1], "learning_rate": rate, "head_learning_rate": head}
            tried.append(options)
        return tried
    rate = WORDS[model]
    epochs = (40, 120, 12) if long else (12, 30)
    tried = [{"epochs": e, "learning_rate": rate, "dropout": 0.2} for e in epochs]
    tried += [
        {"epochs": epochs[1], "learning_rate": rate, "dropout": 0.5},
        {"epochs": epochs[1], "learning_rate": rate / 3, "dropout": 0.5},
    ]
    return tried


def name_of(options: dict[str, Any]) -> str:
    """A row's name: its options."""
    return "-".join(f"{key.replace('_', '')}{value:g}" for key, value in options.items()).replace(
        ".", "p"
    )


@app.command()
def studies(out: Annotated[Path, typer.Option()] = Path("runs/presets.yaml")) -> None:
    """Write a study for every model and corpus."""
    documents = []
    for corpus, choice in CORPORA.items():
        labels = {"name": "all", "kind": "full"}
        if corpus != "synthetic":
            labels |= {"counted_on": ["train", "val", "dev"]}
        for model in (*WORDS, *ENCODERS):
            rows = []
            for options in variants(model, corpus):
                given = dict(options)
                if "dropout" in given:
                    given["shape"] = {"dropout": given.pop("dropout")}
                rows.append(
                    {
                        "name": name_of(options),
                        "coder": model,
                        "options": {"preset": "laptop"} | given,
                        "optional": model in ENCODERS,
                    }
                )
            documents.append(
                {
                    "name": f"{corpus}-{model}",
                    "description": "Settings of a classifier on val.",
                    "corpus": choice,
                    "labels": labels,
                    "split": "val",
                    "seeds": [1],
                    "coders": rows,
                }
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")


@app.command()
def gather(file: Path, runs: Path, out: Annotated[Path | None, typer.Option()] = None) -> None:
    """Micro- and macro-F1 on val of everything that was tried, as far as it has run."""
    found: list[dict[str, Any]] = []
    corpora: dict[str, Corpus] = {}
    for study in read_study(file):
        name = study.name.rpartition(f"-{study.coders[0].coder}")[0]
        if name not in corpora:
            corpora[name] = prepare_corpus(study, runs / name, print)
        labels = choose_labels(corpora[name], study.labels.name, study.labels.rule)
        for row in study.coders:
            folder = runs / study.name / "coders" / row.name / "seed-1" / "predictions"
            if folder.is_dir():
                predictions, _ = read_predictions(folder)
                values = evaluate(Task(corpora[name], labels), "val", [predictions], resamples=0)
                f1 = {
                    m: round(100 * values["metrics"][m]["value"], 2)
                    for m in ("micro_f1", "macro_f1")
                }
                found.append({"corpus": name, "coder": row.coder, "settings": row.name} | f1)
                print(*found[-1].values())
    if out:
        write_json(out, found)


if __name__ == "__main__":
    app()
