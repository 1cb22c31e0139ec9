"""Raw files of MIMIC for the tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from mimic_files import (
    DIAGNOSES3,
    DIAGNOSES4,
    NOTES3,
    NOTES4,
    PROCEDURES3,
    PROCEDURES4,
    write,
)


@pytest.fixture
def raw3(tmp_path: Path) -> Path:
    write(tmp_path / "m3" / "NOTEEVENTS.csv.gz", NOTES3)
    write(tmp_path / "m3" / "DIAGNOSES_ICD.csv.gz", DIAGNOSES3)
    write(tmp_path / "m3" / "PROCEDURES_ICD.csv.gz", PROCEDURES3)
    return tmp_path / "m3"


@pytest.fixture
def raw4(tmp_path: Path) -> Path:
    write(tmp_path / "m4" / "note" / "discharge.csv.gz", NOTES4)
    write(tmp_path / "m4" / "hosp" / "diagnoses_icd.csv.gz", DIAGNOSES4)
    write(tmp_path / "m4" / "hosp" / "procedures_icd.csv.gz", PROCEDURES4)
    return tmp_path / "m4"
