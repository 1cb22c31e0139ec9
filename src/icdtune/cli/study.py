"""`icdtune demo`, `icdtune study`, `icdtune report`: run comparisons and show them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from icdtune.cli.output import difference, print_json, print_table, with_interval

Json = Annotated[bool, typer.Option("--json", help="Print results as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.command(epilog="Example: icdtune demo --out runs")(demo)
    app.command(
        epilog="Examples: icdtune study examples/codiesp.yaml | icdtune study mine.yaml --out runs"
    )(study)
    app.command(epilog="Example: icdtune report runs/demo")(report)


def demo(
    out: Annotated[Path, typer.Option(help="Folder that holds studies.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Run the study that ships with the package: no account, no GPU, no network."""
    from importlib.resources import as_file, files

    with as_file(files("icdtune").joinpath("presets", "demo.yaml")) as path:
        _run(path, out, as_json)


def study(
    file: Annotated[Path, typer.Argument(help="Study file (YAML).")],
    out: Annotated[Path, typer.Option(help="Folder that holds studies.")] = Path("runs"),
    seed: Annotated[
        int | None,
        typer.Option(help="Only train and predict with this seed: seeds may run side by side."),
    ] = None,
    coder: Annotated[
        str | None,
        typer.Option(help="Only train and predict this row, and those that it uses."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run what is missing of a study, go on after an interruption, and render its report."""
    if seed is None and coder is None:
        _run(file, out, as_json)
    else:
        _run_part(file, out, seed, coder)


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a study that has run.")],
) -> None:
    """Render report.html again from a study's results."""
    from icdtune.study.report import render_report

    typer.echo(f"Report: {render_report(folder)}")


def _announcer() -> Callable[[str], None]:
    """Prints each stage with the seconds since now."""
    started = time.perf_counter()

    def announce(line: str) -> None:
        typer.echo(f"{time.perf_counter() - started:7.1f} s  {line}", err=True)

    return announce


def _run_part(file: Path, out: Path, seed: int | None, coder: str | None) -> None:
    from icdtune.study.file import read_study
    from icdtune.study.runner import run_part

    part = " of ".join(
        name for name in (coder, "all seeds" if seed is None else f"seed {seed}") if name
    )
    for one in read_study(file):
        run_part(one, out / one.name, seed, coder, _announcer())
        typer.echo(
            f"{one.name}: {part} is done. Without --seed and --coder, the same command gathers results"
        )


def _run(file: Path, out: Path, as_json: bool) -> None:
    from icdtune.study.file import read_study
    from icdtune.study.report import render_report
    from icdtune.study.runner import run_study

    everything = []
    for one in read_study(file):
        folder = out / one.name
        results = run_study(one, folder, _announcer())
        page = render_report(folder)
        everything.append(results | {"report": str(page)})
        if not as_json:
            print_results(results)
            typer.echo(f"Report: {page}\n")
    if as_json:
        print_json(everything)


def print_results(results: dict[str, Any]) -> None:
    """Print the study's table: one row a coder, percent with 95% intervals by patient."""
    from icdtune.study.formats import shown_name

    whole = [row for row in results["coders"] if row.get("notes") is None]
    first = (whole or results["coders"])[0]["metrics"]
    title = (
        f"{results['name']}: {results['corpus']['name']} {results['split']}, "
        f"{first['notes']:,} notes, {results['label_space']['size']:,} codes "
        f"(%, intervals by patient)"
    )
    columns = ["coder", "micro-F1#", "macro-F1#", "P#", "R#", "MAP#", "s#"]
    names = ("micro_f1", "macro_f1", "micro_precision", "micro_recall", "map")
    rows = []
    for row in results["coders"]:
        metrics = row["metrics"]["metrics"]
        seconds = row["seconds"]["train"] + row["seconds"]["predict"]
        cells = [with_interval(metrics[name]) for name in names[:2]]
        cells += [f"{metrics[name]['value'] * 100:.1f}" for name in names[2:]]
        rows.append([shown_name(row), *cells, f"{seconds:.1f}"])
    print_table(title, columns, rows)
    for name, reason in (results.get("left_out") or {}).items():
        typer.echo(f"left out: {name}: {reason}")
    compared = {"micro_f1": "micro-F1", "macro_f1": "macro-F1", "1-9 macro_f1": "macro-F1 1-9"}
    shown = [key for key in compared if any(key in p["metrics"] for p in results["comparisons"])]
    tests = [
        [
            f"{pair['second']} - {pair['first']}",
            *(
                f"{difference(test)} p={test['p']:.3f}" if test else "-"
                for test in (pair["metrics"].get(key) for key in shown)
            ),
        ]
        for pair in results["comparisons"]
    ]
    if tests:
        columns = ["pair", *(f"{compared[key]}#" for key in shown)]
        print_table("Paired differences", columns, tests)
