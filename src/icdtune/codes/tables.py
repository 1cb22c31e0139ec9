"""Code tables: what a code is called, whether it bills, and where it stands in its tree.

Tables are memory-mapped columns in the user's cache folder, built there once per edition.
"""

from __future__ import annotations

import bisect
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather

from icdtune.codes.systems import SYSTEMS, CodeSystem, get_system
from icdtune.errors import IcdtuneError, UnknownCodeError
from icdtune.progress import waiting

Standing = Literal["exact", "prefix", "unknown", "malformed"]
KNOWN: tuple[Standing, ...] = ("exact", "prefix")
"""Standings of codes that a table holds, or whose continuation it holds."""


@dataclass(frozen=True)
class CodeEntry:
    """One node of a code system."""

    system: str
    code: str
    title: str
    billable: bool
    ancestors: tuple[tuple[str, str], ...]
    children: tuple[tuple[str, str], ...]
    notes: dict[str, tuple[str, ...]]


class CodeTable:
    """One code system's nodes in preorder: descendants of row i are rows i+1 .. end[i]-1."""

    def __init__(self, system: CodeSystem, directory: Path) -> None:
        self.system = system
        self._directory = directory
        table = pyarrow.feather.read_table(directory / f"{system.name}.arrow", memory_map=True)
        self.codes: list[str] = table["code"].to_pylist()
        self._titles: pa.ChunkedArray = table["title"]
        self._parents: pa.ChunkedArray = table["parent"]
        self._ends: pa.ChunkedArray = table["end"]
        self._billable: pa.ChunkedArray = table["billable"]
        self._rows = {code: row for row, code in enumerate(self.codes)}

    def __contains__(self, code: object) -> bool:
        return code in self._rows

    def __len__(self) -> int:
        return len(self.codes)

    def row(self, code: str) -> int:
        """Row of a canonical code; UnknownCodeError names the nearest valid codes."""
        try:
            return self._rows[code]
        except KeyError:
            raise self.unknown(code) from None

    def unknown(self, code: str) -> UnknownCodeError:
        """The error for a code that is not in this table."""
        nearest = ", ".join(self.nearest(code))
        hint = f" (closest: {nearest})" if nearest else ""
        return UnknownCodeError(
            f'code "{code}" is not in {self.system.title} {self.system.version}{hint}. '
            f"Look for it with: icdtune codes search WORDS"
        )

    def title(self, code: str) -> str:
        """Official title, or the shared words of the titles beneath (see `build`)."""
        return str(self._titles[self.row(code)].as_py())

    def titles(self, codes: Sequence[str]) -> list[str]:
        """Titles of many known codes."""
        rows = pa.array([self.row(code) for code in codes], pa.int32())
        result: list[str] = self._titles.take(rows).to_pylist()
        return result

    def billable(self, code: str) -> bool:
        """Whether the code can stand on a claim (a leaf of this edition)."""
        return bool(self._billable[self.row(code)].as_py())

    def billable_codes(self) -> list[str]:
        """All billable codes, in the order of the tree."""
        rows = pc.indices_nonzero(self._billable)
        return [self.codes[row] for row in rows.to_pylist()]

    def parent(self, code: str) -> str | None:
        """The node above, None at the top."""
        above = self._parents[self.row(code)].as_py()
        return None if above is None else self.codes[above]

    def ancestors(self, code: str) -> list[str]:
        """The nodes above, nearest first."""
        found: list[str] = []
        above = self.parent(code)
        while above is not None:
            found.append(above)
            above = self.parent(above)
        return found

    def children(self, code: str) -> list[str]:
        """The nodes one level below, in order."""
        row = self.row(code)
        end, child, found = self._ends[row].as_py(), row + 1, []
        while child < end:
            found.append(self.codes[child])
            child = self._ends[child].as_py()
        return found

    def descendants(self, code: str) -> list[str]:
        """All nodes below, in preorder."""
        row = self.row(code)
        return self.codes[row + 1 : self._ends[row].as_py()]

    def note(self, name: str, code: str) -> list[str]:
        """One kind of coding note of a code (`build.NOTE_FIELDS`), without those of its ancestors."""
        result: list[str] = self._notes()[name][self.row(code)].as_py()
        return result

    def notes_column(self, name: str) -> list[list[str]]:
        """One kind of coding note for every row of the table."""
        result: list[list[str]] = self._notes()[name].to_pylist()
        return result

    def entry(self, code: str) -> CodeEntry:
        """Everything about one code; its notes include those of the nodes above it."""
        row = self.row(code)
        above = self.ancestors(code)
        notes: dict[str, tuple[str, ...]] = {}
        for name in self._notes().column_names:
            own = [code] if name == "inclusion_terms" else [code, *above]
            lines = tuple(line for node in own for line in self.note(name, node))
            if lines:
                notes[name] = lines
        return CodeEntry(
            self.system.name,
            code,
            self.title(code),
            bool(self._billable[row].as_py()),
            tuple((node, self.title(node)) for node in reversed(above)),
            tuple((node, self.title(node)) for node in self.children(code)),
            notes,
        )

    def standing(self, raw: str) -> tuple[Standing, str]:
        """How a raw code stands against the table, with its canonical form.

        "exact" is billable, "prefix" is the beginning of a billable code, "unknown" is well formed but
        in no table, "malformed" cannot be a code of this system (then the text comes back as it was).
        """
        code = self.system.canonical(raw)
        if code is None:
            return "malformed", raw
        if code in self._rows:
            return ("exact" if self.billable(code) else "prefix"), code
        at = bisect.bisect_left(self._sorted, code)
        begins = at < len(self._sorted) and self._sorted[at].startswith(code)
        return ("prefix" if begins else "unknown"), code

    @functools.cached_property
    def _sorted(self) -> list[str]:
        return sorted(code for code in self.codes if "-" not in code)  # blocks are no codes

    def nearest(self, code: str, count: int = 3) -> list[str]:
        """The valid codes closest to a wrong one: same longest prefix, then by similarity."""
        import difflib

        text = code.strip().upper()
        for length in range(len(text), 1, -1):
            head = text[:length].rstrip(".")
            if head in self._rows:
                pool = [head, *self.descendants(head)]
                break
        else:
            pool = [c for c in self.codes if c[:1] == text[:1]]
        pool = [c for c in pool if "-" not in c][:20_000]
        return difflib.get_close_matches(text, pool, count, cutoff=0.3)

    def _notes(self) -> pa.Table:
        if not hasattr(self, "_note_table"):
            path = self._directory / f"{self.system.name}.notes.arrow"
            self._note_table = pyarrow.feather.read_table(path, memory_map=True)
        return self._note_table


