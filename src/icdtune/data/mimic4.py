"""MIMIC-IV discharge summaries with the codes of one ICD version, from PhysioNet's files.

Versions 2.2 to 3.x of MIMIC-IV with MIMIC-IV-Note 2.2. Published steps: Edin et al. 2023.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import polars as pl

from icdtune.codes.systems import FAMILIES, Role
from icdtune.data.labels import LabelRule
from icdtune.data.mimic import CodeTable, Labels, Source, gather, read_codes, write
from icdtune.data.raw import find_table, scan
from icdtune.data.spool import Spool

VERSION = 1


def prepare(
    out: Path,
    hosp: Path,
    note: Path,
    icd: Literal[9, 10] = 10,
    split: str = "published",
    min_count: int = 10,
    normalise: bool = False,
    keep_repeated: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Prepare a MIMIC-IV corpus.

    Args:
        out: folder of the corpus.
        hosp: folder with diagnoses_icd and procedures_icd.
        note: folder with discharge.
        icd: which codes; an admission without codes of it is left out.
        split: "published", "published:FILE", "stratified" or "random".
        min_count: least notes of a code in the label space "full" (10 as published).
        normalise: write the text of the word-level baselines.
        keep_repeated: keep a note whose text its admission has already.
        seed: of stratified and random splits.
        overwrite: replace a corpus that is there.

    Raises:
        IcdtuneError: a file is missing, damaged or lacks a column; an admission has two subjects; no
            note is left.
    """
    filters: Counter[str] = Counter()
    tables = [
        _codes(find_table(hosp, "diagnoses_icd"), icd, "diagnosis"),
        _codes(find_table(hosp, "procedures_icd"), icd, "procedure"),
    ]
    path = find_table(note, "discharge")
    columns = ["hadm_id", "subject_id", "text"]
    frame = scan(path, columns, ["note_type", "note_id"])
    codes = read_codes(tables, filters)
    with Spool(out.absolute().parent) as spool:
        admissions = gather(frame, path, codes, spool, filters, distinct=not keep_repeated)
        notes, gold = {}, {}
        for hadm, admission in admissions.items():
            for at, document in enumerate(admission.documents, 1):
                key = str(hadm) if at == 1 else f"{hadm}-{at}"
                filters["further_notes_of_an_admission"] += at > 1
                notes[key] = (admission.subject, [document])
                gold[key] = codes[hadm][1]
        source = Source(
            name=f"mimic4-icd{icd}",
            source="MIMIC-IV and MIMIC-IV-Note (PhysioNet)",
            code_systems=FAMILIES[f"icd{icd}"],
            options={
                "icd": icd,
                "split": "published:FILE" if split.startswith("published:") else split,
                "min_count": min_count,
                "normalise": normalise,
                "keep_repeated": keep_repeated,
                "seed": seed,
            },
            labels=label_spaces(min_count),
            split=split,
            published_split=f"mimiciv_icd{icd}",
            seed=seed,
            description=f"Discharge summaries of MIMIC-IV with ICD-{icd} codes.",
        )
        write(out, source, notes, gold, spool, filters, normalise, overwrite)


def label_spaces(min_count: int) -> Labels:
    """The published spaces: codes seen often enough, and the most frequent fifty; empty notes go."""
    counted = ["train", "val", "test"]
    return [
        ("full", LabelRule(kind="full", min_count=min_count, counted_on=counted), "drop"),
        ("top50", LabelRule(kind="top_k", k=50, counted_on=counted), "drop"),
    ]


def _codes(path: Path, icd: int, role: Role) -> CodeTable:
    frame = scan(path, ["hadm_id", "subject_id", "seq_num", "icd_code", "icd_version"]).select(
        "hadm_id",
        "subject_id",
        "seq_num",
        pl.col("icd_code").str.strip_chars().alias("code"),
        pl.col("icd_version").str.strip_chars().alias("version"),
    )
    return CodeTable(path, frame, str(icd), role)
