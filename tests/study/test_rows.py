"""Rows that use other rows, predict a part of the split, or are left out."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from icdtune.coders.models import MissingModelError
from icdtune.errors import IcdtuneError
from icdtune.study.file import Study
from icdtune.study.runner import run_study

ECHO = textwrap.dedent(
    """
    import shutil
    from pathlib import Path
    from icdtune.coders.base import load_coder

    class Echo:
        '''Answers as the coder does that it starts from.'''

        def __init__(self, start: Path) -> None:
            self.start = start

        def fit(self, task, seed, work):
            self.inner = load_coder(self.start)

        def predict(self, notes):
            return self.inner.predict(notes)

        def save(self, folder):
            shutil.copytree(self.start, folder / "inner")

        @classmethod
        def load(cls, folder):
            coder = cls(folder / "inner")
            coder.fit(None, 0, None)
            return coder
    """
)


def study(coders: list[dict], **fields) -> Study:  # type: ignore[type-arg, no-untyped-def]
    return Study.model_validate(
        {
            "name": "rows",
            "corpus": {"prepare": "synthetic", "options": {"train": 80, "val": 20, "test": 30}},
            "coders": coders,
            "evaluation": {"resamples": 20, "examples": 2},
            **fields,
        }
    )


def test_a_row_that_uses_another_runs_after_it_and_gets_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "echo_coder.py").write_text(ECHO)
    monkeypatch.syspath_prepend(tmp_path)
    lines: list[str] = []
    rows = [
        {"name": "echo", "coder": "echo_coder:Echo", "uses": {"start": "words"}},
        {"name": "words", "coder": "bow", "options": {"characters": 0}},
    ]
    results = run_study(study(rows, seeds=[1, 2]), tmp_path / "run", lines.append)
    assert [row["name"] for row in results["coders"]] == ["echo", "words"]
    assert lines.index("train words (seed 1)") < lines.index("train echo (seed 1)")
    micro = [row["metrics"]["metrics"]["micro_f1"]["value"] for row in results["coders"]]
    assert micro[0] == micro[1] > 0
    lines.clear()
    rows[1]["options"] = {"characters": 0, "words": 50}
    run_study(study(rows, seeds=[1, 2]), tmp_path / "run", lines.append)
    assert "train echo (seed 1)" in lines  # what it uses has changed


def test_a_row_with_notes_is_scored_and_compared_on_a_fixed_part_of_the_split(
    tmp_path: Path,
) -> None:
    rows = [
        {"name": "dictionary", "coder": "dictionary"},
        {"name": "part", "coder": "dictionary", "notes": 12},
        {"name": "other-part", "coder": "dictionary", "notes": 6},
    ]
    results = run_study(study(rows, compare=[["dictionary", "other-part"]]), tmp_path / "run")
    assert [row["metrics"]["notes"] for row in results["coders"]] == [30, 12, 6]
    pairs = {(p["first"], p["second"]): p for p in results["comparisons"]}
    assert pairs["dictionary", "part"]["notes"] == 12
    assert pairs["dictionary", "part"]["metrics"]["micro_f1"]["difference"] == 0
    assert pairs["dictionary", "other-part"]["notes"] == 6
    assert "1-9 macro_f1" in pairs["dictionary", "part"]["metrics"]


def test_an_optional_row_without_its_model_is_left_out_and_named(tmp_path: Path) -> None:
    missing = {"name": "big", "coder": "prompted", "options": {"model": "./nowhere"}}
    follower = {"name": "after", "coder": "grpo", "uses": {"start": "big"}}
    rows = [{"name": "dictionary", "coder": "dictionary"}, {**missing, "optional": True}, follower]
    results = run_study(study(rows), tmp_path / "run")
    assert [row["name"] for row in results["coders"]] == ["dictionary"]
    assert set(results["left_out"]) == {"big", "after"}
    assert "nowhere does not exist" in results["left_out"]["big"]
    with pytest.raises(MissingModelError, match="nowhere does not exist"):
        run_study(study([rows[0], missing]), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(IcdtuneError, match="every row is left out"):
        run_study(study([rows[1]]), tmp_path / "third")


def test_rows_that_use_each_other_or_nothing_are_refused() -> None:
    one = {"name": "a", "coder": "bow", "uses": {"start": "b"}}
    other = {"name": "b", "coder": "bow", "uses": {"start": "a"}}
    with pytest.raises(ValueError, match="in a circle: a -> b -> a"):
        study([one, other])
    with pytest.raises(ValueError, match='"a" uses "b", which is no row'):
        study([one])
    with pytest.raises(ValueError, match='"compare" names "z"'):
        study([{"name": "a", "coder": "bow"}], compare=[["a", "z"]])


def test_a_row_that_draws_nothing_runs_once_and_compares_with_rows_of_every_seed(
    tmp_path: Path,
) -> None:
    rows = [
        {"name": "every", "coder": "dictionary"},
        {"name": "single", "coder": "dictionary", "once": True},
    ]
    lines: list[str] = []
    results = run_study(study(rows, seeds=[3, 4]), tmp_path / "run", lines.append)
    assert [line for line in lines if line.startswith("train single")] == ["train single (seed 3)"]
    assert [[run["seed"] for run in row["per_seed"]] for row in results["coders"]] == [[3, 4], [3]]
    assert results["comparisons"][0]["metrics"]["micro_f1"]["difference"] == 0
    again = {"name": "after", "coder": "grpo", "uses": {"start": "single"}}
    with pytest.raises(ValueError, match='"after" uses "single" with every seed'):
        study([*rows, again], seeds=[3, 4])
