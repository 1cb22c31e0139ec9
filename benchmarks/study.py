"""Time and peak memory of `icdtune study` on 5,000 short notes with the bag of words.

python benchmarks/study.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDY = """\
name: speed
corpus:
  prepare: synthetic
  options: {train: TRAIN, val: VAL, test: TEST, seed: 1}
coders:
  - {name: bow, coder: bow}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--notes", type=int, default=5000, help="70% train, 10% val, 20% test")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sizes = {"TRAIN": options.notes * 7 // 10, "VAL": options.notes // 10}
    sizes["TEST"] = options.notes - sum(sizes.values())
    text = STUDY
    for name, size in sizes.items():
        text = text.replace(name, str(size))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_text(text, encoding="utf-8")
        started = time.perf_counter()
        command = [sys.executable, "-m", "icdtune", "study", str(file), "--out", folder, "--json"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - started
    (study,) = json.loads(done.stdout)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    result = {
        "notes": sizes,
        "seconds": round(seconds, 1),
        "peak_gb": round(peak, 2),
        "stages": done.stderr.splitlines(),
        "micro_f1": round(study["coders"][0]["metrics"]["metrics"]["micro_f1"]["value"], 4),
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
