"""A note as the report shows it: its text cut where evidence begins and ends, and who found what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icdtune.errors import IcdtuneError


@dataclass(frozen=True)
class Piece:
    """A stretch of a note's text that lies under the same evidence.

    Attributes:
        text: the characters.
        codes: codes whose evidence covers it.
        ends: those whose span ends with it.
    """

    text: str
    codes: tuple[str, ...]
    ends: tuple[str, ...]


@dataclass(frozen=True)
class Chip:
    """One code of a coder's answer, or one that it missed; score None where there is none."""

    code: str
    title: str
    score: float | None
    evidence: bool


@dataclass(frozen=True)
class Outcome:
    """A coder's answer to one note, against gold; `answered` is false where it has none."""

    coder: str
    answered: bool
    hit: tuple[Chip, ...]
    missed: tuple[Chip, ...]
    spurious: tuple[Chip, ...]


def example_view(example: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """A note as the page shows it: its text in pieces, and each coder's outcome."""
    titles = results["titles"]
    shown = {span["code"] for span in example["evidence"]}

    def chips(codes: Iterable[str], scores: Mapping[str, float | None]) -> tuple[Chip, ...]:
        return tuple(Chip(c, titles.get(c, ""), scores.get(c), c in shown) for c in codes)

    gold = example["gold"]
    outcomes = []
    for coder in results["coders"]:
        answer = example["predicted"].get(coder["name"])
        scores = {item["code"]: item.get("score") for item in answer or ()}
        outcomes.append(
            Outcome(
                coder["name"],
                answer is not None,
                chips((code for code in scores if code in gold), scores),
                chips((code for code in gold if code not in scores), {}),
                chips((code for code in scores if code not in gold), scores),
            )
        )
    pieces = split_text(example["note_id"], example["text"], example["evidence"])
    return {"note_id": example["note_id"], "gold": gold, "pieces": pieces, "outcomes": outcomes}


def split_text(note_id: str, text: str, evidence: Sequence[Mapping[str, Any]]) -> list[Piece]:
    """Cut a text where an evidence span starts or ends; overlapping spans share pieces.

    Offsets count characters. Raises IcdtuneError for a span outside the text.
    """
    for span in evidence:
        if not 0 <= span["start"] < span["end"] <= len(text):
            raise IcdtuneError(
                f"note {note_id}: evidence for {span['code']} at {span['start']}-{span['end']} is "
                f"outside the text of {len(text)} characters. Correct the offsets"
            )
    cuts = sorted({0, len(text), *(span[end] for span in evidence for end in ("start", "end"))})
    result = []
    for start, end in zip(cuts, cuts[1:], strict=False):
        over = [s for s in evidence if s["start"] <= start and end <= s["end"]]
        codes = dict.fromkeys(span["code"] for span in over)
        ends = dict.fromkeys(span["code"] for span in over if span["end"] == end)
        result.append(Piece(text[start:end], tuple(codes), tuple(ends)))
    return result
