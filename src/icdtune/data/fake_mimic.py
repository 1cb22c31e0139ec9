"""Invented files in the shape of MIMIC-III's and MIMIC-IV's raw tables, oddities included.

For tests, benchmarks, and for trying `prepare mimic3` and `prepare mimic4` before access is granted.
Notes are made of drawn words; nothing in them is about anybody.
"""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

from pydantic import Field

from icdtune.codes.tables import load_table
from icdtune.files import atomic_directory
from icdtune.progress import track

MIMIC3_NOTES = (
    "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,DESCRIPTION,CGID,ISERROR,TEXT"
)
MIMIC3_CODES = "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE"
MIMIC4_NOTES = "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text"
MIMIC4_DIAGNOSES = "subject_id,hadm_id,seq_num,icd_code,icd_version"
MIMIC4_PROCEDURES = "subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version"
_TEXT = (
    "patient was admitted with acute chronic pain fever chest left right renal heart failure disease "
    "given discharged home stable mg daily tablet history of and the to on no denies exam lungs clear "
    "abdomen soft wbc hct plan follow up in weeks clinic normal sinus rhythm edema noted improved"
)
WORDS = _TEXT.split()
PARAGRAPHS = 512
"""Different paragraphs that notes are put together from."""


@dataclass(frozen=True)
class _Stay:
    subject: int
    hadm: int
    version: int
    diagnoses: list[str]
    procedures: list[str]


def prepare(
    out: Path,
    admissions: Annotated[int, Field(ge=1)] = 2_000,
    characters: Annotated[int, Field(ge=200)] = 10_000,
    seed: int = 1,
    overwrite: bool = False,
) -> None:
    """Write `mimic3/`, `mimic4/hosp/` and `mimic4/note/` with gzipped tables.

    Args:
        out: folder for them.
        admissions: of each data set; a tenth has addenda, repeated rows, empty codes or other oddities.
        characters: mean length of a discharge summary (MIMIC-IV: about 10,000).
        seed: other seed, other files.
        overwrite: replace what an earlier call wrote.
    """
    with atomic_directory(out, overwrite, "README.md") as folder:
        (folder / "README.md").write_text(
            f"Invented files in the shape of MIMIC (icdtune, {admissions} admissions, seed {seed}).\n"
        )
        write_mimic3(folder / "mimic3", admissions, characters, seed)
        write_mimic4(folder / "mimic4", admissions, characters, seed)


def _paragraph(rng: random.Random) -> str:
    """About 400 characters with line breaks, quotes, commas and numbers, as notes have them."""
    lines = []
    for _ in range(6):
        words = rng.choices(WORDS, k=10)
        words.insert(
            rng.randrange(10), f'"{rng.randrange(200)}"' if rng.random() < 0.2 else "[**1**],"
        )
        lines.append(" ".join(words).capitalize() + ".")
    return "\n".join(lines)


def _code_pools(rng: random.Random) -> dict[tuple[int, str], list[str]]:
    """Undotted codes by version and role; the earlier, the more frequent."""
    pools = {}
    for version, role, table in (
        (9, "diagnosis", "icd9cm"),
        (9, "procedure", "icd9proc"),
        (10, "diagnosis", "icd10cm"),
        (10, "procedure", "icd10pcs"),
    ):
        codes = [code.replace(".", "") for code in load_table(table).billable_codes()]
        rng.shuffle(codes)
        pools[version, role] = codes[:9_000]
    return pools


def _draw(pool: list[str], count: int, rng: random.Random) -> list[str]:
    """Distinct codes, with a long tail."""
    size = len(pool)
    return list(dict.fromkeys(pool[int(size * rng.random() ** 5)] for _ in range(count)))


def _stays(
    admissions: int,
    versions: tuple[int, ...],
    pools: dict[tuple[int, str], list[str]],
    rng: random.Random,
) -> Iterator[_Stay]:
    for i in range(admissions):
        subject = 10_000 + int(i * 0.7)
        version = versions[i % len(versions)]
        yield _Stay(
            subject,
            100_001 + i,
            version,
            _draw(pools[version, "diagnosis"], rng.randint(1, 20), rng),
            _draw(pools[version, "procedure"], rng.choice((0, 0, 1, 2, 5)), rng),
        )


def _text(stay: _Stay, count: int, paragraphs: list[str], rng: random.Random) -> str:
    size = max(1, round(count * rng.uniform(0.4, 1.6)))
    head = f" \nName:  ___                 Unit No:   ___\n \nAdmission:  {stay.hadm}\n"
    return head + "\n\n".join(rng.choices(paragraphs, k=size)) + "\n"


