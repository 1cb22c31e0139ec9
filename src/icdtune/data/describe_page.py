"""The description of a corpus as one self-contained HTML page. No note text is on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from icdtune.files import atomic_file

TEMPLATE = Path(__file__).parent / "describe.html.j2"


def write_page(found: dict[str, Any], path: Path) -> None:
    """Write the page of what `describe.describe` found."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        found=found,
        charts=[Markup(chart) for chart in _charts(found)],
        plotly=Markup(get_plotlyjs()),
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _charts(found: dict[str, Any]) -> list[str]:
    charts = []
    if frequencies := found.get("frequencies"):
        ranks = list(range(1, len(frequencies) + 1))
        figure = go.Figure(go.Scatter(x=ranks, y=frequencies, mode="lines"))
        figure.update_xaxes(type="log", title="rank of the code")
        figure.update_yaxes(type="log", title="training notes")
        charts.append(_html(figure, "How often each code is seen in training"))
    for name, title in (("codes", "Codes of a note"), ("words", "Words of a note")):
        figure = go.Figure()
        for split, values in found["splits"].items():
            if spread := values.get(name):
                figure.add_trace(
                    go.Box(
                        name=split,
                        q1=[spread["p25"]],
                        median=[spread["p50"]],
                        q3=[spread["p75"]],
                        lowerfence=[spread["p5"]],
                        upperfence=[spread["p95"]],
                        mean=[spread["mean"]],
                    )
                )
        if figure.data:
            figure.update_layout(showlegend=False)
            charts.append(_html(figure, f"{title} (5th to 95th percentile)"))
    return charts


def _html(figure: go.Figure, title: str) -> str:
    figure.update_layout(title=title, height=340, template="plotly_white")
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, config={"responsive": True})
    return html
