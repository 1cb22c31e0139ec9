"""Sentence templates: text with placeholders, parsed once and rendered fast.

Placeholders: {x} the mention, {age}, {noun}, {He}, {he}, {his}, {weekday}, and a range {lo..hi} from
which a number is drawn, with the decimals of `lo`.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from icdtune.data.schema import first_problem
from icdtune.errors import IcdtuneError

_PLACE = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+(?:\.\d+)?)\.\.(\d+(?:\.\d+)?)")
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WORDS = ("age", "noun", "He", "he", "his", "weekday")


@dataclass(frozen=True, slots=True)
class Person:
    """Who the note is about, as templates need it."""

    age: int
    female: bool

    def word(self, name: str, rng: random.Random) -> str:
        """The word for a placeholder."""
        if name == "age":
            return str(self.age)
        if name == "weekday":
            return rng.choice(_WEEKDAYS)
        male, female = {
            "noun": ("man", "woman"),
            "He": ("He", "She"),
            "he": ("he", "she"),
            "his": ("his", "her"),
        }[name]
        return female if self.female else male


@dataclass(frozen=True)
class Template:
    """One sentence or list item."""

    text: str

    @cached_property
    def _parts(self) -> tuple[str | tuple[str, Any], ...]:
        parts: list[str | tuple[str, Any]] = []
        for at, piece in enumerate(_PLACE.split(self.text)):
            if at % 2 == 0:
                if piece:
                    parts.append(piece)
            elif piece == "x":
                parts.append(("x", None))
            elif match := _RANGE.fullmatch(piece):
                low, high = match.groups()
                decimals = len(low.partition(".")[2])
                scale = 10**decimals
                bounds = (round(float(low) * scale), round(float(high) * scale), decimals)
                parts.append(("range", bounds))
            elif piece in WORDS:
                parts.append(("word", piece))
            else:
                raise IcdtuneError(
                    f'template "{self.text}": unknown placeholder "{{{piece}}}". '
                    f"Known: x, {', '.join(WORDS)}, lo..hi"
                )
        return tuple(parts)

    def render(self, person: Person, rng: random.Random, mention: str = "") -> tuple[str, int, int]:
        """The text, and the offsets [start, end) of the mention in it (0, 0 without {x})."""
        out: list[str] = []
        length = start = end = 0
        for part in self._parts:
            if isinstance(part, str):
                piece = part
            elif part[0] == "x":
                piece, start, end = mention, length, length + len(mention)
            elif part[0] == "word":
                piece = person.word(part[1], rng)
            else:
                low, high, decimals = part[1]
                number = rng.randint(low, high)
                piece = f"{number / 10**decimals:.{decimals}f}" if decimals else str(number)
            out.append(piece)
            length += len(piece)
        return "".join(out), start, end

    def pattern(self, mention: str = "") -> re.Pattern[str]:
        """A regular expression of what the template can render, ranges as groups."""
        out = []
        for part in self._parts:
            if isinstance(part, str):
                out.append(re.escape(part))
            elif part[0] == "x":
                out.append(re.escape(mention))
            elif part[0] == "word":
                options = {
                    Person(0, female).word(part[1], random.Random(0)) for female in (True, False)
                }
                if part[1] in ("age", "weekday"):
                    out.append(r"\w+")
                else:
                    out.append(f"(?:{'|'.join(sorted(options))})")
            else:
                out.append(r"(\d+(?:\.\d+)?)")
        return re.compile("".join(out), re.IGNORECASE)

    def in_range(self, numbers: tuple[str, ...]) -> bool:
        """Whether the numbers that `pattern` found lie in the template's ranges."""
        ranges = [
            part[1] for part in self._parts if not isinstance(part, str) and part[0] == "range"
        ]
        return all(
            low <= round(float(number) * 10**decimals) <= high
            for number, (low, high, decimals) in zip(numbers, ranges, strict=True)
        )


class _Mentions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    chief_complaint: list[str]
    hpi: dict[str, list[str]]
    history_list: dict[str, list[str]]
    course: dict[str, list[str]]
    procedures_list: list[str]
    diagnosis_list: list[str]


class _RawTemplates(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mentions: _Mentions
    distractors: dict[str, list[str]]
    filler: dict[str, list[str]]
    lookalikes: dict[str, list[str]]
    ignored_inclusion_terms: list[str] = []
    contradictions: dict[str, list[str]] = {}


@dataclass(frozen=True)
class Templates:
    """All templates, by purpose.

    Attributes:
        mentions: section -> kind ("" where the section does not distinguish) -> templates with {x}.
        distractors: cue -> templates in which {x} must not be coded.
        filler, lookalikes: section -> templates that code nothing.
        ignored_terms: inclusion terms of the code tables that cannot stand in a note.
        contradictions: (pattern of filler, beginnings of codes beside which it cannot stand).
    """

    mentions: dict[str, dict[str, tuple[Template, ...]]]
    distractors: dict[str, tuple[Template, ...]]
    filler: dict[str, tuple[Template, ...]]
    lookalikes: dict[str, tuple[Template, ...]]
    ignored_terms: tuple[str, ...]
    contradictions: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]


def load_templates(path: Path) -> Templates:
    """Read and check the template file; IcdtuneError names the field."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        raw = _RawTemplates.model_validate(content)
    except yaml.YAMLError:
        raise IcdtuneError(f"{path} is not valid YAML. Quote special characters") from None
    except ValidationError as error:
        raise IcdtuneError(f"{path}: {first_problem(error)}. See docs/synthetic.md") from None

    def compiled(where: str, lines: list[str], mention: bool) -> tuple[Template, ...]:
        for line in lines:
            if line.count("{x}") != int(mention):
                raise IcdtuneError(f'{path}: field "{where}": "{line}" needs {int(mention)} {{x}}')
        return tuple(Template(line) for line in lines)

    mentions: dict[str, dict[str, tuple[Template, ...]]] = {}
    for section, value in raw.mentions.model_dump().items():
        by_kind = value if isinstance(value, dict) else {"": value}
        mentions[section] = {
            kind: compiled(f"mentions.{section}.{kind}", lines, True)
            for kind, lines in by_kind.items()
        }

    def group(name: str, mention: bool) -> dict[str, tuple[Template, ...]]:
        lines: dict[str, list[str]] = getattr(raw, name)
        return {key: compiled(f"{name}.{key}", value, mention) for key, value in lines.items()}

    return Templates(
        mentions,
        group("distractors", True),
        group("filler", False),
        group("lookalikes", False),
        tuple(raw.ignored_inclusion_terms),
        tuple(
            (re.compile(pattern, re.IGNORECASE), tuple(codes))
            for pattern, codes in raw.contradictions.items()
        ),
    )
