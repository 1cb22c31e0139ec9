"""The report of a study: results.json in, one self-contained HTML page out.

Knows nothing about how the numbers came about. Everything in results.json is data: the template
escapes it, and the page's content security policy forbids it to load anything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import yaml
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from icdtune.codes.systems import get_system
from icdtune.errors import IcdtuneError
from icdtune.files import atomic_file, read_json
from icdtune.study.formats import (
    Value,
    format_count,
    format_duration,
    format_interval,
    format_p,
    format_subset,
    format_value,
    shown_name,
)
from icdtune.study.note_view import example_view
from icdtune.study.training_view import COLOURS, cost_rows, training_charts, training_view

TEMPLATES = Path(__file__).parent / "templates"
BIN_TITLES = {"1-9": "1–9", "10-49": "10–49", ">=50": "≥ 50"}
METRIC_TITLES = {
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1 (label space)",
    "macro_f1_present": "macro-F1 (codes present)",
    "sample_f1": "mean F1 of a note",
    "exact_match": "exact match",
    "map": "MAP",
    **{
        f"{bin_} macro_f1": f"macro-F1, codes of {title} training notes"
        for bin_, title in {"0": "0", **BIN_TITLES}.items()
    },
}
RARE = "1-9 macro_f1"
"""Metric that has a column of its own in the paired table."""


@dataclass(frozen=True)
class Column:
    """A metric's column of the headline table.

    Attributes:
        key: name in metrics.json.
        group: heading above the column.
        title: heading.
        help: one line on what it measures.
        kind: how values are written.
        ranked: whether the best may be set in bold.
    """

    key: str
    group: str
    title: str
    help: str
    kind: Literal["score", "percent", "number"] = "score"
    ranked: bool = True


COLUMNS = (
    Column("micro_f1", "F1", "micro", "F1 over all codes and notes"),
    Column("macro_f1", "F1", "macro: label space", "mean F1 over every code of the label space"),
    Column("macro_f1_present", "F1", "macro: present", "mean F1 over the codes with gold here"),
    Column("micro_precision", "Micro", "P", "correct predicted codes / predicted codes"),
    Column("micro_recall", "Micro", "R", "correct predicted codes / gold codes"),
    Column("exact_match", "Sets", "exact match", "share of notes whose set of codes is the gold"),
    Column("map", "Ranking", "MAP", "mean average precision of the ranked codes"),
    Column("precision_at_5", "Ranking", "P@5", "share of the first 5 ranked codes that are gold"),
    Column("precision_at_8", "Ranking", "P@8", "share of the first 8 ranked codes that are gold"),
    Column("invalid_rate", "Output", "invalid", "predicted codes no table holds", "percent", False),
    Column("off_label_rate", "Output", "off-label", "outside the label space", "percent", False),
    Column("codes_per_note", "Output", "codes/note", "predicted codes a note", "number", False),
)
PUBLISHED = Column(
    "micro_f1_published",
    "Published",
    "protocol micro-F1",
    "predictions of codes without gold in this split are dropped before counting",
    ranked=False,
)


def render_report(folder: Path) -> Path:
    """Write report.html from results.json of a study's folder; returns its path.

    The same results.json gives the same bytes. Raises IcdtuneError where it is absent or lacks a
    field that the page needs.
    """
    source = folder / "results.json"
    results = read_json(source)
    if not isinstance(results, dict):
        raise IcdtuneError(f"{source} holds no results. Run the study again")
    try:
        page = render_page(results)
    except (KeyError, jinja2.UndefinedError) as error:
        raise IcdtuneError(
            f"{source}: the page needs a field that is not there ({error}). Run the study again"
        ) from None
    path = folder / "report.html"
    with atomic_file(path) as temporary:
        temporary.write_bytes(page.encode("utf-8", "replace"))
    return path


def render_page(results: Mapping[str, Any]) -> str:
    """The page of results.json's content."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        value=format_value,
        interval=format_interval,
        duration=format_duration,
        count=format_count,
        p=format_p,
        subset=format_subset,
        shown_name=shown_name,
    )
    coders = results["coders"]
    ranked = whole_rows(coders)
    first = ranked[0]["metrics"] if ranked else {}
    training = training_view(coders)
    protected = bool(results["corpus"]["protected"])
    examples = [] if protected else [example_view(e, results) for e in results["examples"]]
    data = {
        "charts": chart_data(coders),
        "training": training_charts(training),
        "codes": code_columns(coders, results["titles"]),
    }
    return environment.get_template("report.html.j2").render(
        r=results,
        first=first,
        has_intervals=any("low" in coder["metrics"]["metrics"]["micro_f1"] for coder in coders),
        columns=COLUMNS,
        groups=Counter(column.group for column in COLUMNS).items(),
        published=PUBLISHED,
        leaders={
            column.key: leaders(column.key, ranked, results["comparisons"])
            for column in COLUMNS
            if column.ranked
        },
        best=best_name(ranked, "micro_f1"),
        ranked=ranked,
        subsets=[shown_name(coder) for coder in coders if coder.get("notes") is not None],
        unranked=len(coders) - len(ranked),
        left_out=by_reason(results.get("left_out") or {}),
        costs=cost_rows(coders),
        training=training,
        colours=COLOURS,
        rule=describe_rule(results["label_space"]["rule"]),
        bin_titles=BIN_TITLES,
        metric_titles=METRIC_TITLES,
        comparisons=comparison_rows(results["comparisons"]),
        has_rare=any(RARE in pair["metrics"] for pair in results["comparisons"]),
        has_notes=any("notes" in pair for pair in results["comparisons"]),
        protected=protected,
        systems=[get_system(name).title for name in results["corpus"]["code_systems"].values()],
        examples=examples,
        outside=any(set(p.codes) - set(e["gold"]) for e in examples for p in e["pieces"]),
        settings=to_yaml(results["settings"]),
        to_yaml=to_yaml,
        data=Markup(script_json(data)),
        css=_asset("report.css"),
        js=_asset("report.js"),
        plotly=Markup(get_plotlyjs()),
    )


