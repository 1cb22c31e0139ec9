"""Errors a user can act on: one line naming the file, the row or field, and the way out."""

from __future__ import annotations


class IcdtuneError(Exception):
    """Bad input or an impossible request.

    The message is one line, never holds note text, and says what to do. The command line prints it
    and exits with status 2.
    """


def shown(value: str) -> str:
    """A value in quotes where it looks like a code; else no more than that it is not shown.

    What stands where a code belongs may be note text.
    """
    plain = len(value) <= 9 and value.isascii() and value.replace(".", "").isalnum()
    return f'"{value}"' if plain and any(c.isdigit() for c in value) else "(not shown: no code)"


class UnknownCodeError(IcdtuneError):
    """A code that its code system does not hold."""
