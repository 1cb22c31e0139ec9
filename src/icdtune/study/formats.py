"""How the report writes numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Value = Mapping[str, float]


def format_value(value: float | None, kind: str = "score", signed: bool = False) -> str:
    """A metric's value: three decimals, a percentage, or one decimal; "–" for none."""
    if value is None:
        return "–"
    if kind == "percent":
        return f"{100 * value:.1f}%"
    text = f"{value:{'+' if signed else ''}.{1 if kind == 'number' else 3}f}"
    return text.replace("-", "−")


def format_interval(value: Value, kind: str = "score", signed: bool = False) -> str:
    """An interval, or nothing where the value has none."""
    if "low" not in value or "high" not in value:
        return ""
    low, high = (format_value(value[end], kind, signed) for end in ("low", "high"))
    return f"{low} to {high}" if signed else f"{low}–{high}"


def format_duration(seconds: float | None) -> str:
    """Seconds with three figures at most, as s, min or h."""
    if seconds is None:
        return "–"
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def format_p(p: float) -> str:
    """A p-value with three decimals."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def format_count(count: float | None) -> str:
    """A count, with one decimal where it is a mean that is not whole; "–" for none."""
    if count is None:
        return "–"
    return f"{count:,.1f}".removesuffix(".0")


def format_subset(coder: Mapping[str, Any]) -> str:
    """The notes of a row that predicted only so many, "60 notes"; nothing for other rows."""
    notes = coder.get("notes")
    if notes is None:
        return ""
    count = min(notes, coder["metrics"].get("notes", notes))
    return f"{count:,} note{'s' * (count != 1)}"


def shown_name(coder: Mapping[str, Any]) -> str:
    """A row's name, with the number of notes where it predicted only so many."""
    subset = format_subset(coder)
    return f"{coder['name']} ({subset})" if subset else str(coder["name"])
