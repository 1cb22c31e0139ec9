"""Preparing MIMIC-IV: ours beside the published steps in pandas, on fake files, in one run.

    python benchmarks/prepare.py --notes 200000 --work /tmp/fake --out benchmarks/results/prepare.json

Each path runs in a process of its own; peak memory is what the system says of it.
"""

from __future__ import annotations

import importlib
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from icdtune.files import write_json

ICD, MIN_COUNT = 10, 10
app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def compare(
    notes: int = 200_000,
    characters: int = 10_000,
    work: Path = Path("fake-mimic4"),
    out: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Time both on the same files, which are made in `work` unless they are there."""
    if not work.exists():
        from icdtune.data.fake_mimic import write_mimic4

        write_mimic4(work, notes, characters, 1)
    found: dict[str, Any] = {
        "admissions": notes,
        "characters": characters,
        "gzipped_mb": round((work / "note" / "discharge.csv.gz").stat().st_size / 1e6),
    }
    for path in ("ours", "published"):
        command = [sys.executable, __file__, path, str(work)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[path] = json.loads(done.stdout.splitlines()[-1])
        print(path, found[path], flush=True)
    found["stratified_split"] = stratify()
    assert found["ours"].pop("digest") == found["published"].pop("digest"), "the rows differ"
    found["rows"] = "identical"
    found["times_faster"] = round(found["published"]["seconds"] / found["ours"]["seconds"], 2)
    found["memory_share"] = round(found["ours"]["peak_gb"] / found["published"]["peak_gb"], 3)
    print(json.dumps(found, indent=1))
    if out:
        write_json(out, found)


@app.command()
def ours(work: Path) -> None:
    """`prepare mimic4`, splits and labels included."""
    from icdtune.data import mimic, mimic4
    from icdtune.data.labels import Task, load_labels
    from icdtune.data.schema import Corpus

    steps: dict[str, float] = {}
    for module, name in ((mimic4, "read_codes"), (mimic4, "gather"), (mimic, "by_note")):
        _timed(module, name, steps)
    with tempfile.TemporaryDirectory(dir=work.parent) as folder:
        out = Path(folder) / "corpus"
        started = perf_counter()
        mimic4.prepare(out, work / "hosp", work / "note", ICD, "random", MIN_COUNT)
        seconds = perf_counter() - started
        peak = _peak()
        steps["write"] = round(seconds - sum(steps.values()), 2)
        corpus = Corpus(out)
        task = Task(corpus, load_labels(corpus, "full"))
        rows = (
            (note.note_id, note.text, note.codes or ())
            for split in corpus.splits
            for note in task.notes(split)
        )
        _print(seconds, peak, steps, rows)


@app.command()
def published(work: Path) -> None:
    """The published steps, rows left in memory: nothing is split or written."""
    sys.path.insert(0, str(Path(__file__).parent))
    module = importlib.import_module("published_mimic")
    steps = module.Steps()
    started = perf_counter()
    rows = module.mimic4(work / "hosp", work / "note", ICD, MIN_COUNT, steps)
    seconds = perf_counter() - started
    peak = _peak()
    listed = ((str(row.hadm_id), row.text, row.codes) for row in rows.itertuples(index=False))
    _print(seconds, peak, steps.seconds, listed)


def stratify(patients: int = 100_000, codes: int = 8_000) -> dict[str, Any]:
    """Seconds of a stratified split of patients with a long tail of codes."""
    from icdtune.data.splits import stratified_split

    rng = random.Random(1)
    held = {
        str(i): {str(int(codes * rng.random() ** 4)) for _ in range(rng.randint(5, 45))}
        for i in range(patients)
    }
    started = perf_counter()
    stratified_split(held)
    return {
        "patients": patients,
        "codes": codes,
        "mentions": sum(map(len, held.values())),
        "seconds": round(perf_counter() - started, 1),
    }


def _timed(module: Any, name: str, steps: dict[str, float]) -> None:
    function = getattr(module, name)

    def timed(*args: Any, **options: Any) -> Any:
        started = perf_counter()
        result = function(*args, **options)
        steps[name] = round(perf_counter() - started, 2)
        return result

    setattr(module, name, timed)


def _peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


def _print(seconds: float, peak: float, steps: dict[str, float], rows: Any) -> None:
    """Print figures and an order-free digest of the rows."""
    import hashlib

    count, digest = 0, 0
    for key, text, codes in rows:
        row = json.dumps([key, text, sorted(codes)]).encode()
        digest ^= int.from_bytes(hashlib.sha256(row).digest()[:16], "big")
        count += 1
    found = {"seconds": round(seconds, 1), "peak_gb": peak, "steps": steps, "rows": count}
    print(json.dumps(found | {"digest": digest}))


if __name__ == "__main__":
    app()