def _asset(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def script_json(value: Any) -> str:
    """JSON for a script element: no "<", so that no text can close the element or open another."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def to_yaml(value: Any) -> str:
    """Settings as their file would write them."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100).strip()


def whole_rows(coders: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The rows that predicted the most notes (every note, but in odd studies): they alone are ranked."""

    def size(coder: Mapping[str, Any]) -> float:
        notes = coder.get("notes")
        return float("inf") if notes is None else float(notes)

    most = max(map(size, coders), default=0.0)
    return [coder for coder in coders if size(coder) == most]


def by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """Why rows were left out -> their names."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        reasons.setdefault(reason, []).append(name)
    return reasons


def best_name(coders: Sequence[Mapping[str, Any]], key: str) -> str | None:
    """The coder with the highest value, the first where several share it; None without coders."""
    return max(
        (coder["name"] for coder in coders),
        key={coder["name"]: _metric(coder, key).get("value", -1.0) for coder in coders}.__getitem__,
        default=None,
    )


def leaders(
    key: str,
    coders: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
) -> frozenset[str]:
    """The best coder and those that the data do not tell apart from it.

    Two coders are told apart where the interval of their paired difference excludes 0 or, where the
    study did not compare them, where their own intervals do not overlap. Empty where nothing can be
    claimed: fewer than two coders, a missing interval, or no coder told apart from the best.
    """
    values = {coder["name"]: _metric(coder, key) for coder in coders}
    if len(values) < 2 or not all("low" in value for value in values.values()):
        return frozenset()
    best = best_name(coders, key)
    assert best is not None
    paired: dict[str, Value] = {}
    for comparison in comparisons:
        pair = (comparison["first"], comparison["second"])
        if best in pair and key in comparison["metrics"]:
            paired[pair[0] if pair[1] == best else pair[1]] = comparison["metrics"][key]

    def apart(name: str) -> bool:
        if "low" in paired.get(name, {}):
            return _excludes_zero(paired[name])
        return values[name]["high"] < values[best]["low"]

    leading = frozenset(name for name in values if name == best or not apart(name))
    return leading if len(leading) < len(values) else frozenset()


def comparison_rows(comparisons: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Metric -> rows of the paired table; `line` is the interval on a scale from -100 to 100."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for comparison in comparisons:
        for key, value in comparison["metrics"].items():
            outcome = "not told apart"
            if "low" not in value:
                outcome = "no interval"
            elif _excludes_zero(value):
                outcome = f"{comparison['second' if value['difference'] > 0 else 'first']} higher"
            row = {name: comparison.get(name) for name in ("first", "second", "notes")}
            row["rare"] = comparison["metrics"].get(RARE)
            rows.setdefault(key, []).append({**row, "value": value, "outcome": outcome})
    for group in rows.values():
        ends = ("low", "high", "difference")
        scale = 95 / (max(abs(row["value"].get(end, 0.0)) for row in group for end in ends) or 1.0)
        for row in group:
            names = ("low", "difference", "high") if "low" in row["value"] else ("difference",) * 3
            row["line"] = [round(scale * row["value"][name], 2) for name in names]
    return rows


def chart_data(coders: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Points of both charts: coders in the study's order, bins with codes from rare to frequent."""
    keys = ("micro_f1", "macro_f1")
    by_bin = [{b["bin"]: b for b in coder["metrics"]["by_frequency"]} for coder in coders]
    return {
        "coders": [shown_name(coder) for coder in coders],
        "ladder": {key: [_metric(coder, key) or None for coder in coders] for key in keys},
        "bins": [
            {
                "title": BIN_TITLES.get(bin_["bin"], bin_["bin"]),
                "codes": bin_["codes"],
                "mentions": bin_["mentions"],
                **{key: [bins.get(bin_["bin"], {}).get(key) for bins in by_bin] for key in keys},
            }
            for bin_ in (whole_rows(coders)[0]["metrics"]["by_frequency"] if coders else [])
            if bin_["codes"]
        ],
    }


def code_columns(
    coders: Sequence[Mapping[str, Any]], titles: Mapping[str, str]
) -> dict[str, list[Any]]:
    """Columns of the per-code table, most gold first; a coder's F1 is null where it has none.

    A coder lists the codes with gold or with a prediction of its own, so the union is over coders.
    """
    known: dict[str, tuple[int, float]] = {}
    f1: list[dict[str, float]] = []
    for coder in coders:
        table = coder["metrics"]["per_code"]
        for code, train, gold in zip(table["code"], table["train"], table["gold"], strict=True):
            known[code] = (train, max(gold, known.get(code, (0, 0.0))[1]))
        f1.append(dict(zip(table["code"], table["f1"], strict=True)))
    codes = sorted(known, key=lambda code: (-known[code][1], -known[code][0], code))
    return {
        "code": codes,
        "title": [titles.get(code, "") for code in codes],
        "train": [known[code][0] for code in codes],
        "gold": [round(known[code][1], 1) for code in codes],
        "f1": [[_rounded(scores.get(code)) for code in codes] for scores in f1],
    }


def describe_rule(rule: Mapping[str, Any]) -> str:
    """A label space's rule in words."""
    where = " + ".join(rule.get("counted_on") or ["train"])
    if rule["kind"] == "file":
        return f"the codes of {rule['source']}"
    if rule["kind"] == "top_k":
        return f"the {rule['k']:,} most frequent codes, counted on {where}"
    least = rule.get("min_count", 1)
    return f"every code on at least {least:,} note{'s' * (least != 1)} of {where}"


def _metric(coder: Mapping[str, Any], key: str) -> Value:
    value: Value = coder["metrics"]["metrics"].get(key) or {}
    return value


def _excludes_zero(value: Value) -> bool:
    return value["low"] > 0 or value["high"] < 0


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
