"""Hints: codes shown in a training prompt as already confirmed, each with its title."""

from __future__ import annotations

from collections.abc import Callable, Sequence

LIMIT = 100
"""Characters of a title, as in the study."""


def render_hint(
    codes: Sequence[str], title: Callable[[str], str], families: Sequence[str] = ()
) -> str:
    """The hint's text; empty for no codes.

    Args:
        codes: the codes to show, in this order.
        title: a code's title; "" where it has none, which shows the code bare.
        families: ancestors of codes that are not shown themselves.
    """
    if not codes and not families:
        return ""
    lines = [f"{code}: {cut(title(code))}" if title(code) else code for code in codes]
    lines += [f"a code under {family}: {cut(title(family))}" for family in families]
    return (
        "Codes already confirmed for this case:\n"
        + "\n".join(lines)
        + "\nInclude them and find the others."
    )


def cut(title: str, limit: int = LIMIT) -> str:
    """A title of at most `limit` characters, cut after a whole word."""
    if len(title) <= limit:
        return title
    head = title[: limit - 3]
    return (head.rsplit(" ", 1)[0] if " " in head else head).rstrip(" ,;") + "..."
