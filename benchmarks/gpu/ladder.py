"""`make ladder` on one GPU: every seed of every study in a process of its own, then the results.

python benchmarks/gpu/ladder.py --out runs --workers 6

Updates of `tiny` keep a GPU idle most of the time, which waits for Python; processes fill it. An
interrupted run goes on when called again.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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
    runs: list[tuple[Path, int]] = []
    for study in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        path = out / f"{study['name']}.yaml"
        path.write_text(yaml.safe_dump(study), encoding="utf-8")
        runs += [(path, seed) for seed in study["seeds"]]
    with ThreadPoolExecutor(workers) as pool:
        codes = list(pool.map(lambda run: icdtune(run[0], out, "--seed", str(run[1])), runs))
    failed = [
        f"{path.stem} seed {seed}" for (path, seed), code in zip(runs, codes, strict=True) if code
    ]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    studies = list(dict.fromkeys(path for path, _ in runs))
    with ThreadPoolExecutor(workers) as pool:
        sys.exit(max(pool.map(lambda path: icdtune(path, out), studies)))


def icdtune(file: Path, out: Path, *options: str) -> int:
    """Exit code of `icdtune study`; its lines go to a log beside the study."""
    command = [sys.executable, "-m", "icdtune", "study", str(file), "--out", str(out), *options]
    log = out / "-".join([file.stem, *options]).replace("---", "-")
    with log.with_suffix(".log").open("a", encoding="utf-8") as lines:
        return subprocess.run(command, stdout=lines, stderr=lines, check=False).returncode


if __name__ == "__main__":
    typer.run(main)
