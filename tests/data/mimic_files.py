"""Small raw files of MIMIC, typed by hand with an example of each oddity, and the rows they give."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from icdtune.data import mimic3, mimic4
from icdtune.data.fake_mimic import (
    MIMIC3_CODES,
    MIMIC3_NOTES,
    MIMIC4_DIAGNOSES,
    MIMIC4_NOTES,
    MIMIC4_PROCEDURES,
)
from icdtune.data.schema import Corpus

NOTES3 = f"""{MIMIC3_NOTES}
1,22,101,2150-01-01,,,Discharge summary,Report,,,"First line,
second ""quoted"" line."
2,22,101,2150-01-02,,,Nursing,Report,,,Not a summary.
3,21,102,2150-01-01,,,Discharge summary,Report,,1,Marked as an error.
4,22,101,2150-01-09,,,Discharge summary,Addendum,,,The addendum.
5,23,103,2150-01-01,,,Discharge summary,Report,,,Nobody coded this.
6,23,,2150-01-01,,,Radiology,Report,,,No admission.
7,24,104,2150-01-01,,,Discharge summary,Report,,,
8,25,105,2150-01-01,,,Discharge summary,Report,,,Only procedures.
9,25,106,2150-01-01,,,Discharge summary,Report,,,Codes without an order.
"""
DIAGNOSES3 = f"""{MIMIC3_CODES}
1,22,101,2,4019
2,22,101,1,E8120
3,22,101,3,4019
4,22,101,4,V3001
5,21,102,1,486
6,24,104,1,486
7,25,105,,
8,25,106,,0389
9,25,106,1,0039
10,99,199,1,486
"""
PROCEDURES3 = f"""{MIMIC3_CODES}
1,22,101,1,0066
2,25,105,1,3893
3,25,105,2,9604
"""
EXPECTED3 = {
    "101": (
        "22",
        'First line,\nsecond "quoted" line. The addendum.',
        ("E812.0", "401.9", "V30.01", "00.66"),
    ),
    "102": ("21", "Marked as an error.", ("486",)),
    "105": ("25", "Only procedures.", ("38.93", "96.04")),
    "106": ("25", "Codes without an order.", ("003.9", "038.9")),
}

NOTES4 = f"""{MIMIC4_NOTES}
10-DS-1,10,201,DS,1,2150-01-01 00:00:00,2150-01-01 00:00:00,"Multi
line, ""quoted""."
10-DS-1,10,201,DS,1,2150-01-01 00:00:00,2150-01-01 00:00:00,"Multi
line, ""quoted""."
11-DS-2,11,202,DS,2,2150-01-01 00:00:00,2150-01-01 00:00:00,Coded in ICD-9.
12-DS-3,12,203,DS,3,2150-01-01 00:00:00,2150-01-01 00:00:00,Both versions.
13-DS-4,13,204,DS,4,2150-01-01 00:00:00,2150-01-01 00:00:00,
13-DS-5,13,205,DS,5,2150-01-01 00:00:00,2150-01-01 00:00:00,No codes.
14-DS-6,14,206,DS,6,2150-01-01 00:00:00,2150-01-01 00:00:00,First of two.
14-DS-7,14,206,DS,7,2150-01-01 00:00:00,2150-01-01 00:00:00,Second of two.
"""
DIAGNOSES4 = f"""{MIMIC4_DIAGNOSES}
10,201,2,E119,10
10,201,1,I10,10
10,201,3,I10,10
10,201,4,,10
11,202,1,4019,9
11,202,2,E8120,9
12,203,1,I10,10
12,203,2,2724,9
13,204,1,I10,10
14,206,1,I10,10
14,206,2,Q99Z9,10
"""
PROCEDURES4 = f"""{MIMIC4_PROCEDURES}
10,201,1,2150-01-01,02HV33Z,10
11,202,1,2150-01-01,0066,9
"""
EXPECTED4 = {
    10: {
        "201": ("10", 'Multi\nline, "quoted".', ("I10", "E11.9", "02HV33Z")),
        "203": ("12", "Both versions.", ("I10",)),
        "206": ("14", "First of two.", ("I10", "Q99.Z9")),
        "206-2": ("14", "Second of two.", ("I10", "Q99.Z9")),
    },
    9: {
        "202": ("11", "Coded in ICD-9.", ("401.9", "E812.0", "00.66")),
        "203": ("12", "Both versions.", ("272.4",)),
    },
}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        file.write(text)
    return path


def three(tmp_path: Path, raw: Path, **options: Any) -> Corpus:
    given = {"split": "random", "min_count": 1} | options
    mimic3.prepare(tmp_path / "c", raw, **given)
    return Corpus(tmp_path / "c")


def four(tmp_path: Path, raw: Path, icd: Any = 10, **options: Any) -> Corpus:
    given = {"split": "random", "min_count": 1} | options
    mimic4.prepare(tmp_path / "c", raw / "hosp", raw / "note", icd, **given)
    return Corpus(tmp_path / "c")
