"""Errors a user can act on: one line naming the file, the row or field, and the way out."""

from __future__ import annotations


class IcdtuneError(Exception):
    """Bad input or an impossible request.

    The message is one line, never holds note text, and says what to do. The command line prints it
    and exits with status 2.
    """


class UnknownCodeError(IcdtuneError):
    """A code that its code system does not hold."""
