"""The study's report, read as its readers read it: in a browser, light and dark, wide and narrow."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Page
from report_fixture import CODERS, Open, make_results, many_codes, without_intervals

from icdtune.errors import IcdtuneError
from icdtune.files import write_json
from icdtune.study.note_view import split_text
from icdtune.study.report import leaders, render_report, script_json

HOSTILE = "<script>document.title = 'gone'</script> \"quoted\" & 'single' </mark><b>bold</b> 🩺 "
# Contrast (WCAG 2.1) of an element's text with what is painted under it.
CONTRAST = """(selector) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const seen = [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility());
  if (!seen.length) return null;
  return Math.min(...seen.map((element) => {
    let under = element;
    while (under && rgba(getComputedStyle(under).backgroundColor)[3] < 255) under = under.parentElement;
    const [a, b] = [rgba(getComputedStyle(element).color),
                    rgba(getComputedStyle(under ?? document.body).backgroundColor)].map(light);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
}"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_results(tmp_path_factory.mktemp("study"))


@pytest.fixture
def results(original: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(original)


def points(page: Page, chart: str) -> int:
    return page.locator(f"#{chart} .scatterlayer .point").count()


def interval_bars(page: Page, chart: str) -> int:
    return page.locator(f"#{chart} .errorbars path").count()


def column(page: Page, number: int) -> list[str]:
    cells = page.locator(f"#code-table tbody tr > :nth-child({number})")
    return cells.all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_loads_alone_and_without_complaint(
    open_report: Open, results: dict[str, Any], scheme: str, width: int
) -> None:
    page = open_report(results, scheme, width)
    assert page.title() == f"{results['name']} · icdtune study"
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_charts_hold_a_point_and_an_interval_for_every_coder_and_metric(
    open_report: Open, results: dict[str, Any]
) -> None:
    page = open_report(results)
    assert points(page, "ladder") == interval_bars(page, "ladder") == 2 * len(CODERS)
    bins = [b for b in results["coders"][0]["metrics"]["by_frequency"] if b["codes"]]
    assert len(bins) == 3
    assert points(page, "bins") == interval_bars(page, "bins") == 2 * len(CODERS) * len(bins)
    for shown in bins:
        label = f"{shown['codes']} codes · {shown['mentions']} mentions"
        assert label in page.locator("#bins").text_content()


def test_the_ladder_is_in_the_order_of_the_study(
    open_report: Open, results: dict[str, Any]
) -> None:
    page = open_report(results)
    labels = page.locator("#ladder .ytick text")
    drawn = [(labels.nth(i).bounding_box()["y"], labels.nth(i).text_content()) for i in range(9)]
    assert [name for _, name in sorted(drawn)] == [coder.name for coder in CODERS]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible(open_report: Open, results: dict[str, Any], scheme: str) -> None:
    page = open_report(results, scheme)
    page.select_option("#note-coder", "Zero-shot")
    for selector in (
        "body",
        "p",
        "td",
        "th",
        "small",
        "summary",
        "nav a",
        "button",
        "mark",
        ".chip b",
        ".chip span",
        ".outcome h4",
        ".notes li",
        "dt",
        "pre",
    ):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector


def test_light_and_dark_differ_and_charts_follow_a_change(
    open_report: Open, results: dict[str, Any]
) -> None:
    page = open_report(results, "light")
    background = "getComputedStyle(document.body).backgroundColor"
    mark = "getComputedStyle(document.querySelector('#ladder .point')).fill"
    label = "getComputedStyle(document.querySelector('#ladder .ytick text')).fill"
    light = [page.evaluate(what) for what in (background, mark, label)]
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(  # a chart that is being drawn again has no marks for a moment
        """light => {
            const mark = document.querySelector('#ladder .point');
            const label = document.querySelector('#ladder .ytick text');
            return mark && label && getComputedStyle(mark).fill !== light[1]
                && getComputedStyle(label).fill !== light[2];
        }""",
        arg=light,
    )
    dark = [page.evaluate(what) for what in (background, mark, label)]
    assert all(a != b for a, b in zip(light, dark, strict=True))


def test_a_narrow_page_draws_narrow_charts(open_report: Open, results: dict[str, Any]) -> None:
    page = open_report(results)
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function(
        """expected => {
            const drawn = document.querySelector('#bins .main-svg');
            const marks = document.querySelectorAll('#bins .scatterlayer .point');
            return drawn && drawn.clientWidth < 390 && marks.length === expected;
        }""",
        arg=2 * len(CODERS) * 3,
    )


def test_printing_is_light_and_shows_every_comparison_and_note(
    open_report: Open, results: dict[str, Any]
) -> None:
    page = open_report(results, "dark")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert ink == "rgb(27, 35, 45)"
    fill = page.evaluate("getComputedStyle(document.querySelector('#ladder .point')).fill")
    assert fill == "rgb(31, 111, 178)"
    metrics = results["comparisons"][0]["metrics"]
    assert page.locator("#comparison-table tbody:visible").count() == len(metrics)
    assert page.locator(".example:visible").count() == len(results["examples"])


def test_the_best_is_bold_with_those_that_are_not_told_apart_from_it(
    open_report: Open, results: dict[str, Any]
) -> None:
    page = open_report(results)
    rows = page.locator("#headline tbody tr")
    bold = {
        rows.nth(i).locator("th").inner_text()
        for i in range(rows.count())
        if rows.nth(i).locator("td").first.locator("strong").count()
    }
    assert bold == set(leaders("micro_f1", results["coders"], results["comparisons"]))
    assert page.locator(".finding b").inner_text() in bold


def coder(name: str, value: float, low: float, high: float) -> dict[str, Any]:
    metric = {"value": value, "low": low, "high": high}
    return {"name": name, "metrics": {"metrics": {"micro_f1": metric}}}


def test_overlapping_intervals_make_no_single_leader_unless_the_pair_was_compared() -> None:
    coders = [coder("a", 0.6, 0.5, 0.7), coder("b", 0.65, 0.55, 0.75), coder("c", 0.2, 0.1, 0.3)]
    assert leaders("micro_f1", coders, []) == {"a", "b"}
    pair = {"difference": 0.05, "low": 0.01, "high": 0.09}
    compared = [{"first": "a", "second": "b", "metrics": {"micro_f1": pair}}]
    assert leaders("micro_f1", coders, compared) == {"b"}
    reversed_ = [{"first": "b", "second": "a", "metrics": {"micro_f1": {"low": -0.1, "high": 0.1}}}]
    assert leaders("micro_f1", coders, reversed_) == {"a", "b"}


def test_nothing_leads_where_nothing_is_told_apart() -> None:
    assert leaders("micro_f1", [coder("a", 0.6, 0.5, 0.7), coder("b", 0.6, 0.5, 0.7)], []) == set()
    assert leaders("micro_f1", [coder("a", 0.6, 0.5, 0.7)], []) == set()


def test_codes_sort_by_any_column(open_report: Open, results: dict[str, Any]) -> None:
    page = open_report(results)
    gold = [float(x.replace(",", "")) for x in column(page, 4)]
    assert gold == sorted(gold, reverse=True)
    heading = page.locator("#code-table thead th").nth(5)
    heading.locator("button").click()
    f1 = [float(x) for x in column(page, 6) if x != "–"]
    assert f1 == sorted(f1, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").press("Enter")
    shown = column(page, 6)
    f1 = [float(x) for x in shown if x != "–"]
    assert f1 == sorted(f1)
    assert "–" not in shown[: len(f1)]
    page.locator("#code-table thead th").first.locator("button").click()
    assert column(page, 1) == sorted(column(page, 1))


def test_codes_are_found_by_code_title_and_training_count(
    open_report: Open, results: dict[str, Any]
) -> None:
    page = open_report(results)
    page.locator("#code-search").fill("heart FAILURE systolic")
    assert column(page, 1) == ["I50.23"]
    page.locator("#code-search").fill("e11.2")
    assert column(page, 1) == ["E11.22"]
    page.locator("#code-search").fill("no such words")
    assert page.locator("#code-table tbody").inner_text() == "No code matches."
    page.locator("#code-search").fill("")
    page.select_option("#code-bin", "50,")
    assert {int(x) >= 50 for x in column(page, 3)} == {True}


def test_ten_thousand_codes_are_searched_but_only_two_hundred_drawn(
    open_report: Open, results: dict[str, Any]
) -> None:
    page = open_report(many_codes(results, 10_000))
    assert page.locator("#code-table tbody tr").count() == 200
    assert page.locator("#code-status").inner_text() == "200 of 10,000 codes"
    page.locator("#code-more").click()
    assert page.locator("#code-table tbody tr").count() == 400
    page.locator("#code-search").fill("x09876")
    assert column(page, 1) == ["X09876"]


def test_comparisons_show_one_metric_at_a_time(open_report: Open, results: dict[str, Any]) -> None:
    page = open_report(results)
    rows = page.locator("#comparison-table tbody:visible tr:not(.subhead)")
    assert rows.count() == len(results["comparisons"])
    first = results["comparisons"][0]["metrics"]
    assert f"{first['micro_f1']['second']:.3f}" in rows.first.inner_text()
    page.select_option("#comparison-metric", "map")
    assert f"{first['map']['second']:.3f}" in rows.first.inner_text()


def test_a_note_shows_hits_misses_and_spurious_codes_of_the_chosen_coder(
    open_report: Open, results: dict[str, Any]
) -> None:
    page = open_report(results)
    page.select_option("#note-coder", "PLM-ICD")
    for at, example in enumerate(results["examples"]):
        page.locator(".picker button").nth(at).click()
        gold = set(example["gold"])
        said = {item["code"] for item in example["predicted"]["PLM-ICD"]}
        for kind, expected in (
            ("hit", gold & said),
            ("missed", gold - said),
            ("spurious", said - gold),
        ):
            chips = page.locator(f".example:visible .answer:visible .chip.{kind}")
            assert {c.get_attribute("data-code") for c in chips.all()} == expected
            for chip in chips.all():
                title = results["titles"][chip.get_attribute("data-code")]
                assert title in chip.get_attribute("title")
        states = page.locator(".example:visible mark").evaluate_all(
            "marks => marks.map(m => [JSON.parse(m.dataset.codes), m.classList.contains('hit'),"
            " m.classList.contains('missed'), m.classList.contains('mixed')])"
        )
        for codes, hit, missed, mixed in states:
            found = {code in said for code in codes}
            assert (hit, missed, mixed) == (found == {True}, found == {False}, len(found) == 2)


def test_pressing_a_code_marks_its_evidence(open_report: Open, results: dict[str, Any]) -> None:
    page = open_report(results)
    chip = page.locator(".answer:visible .chip.hit").first
    chip.focus()
    page.keyboard.press("Enter")
    code = chip.get_attribute("data-code")
    found = page.locator(".example:visible mark.found")
    text = results["examples"][0]["text"]
    spans = [s for s in results["examples"][0]["evidence"] if s["code"] == code]
    assert "".join(found.all_text_contents()) == "".join(
        text[span["start"] : span["end"]] for span in spans
    )
    page.keyboard.press("Enter")
    assert found.count() == 0


def test_text_of_notes_is_shown_literally(open_report: Open, results: dict[str, Any]) -> None:
    example = results["examples"][0]
    example["text"] = HOSTILE + example["text"]
    for span in example["evidence"]:
        span["start"] += len(HOSTILE)
        span["end"] += len(HOSTILE)
    example["evidence"].append({"code": example["gold"][0], "start": 0, "end": 12})
    page = open_report(results)
    assert page.locator(".example:visible .body").text_content() == example["text"]
    assert page.locator(".body b, .body script").count() == 0
    assert page.title() == f"{results['name']} · icdtune study"
    marked = page.locator(".example:visible mark").all_text_contents()
    assert marked[0] == "<script>docu"
    assert all(text in example["text"] for text in marked)


def test_names_and_titles_are_shown_literally(open_report: Open, results: dict[str, Any]) -> None:
    name = '<b>a</b> <a href="https://example.org">b</a> & %{x} </script>'
    code = results["coders"][0]["metrics"]["per_code"]["code"][0]
    results["titles"][code] = "</script><!--<script> title"
    results["coders"][0]["name"] = results["name"] = name
    results["coders"][0]["note"] = results["description"] = "{{ 7 * 7 }} <i>x</i>"
    for example in results["examples"]:
        example["predicted"][name] = example["predicted"].pop(CODERS[0].name)
    page = open_report(results)
    assert page.locator("h1").text_content() == name
    assert page.locator("main b:text-is('a'), svg a[href]").count() == 0
    assert "{{ 7 * 7 }} <i>x</i>" in page.locator("#headline").inner_text()
    page.locator("#code-search").fill(code)
    assert page.locator("#code-table td.title").first.text_content() == results["titles"][code]
    page.select_option("#note-coder", name)
    assert page.locator(".answer:visible h3").text_content() == name


def test_protected_corpora_show_no_text(tmp_path: Path, results: dict[str, Any]) -> None:
    results["corpus"]["protected"] = True
    write_json(tmp_path / "results.json", results)
    page = render_report(tmp_path).read_text(encoding="utf-8")
    assert "This corpus is protected" in page
    assert "year old patient" not in page
    assert all(example["note_id"] not in page for example in results["examples"])


def test_a_protected_report_works(open_report: Open, results: dict[str, Any]) -> None:
    results["corpus"]["protected"] = True
    results["examples"] = []
    page = open_report(results)
    assert (
        page.locator("#notes").inner_text().splitlines()[-1].startswith("This corpus is protected")
    )


def test_without_intervals_none_are_drawn_and_no_order_is_claimed(
    open_report: Open, results: dict[str, Any]
) -> None:
    page = open_report(without_intervals(results))
    assert points(page, "ladder") == 2 * len(CODERS)
    assert interval_bars(page, "ladder") == interval_bars(page, "bins") == 0
    assert page.locator("#headline strong").count() == 0
    assert "no order is claimed" in page.locator(".finding").inner_text()
    assert "compared no pairs" in page.locator("#comparisons").inner_text()


def test_sparse_results_still_make_a_page(open_report: Open, results: dict[str, Any]) -> None:
    results["coders"] = results["coders"][:1]
    results["comparisons"] = []
    results["titles"] = {}
    results["coders"][0]["per_seed"] = []
    results["coders"][0]["metrics"]["metrics"].pop("map")
    results["coders"][0]["metrics"]["by_frequency"] = []
    results["examples"][0]["predicted"] = {}
    results["examples"][0]["evidence"] = []
    page = open_report(results)
    assert points(page, "ladder") == 2
    assert "no other coder" in page.locator(".finding").inner_text()
    assert "no answer for this note" in page.locator(".answer:visible").inner_text()


def test_a_study_without_coders_makes_a_page(open_report: Open, results: dict[str, Any]) -> None:
    results.update(coders=[], comparisons=[], examples=[], titles={})
    assert "no coder with results" in open_report(results).locator("#results").inner_text()


def test_the_same_results_give_the_same_bytes(tmp_path: Path, results: dict[str, Any]) -> None:
    write_json(tmp_path / "results.json", results)
    first = render_report(tmp_path).read_bytes()
    assert render_report(tmp_path).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results.json"]


def test_missing_results_and_fields_are_named(tmp_path: Path, results: dict[str, Any]) -> None:
    with pytest.raises(IcdtuneError, match=r"results\.json does not exist"):
        render_report(tmp_path)
    del results["label_space"]
    write_json(tmp_path / "results.json", results)
    with pytest.raises(IcdtuneError, match="label_space"):
        render_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_evidence_outside_the_text_is_refused_without_quoting_it() -> None:
    span = {"code": "I10", "start": 3, "end": 9}
    with pytest.raises(IcdtuneError, match="note n1: evidence for I10 at 3-9 is outside") as error:
        split_text("n1", "secret", [span])
    assert "secret" not in str(error.value)


@st.composite
def marked_texts(draw: st.DrawFn) -> tuple[str, list[dict[str, Any]]]:
    text = draw(st.text(min_size=1, max_size=40))
    place = st.tuples(
        st.integers(0, len(text) - 1), st.integers(1, len(text)), st.sampled_from("ABC")
    )
    spans = draw(st.lists(place, max_size=6))
    return text, [{"code": c, "start": s, "end": e} for s, e, c in spans if s < e]


@given(marked_texts())
def test_pieces_rebuild_the_text_and_carry_exactly_the_codes_over_each_character(
    drawn: tuple[str, list[dict[str, Any]]],
) -> None:
    text, spans = drawn
    pieces = split_text("n", text, spans)
    assert "".join(piece.text for piece in pieces) == text
    over = [set(piece.codes) for piece in pieces for _ in piece.text]
    for at, codes in enumerate(over):
        assert codes == {s["code"] for s in spans if s["start"] <= at < s["end"]}


@given(
    st.recursive(st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_json_in_the_page_cannot_close_its_element(value: Any) -> None:
    text = script_json(value)
    assert "<" not in text
    assert json.loads(text) == value
