"""Shorten a note: the middle of its "Brief Hospital Course" first, else the middle of the whole.

The course is long and repeats itself; diagnoses, history and medication lists, which stand elsewhere,
survive (the rule of the study, arXiv 2606.13940).
"""

from __future__ import annotations

import re

MARK = "\n[... shortened ...]\n"
_COURSE = re.compile(
    r"^[ \t]*brief hospital course(?:[^\n:]{0,40}:[ \t]*|[ \t\r]*$)\n?", re.I | re.M
)
_HEADER = re.compile(
    r"^[A-Z][A-Za-z]*(?: (?:[A-Z/&(][A-Za-z/&()-]*|of|on|or|and|for|the|to|at)){0,6}:", re.M
)


def shorten(note: str, length: int) -> str:
    """The note cut to at most `length` characters (the mark of the cut not counted).

    The cut takes whole words; head and tail that are kept are of about equal length.
    """
    if len(note) <= length:
        return note
    start, end = course(note)
    excess = len(note) - length
    if end - start >= excess and start < end:
        return note[:start] + cut_middle(note[start:end], end - start - excess) + note[end:]
    return cut_middle(note, length)


def course(note: str) -> tuple[int, int]:
    """Where the body of the "Brief Hospital Course" stands; (0, 0) where there is none."""
    header = _COURSE.search(note)
    if header is None:
        return 0, 0
    following = _HEADER.search(note, header.end())
    return header.end(), following.start() if following else len(note)


def cut_middle(text: str, length: int) -> str:
    """Keep about `length` characters, half at each end, cut between words, and mark the cut."""
    if len(text) <= length:
        return text
    if length <= 0:
        return MARK
    head, tail = text[: (length + 1) // 2], text[len(text) - length // 2 :]
    if not text[len(head)].isspace():
        head = head[: max(head.rfind(" "), head.rfind("\n")) + 1]
    if tail and not text[len(text) - len(tail) - 1].isspace():
        space = re.search(r"\s", tail)
        tail = tail[space.end() :] if space else ""
    return head.rstrip() + MARK + tail.lstrip()