def cache_directory() -> Path:
    """Where tables and search indexes of this edition live: ICDTUNE_CACHE or the user's cache."""
    import platformdirs

    from icdtune.codes.build import source_version

    base = os.environ.get("ICDTUNE_CACHE") or platformdirs.user_cache_dir("icdtune")
    return Path(base) / "codes" / source_version()


def ensure_tables() -> Path:
    """The folder of the tables, built now if this edition was never used before."""
    directory = cache_directory()
    if not (directory / "icd10_to_icd9.arrow").exists():
        from icdtune.codes.build import build_tables

        with waiting("Building the code tables (once per edition, about 10 s)"):
            try:
                build_tables(directory)
            except (IcdtuneError, OSError) as error:
                if not (directory / "icd10_to_icd9.arrow").exists():  # else another was faster
                    raise IcdtuneError(
                        f"the code tables cannot be kept in {directory} ({type(error).__name__}). Set "
                        f"ICDTUNE_CACHE to a folder that can be written"
                    ) from error
    return directory


@functools.cache
def load_table(system: str) -> CodeTable:
    """The table of a code system, by name; loaded once a process."""
    return CodeTable(get_system(system), ensure_tables())


def resolve(raw: str, systems: Sequence[str] = tuple(SYSTEMS)) -> CodeEntry:
    """Find a code written in any fashion in the first of `systems` that holds it.

    Raises UnknownCodeError with the nearest valid codes where none does.
    """
    candidates = []
    for name in systems:
        code = get_system(name).canonical(raw)
        if code is not None:
            table = load_table(name)
            if code in table:
                return table.entry(code)
            candidates.append((table, code))
    if not candidates:
        known = ", ".join(get_system(name).title for name in systems)
        text = f'"{raw}"' if len(raw) <= 40 else "what was given"
        raise UnknownCodeError(
            f"{text} is not written like a code of {known}. "
            f"Look for codes by words with: icdtune codes search WORDS"
        )
    table, code = candidates[0]
    raise table.unknown(code)
