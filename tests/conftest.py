"""Shared fixtures: where the repository and the real data lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("ICDTUNE_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def codiesp_source() -> Path:
    """The published CodiEsp layout; skips where it is absent."""
    path = SHARED / "data" / "codiesp"
    if not path.is_dir():
        pytest.skip(f"CodiEsp is not at {path}: set ICDTUNE_SHARED to the folder that holds data/")
    return path