def write_mimic3(folder: Path, admissions: int, characters: int, seed: int) -> None:
    """Write the tables of MIMIC-III into a new folder."""
    rng = random.Random(seed)
    paragraphs = [_paragraph(rng) for _ in range(PARAGRAPHS)]
    pools = _code_pools(rng)
    per_note = max(1, characters // 400)
    folder.mkdir()
    with ExitStack() as stack:
        notes = _table(stack, folder / "NOTEEVENTS.csv.gz", MIMIC3_NOTES)
        diagnoses = _table(stack, folder / "DIAGNOSES_ICD.csv.gz", MIMIC3_CODES)
        procedures = _table(stack, folder / "PROCEDURES_ICD.csv.gz", MIMIC3_CODES)
        row = code_row = 0

        def note(stay: _Stay, category: str, description: str, text: str, error: str = "") -> None:
            nonlocal row
            row += 1
            day = "2150-01-01"
            notes.writerow(
                [row, stay.subject, stay.hadm, day, "", "", category, description, "", error, text]
            )

        later: list[_Stay] = []
        for i, stay in enumerate(
            track(_stays(admissions, (9,), pools, rng), "Fake MIMIC-III", admissions)
        ):
            note(
                stay,
                "Discharge summary",
                "Report",
                _text(stay, per_note, paragraphs, rng),
                "1" if i % 97 == 5 else "",
            )
            if i % 10 == 3:
                later.append(stay)
            if i % 4 == 0:
                note(stay, "Nursing", "Report", rng.choice(paragraphs))
            for writer, codes in ((diagnoses, stay.diagnoses), (procedures, stay.procedures)):
                if i % 50 == 7 and writer is procedures:
                    codes = ["0066", *codes]  # a leading zero, which a number would lose
                if i % 50 == 9 and codes:
                    codes = [*codes, codes[0]]  # the same code twice
                if i % 50 == 11:
                    codes = []
                for at, code in enumerate(codes, 1):
                    code_row += 1
                    writer.writerow([code_row, stay.subject, stay.hadm, at, code])
            if i % 50 == 13:
                code_row += 1
                diagnoses.writerow([code_row, stay.subject, stay.hadm, "", ""])  # no code at all
        for stay in later:
            note(stay, "Discharge summary", "Addendum", rng.choice(paragraphs))
        row += 1
        notes.writerow(
            [row, 1, "", "2150-01-01", "", "", "Radiology", "Report", "", "", "No admission."]
        )


def write_mimic4(folder: Path, admissions: int, characters: int, seed: int) -> None:
    """Write the tables of MIMIC-IV into a new folder."""
    rng = random.Random(seed)
    paragraphs = [_paragraph(rng) for _ in range(PARAGRAPHS)]
    pools = _code_pools(rng)
    per_note = max(1, characters // 400)
    for name in ("hosp", "note"):
        (folder / name).mkdir(parents=True)
    with ExitStack() as stack:
        notes = _table(stack, folder / "note" / "discharge.csv.gz", MIMIC4_NOTES)
        diagnoses = _table(stack, folder / "hosp" / "diagnoses_icd.csv.gz", MIMIC4_DIAGNOSES)
        procedures = _table(stack, folder / "hosp" / "procedures_icd.csv.gz", MIMIC4_PROCEDURES)
        for i, stay in enumerate(
            track(_stays(admissions, (9, 10), pools, rng), "Fake MIMIC-IV", admissions)
        ):
            day = "2150-01-01 00:00:00"
            name = f"{stay.subject}-DS-{i + 1}"
            row = [name, stay.subject, stay.hadm, "DS", i + 1, day, day]
            text = _text(stay, per_note, paragraphs, rng)
            if i % 100 != 17:
                notes.writerow([*row, text])
            if i % 50 == 3:
                notes.writerow([*row, text])  # the same row twice
            if i % 100 == 19:
                notes.writerow([f"{name}-empty", *row[1:], ""])
            codes = list(stay.diagnoses)
            if i % 50 == 9 and codes:
                codes.append(codes[0])
            if i % 100 == 21:
                codes = []
            for at, code in enumerate(codes, 1):
                diagnoses.writerow([stay.subject, stay.hadm, at, code, stay.version])
            if i % 50 == 5:  # both versions in one admission
                other = 19 - stay.version
                code = _draw(pools[other, "diagnosis"], 1, rng)[0]
                diagnoses.writerow([stay.subject, stay.hadm, 99, code, other])
            if i % 100 == 21:
                continue
            for at, code in enumerate(stay.procedures, 1):
                procedures.writerow([stay.subject, stay.hadm, at, day[:10], code, stay.version])


def _table(stack: ExitStack, path: Path, header: str) -> Any:
    file: TextIO = stack.enter_context(gzip.open(path, "wt", 1, newline=""))  # noqa: SIM115
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header.split(","))
    return writer
