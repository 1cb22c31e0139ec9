"""What a description says: figures counted by hand, planted leaks, the facts known of CodiEsp."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from icdtune.data.codiesp import prepare as codiesp
from icdtune.data.describe import describe
from icdtune.data.describe_page import write_page
from icdtune.data.schema import Corpus, Note
from icdtune.data.writer import CorpusWriter

WORDS = [f"word{i}" for i in range(400)]


def words(seed: int, count: int = 300) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Six notes; d repeats a, e differs from b in one word, f is like none."""
    path = tmp_path_factory.mktemp("described") / "c"
    near = words(2)
    near[150] = "another"
    texts = {
        ("train", "a"): (" ".join(words(1)), ("I10", "E11.9")),
        ("train", "b"): (" ".join(words(2)), ("I10",)),
        ("train", "c"): (" ".join(words(3)), ("I10", "I50.9", "Q99.Z9")),
        ("val", "d"): ("\n".join(words(1)).upper(), ("I10", "J18.9")),
        ("test", "e"): (" ".join(near), ("J18.9", "N17.9", "I10")),
        ("test", "f"): (" ".join(words(6, 100)), ()),
    }
    with CorpusWriter(
        path,
        name="described",
        code_systems={"diagnosis": "icd10cm"},
        source="a test",
        options={},
        protected=True,
    ) as writer:
        for (split, note_id), (text, codes) in texts.items():
            writer.add(split, Note(note_id, note_id, text, codes))
    return Corpus(path)


def test_lengths_and_the_tail_are_counted(corpus: Corpus) -> None:
    found = describe(corpus)
    train = found["splits"]["train"]
    assert train["codes"]["mean"] == 2
    assert train["words"]["p50"] == 300
    assert found["splits"]["test"]["words"]["max"] == 300
    assert found["frequencies"] == [3, 1, 1, 1]
    bins = {row["notes"]: (row["codes"], row["mentions"]) for row in found["tail"]["bins"]}
    assert bins["1"] == (3, 0.5)
    assert bins["2-4"] == (1, 0.5)
    assert found["tail"]["share_of_top_tenth"] == 0.5
    assert found["unknown_codes"] == [{"code": "Q99.Z9", "notes": 1}]


def test_codes_that_training_does_not_hold_are_shares_of_codes_and_mentions(
    corpus: Corpus,
) -> None:
    unseen = describe(corpus)["unseen"]
    assert unseen["train"]["test"] == {"codes": 2 / 3, "mentions": 2 / 3}
    assert unseen["train"]["val"] == {"codes": 1 / 2, "mentions": 1 / 2}
    assert unseen["train and val"]["test"] == {"codes": 1 / 3, "mentions": 1 / 3}


def test_repeated_and_nearly_repeated_notes_across_splits_are_found(corpus: Corpus) -> None:
    found = describe(corpus)
    assert found["duplicates"] == {
        "repeated": 1,
        "across_splits": 1,
        "listed": [[["train", "a"], ["val", "d"]]],
    }
    pairs = [tuple(pair[:4]) for pair in found["near_duplicates"]["listed"]]
    assert pairs == [("train", "a", "val", "d"), ("train", "b", "test", "e")]
    assert found["near_duplicates"]["notes"] == {"val": 1, "test": 1}
    assert describe(corpus, near_duplicates=False)["near_duplicates"] is None


def test_codiesp_describes_itself_with_the_published_figures(
    codiesp_source: Path, tmp_path: Path
) -> None:
    codiesp(tmp_path / "en", codiesp_source, "en", "D")
    found = describe(Corpus(tmp_path / "en"))
    cases = {name: split["notes"] for name, split in found["splits"].items()}
    assert cases == {"train": 425, "val": 75, "dev": 250, "test": 250}
    mentions = sum(found["splits"][split]["mentions"] for split in ("train", "val"))
    assert round(mentions / 500, 1) == 11.3
    both = found["unseen"]["train and val"]
    assert both["distinct_codes"] == 1_767
    assert round(both["dev"]["codes"], 3) == 0.369
    assert round(both["dev"]["mentions"], 3) == 0.178
    assert 290 < found["splits"]["train"]["words"]["mean"] < 300
    assert len(found["unknown_codes"]) == 2
    counts = found["standing"]["diagnosis"]
    assert round(counts["prefix"] / sum(counts.values()), 2) == 0.08
    codiesp(tmp_path / "p", codiesp_source, "es", "P")
    found = describe(Corpus(tmp_path / "p"))
    assert len(found["unknown_codes"]) == 6
    counts = found["standing"]["procedure"]
    assert round(counts["prefix"] / sum(counts.values()), 2) == 0.53


def test_the_page_draws_its_charts_loads_nothing_and_shows_no_text(
    corpus: Corpus, tmp_path: Path, browser
) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "page.html"
    write_page(describe(corpus), path)
    assert "word1" not in path.read_text(encoding="utf-8")
    page = browser.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.locator(".js-plotly-plot").count() == 3
    assert page.locator("table").count() >= 3
    page.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith(("data:", "blob:"))} == {path.as_uri()}
