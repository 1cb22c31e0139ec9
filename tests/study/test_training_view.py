"""What the report shows of training, of rows on a subset and of rows that were left out."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Page
from report_fixture import CODERS, Open, make_results, with_training

from icdtune.cli.study import print_results
from icdtune.study.report import render_page, whole_rows
from icdtune.study.training_view import average_rounds, average_steps, curves, running_mean

ROWS = (replace(CODERS[0], train=0.4), CODERS[1], *CODERS[-3:])
TRAINED = [coder.name for coder in ROWS[-3:]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_results(tmp_path_factory.mktemp("study"), coders=ROWS, resamples=50)


@pytest.fixture
def untrained(original: dict[str, Any]) -> dict[str, Any]:
    """Results as older studies left them: no training, no subsets, no left-out rows."""
    return copy.deepcopy(original)


@pytest.fixture
def results(untrained: dict[str, Any]) -> dict[str, Any]:
    return with_training(untrained)


def subset(results: dict[str, Any], row: int, notes: int) -> str:
    coder = results["coders"][row]
    coder["notes"] = coder["metrics"]["notes"] = notes
    return str(coder["name"])


def cells(page: Page, table: str) -> list[list[str]]:
    rows = page.locator(f"#{table} tbody tr")
    return [rows.nth(i).locator("th, td").all_inner_texts() for i in range(rows.count())]


def lines(page: Page, chart: str) -> int:
    return page.locator(f"#{chart} .scatterlayer .js-line").count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_with_training_loads_without_complaint_and_fits(
    open_report: Open, results: dict[str, Any], scheme: str, width: int
) -> None:
    page = open_report(results, scheme, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for chart in ("loss", "reward", "pools"):
        box = page.locator(f"#{chart} .main-svg").first.bounding_box()
        assert box is not None
        assert box["width"] <= width
        assert box["height"] > 100


def test_every_trained_row_has_a_loss_panel_with_its_values_and_their_mean(
    open_report: Open, results: dict[str, Any]
) -> None:
    page = open_report(results)
    assert page.locator("#loss .annotation-text").all_text_contents() == TRAINED
    assert lines(page, "loss") == 2 * len(TRAINED)


def test_reinforced_rows_share_one_reward_chart_and_are_named_beside_it(
    open_report: Open, results: dict[str, Any]
) -> None:
    page = open_report(results)
    assert page.locator("#reward .subplot").count() == 1
    assert lines(page, "reward") == 2 * 2
    assert page.locator("#training .key.rung").all_inner_texts() == TRAINED[1:]
    assert f"{TRAINED[2]} 50.0%" in page.locator("#training").inner_text()


def test_a_row_has_the_colour_of_its_legend_in_every_chart(
    open_report: Open, results: dict[str, Any]
) -> None:
    page = open_report(results)
    key = "getComputedStyle(document.querySelector('.key.rung-2'), '::before').borderTopColor"
    stroke = "getComputedStyle([...document.querySelectorAll('%s .js-line')].at(-1)).stroke"
    legend = page.evaluate(key)
    assert {page.evaluate(stroke % chart) for chart in ("#loss", "#reward", "#pools")} == {legend}


def test_hint_pools_are_listed_round_by_round_as_means_over_seeds(
    open_report: Open, results: dict[str, Any]
) -> None:
    page = open_report(results)
    rows = cells(page, "rounds")
    assert rows[0] == [
        TRAINED[2], "0", "–", "1,605", "400 of 480", "0.599", "–", "–", "210,000"
    ]  # fmt: skip
    assert rows[1] == ["1", "10", "1,355", "360 of 480", "0.661", "280", "0.350", "210,001"]
    assert len(rows) == 4
    assert lines(page, "pools") == 2
    assert page.locator("#pools .point").count() == 4 + 3


def test_cost_lists_updates_tokens_and_time_of_every_row(
    open_report: Open, results: dict[str, Any]
) -> None:
    rows = cells(open_report(results), "cost")
    assert rows[1] == ["Bag of words", "–", "–", "–", "4.2 s", "0.3 s"]
    assert rows[3] == ["SFT + GRPO", "30", "1,150,000", "1,398,610", "8.4 h", "10.1 min"]
    assert [row[0] for row in rows] == [coder.name for coder in ROWS]


def test_paired_tests_show_rare_codes_and_common_notes_beside_every_metric(
    open_report: Open, results: dict[str, Any]
) -> None:
    results["comparisons"][0]["notes"] = 60
    del results["comparisons"][1]["metrics"]["1-9 macro_f1"]
    page = open_report(results)
    for metric in ("micro_f1", "map"):
        page.select_option("#comparison-metric", metric)
        rows = page.locator("#comparison-table tbody:visible tr:not(.subhead)")
        assert rows.nth(0).locator("td").nth(2).inner_text() == "60"
        assert rows.nth(0).locator(".rare").inner_text().split("\n") == [
            "+0.040",
            "+0.012 to +0.071; p 0.012",
        ]
        assert rows.nth(1).locator(".rare").inner_text() == "–"
    page.select_option("#comparison-metric", "1-9 macro_f1")
    assert rows.count() == len(ROWS) - 2


def test_a_row_on_a_subset_says_so_wherever_its_values_stand(
    open_report: Open, results: dict[str, Any]
) -> None:
    name = subset(results, 1, 60)
    page = open_report(results)
    row = page.locator("#headline tbody tr").nth(1).locator("th")
    assert row.inner_text().split("\n") == [name, "60 notes"]
    said = page.locator(".subset").inner_text()
    assert f"predicted by {name} (60 notes)." in said
    assert "not ranked" in said
    assert f"{name} (60 notes)" in page.locator("#ladder").text_content()
    assert f"{name} (60 notes)" in page.locator("#code-table thead").inner_text()
    assert cells(page, "cost")[1][0] == f"{name} (60 notes)"


def test_a_row_on_a_subset_is_never_the_best(results: dict[str, Any]) -> None:
    name = subset(results, 1, 60)
    value = results["coders"][1]["metrics"]["metrics"]["micro_f1"]
    value.update(value=0.99, low=0.98, high=0.995)
    page = render_page(results)
    assert f"Highest micro-F1: <b>{name}</b>" not in page
    assert "<strong>0.990</strong>" not in page
    assert "every other coder on the same notes" in page


def test_the_page_counts_the_notes_of_rows_that_predicted_them_all(
    open_report: Open, results: dict[str, Any]
) -> None:
    every = results["coders"][0]["metrics"]["notes"]
    subset(results, 0, 60)
    assert f"{every} notes of" in open_report(results).locator(".facts").inner_text()


def test_where_all_rows_are_on_one_subset_they_are_ranked() -> None:
    rows = [{"name": name, "notes": notes} for name, notes in (("a", 60), ("b", 60), ("c", 20))]
    assert [row["name"] for row in whole_rows(rows)] == ["a", "b"]
    assert whole_rows([]) == []


def test_rows_that_were_left_out_are_named_with_the_reason(
    open_report: Open, results: dict[str, Any]
) -> None:
    results["left_out"] = {"one": "no <b>model</b>", "two": "no <b>model</b>", "three": "gone"}
    said = open_report(results).locator(".left-out").all_inner_texts()
    assert said == [
        "Left out of this study: one, two. no <b>model</b>",
        "Left out of this study: three. gone",
    ]


def test_older_results_show_no_training_and_no_empty_columns(
    open_report: Open, untrained: dict[str, Any]
) -> None:
    page = open_report(untrained)
    assert page.locator("#training, nav a[href='#training'], .left-out, .subset").count() == 0
    assert page.locator("#comparison-table th").filter(has_text="notes").count() == 0
    assert page.locator("#cost th").filter(has_text="Updates").count() == 0
    assert cells(page, "cost")[1] == ["Bag of words", "–", "–", "4.2 s", "0.3 s"]


def test_only_the_figures_with_data_are_shown(open_report: Open, results: dict[str, Any]) -> None:
    for coder in results["coders"][-2:]:
        coder["training"] = []
    page = open_report(results)
    assert page.locator("#loss").count() == 1
    assert page.locator("#reward, #pools, #rounds").count() == 0


def test_a_run_that_had_nothing_to_learn_still_shows_its_pools(
    open_report: Open, results: dict[str, Any]
) -> None:
    done = {"round": 0, "notes": 9, "unmastered": 0, "pool": 0, "recall": 1.0, "tokens": 8}
    for coder in results["coders"]:
        coder["training"] = []
    results["coders"][-1]["training"] = [{"tokens": 8, "rounds": [done]}]
    page = open_report(results)
    assert page.locator("#loss, #reward").count() == 0
    assert cells(page, "rounds") == [[TRAINED[2], "0", "–", "0", "0 of 9", "1.000", "–", "–", "8"]]


def test_six_trained_rows_are_told_apart(open_report: Open, results: dict[str, Any]) -> None:
    extra = copy.deepcopy(results["coders"][-2:])
    for at, coder in enumerate([*extra, copy.deepcopy(extra[0])]):
        coder["name"] = f"extra {at}"
        results["coders"].append(coder)
    page = open_report(results)
    classes = [key.get_attribute("class") for key in page.locator("p.legend .rung").all()]
    assert len(set(classes[:5])) == 5


def test_text_in_the_training_section_is_shown_literally(
    open_report: Open, results: dict[str, Any]
) -> None:
    name = '<b>a</b> & </script> %{x} "q"'
    results["coders"][-1]["name"] = name
    results["comparisons"] = []
    for example in results["examples"]:
        example["predicted"][name] = example["predicted"].pop(TRAINED[2])
    page = open_report(results)
    assert page.locator("#rounds tbody th").inner_text() == name
    assert page.locator("#training p.legend .key").last.text_content() == name
    assert "<b>a</b>" in page.locator("#loss .annotation-text").last.text_content()


def test_the_command_line_says_what_was_left_out_and_what_is_a_subset(
    results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    name = subset(results, 0, 60)
    results["left_out"] = {"big": "its model is missing"}
    print_results(results)
    printed = capsys.readouterr().out
    assert f"{name} (60 notes)" in printed
    assert "left out: big: its model is missing\n" in printed
    assert "macro-F1 1-9" in printed
    assert "+4.0 [+1.2, +7.1] p=0.012" in printed
    assert "200 notes" in printed.splitlines()[1]


def test_the_command_line_prints_older_results(
    untrained: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    print_results(untrained)
    printed = capsys.readouterr().out
    assert "left out" not in printed
    assert "1-9" not in printed


def test_a_step_is_the_mean_of_the_seeds_that_reached_it() -> None:
    one = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 2.0}]
    other = [{"step": 1, "loss": 2.0}, {"step": 3, "loss": float("nan")}, {"step": 4}]
    assert average_steps([one, other], "loss") == {1: 3.0, 2: 2.0}


def test_a_value_that_no_seed_has_stays_empty() -> None:
    runs = [
        {"rounds": [{"round": 1, "pool": 4, "hinted_recall": None}]},
        {"rounds": [{"round": 1, "pool": 7, "hinted_recall": 0.5}]},
        {},
    ]
    (entry,) = average_rounds(runs)
    assert (entry["pool"], entry["hinted_recall"], entry["recall"]) == (5.5, 0.5, None)


def test_few_steps_are_not_smoothed() -> None:
    history = [{"step": step, "loss": 1.0 / step} for step in range(1, 6)]
    (curve,) = curves([{"name": "a", "training": [{"history": history}]}], "loss")
    assert curve["mean"] is None
    assert curve["raw"][0] == 1.0


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.integers(0, 10))
def test_a_running_mean_starts_at_the_first_value_and_stays_within_the_values(
    values: list[float], half: int
) -> None:
    means = running_mean(values, half)
    assert len(means) == len(values)
    assert means[0] == pytest.approx(values[0])
    assert all(min(values) - 1e-9 <= mean <= max(values) + 1e-9 for mean in means)


@given(st.integers(1, 40), st.integers(1, 6))
def test_a_running_mean_leaves_a_straight_line_before_its_end(size: int, half: int) -> None:
    line = [float(value) for value in range(size)]
    before = max(0, size - half)
    assert running_mean(line, half)[:before] == pytest.approx(line[:before])
