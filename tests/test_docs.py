"""Every command in README, CONTRIBUTING and docs runs as it stands, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w+)?(?: file=(\S+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    return _FENCE.findall(page.read_text(encoding="utf-8"))


def commands(page: Path) -> list[str]:
    lines = [body for kind, _, body in blocks(page) if kind == "sh"]
    return [line for body in lines for line in body.splitlines() if line.strip()]


RUNNABLE = [page for page in PAGES if commands(page)]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path, request) -> None:  # type: ignore[no-untyped-def]
    lines = commands(page)
    if any("--source codiesp" in line for line in lines):
        (tmp_path / "codiesp").symlink_to(request.getfixturevalue("codiesp_source"))
    for _, name, body in blocks(page):
        if name:
            (tmp_path / name).write_text(body, encoding="utf-8")
    (tmp_path / "note.txt").write_text("Admitted with pneumonia, unspecified organism.\n")
    if page.name == "CONTRIBUTING.md":
        lines.insert(0, "icdtune prepare synthetic --train 80 --val 20 --test 20 --out corpora/syn")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PATH": path}
    for line in lines:
        assert line.startswith("icdtune "), (
            f"{page.name} shows a command that is not tested: {line}"
        )
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_the_readme_names_the_two_commands_and_the_makefile_has_them() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([\w-]+)", readme))
    assert {"demo", "test"} <= named <= targets


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_contributing_corpus_and_metric_work_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from icdtune.data.labels import Task, load_labels
    from icdtune.data.predictions import Prediction, Predictions
    from icdtune.data.schema import Corpus
    from icdtune.evaluation.evaluate import evaluate
    from icdtune.evaluation.metrics import METRICS

    for _, name, body in blocks(ROOT / "CONTRIBUTING.md"):
        (tmp_path / name).write_text(body, encoding="utf-8") if name else None
    monkeypatch.syspath_prepend(str(tmp_path))
    import tiny_source  # type: ignore[import-not-found]

    tiny_source.prepare(tmp_path / "tiny")
    corpus = Corpus(tmp_path / "tiny")
    assert [note.codes for note in corpus.notes("test")] == [("I10",)]
    try:
        import chapter_metric  # type: ignore[import-not-found]  # noqa: F401

        task = Task(corpus, load_labels(corpus, "full"))
        predictions = Predictions([Prediction("n2", ("J18.9", "nonsense"))])
        metrics = evaluate(task, "test", [predictions], resamples=20)["metrics"]
        assert metrics["micro_f1_valid"]["value"] == 0.0
        assert "high" in metrics["micro_f1_valid"]
    finally:
        METRICS.pop("micro_f1_valid", None)
