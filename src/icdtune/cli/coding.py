"""`icdtune train`, `icdtune predict`, `icdtune evaluate`: the way from corpus to metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icdtune.cli.output import difference, print_json, print_table, read_options, with_interval

if TYPE_CHECKING:
    from icdtune.data.labels import Task
    from icdtune.data.predictions import PredictionInfo, Predictions

Corpus_ = Annotated[Path, typer.Option("--corpus", help="Corpus folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.command(
        epilog="Examples: icdtune train bow --corpus corpora/syn --out coders/bow | "
        "icdtune train sft --model tiny --corpus corpora/syn --out coders/sft | "
        "icdtune train grpo --start coders/sft --corpus corpora/syn --out coders/grpo | "
        "icdtune train phi --start coders/sft --corpus corpora/syn --out coders/phi | "
        "icdtune train sft --out coders/sft --push me/coder"
    )(train)
    app.command(
        epilog="Examples: icdtune predict --coder runs/bow --corpus corpora/syn --split test "
        "--out runs/bow-test | icdtune predict --coder runs/bow --note-file note.txt"
    )(predict)
    app.command(
        epilog="Examples: icdtune evaluate runs/bow-test --corpus corpora/syn | "
        "icdtune evaluate runs/bow-test --corpus corpora/syn --against runs/dictionary-test"
    )(evaluate)


def train(
    coder: Annotated[str, typer.Argument(help='Coder name, or "module:Class" of your own.')],
    corpus: Annotated[Path | None, typer.Option(help="Corpus folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the trained coder.")] = None,
    labels: Annotated[str, typer.Option(help="Label space of the corpus.")] = "full",
    seed: Annotated[int, typer.Option(help="Seed.")] = 1,
    model: Annotated[
        str | None, typer.Option(help="Base model: tiny, smollm2-135m, a folder or a hub id.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Coder folder that grpo and phi start from.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Coder option, key=value.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    push: Annotated[
        str | None,
        typer.Option(
            help="Send the folder to OWNER/NAME on a model hub (private where it is new). A folder that "
            "is there already is sent as it is."
        ),
    ] = None,
    allow_protected: Annotated[
        bool, typer.Option("--allow-protected", help="Send weights that saw patient data.")
    ] = False,
    show_options: Annotated[
        bool, typer.Option("--options", help="Show the coder's options and stop.")
    ] = False,
) -> None:
    """Train a coder on "train", tuned on "val"; leaves a folder for predict.

    An interrupted training goes on from its last checkpoint when the same command is run again.
    Options of a coder: icdtune train CODER --options.
    """
    import icdtune.posttrain  # noqa: F401  (adds its stages to the coders)
    from icdtune.coders import processes
    from icdtune.coders.base import options_text, train_coder
    from icdtune.coders.card import earlier_coder, read_coder_info
    from icdtune.coders.push import check_open
    from icdtune.data.labels import Task, load_labels
    from icdtune.data.schema import Corpus
    from icdtune.errors import IcdtuneError
    from icdtune.files import refuse_existing

    if show_options:
        typer.echo(options_text(coder))
        return
    if out is not None and push and not overwrite and (out / "coder.json").exists():
        there = read_coder_info(out).coder
        if there != coder or corpus or model or start or option:
            raise IcdtuneError(
                f"{out} is there already ({there}) and would be sent as it is. Name that coder, without "
                f"corpus and options, or give --overwrite"
            )
        if processes.first():
            _push(out, push, allow_protected)
        return
    if corpus is None or out is None:
        raise IcdtuneError("give --corpus and --out, or --options to see the coder's options")
    refuse_existing(out, overwrite, "coder.json")
    options = read_options(option or [])
    if model is not None:
        options["model"] = model
    if start is not None:
        options["start"] = str(start)
    opened = Corpus(corpus)
    if push and not allow_protected:
        if opened.info.protected:
            raise IcdtuneError(
                f"{corpus} is patient data, which trained weights can reveal. Give --allow-protected "
                f"where your agreement covers the hub, or leave --push out"
            )
        if (before := earlier_coder(options)) is not None:
            check_open(before)
    task = Task(opened, load_labels(opened, labels))
    train_coder(coder, task, out, seed, options, overwrite)
    if processes.first():
        typer.echo(f"{out}: {coder}, {len(task.labels.codes):,} codes")
        if push:
            _push(out, push, allow_protected)


def _push(folder: Path, repository: str, allow_protected: bool) -> None:
    from icdtune.coders.push import push

    typer.echo(f"{folder} is at {push(folder, repository, allow_protected)}")


def predict(
    coder: Annotated[Path, typer.Option(help="Folder of a trained coder.")],
    corpus: Annotated[Path | None, typer.Option(help="Corpus folder.")] = None,
    split: Annotated[str, typer.Option(help="Split to predict.")] = "test",
    labels: Annotated[
        str | None, typer.Option(help="Label space; the coder's own if left out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the predictions.")] = None,
    note_file: Annotated[Path | None, typer.Option(help="One note, as plain text.")] = None,
    evidence: Annotated[
        str | None,
        typer.Option(
            help="Also write evidence.parquet: attention, attingrad, integrated-gradients, lexical, or "
            '"auto", the first of these that the coder can.'
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: Json = False,
) -> None:
    """Predict a split into predictions.parquet, or one note onto the screen."""
    from icdtune.errors import IcdtuneError

    if note_file is not None:
        if evidence:
            raise IcdtuneError("--evidence writes a file. Give --corpus and --out")
        _predict_note(coder, note_file, as_json)
        return
    if corpus is None or out is None:
        raise IcdtuneError("give --corpus and --out, or one note with --note-file")
    from icdtune.coders.base import load_coder, run_coder
    from icdtune.coders.card import read_coder_info
    from icdtune.coders.explain import run_evidence, usable_method
    from icdtune.data.labels import Task, load_labels, read_labels
    from icdtune.data.schema import Corpus
    from icdtune.files import refuse_existing

    refuse_existing(out, overwrite, "predictions.parquet")
    loaded, trained = load_coder(coder), read_coder_info(coder)
    method = usable_method(loaded, trained.coder, evidence) if evidence else None
    opened = Corpus(corpus)
    space = (
        load_labels(opened, labels)
        if labels
        else read_labels(coder / "labels.json", opened.info.code_systems)
    )
    task = Task(opened, space)
    if (replaced := out / "evidence.parquet").exists():
        replaced.unlink()
    predictions, info = run_coder(loaded, trained.coder, task, split, trained.seed, out)
    if method:
        run_evidence(loaded, task, split, predictions, out / "evidence.parquet", method)
    if as_json:
        print_json(info.model_dump())
    else:
        typer.echo(f"{out}: {len(predictions):,} notes in {info.seconds:.1f} s")


def evaluate(
    predictions: Annotated[
        list[Path], typer.Argument(help="Predictions; several are seeds of one.")
    ],
    corpus: Corpus_,
    split: Annotated[str | None, typer.Option(help="As predicted if left out.")] = None,
    labels: Annotated[str | None, typer.Option(help="As predicted if left out.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Other predictions, for the paired test.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=0, help="Bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write metrics.json here.")] = None,
    card: Annotated[
        Path | None, typer.Option(help="Coder folder whose model card shall show the metrics.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Metrics with 95% intervals by patient, and a paired test against other predictions."""
    from icdtune.data.labels import Task, load_labels
    from icdtune.data.predictions import read_predictions
    from icdtune.data.schema import Corpus
    from icdtune.errors import IcdtuneError
    from icdtune.evaluation.counts import average, count
    from icdtune.evaluation.evaluate import summarise
    from icdtune.evaluation.intervals import compare
    from icdtune.files import write_json

    opened = Corpus(corpus)
    paths = [*predictions, *([against] if against else [])]
    read = [read_predictions(path) for path in paths]
    for path, (_, info) in zip(paths, read, strict=True):
        if info is not None and info.corpus_hash != opened.info.hash:
            raise IcdtuneError(
                f"{path}: predictions of another corpus ({info.corpus}, hash "
                f"{info.corpus_hash[:12]}). Evaluate on the corpus that was predicted"
            )
    if against is not None and resamples == 0:
        raise IcdtuneError("--against needs resamples. Leave --resamples out or give 1000")
    _one_coder(predictions, [info for _, info in read[: len(predictions)]])
    first = read[0][1]
    if card is not None:
        _check_card(card, first)
    split = split or (first.split if first else "test")
    task = Task(opened, load_labels(opened, labels or (first.label_space if first else "full")))
    for path, (_, info) in zip(paths, read, strict=True):
        if info is not None and info.label_space_hash not in (None, task.labels.digest):
            raise IcdtuneError(
                f'{path}: predicted with another label space than "{task.labels.name}" is now. '
                f"Predict again, or name the space with --labels"
            )
    parts = [count(task, split, rows) for rows, _ in read]
    counts = average(parts[: len(predictions)])
    metrics = summarise(counts, task, split, len(predictions), resamples, seed, 0.95)
    if against is not None:
        other = parts[-1]
        metrics["against"] = compare(other, counts, resamples, seed)
    if resamples and (path := predictions[0] / "evidence.parquet").exists():
        beside = against / "evidence.parquet" if against is not None else None
        metrics |= _evidence(task, split, path, read[0][0], beside, read[-1][0], resamples, seed)
    if out is not None:
        write_json(out, metrics)
    if card is not None:
        from icdtune.coders.card import keep_evaluation

        keep_evaluation(card, metrics)
    if as_json:
        print_json(metrics)
    else:
        _print_metrics(metrics, against)


