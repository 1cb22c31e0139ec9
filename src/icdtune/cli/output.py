"""What commands print: tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; columns whose name ends in "#" are right-aligned numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        justify: Any = "right" if name.endswith("#") else "left"
        table.add_column(name.removesuffix("#"), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(f"{x:,}" if isinstance(x, int) else str(x) for x in row))
    width = None if Console().is_terminal else 160
    console = Console(width=width, highlight=False, markup=False)
    if title:
        console.print(f"\n{title}", style="bold", soft_wrap=True)
    console.print(table)


def with_interval(entry: dict[str, float] | None, scale: float = 100) -> str:
    """A metric in percent with its interval: "61.8 [60.7, 62.9]"."""
    if entry is None:
        return "-"
    text = f"{entry['value'] * scale:.1f}"
    if "low" in entry:
        text += f" [{entry['low'] * scale:.1f}, {entry['high'] * scale:.1f}]"
    return text


def difference(test: dict[str, float]) -> str:
    """A paired difference in percent points with its interval: "+21.8 [+20.3, +23.2]"."""
    value, low, high = (test[name] * 100 for name in ("difference", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def read_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs as a dictionary; values are read as YAML."""
    import yaml

    from icdtune.errors import IcdtuneError

    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise IcdtuneError(f'--option "{pair}": write it as key=value')
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise IcdtuneError(f'--option "{key}": its value is not valid YAML. Quote it') from None
    return options


def print_corpus(path: Path) -> None:
    """Print what corpus.json says: splits, steps of the preparation, codes against the tables."""
    from icdtune.data.schema import Corpus

    info = Corpus(path).info
    rows = []
    for name, s in info.splits.items():
        balance = info.balance.get(name)
        lacking = f"{balance.missing:.1%}" if balance else "-"
        divergence = f"{balance.divergence:.3f}" if balance else "-"
        sizes = (s.notes, s.subjects, s.labelled, s.mentions, s.distinct_codes)
        rows.append((name, *sizes, lacking, divergence))
    columns = ["split", "notes#", "subjects#", "labelled#", "codes#", "distinct codes#"]
    columns += ["lacking#", "KL#"]
    systems = " and ".join(info.code_systems.values())
    print_table(f"{info.name} ({systems}, {path})", columns, rows)
    if info.filters:
        print_table("Steps", ["step", "count#"], _steps(info.filters))
    for role, counts in info.standing.items():
        parts = ", ".join(f"{count:,} {standing}" for standing, count in counts.items())
        if parts:
            typer.echo(f"{role} codes against the tables: {parts}")


def _steps(filters: dict[str, int]) -> list[tuple[str, str]]:
    """Steps of a preparation that touched anything, as rows of a table."""
    return [(name.replace("_", " "), f"{count:,}") for name, count in filters.items() if count]
