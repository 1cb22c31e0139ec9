"""Shared fixtures: where the repository and the real data lie."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("here", deadline=None)  # no timed tests
hypothesis.settings.load_profile("here")

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("ICDTUNE_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def codiesp_source() -> Path:
    """The published CodiEsp layout; skips where it is absent."""
    path = SHARED / "data" / "codiesp"
    if not path.is_dir():
        pytest.skip(f"CodiEsp is not at {path}: set ICDTUNE_SHARED to the folder that holds data/")
    return path


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A small file system at a new folder; skips where mounting is refused."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs is refused here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    with mounted(tmp_path / "disk", "64k") as folder:
        yield folder
