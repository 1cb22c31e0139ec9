"""Write the note of an admission, and remember where each entry is stated.

Every present entry is stated at least once. Distractors name conditions that must not be coded;
filler codes nothing and brings the note to its profile's length.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from icdtune.codes.matching import tokens
from icdtune.data.synthetic.lexicon import Entry, Implied
from icdtune.data.synthetic.patients import Admission
from icdtune.data.synthetic.templates import Person, Template, Templates

Profile = Literal["short", "medium", "long"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A profile's length: words to reach, and how many distractors and look-alikes it holds."""

    words: int
    distractors: tuple[int, int]
    lookalikes: tuple[int, int]
    restate: float


PROFILES: dict[str, Shape] = {
    "short": Shape(120, (1, 2), (0, 1), 0.05),
    "medium": Shape(600, (3, 7), (1, 3), 0.4),
    "long": Shape(1600, (6, 14), (2, 6), 0.7),
}
ONLY_IMPLIED = 0.15
LISTED = 0.55
TITLED = 0.3
INCLUSION_TERM = 0.09
MISSPELLED = 0.08
FILLER_SECTIONS = (
    ("hpi", 2),
    ("exam", 4),
    ("labs", 4),
    ("imaging", 1),
    ("course", 5),
    ("social", 1),
    ("medications", 1),
    ("instructions", 3),
)
HEADINGS = (
    ("chief_complaint", "Chief Complaint"),
    ("hpi", "History of Present Illness"),
    ("history", "Past Medical History"),
    ("social", "Social History"),
    ("allergies", "Allergies"),
    ("medications", "Medications on Admission"),
    ("exam", "Physical Exam"),
    ("labs", "Pertinent Results"),
    ("imaging", "Imaging"),
    ("procedures", "Major Surgical or Invasive Procedure"),
    ("course", "Brief Hospital Course"),
    ("discharge_medications", "Discharge Medications"),
    ("diagnoses", "Discharge Diagnosis"),
    ("disposition", "Discharge Disposition"),
    ("instructions", "Discharge Instructions"),
)
LISTS = frozenset(
    {"history", "medications", "discharge_medications", "diagnoses", "procedures", "labs"}
)
CAPITALISED = 0.9
SOCIAL = 3
COMMON = frozenset(
    ("a", "an", "and", "at", "by", "for", "from", "in", "is", "no", "not", "of", "on", "or", "per")
    + ("the", "to", "with", "without", "was", "were", "mg", "daily", "day", "days", "left", "right")
    + ("normal", "new", "mild", "small", "large", "x2", "show", "shows", "showed")
)
"""Words that say nothing about what was measured."""
PAST = ("istory of", "h/o", "Hx of", "hx of")


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence or list item; `entry` or `code` is what its mention [start, end) states."""

    text: str
    start: int = 0
    end: int = 0
    entry: Entry | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """A note's text and its evidence: (code, start, end) for every stated code of the truth."""

    text: str
    evidence: tuple[tuple[str, int, int], ...]


def render(
    admission: Admission,
    templates: Templates,
    profile: str,
    held_out: bool,
    titles: dict[str, str],
    rng: random.Random,
) -> Rendered:
    """Write the note of an admission.

    Args:
        admission: what to state.
        templates: the sentences.
        profile: a key of `PROFILES`.
        held_out: whether held-out surface forms may be used (the test split only).
        titles: official title of each code.
        rng: source of all choices.
    """
    note = _Note(admission, templates, PROFILES[profile], held_out, rng)
    for position, entry in enumerate(admission.present):
        note.state(entry, principal=position == 0)
    note.distract(admission.absent)
    note.list_diagnoses(admission, titles)
    note.fill()
    return note.assemble(admission.truth)


