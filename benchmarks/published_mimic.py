"""The published preparation of MIMIC in pandas, step by step, to compare rows, time and memory with.

Written from the description in docs/corpora.md (Edin et al. 2023), not tuned: whole tables in memory, a
function call a row to dot codes, one a group to gather them. The text is left as it is, and codes
have no trailing dot. Knows nothing of icdtune.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import pandas as pd

Rows = pd.DataFrame
"""Columns hadm_id, subject_id, text, codes."""


class Steps:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        started = perf_counter()
        yield
        self.seconds[name] = round(perf_counter() - started, 2)


def dotted(code: str, version: int, diagnosis: bool) -> str:
    """A code with its dot."""
    code = code.replace(".", "")
    if version == 10:
        head = 3 if diagnosis else len(code)
    elif diagnosis:
        head = 4 if code.startswith("E") else 3
    else:
        head = 2
    return code if len(code) <= head else f"{code[:head]}.{code[head:]}"


def mimic4(hosp: Path, note: Path, icd: int, min_count: int, steps: Steps) -> Rows:
    """MIMIC-IV of one ICD version."""
    with steps("read"):
        notes = pd.read_csv(note / "discharge.csv.gz")
        diagnoses = pd.read_csv(hosp / "diagnoses_icd.csv.gz", dtype={"icd_code": str})
        procedures = pd.read_csv(hosp / "procedures_icd.csv.gz", dtype={"icd_code": str})
    lists = []
    for table, diagnosis in ((diagnoses, True), (procedures, False)):
        name = "diagnoses" if diagnosis else "procedures"
        with steps(f"dot {name}"):
            table["icd_code"] = table.apply(
                lambda row, d=diagnosis: dotted(row["icd_code"], row["icd_version"], d), axis=1
            )
        with steps(f"gather {name}"):
            table = table.dropna(subset=["icd_code"])
            table = table.drop_duplicates(subset=["hadm_id", "icd_code"])
            gathered = (
                table.groupby(["subject_id", "hadm_id", "icd_version"])
                .apply(lambda rows: pd.Series({"codes": rows["icd_code"].sort_values().tolist()}))
                .reset_index()
            )
            lists.append(gathered[gathered["icd_version"] == icd][["hadm_id", "codes"]])
    with steps("notes"):
        notes = notes.dropna(subset=["text"]).drop_duplicates(subset=["hadm_id", "text"])
    with steps("merge"):
        rows = notes.merge(lists[1].rename(columns={"codes": "procedures"}), "left", "hadm_id")
        rows = rows.merge(lists[0].rename(columns={"codes": "diagnoses"}), "left", "hadm_id")
        rows = rows.dropna(subset=["procedures", "diagnoses"], how="all")
    return _filtered(rows, min_count, steps)


def mimic3(raw: Path, min_count: int, steps: Steps) -> Rows:
    """MIMIC-III: "clean" with a minimum count of 10, "full" with 1."""
    with steps("read"):
        notes = pd.read_csv(raw / "NOTEEVENTS.csv.gz", low_memory=False)
        diagnoses = pd.read_csv(raw / "DIAGNOSES_ICD.csv.gz", dtype={"ICD9_CODE": str})
        procedures = pd.read_csv(raw / "PROCEDURES_ICD.csv.gz", dtype={"ICD9_CODE": str})
    keys = ["SUBJECT_ID", "HADM_ID"]
    lists = []
    for table, diagnosis in ((diagnoses, True), (procedures, False)):
        name = "diagnoses" if diagnosis else "procedures"
        with steps(f"gather {name}"):
            table["ICD9_CODE"] = table["ICD9_CODE"].str.strip()
            table = table.dropna(subset=["ICD9_CODE"])
            gathered = (
                table.groupby(keys)
                .apply(lambda rows: pd.Series({"codes": list(set(rows["ICD9_CODE"]))}))
                .reset_index()
            )
            gathered[name] = gathered["codes"].apply(
                lambda codes, d=diagnosis: [dotted(code, 9, d) for code in codes]
            )
            lists.append(gathered[[*keys, name]])
    with steps("notes"):
        notes = notes[notes["CATEGORY"] == "Discharge summary"]
        notes = notes.assign(HADM_ID=notes["HADM_ID"].astype(int))
        notes = (
            notes.groupby(keys)
            .apply(lambda rows: pd.Series({"text": " ".join(rows["TEXT"])}))
            .reset_index()
        )
    with steps("merge"):
        rows = notes.merge(lists[0].merge(lists[1], "outer", keys), "inner", keys)
        rows = rows.rename(columns={"HADM_ID": "hadm_id", "SUBJECT_ID": "subject_id"})
    return _filtered(rows, min_count, steps)


def _filtered(rows: pd.DataFrame, min_count: int, steps: Steps) -> Rows:
    with steps("filter"):
        for name in ("procedures", "diagnoses"):
            lists = [codes if isinstance(codes, list) else [] for codes in rows[name]]
            counts = Counter(code for codes in lists for code in codes)
            kept = {code for code, count in counts.items() if count >= min_count}
            rows[name] = [[code for code in codes if code in kept] for codes in lists]
        rows["codes"] = rows["procedures"] + rows["diagnoses"]
        rows = rows[rows["codes"].apply(len) > 0].reset_index(drop=True)
    return rows[["hadm_id", "subject_id", "text", "codes"]]
