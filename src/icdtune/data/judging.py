"""Codes as hospitals write them: cells taken apart, the code system found out, bad ones judged."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from icdtune.codes.systems import FAMILIES, get_system
from icdtune.codes.tables import KNOWN, load_table
from icdtune.data.schema import canonical_code
from icdtune.data.spool import Piece
from icdtune.data.writer import InvalidCodes
from icdtune.errors import IcdtuneError, shown

CodeSystem = Literal["auto", "icd9", "icd10"]
Announce = Callable[[str], None]
_SEPARATORS = re.compile(r"[;,|\s]+")
_WRAPPING = "[](){}'\""


@dataclass(slots=True)
class Encounter:
    """One note in the making: where its documents are, and the codes given with them."""

    subject: str
    split: str | None
    row: int
    documents: list[Piece] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)
    """Raw code -> data row that it stands in."""
    coded: bool = False


def split_codes(cell: Any) -> list[str]:
    """The codes of a cell: a list, or text with commas, semicolons, bars or spaces between them."""
    if cell is None:
        return []
    parts = _SEPARATORS.split(cell) if isinstance(cell, str) else [part or "" for part in cell]
    return [code for part in parts if (code := part.strip().strip(_WRAPPING).strip())]


def code_family(
    wanted: CodeSystem, notes: Mapping[str, Encounter], file: Path, announce: Announce
) -> str:
    """The code systems that most of the codes belong to."""
    if wanted not in get_args(CodeSystem):
        raise IcdtuneError(
            f'--code-system "{wanted}": choose one of {", ".join(get_args(CodeSystem))}'
        )
    if wanted != "auto":
        return wanted
    mentions = Counter(code for note in notes.values() for code in note.codes)
    total = mentions.total()
    if not total:  # every note is coded as nothing
        return next(iter(FAMILIES))
    shares = {}
    for family, systems in FAMILIES.items():
        judge = Judge(systems)
        known = sum(n for code, n in mentions.items() if judge(code)[0] in KNOWN)
        shares[family] = known / total
    best = max(shares, key=lambda family: shares[family])
    if shares[best] < 0.5:
        raise IcdtuneError(
            f"{file}: only {shares[best]:.0%} of the {total:,} codes are in the tables of "
            f"{best.upper()}. Check the column, or say --code-system"
        )
    title = best.upper().replace("ICD", "ICD-")
    announce(
        f"code system: {title} ({shares[best]:.1%} of {total:,} codes are in its tables); "
        f"--code-system overrules"
    )
    return best


def systems_of(family: str, notes: Mapping[str, Encounter]) -> dict[str, str]:
    """The family's systems that any code belongs to; diagnoses always."""
    both = FAMILIES[family]
    judge = Judge(both)
    roles = {judge(code)[1] for note in notes.values() for code in note.codes}
    return {role: name for role, name in both.items() if role == "diagnosis" or role in roles}


class Judge:
    """Standing and role of raw codes in some code systems."""

    def __init__(self, systems: dict[str, str]) -> None:
        self._systems = systems
        self._known: dict[str, tuple[str, str | None]] = {}

    def __call__(self, raw: str) -> tuple[str, str | None]:
        """Standing of a raw code and the role of its system; None where it is malformed."""
        if raw not in self._known:
            self._known[raw] = self._judge(raw)
        return self._known[raw]

    def _judge(self, raw: str) -> tuple[str, str | None]:
        code = canonical_code(raw, self._systems)
        for role, name in self._systems.items():
            if code is not None and get_system(name).canonical(raw) == code:
                return load_table(name).standing(code)[0], role
        return "malformed", None

    def problem(self, raw: str) -> str:
        """What is wrong with a code, for people."""
        standing, role = self(raw)
        if standing == "malformed" or role is None:
            titles = " or ".join(get_system(name).title for name in self._systems.values())
            return f"{shown(raw)} is no code of {titles}"
        table = load_table(self._systems[role])
        return str(table.unknown(canonical_code(raw, self._systems) or raw)).partition(". Look")[0]


def judge_notes(
    notes: Mapping[str, Encounter],
    judge: Judge,
    policy: InvalidCodes,
    where: str,
    column: str | None,
    labelled: bool,
) -> dict[str, list[tuple[str | None, str]]]:
    """Notes that are left out, with each bad code and what is wrong with it."""
    aside: dict[str, list[tuple[str | None, str]]] = {}
    for key, note in notes.items():
        if labelled and not note.coded:
            aside[key] = [(None, "no codes")]
            continue
        for code, row in note.codes.items():
            standing = judge(code)[0]
            if standing in KNOWN or (standing == "unknown" and policy == "keep"):
                continue
            if policy == "error":
                raise IcdtuneError(
                    f'{where} data row {row}: field "{column}": {judge.problem(code)}. Correct it, or '
                    f"use --invalid-codes quarantine"
                )
            safe = code if shown(code).startswith('"') else None
            aside.setdefault(key, []).append((safe, f"{standing}: {judge.problem(code)}"))
    return aside


def summary(aside: Mapping[str, list[tuple[str | None, str]]]) -> str:
    """How many notes are left out, by their first reason."""
    counts = Counter(reasons[0][1].partition(":")[0] for reasons in aside.values())
    return ", ".join(f"{count:,} with {reason}" for reason, count in counts.items()) or "none read"
