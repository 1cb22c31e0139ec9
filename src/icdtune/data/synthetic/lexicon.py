"""The lexicon: what an entry is, how its files are read and checked.

An entry is one condition or procedure with its code, the ways clinicians write it, and what goes with
it; a combination is a coding rule by which several entries become one code. The files are YAML under
`assets/synthetic/lexicon`; docs/synthetic.md describes the format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from icdtune.codes.matching import TermMatcher, tokens
from icdtune.codes.systems import ICD10CM, ICD10PCS
from icdtune.codes.tables import CodeTable, load_table
from icdtune.data.schema import first_problem
from icdtune.data.synthetic.templates import Template
from icdtune.errors import IcdtuneError

Kind = Literal["chronic", "acute", "symptom", "history", "status", "procedure"]
SYNONYMS = {
    "right": ("right", "R", "rt"),
    "left": ("left", "L", "lt"),
    "bilateral": ("bilateral", "b/l"),
}
MANIFESTATIONS = ("R65.", "D63.", "F02.", "J91.", "R18.0")
"""Beginnings of codes whose coding notes say that another code comes first."""
ADMISSION_NEEDS = frozenset({"pregnancy"})
"""Needs that an admission fulfils, not another entry."""


class _Implied(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    text: str
    section: Literal["labs", "medications", "exam", "imaging", "course"]

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, value: Any) -> Any:
        return {"text": value.get("text"), "section": value.get("in")}


class _RawEntry(BaseModel):
    """An entry as it stands in a file; with `variants` it stands for several."""

    model_config = ConfigDict(extra="forbid")

    id: str
    code: str | None = None
    variants: dict[str, str] = {}
    kind: Kind
    tier: Literal[1, 2, 3, 4, 5]
    forms: list[str] = []
    held_out: list[str] = []
    misspelled: list[str] = []
    implied: list[_Implied] = []
    only_implied: bool = False
    with_: list[str] = []
    tags: list[str] = []
    group: str | None = None
    needs: list[str] = []
    sex: Literal["female", "male"] | None = None
    age: tuple[int, int] = (0, 120)

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, value: Any) -> Any:
        if isinstance(value, dict) and "with" in value:
            value = {**value, "with_": value["with"]}
            del value["with"]
        return value

    @model_validator(mode="after")
    def _complete(self) -> _RawEntry:
        if bool(self.code) == bool(self.variants):
            raise ValueError("give either code or variants")
        if self.only_implied and not self.implied:
            raise ValueError("only_implied needs implied")
        if not self.only_implied and not self.forms:
            raise ValueError("an entry needs forms, or only_implied")
        return self


class _RawRule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    all: list[str]
    unless: list[str] = []
    drop: list[str] = []
    add: list[str] = []


class _RawFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    entries: list[_RawEntry]
    combinations: list[_RawRule] = []
    only_with: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Implied:
    """Evidence that never names the condition, and the section it is printed in."""

    section: str
    template: Template


@dataclass(frozen=True, slots=True)
class Entry:
    """One condition or procedure with one code.

    Attributes:
        id: unique name ("hip_fracture.left" for a variant).
        code: canonical code.
        kind: decides where it is mentioned and how long it lasts.
        rank: position in the frequency order, 0 the most frequent.
        title: official title; also printed as a mention.
        terms: inclusion terms that can be printed.
        forms, held_out, misspelled: other surface forms; held-out ones are for test only.
        implied: evidence that does not name it.
        only_implied: it is never named in the narrative.
        companions: names that it brings along.
        names: its id, base id and tags: what rules, companions and needs refer to.
        group: at most one entry of a group stands in an admission.
        needs: names of which one must be there already.
        sex, age: whom it befalls.
        conditions: form -> name that must be present too, because the form states it as well.
    """

    id: str
    code: str
    kind: Kind
    rank: int
    title: str
    terms: tuple[str, ...]
    forms: tuple[str, ...]
    held_out: tuple[str, ...]
    misspelled: tuple[str, ...]
    implied: tuple[Implied, ...]
    only_implied: bool
    companions: tuple[str, ...]
    names: frozenset[str]
    group: str
    needs: frozenset[str]
    sex: str | None
    age: tuple[int, int]
    conditions: Mapping[str, str]

    def fitting(self, forms: Sequence[str], present: AbstractSet[str]) -> Sequence[str]:
        """Those of the forms that state nothing beyond what is present."""
        if not self.conditions:
            return forms
        return [f for f in forms if self.conditions.get(f, self.id) in present | {self.id}]

    def surfaces(self, held_out: bool) -> tuple[str, ...]:
        """Every way to name it."""
        visible = (self.title, *self.terms, *self.forms, *self.misspelled)
        return visible + self.held_out if held_out else visible


@dataclass(frozen=True, slots=True)
class Combination:
    """When all names are present and none of `unless`: drop codes, then add codes."""

    all: frozenset[str]
    unless: frozenset[str]
    drop: tuple[str, ...]
    add: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """Entries by falling frequency, and the coding rules in the order they apply."""

    entries: tuple[Entry, ...]
    combinations: tuple[Combination, ...]

    def code(self, present: Sequence[Entry]) -> dict[str, tuple[Entry, ...]]:
        """Codes of the entries that are present, each with the entries that give rise to it.

        Every entry gives its code; then each rule whose names are all present drops and adds. An
        added code stands before those of the entries behind it (I11.0 before I50.-); manifestations
        that the coding notes put behind their cause stand last.
        """
        names: set[str] = set()
        for entry in present:
            names |= entry.names
        codes: dict[str, tuple[Entry, ...]] = {}
        for entry in present:
            codes[entry.code] = (*codes.get(entry.code, ()), entry)
        for rule in self.combinations:
            if rule.all <= names and not (rule.unless & names):
                causes = tuple(entry for entry in present if entry.names & rule.all)
                added = {code: causes for code in rule.add if code not in codes}
                if added:
                    first = {entry.code for entry in causes}
                    at = next((i for i, c in enumerate(codes) if c in first), len(codes))
                    items = list(codes.items())
                    codes = dict([*items[:at], *added.items(), *items[at:]])
                for code in set(rule.drop) - added.keys():
                    codes.pop(code, None)
        last = [code for code in codes if code.startswith(MANIFESTATIONS)]
        return {c: codes[c] for c in [*(c for c in codes if c not in last), *last]}

    def check(self) -> list[str]:
        """Problems that make surfaces ambiguous or let a held-out form slip into training text."""
        problems: list[str] = []
        owner: dict[tuple[str, ...], str] = {}
        for entry in self.entries:
            for surface in entry.surfaces(held_out=True):
                other = owner.setdefault(tokens(surface), entry.id)
                if other != entry.id:
                    problems.append(f'{entry.id}: "{surface}" also belongs to {other}')
        held = TermMatcher((form, form) for entry in self.entries for form in entry.held_out)
        for entry in self.entries:
            implied = [item.template.text for item in entry.implied]
            for surface in (*entry.surfaces(held_out=False), *implied):
                for _, _, form in held.find(surface):
                    problems.append(f'{entry.id}: held-out "{form}" stands inside "{surface}"')
        return problems


def default_directory() -> Path:
    """The lexicon that ships with the package."""
    return Path(str(files("icdtune").joinpath("assets", "synthetic", "lexicon")))


def load_lexicon(directory: Path, ignored_terms: Sequence[str] = ()) -> Lexicon:
    """Read every .yaml file of a folder.

    Entries are ranked by tier, and within a tier by how early they stand in their file. Raises
    IcdtuneError naming file and entry.
    """
    raw: list[_RawEntry] = []
    rules: list[_RawRule] = []
    conditions: dict[str, str] = {}
    paths = sorted(directory.glob("*.yaml"))
    if not paths:
        raise IcdtuneError(f"{directory} holds no .yaml files. See docs/synthetic.md")
    origin: dict[str, Path] = {}
    place: dict[str, float] = {}
    for path in paths:
        for at, entry in enumerate((content := _read(path)).entries):
            place[entry.id] = at / len(content.entries)
            if entry.id in origin:
                raise IcdtuneError(
                    f'{path}: id "{entry.id}" is also in {origin[entry.id]}. Rename it'
                )
            origin[entry.id] = path
            raw.append(entry)
        rules.extend(content.combinations)
        conditions |= content.only_with
    expanded = [(entry, variant) for entry in raw for variant in entry.variants or {"": ""}]
    expanded.sort(key=lambda pair: (-pair[0].tier, place[pair[0].id], pair[0].id, pair[1]))
    reserved = {
        tokens(form) for e, v in expanded for form in (*_fill(e.forms, v), *_fill(e.held_out, v))
    }
    reserved |= {tokens(term) for term in ignored_terms}
    entries = [
        _entry(entry, variant, rank, reserved, origin[entry.id], conditions)
        for rank, (entry, variant) in enumerate(expanded)
    ]
    unused = conditions.keys() - {form for item in entries for form in item.conditions}
    if unused:
        raise IcdtuneError(
            f'{directory}: field "only_with": "{min(unused)}" is no form or held-out form. Correct it'
        )
    by_code: dict[str, str] = {}
    for item in entries:
        if by_code.setdefault(item.code, item.id) != item.id:
            raise IcdtuneError(
                f'{origin[item.id.split(".")[0]]}: entry "{item.id}": code {item.code} also belongs '
                f'to "{by_code[item.code]}". Keep one'
            )
    known = frozenset(name for item in entries for name in item.names) | ADMISSION_NEEDS
    for item in entries:
        for name in (*item.companions, *item.needs, *item.conditions.values()):
            if name not in known:
                raise IcdtuneError(
                    f'{origin[item.id.split(".")[0]]}: entry "{item.id}" names "{name}", which is no '
                    f"id or tag. Correct it"
                )
    return Lexicon(tuple(entries), tuple(_combination(rule) for rule in rules))


def _read(path: Path) -> _RawFile:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        return _RawFile.model_validate(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise IcdtuneError(f"{path}{line} is not valid YAML. Quote special characters") from None
    except ValidationError as error:
        raise IcdtuneError(f"{path}: {first_problem(error)}. See docs/synthetic.md") from None


def _fill(forms: Sequence[str], variant: str) -> Iterator[str]:
    for form in forms:
        for word in SYNONYMS.get(variant, (variant,)):
            yield form.replace("{v}", word)
            if "{v}" not in form:
                break


def _entry(
    raw: _RawEntry,
    variant: str,
    rank: int,
    reserved: set[tuple[str, ...]],
    path: Path,
    conditions: Mapping[str, str],
) -> Entry:
    code = raw.variants[variant] if variant else str(raw.code)
    table = _table(code)
    if code not in table or not table.billable(code):
        raise IcdtuneError(
            f'{path}: entry "{raw.id}": code "{code}" is not billable in {table.system.title} '
            f"{table.system.version}. Use a complete code"
        )
    title = table.title(code)
    terms = []
    for term in table.note("inclusion_terms", code):
        plain = not any(mark in term for mark in "()[];:") and len(term.split()) <= 7
        found = tokens(term)
        if plain and found not in reserved and found != tokens(title) and found[-1] != "nos":
            reserved.add(found)
            terms.append(term)
    return Entry(
        f"{raw.id}.{variant}" if variant else raw.id,
        code,
        raw.kind,
        rank,
        title,
        tuple(terms),
        tuple(_fill(raw.forms, variant)),
        tuple(_fill(raw.held_out, variant)),
        tuple(_fill(raw.misspelled, variant)),
        tuple(Implied(item.section, Template(item.text)) for item in raw.implied),
        raw.only_implied,
        tuple(raw.with_),
        frozenset([raw.id, f"{raw.id}.{variant}" if variant else raw.id, *raw.tags]),
        raw.group or raw.id,
        frozenset(raw.needs),
        raw.sex,
        raw.age,
        {form: conditions[form] for form in (*raw.forms, *raw.held_out) if form in conditions},
    )


def _table(code: str) -> CodeTable:
    system = ICD10PCS if len(code) == 7 and "." not in code else ICD10CM
    return load_table(system.name)


def _combination(rule: _RawRule) -> Combination:
    return Combination(
        frozenset(rule.all), frozenset(rule.unless), tuple(rule.drop), tuple(rule.add)
    )