def _check_card(card: Path, info: PredictionInfo | None) -> None:
    """IcdtuneError where a folder is no coder's, or another coder's than made the predictions."""
    import icdtune.posttrain  # noqa: F401  (adds its stages to the coders)
    from icdtune.coders import CODERS
    from icdtune.coders.card import read_coder_info
    from icdtune.errors import IcdtuneError

    own = read_coder_info(card)
    if info is not None and (info.seed != own.seed or info.coder in {*CODERS} - {own.coder}):
        raise IcdtuneError(
            f"the predictions are of {info.coder} (seed {info.seed}), {card} is {own.coder} (seed "
            f"{own.seed}). Give the folder of the coder that predicted"
        )


def _evidence(
    task: Task,
    split: str,
    path: Path,
    predictions: Predictions,
    against: Path | None,
    others: Predictions,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Scores of the evidence beside predictions, and of that beside others; none without gold."""
    from icdtune.data.evidence import read_evidence
    from icdtune.decoding.evidence import word_offsets
    from icdtune.evaluation.evidence import compare_evidence, count_evidence, evidence_metrics

    notes = {note.note_id: (note.subject_id, word_offsets(note.text)) for note in task.notes(split)}
    marked = [span for span in task.corpus.evidence() if span.note_id in notes]
    if not marked:
        return {}
    codes = {row.note_id: frozenset(row.codes) for row in predictions}
    compared = against is not None and against.exists()
    if compared:  # the codes that both predicted
        for row in others:
            codes[row.note_id] &= frozenset(row.codes)
    counts = count_evidence(read_evidence(path), marked, notes, codes)
    found: dict[str, Any] = {"evidence": evidence_metrics(counts, resamples, seed)}
    found["evidence"]["pairs"] = int(counts.pairs.sum())
    if compared and against is not None:
        other = count_evidence(read_evidence(against), marked, notes, codes)
        found["evidence_against"] = compare_evidence(other, counts, resamples, seed)
    return found


def _one_coder(paths: list[Path], infos: list[PredictionInfo | None]) -> None:
    """IcdtuneError unless several predictions are one coder's runs with different seeds."""
    from icdtune.errors import IcdtuneError

    known = [info for info in infos if info is not None]
    if len({(info.coder, info.split, info.label_space) for info in known}) > 1:
        raise IcdtuneError(
            f"{paths[0]} and the others are not runs of one coder on one split. Evaluate them one by "
            f"one, or compare two with --against"
        )
    if len({info.seed for info in known}) < len(known) or len(set(paths)) < len(paths):
        raise IcdtuneError("the same run or seed is given twice. Give each seed's predictions once")


def _print_metrics(metrics: dict[str, Any], against: Path | None) -> None:
    from icdtune.evaluation.metrics import SIZES

    title = (
        f"{metrics['corpus']} {metrics['split']}: {metrics['notes']:,} notes, "
        f"{metrics['labels']:,} codes"
    )
    rows = [
        (name, with_interval(value, 1 if name in SIZES else 100))
        for name, value in metrics["metrics"].items()
    ]
    print_table(title, ["metric", "% [95% interval]#"], rows)
    bins = [
        (
            b["bin"],
            b["codes"],
            b["mentions"],
            with_interval(b["micro_f1"]),
            with_interval(b["macro_f1"]),
        )
        for b in metrics["by_frequency"]
    ]
    columns = ["notes in train", "codes#", "mentions#", "micro-F1#", "macro-F1#"]
    print_table("F1 by training frequency", columns, bins)
    if evidence := metrics.get("evidence"):
        names = [name for name in evidence if name != "pairs"]
        other = metrics.get("evidence_against", {})
        shown = [
            (name, with_interval(evidence[name]), difference(other[name]) if other else "")
            for name in names
        ]
        title = f"Evidence of {evidence['pairs']:,} codes, predicted and marked"
        print_table(title, ["metric", "% [95% interval]#", "minus the other#"], shown)
    if against is not None:
        tests = [
            (name, difference(test), f"{test['p']:.4f}")
            for name, test in metrics["against"].items()
        ]
        print_table(f"Minus {against} (paired)", ["metric", "difference#", "p#"], tests)


def _predict_note(coder: Path, path: Path, as_json: bool) -> None:
    from icdtune.coders.base import load_coder
    from icdtune.codes.tables import resolve
    from icdtune.data.schema import Note
    from icdtune.errors import IcdtuneError, UnknownCodeError
    from icdtune.files import read_text

    text = read_text(path)
    if not text.strip():
        raise IcdtuneError(f"{path} is empty. Give a note as plain text")

    def title(code: str) -> str:
        try:
            return resolve(code).title
        except UnknownCodeError:  # a corpus may keep codes that no table holds
            return ""

    row = next(iter(load_coder(coder).predict([Note("note", "subject", text, None)])))
    scores = row.scores or (None,) * len(row.codes)
    found = [
        {"code": code, "title": title(code), "score": score}
        for code, score in zip(row.codes, scores, strict=True)
    ]
    if as_json:
        print_json(found)
        return
    cells = [
        (f["code"], f["title"], "-" if f["score"] is None else f"{f['score']:.2f}") for f in found
    ]
    print_table("", ["code", "title", "score#"], cells)
