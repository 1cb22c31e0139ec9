"""The four code systems: their names, their grammar, and the canonical way to write a code.

Knows nothing about which codes exist; that is `tables`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from icdtune.errors import IcdtuneError

Role = Literal["diagnosis", "procedure"]


@dataclass(frozen=True)
class CodeSystem:
    """A code system's identity and grammar.

    Attributes:
        name: identifier in files and commands, e.g. "icd10cm".
        title: name for people.
        role: what its codes stand for.
        version: edition of the tables, e.g. "2024".
        grammar: full match of an undotted, upper-case code or of a prefix that can be a node.
    """

    name: str
    title: str
    role: Role
    version: str
    grammar: re.Pattern[str]

    def dot(self, bare: str) -> str:
        """Put the dot where the system has it; `bare` is upper case and undotted."""
        if self.name == "icd10pcs":
            return bare
        if self.name == "icd9proc":
            head = 2
        elif self.name == "icd9cm":
            head = 4 if bare.startswith("E") else 3
        else:
            head = 3
        return bare if len(bare) <= head else f"{bare[:head]}.{bare[head:]}"

    def canonical(self, code: str) -> str | None:
        """Canonical form of a code in any case, with or without dot or trailing dot.

        None where the text is malformed: not a code of this system whatever the tables hold. A dot
        in the wrong place is malformed too: it hides a lost or added character.
        """
        text = code.strip()
        if not text.isascii():  # upper() makes ASCII letters of some others (dotless i, long s)
            return None
        text = text.upper()
        bare = text.replace(".", "")
        if self.grammar.fullmatch(bare) is None:
            return None
        dotted = self.dot(bare)
        if "." in text.rstrip(".") and text.rstrip(".") != dotted:
            return None
        return dotted


ICD10CM = CodeSystem(
    "icd10cm", "ICD-10-CM", "diagnosis", "2024", re.compile(r"[A-Z][0-9][0-9A-Z][0-9A-Z]{0,4}")
)
ICD10PCS = CodeSystem(
    "icd10pcs", "ICD-10-PCS", "procedure", "2024", re.compile(r"[0-9B-DF-HX][0-9A-HJ-NP-Z]{2,6}")
)
ICD9CM = CodeSystem(
    "icd9cm",
    "ICD-9-CM diagnoses",
    "diagnosis",
    "v32",
    re.compile(r"[0-9]{3,5}|V[0-9]{2,4}|E[0-9]{3,4}"),
)
ICD9PROC = CodeSystem(
    "icd9proc", "ICD-9-CM procedures", "procedure", "v32", re.compile(r"[0-9]{2,4}")
)
SYSTEMS: dict[str, CodeSystem] = {s.name: s for s in (ICD10CM, ICD10PCS, ICD9CM, ICD9PROC)}

FAMILIES: dict[str, dict[str, str]] = {
    "icd10": {"diagnosis": ICD10CM.name, "procedure": ICD10PCS.name},
    "icd9": {"diagnosis": ICD9CM.name, "procedure": ICD9PROC.name},
}
"""Diagnosis and procedure system of each version of the ICD."""


def get_system(name: str) -> CodeSystem:
    """The code system of that name; IcdtuneError where there is none."""
    try:
        return SYSTEMS[name]
    except KeyError:
        raise IcdtuneError(f'unknown code system "{name}". Known: {", ".join(SYSTEMS)}') from None
