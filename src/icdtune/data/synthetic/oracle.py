"""An oracle that knows the generator's rules and reads only the text.

It bounds from above what any coder can reach on the synthetic corpus: what it misses is the coders'
noise and the rare ambiguity. It is a yardstick, never a baseline.
"""

from __future__ import annotations

import re

from icdtune.codes.matching import TermMatcher
from icdtune.data.synthetic.lexicon import Entry, Lexicon
from icdtune.data.synthetic.templates import Template, Templates

WINDOW = 200


class Oracle:
    """Finds every stated entry, leaves out distractors and filler, and applies the coding rules."""

    def __init__(self, lexicon: Lexicon, templates: Templates, titles: dict[str, str]) -> None:
        self._lexicon = lexicon
        terms: list[tuple[str, Entry | None]] = []
        self._silent: list[tuple[str, re.Pattern[str]]] = []
        for entry in lexicon.entries:
            terms += [(surface, entry) for surface in entry.surfaces(held_out=True)]
        silent = [*templates.filler.values(), *templates.lookalikes.values()]
        for template in (template for pool in silent for template in pool):
            if "{" in template.text:
                self._silent.append((_longest(template), template.pattern()))
            else:
                terms.append((template.text, None))
        own = {entry.code for entry in lexicon.entries}
        terms += [(title, None) for code, title in titles.items() if code not in own]
        self._matcher = TermMatcher(terms)
        self._cues = [
            (*_context(template), template)
            for pool in templates.distractors.values()
            for template in pool
        ]
        self._implied = [
            (_longest(item.template), item.template, item.template.pattern(), entry)
            for entry in lexicon.entries
            for item in entry.implied
        ]

    def codes(self, text: str) -> tuple[str, ...]:
        """Codes that the text states, by the generator's rules."""
        present: dict[str, Entry] = {}
        covered: list[tuple[int, int]] = []
        for literal, template, pattern, entry in self._implied:
            if literal in text:
                match = pattern.search(text)
                if match and template.in_range(match.groups()):
                    present[entry.id] = entry
                    covered.append(match.span())
        for literal, pattern in self._silent:
            if literal in text:
                covered += [match.span() for match in pattern.finditer(text)]
        for start, end, found in self._matcher.find(text):
            if found is None or any(a <= start and end <= b for a, b in covered):
                continue
            if not self._distracting(text, start, end):
                present[found.id] = found
        return tuple(self._lexicon.code(tuple(present.values())))

    def _distracting(self, text: str, start: int, end: int) -> bool:
        for before, after, template in self._cues:
            if text.startswith(after, end) and text.endswith(before, 0, start):
                window = text[max(0, start - WINDOW) : end + WINDOW]
                pattern = template.pattern(text[start:end]).pattern
                if re.search(rf"(?:\A|(?<=\s)){pattern}", window):
                    return True
        return False


def _longest(template: Template) -> str:
    """A literal that the first letter's case does not change."""
    pieces = [piece.rpartition("}")[2] for piece in template.text.split("{")]
    return max((piece[1:] for piece in pieces), key=len)


def _context(template: Template) -> tuple[str, str]:
    """What stands right before and after {x}, up to the next placeholder."""
    before, after = template.text.split("{x}")
    return before.rpartition("}")[2], after.partition("{")[0]