class _Note:
    def __init__(
        self,
        admission: Admission,
        templates: Templates,
        shape: Shape,
        held_out: bool,
        rng: random.Random,
    ) -> None:
        self._person: Person = admission.person
        self._names = {name for entry in admission.present for name in entry.names}
        self._silenced = [
            pattern
            for pattern, codes in templates.contradictions
            if any(entry.code.startswith(codes) for entry in admission.present)
        ]
        self._measured: set[str] = set()
        self._templates = templates
        self._shape = shape
        self._held_out = held_out
        self._rng = rng
        self._sections: dict[str, list[Line]] = {name: [] for name, _ in HEADINGS}
        self._words = 0

    def state(self, entry: Entry, principal: bool) -> None:
        """State an entry once, and again by the profile's chance."""
        if entry.implied and (entry.only_implied or self._rng.random() < ONLY_IMPLIED):
            self._imply(self._rng.choice(entry.implied), entry)
            return
        self._mention(self._place(entry, principal), entry)
        if self._rng.random() < self._shape.restate:
            if entry.implied and self._rng.random() < 0.5:
                self._imply(self._rng.choice(entry.implied), entry)
            else:
                self._mention("course", entry)

    def distract(self, absent: Sequence[Entry]) -> None:
        """Name conditions that are not to be coded, in sentences that say so."""
        wanted = self._rng.randint(*self._shape.distractors)
        for entry in absent:
            if wanted == 0:
                break
            cue = self._cue(entry)
            if cue is None or entry.only_implied:
                continue
            wanted -= 1
            section = {"negated": "exam", "family": "social", "other_person": "social"}.get(
                cue, "course"
            )
            template = self._rng.choice(self._templates.distractors[cue])
            self._add(section, template, self._surface(entry, title=0.08, present=frozenset()))

    def list_diagnoses(self, admission: Admission, titles: dict[str, str]) -> None:
        """Print some of the codes: at most half of them by their official title."""
        allowed = len(admission.truth) // 2
        for code, causes in admission.truth.items():
            if all(entry.only_implied for entry in causes) or self._rng.random() > LISTED:
                continue
            template = self._rng.choice(self._templates.mentions["diagnosis_list"][""])
            if allowed and self._rng.random() < TITLED:
                allowed -= 1
                self._add("diagnoses", template, titles[code], code=code)
                continue
            named = [entry for entry in causes if not entry.only_implied]
            entry = self._rng.choice(named)
            if entry.kind != "procedure":
                self._add("diagnoses", template, self._surface(entry, title=0.0), entry=entry)

    def fill(self) -> None:
        """Add look-alikes, then filler up to the profile's length."""
        for _ in range(self._rng.randint(*self._shape.lookalikes)):
            section = self._rng.choice(tuple(self._templates.lookalikes))
            self._add(section, self._rng.choice(self._templates.lookalikes[section]))
        budget = self._shape.words * self._rng.uniform(0.9, 1.1)
        for section in ("disposition", "allergies"):
            template = self._rng.choice(self._templates.filler[section])
            if self._words < budget and self._agrees(section, template):
                self._add(section, template)
        names = [name for name, _ in FILLER_SECTIONS]
        weights = [weight for _, weight in FILLER_SECTIONS]
        used: dict[str, set[Template]] = {}
        while self._words < budget:
            section = self._rng.choices(names, weights)[0]
            pool = self._templates.filler[section]
            template = self._rng.choice(pool)
            seen = used.setdefault(section, set())
            if template in seen and len(seen) < len(pool):
                continue
            seen.add(template)
            if section == "social" and len(seen) > SOCIAL:
                continue
            if not self._agrees(section, template):
                continue
            target = section
            if section == "medications" and self._rng.random() < 0.5:
                target = "discharge_medications"
            self._add(target, template)

    def _agrees(self, section: str, template: Template) -> bool:
        """Whether a filler contradicts nothing: no topic of a present code, no measured quantity."""
        if any(pattern.search(template.text) for pattern in self._silenced):
            return False
        if section not in ("labs", "exam", "imaging"):
            return True
        return not (set(tokens(template.text)) - COMMON) & self._measured

    def assemble(self, truth: dict[str, tuple[Entry, ...]]) -> Rendered:
        """Join the sections and turn line offsets into note offsets."""
        by_entry: dict[str, list[str]] = {}
        for code, causes in truth.items():
            for entry in causes:
                by_entry.setdefault(entry.id, []).append(code)
        out: list[str] = []
        length = 0
        evidence: list[tuple[str, int, int]] = []

        def write(text: str) -> None:
            nonlocal length
            out.append(text)
            length += len(text)

        for name, heading in HEADINGS:
            lines = self._sections[name]
            if not lines:
                continue
            if name in ("hpi", "course", "exam", "social"):
                self._rng.shuffle(lines)
            write(f"{heading}:\n")
            bullet = "- " if name in LISTS else ""
            separator = "\n" if name in LISTS else ", " if name == "chief_complaint" else " "
            for at, line in enumerate(lines):
                write((separator if at else "") + bullet)
                if line.end:
                    codes = [line.code] if line.code else []
                    if line.entry is not None:
                        codes = by_entry.get(line.entry.id, [])
                    evidence += [(c, length + line.start, length + line.end) for c in codes if c]
                write(line.text)
            write("\n\n")
        return Rendered("".join(out).rstrip("\n") + "\n", tuple(evidence))

    def _place(self, entry: Entry, principal: bool) -> str:
        if principal:
            return self._rng.choice(("chief_complaint", "hpi", "hpi"))
        options = {
            "acute": ("course", "course", "hpi"),
            "symptom": ("chief_complaint", "hpi", "hpi", "course"),
            "chronic": ("history", "history", "hpi", "course"),
            "history": ("history", "history", "hpi"),
            "status": ("history", "hpi", "course"),
            "procedure": ("procedures", "course"),
        }
        return self._rng.choice(options[entry.kind])

    def _mention(self, section: str, entry: Entry) -> None:
        key = {"history": "history_list", "procedures": "procedures_list"}.get(section, section)
        by_kind = self._templates.mentions[key]
        options = (
            by_kind.get("")
            or by_kind.get(entry.kind)
            or self._templates.mentions["hpi"][entry.kind]
        )
        template = self._rng.choice(options)
        if entry.code.startswith(("C", "D0")):  # "history of" a cancer is another code
            while any(cue in template.text for cue in PAST):
                template = self._rng.choice(options)
        self._add(section, template, self._surface(entry), entry=entry)

    def _imply(self, implied: Implied, entry: Entry) -> None:
        self._measured |= set(tokens(implied.template.text)) - COMMON
        text, _, _ = implied.template.render(self._person, self._rng)
        if implied.section in ("exam", "imaging", "course"):
            text = text[0].upper() + text[1:] + "."
        self._append(implied.section, Line(text, 0, len(text), entry))

    def _surface(
        self, entry: Entry, title: float = 0.12, present: AbstractSet[str] | None = None
    ) -> str:
        """A way to name the entry: mostly clinicians' forms, the official title by that chance.

        A form that states a second condition is used only where that one is present.
        """
        if not entry.forms or self._rng.random() < title:
            return _lower_first(entry.title)
        roll = self._rng.random()
        if roll < INCLUSION_TERM and entry.terms:
            return self._rng.choice(entry.terms)
        if roll > 1 - MISSPELLED and entry.misspelled:
            return self._rng.choice(entry.misspelled)
        forms = entry.forms + entry.held_out if self._held_out else entry.forms
        fitting = entry.fitting(forms, self._names if present is None else present)
        return self._rng.choice(fitting) if fitting else _lower_first(entry.title)

    def _cue(self, entry: Entry) -> str | None:
        cues = {
            "acute": ("negated", "negated", "ruled_out", "resolved"),
            "symptom": ("negated",),
            "chronic": ("negated", "family", "family", "other_person", "ruled_out"),
            "procedure": ("planned",),
        }
        options = cues.get(entry.kind)
        return self._rng.choice(options) if options else None

    def _add(
        self,
        section: str,
        template: Template,
        mention: str = "",
        entry: Entry | None = None,
        code: str | None = None,
    ) -> None:
        text, start, end = template.render(self._person, self._rng, mention)
        if section not in LISTS and self._rng.random() < CAPITALISED:
            text = text[:1].upper() + text[1:]
        self._append(section, Line(text, start, end, entry, code))

    def _append(self, section: str, line: Line) -> None:
        self._sections[section].append(line)
        self._words += line.text.count(" ") + 1


def _lower_first(title: str) -> str:
    """A title as it stands in a sentence: lower first letter unless it begins an abbreviation."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]
