"""`icdtune demo`, `icdtune study`, `icdtune report`: run comparisons and show them."""

from __future__ import annotations

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
    as_json: Json = False,
) -> None:
    """Run what is missing of a study, go on after an interruption, and render its report."""
    _run(file, out, as_json)


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a study that has run.")],
) -> None:
    """Render report.html again from a study's results."""
    from icdtune.study.report import render_report

    typer.echo(f"Report: {render_report(folder)}")


def _run(file: Path, out: Path, as_json: bool) -> None:
    import time

    from icdtune.study.file import read_study
    from icdtune.study.report import render_report
    from icdtune.study.runner import run_study

    everything = []
    for one in read_study(file):
        started = time.perf_counter()

        def announce(line: str, since: float = started) -> None:
            typer.echo(f"{time.perf_counter() - since:7.1f} s  {line}", err=True)

        folder = out / one.name
        results = run_study(one, folder, announce)
        page = render_report(folder)
        everything.append(results | {"report": str(page)})
        if not as_json:
            print_results(results)
            typer.echo(f"Report: {page}\n")
    if as_json:
        print_json(everything)


def print_results(results: dict[str, Any]) -> None:
    """Print the study's table: one row a coder, percent with 95% intervals by patient."""
    first = results["coders"][0]["metrics"]
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
        rows.append([row["name"], *cells, f"{seconds:.1f}"])
    print_table(title, columns, rows)
    tests = [
        [
            f"{pair['second']} - {pair['first']}",
            *(
                f"{difference(test)} p={test['p']:.3f}"
                for test in (pair["metrics"]["micro_f1"], pair["metrics"]["macro_f1"])
            ),
        ]
        for pair in results["comparisons"]
    ]
    if tests:
        print_table("Paired differences", ["pair", "micro-F1#", "macro-F1#"], tests)
