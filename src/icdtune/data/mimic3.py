"""MIMIC-III discharge summaries with ICD-9 codes, in the three published variants.

"clean" (Edin et al. 2023): codes seen ten times or more. "full" and "50" (Mullenbach et al. 2018, as
Edin et al. prepare them): all codes, and the fifty of the original paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Literal

import polars as pl

from icdtune.codes.systems import FAMILIES, Role
from icdtune.data.labels import LabelRule, LabelSpace
from icdtune.data.mimic import CodeTable, Labels, Source, gather, read_codes, rows_of, write
from icdtune.data.mimic4 import label_spaces
from icdtune.data.raw import find_table, scan
from icdtune.data.spool import Spool

VERSION = 1
Variant = Literal["clean", "full", "50"]
CATEGORY = "Discharge summary"


def prepare(
    out: Path,
    raw: Path,
    variant: Variant = "clean",
    split: str = "published",
    min_count: int | None = None,
    normalise: bool = False,
    drop_errors: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    announce: Callable[[str], None] = lambda line: None,
) -> None:
    """Prepare a MIMIC-III corpus: report and addenda of an admission are one note.

    Args:
        out: folder of the corpus.
        raw: folder with NOTEEVENTS, DIAGNOSES_ICD and PROCEDURES_ICD.
        variant: decides the published split and label space.
        split: "published", "published:FILE", "stratified" or "random".
        min_count: least notes of a code in the label space "full"; None is 10 for "clean", 1 else.
        normalise: write the text of the word-level baselines.
        drop_errors: leave out documents that are marked as errors (ISERROR); published steps keep them.
        seed: of stratified and random splits.
        overwrite: replace a corpus that is there.
        announce: told how the most frequent codes compare with the published fifty.

    Raises:
        IcdtuneError: a file is missing, damaged or lacks a column; an admission has two subjects; no
            note is left.
    """
    filters: Counter[str] = Counter()
    tables = [
        _codes(find_table(raw, "DIAGNOSES_ICD"), "diagnosis"),
        _codes(find_table(raw, "PROCEDURES_ICD"), "procedure"),
    ]
    path = find_table(raw, "NOTEEVENTS")
    frame = scan(
        path, ["hadm_id", "subject_id", "text", "category", "description", "row_id", "iserror"]
    )
    frame = frame.with_row_index("row", 1).filter(pl.col("category") == CATEGORY)
    if drop_errors:
        frame = frame.filter(pl.col("iserror").is_null() | (pl.col("iserror") != "1"))
    frame = frame.select("hadm_id", "subject_id", "text", "description", "row_id", "row")
    codes = read_codes(tables, filters)
    least = (10 if variant == "clean" else 1) if min_count is None else min_count
    with Spool(out.absolute().parent) as spool:
        admissions = gather(frame, path, codes, spool, filters, distinct=False)
        notes, gold = {}, {}
        for hadm, admission in rows_of(admissions):
            filters["documents_joined"] += len(admission.documents) - 1
            notes[str(hadm)] = (admission.subject, admission.documents)
            gold[str(hadm)] = codes[hadm][1]
        announce(_compared(gold, filters))
        source = Source(
            name=f"mimic3-{variant}",
            source="MIMIC-III v1.4 (PhysioNet)",
            code_systems=FAMILIES["icd9"],
            options={
                "variant": variant,
                "split": "published:FILE" if split.startswith("published:") else split,
                "min_count": least,
                "normalise": normalise,
                "drop_errors": drop_errors,
                "seed": seed,
            },
            labels=_label_spaces(variant, least),
            split=split,
            published_split=f"mimiciii_{variant}",
            seed=seed,
            description="Discharge summaries of MIMIC-III with ICD-9 codes, addenda joined.",
        )
        write(out, source, notes, gold, spool, filters, normalise, overwrite)


def published_top50() -> list[str]:
    """The fifty codes of Mullenbach et al. 2018, as listed by Edin et al.; counts of v1.4 differ."""
    text = files("icdtune").joinpath("presets", "mimic3_top50.txt").read_text(encoding="utf-8")
    return text.split()


def _compared(gold: Mapping[str, tuple[str, ...]], filters: Counter[str]) -> str:
    """How the fifty most frequent codes of all notes differ from the published list."""
    counts = Counter(code for codes in gold.values() for code in codes)
    ranked = sorted(counts, key=lambda code: (-counts[code], code))[:50]
    listed = set(published_top50())
    extra = [code for code in ranked if code not in listed]
    filters["top50_codes_not_in_the_published_list"] = len(extra)
    if not extra:
        return "top 50 by frequency: the published list"
    missing = sorted(listed - set(ranked))
    return (
        f"top 50 by frequency: {len(extra)} codes are not in the published list "
        f"({', '.join(extra[:10])}), which has {', '.join(missing[:10])} instead"
    )


def _label_spaces(variant: Variant, least: int) -> Labels:
    full, top = label_spaces(least)
    if variant != "50":
        return [full, top]
    rule = LabelRule(kind="file", source="mimic3_top50.txt")
    return [full, LabelSpace(name="top50", rule=rule, empty_notes="drop", codes=published_top50())]


def _codes(path: Path, role: Role) -> CodeTable:
    code = pl.col("icd9_code").str.strip_chars()
    frame = scan(path, ["hadm_id", "subject_id", "seq_num", "icd9_code"]).select(
        "hadm_id",
        "subject_id",
        "seq_num",
        pl.when(code != "").then(code).alias("code"),
        pl.lit("9").alias("version"),
    )
    return CodeTable(path, frame, "9", role)
