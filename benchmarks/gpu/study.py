"""A study file on one GPU: every row and seed in a process of its own, then the results.

python benchmarks/gpu/study.py examples/ladder.yaml --out runs --workers 6

A small model leaves a GPU idle most of the time, which waits for Python; processes fill it. An
interrupted run goes on when called again.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
import yaml

from icdtune.files import make_directory


def main(
    file: Annotated[Path, typer.Argument()] = Path("examples/ladder.yaml"),
    out: Annotated[Path, typer.Option()] = Path("runs"),
    workers: int = 6,
) -> None:
    """Run all seeds side by side, then gather each study's results."""
    make_directory(out)
    parts: list[tuple[Path, str, str]] = []
    paths: list[Path] = []
    for study in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        path = out / f"{study['name']}.yaml"
        path.write_text(yaml.safe_dump(study), encoding="utf-8")
        paths.append(path)
        for row in study["coders"]:
            seeds = study["seeds"][:1] if row.get("once") else study["seeds"]
            parts += [(path, row["name"], str(seed)) for seed in seeds]
    with ThreadPoolExecutor(workers) as pool:
        run = partial(icdtune, out)
        codes = list(pool.map(lambda p: run(p[0], "--coder", p[1], "--seed", p[2]), parts))
    failed = [" ".join([p[0].stem, *p[1:]]) for p, code in zip(parts, codes, strict=True) if code]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    with ThreadPoolExecutor(workers) as pool:
        sys.exit(max(pool.map(run, paths)))


def icdtune(out: Path, file: Path, *options: str) -> int:
    """Exit code of `icdtune study`; its lines go to a log beside the study."""
    command = [sys.executable, "-m", "icdtune", "study", str(file), "--out", str(out), *options]
    log = out / ("-".join([file.stem, *options[1::2]]) + ".log")
    with log.open("a", encoding="utf-8") as lines:
        return subprocess.run(command, stdout=lines, stderr=lines, check=False).returncode


if __name__ == "__main__":
    typer.run(main)
