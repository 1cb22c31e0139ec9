"""What the report shows of training: learning curves, rewards, hint pools, and what a row cost.

Several seeds are averaged: curves step by step over the seeds that reached a step, hint pools round by
round. A row without the data is left out of its figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from icdtune.study.formats import shown_name

CURVES = {"loss": "Loss", "reward": "Reward"}
ROUND_VALUES = (
    "pool",
    "unmastered",
    "notes",
    "recall",
    "steps",
    "hinted",
    "hinted_recall",
    "tokens",
)
COLOURS = 4
"""Colours of rungs in report.css; further rungs take them again, dashed."""


def training_view(coders: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything of the training section; every part is empty where no row has its data.

    Returns:
        "loss", "reward": curves (see `curves`); "hinted": (row, share of visits with a hint) of rows
        with a reward; "pools": rows with hint pools, "rounds" as averaged over seeds; "seeds": the
        most runs of one row.
    """
    found: dict[str, Any] = {key: curves(coders, key) for key in CURVES}
    found["hinted"] = [
        (curve["name"], sum(curve["hinted"]) / len(curve["hinted"]))
        for curve in found["reward"]
        if curve["hinted"]
    ]
    found["pools"] = [
        {**_rung(coders, at), "rounds": rounds}
        for at, coder in enumerate(coders)
        if (rounds := average_rounds(_runs(coder)))
    ]
    found["seeds"] = max((len(_runs(coder)) for coder in coders), default=0)
    return found


def training_charts(view: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a training view that the page's script draws."""
    drawn = ("name", "rung", "step", "raw", "mean")
    keys = ("round", "pool", "hinted_recall")
    charts: dict[str, Any] = {
        key: [{name: curve[name] for name in drawn} for curve in view[key]] for key in CURVES
    }
    charts["pools"] = [
        {
            "name": row["name"],
            "rung": row["rung"],
            **{key: [entry.get(key) for entry in row["rounds"]] for key in keys},
        }
        for row in view["pools"]
    ]
    return charts


def curves(coders: Sequence[Mapping[str, Any]], key: str) -> list[dict[str, Any]]:
    """One curve a row that logged a value.

    Returns:
        name, rung (its place among the trained rows), step, raw (mean over seeds), mean (running
        mean of raw; None where there are too few steps for one), hinted (share of visits, may be
        empty), summary (in words).
    """
    found = []
    for at, coder in enumerate(coders):
        logged = [run.get("history") or [] for run in _runs(coder)]
        if not (values := average_steps(logged, key)):
            continue
        raw = list(values.values())
        half = min(10, len(raw) // 10)
        smooth = running_mean(raw, half)
        found.append(
            {
                **_rung(coders, at),
                "step": list(values),
                "raw": [_short(value) for value in raw],
                "mean": [_short(value) for value in smooth] if half else None,
                "hinted": list(average_steps(logged, "hinted").values()),
                "summary": f"{coder['name']} from {smooth[0]:.3g} at update {min(values)} "
                f"to {smooth[-1]:.3g} at update {max(values)}",
            }
        )
    return found


def average_steps(histories: Iterable[Iterable[Mapping[str, Any]]], key: str) -> dict[int, float]:
    """Step -> mean of a value over the seeds that logged it there."""
    seen: dict[int, list[float]] = {}
    for history in histories:
        for entry in history:
            value = entry.get(key)
            if value is not None and math.isfinite(value):
                seen.setdefault(int(entry["step"]), []).append(float(value))
    return {step: sum(values) / len(values) for step, values in sorted(seen.items())}


def running_mean(values: Sequence[float], half: int) -> list[float]:
    """Means over up to `half` values on either side.

    No more values after than before, so that a steep start is not flattened; the end, where there
    are fewer after, is still a mean of `half` values before it.
    """
    means = []
    for at in range(len(values)):
        reach = min(half, at)
        near = values[at - reach : at + reach + 1]
        means.append(sum(near) / len(near))
    return means


def average_rounds(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Hint pools by round, each value's mean over the seeds that have it, None where none has."""
    seen: dict[int, list[Mapping[str, Any]]] = {}
    for run in runs:
        for entry in run.get("rounds") or []:
            seen.setdefault(int(entry["round"]), []).append(entry)
    return [
        {
            "round": turn,
            **{key: _mean(entry.get(key) for entry in seen[turn]) for key in ROUND_VALUES},
        }
        for turn in sorted(seen)
    ]


def cost_rows(coders: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Updates, tokens and seconds of every row, means over seeds; None where there is no figure."""
    return [
        {
            "name": shown_name(coder),
            "steps": _mean(run.get("steps") for run in _runs(coder)),
            "train_tokens": _mean(run.get("tokens") for run in _runs(coder)),
            "predict_tokens": coder.get("tokens"),
            "train_seconds": coder["seconds"].get("train"),
            "predict_seconds": coder["seconds"].get("predict"),
        }
        for coder in coders
    ]


def _runs(coder: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return coder.get("training") or []


def _rung(coders: Sequence[Mapping[str, Any]], at: int) -> dict[str, Any]:
    """A row's name and its place among the trained rows: one colour in every chart."""
    return {"name": coders[at]["name"], "rung": sum(bool(_runs(coder)) for coder in coders[:at])}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _short(value: float) -> float:
    return float(f"{value:.5g}")
