"""Two sides of a comparison, each in a process of its own."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from icdtune.files import write_json


def timed(run: Callable[[], None], repeats: int) -> float:
    """Median seconds; the first run is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return round(statistics.median(seconds[1:]), 3)


def peak() -> float:
    """Peak resident memory of this process in GB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def child(script: str, command: str, *arguments: object) -> dict[str, Any]:
    """What a process of one side prints last."""
    line = [sys.executable, script, command, *map(str, arguments)]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def report(found: dict[str, Any], out: Path | None) -> None:
    """Print what was found, and keep it."""
    print(json.dumps(found, indent=1))
    if out:
        write_json(out, found)
