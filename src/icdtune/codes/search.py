"""Full-text search over titles and inclusion terms, ranked by BM25."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
import numpy.typing as npt

from icdtune.codes.systems import get_system
from icdtune.codes.tables import ensure_tables, load_table
from icdtune.errors import IcdtuneError
from icdtune.files import atomic_directory

_WORD = re.compile(r"[a-z0-9]+")
_STOP = frozenset(
    ("a", "an", "and", "by", "for", "from", "in", "nos", "of", "on", "or", "other", "the", "to")
    + ("unspecified", "with", "without")
)


@dataclass(frozen=True)
class Hit:
    """A search result."""

    code: str
    title: str
    billable: bool
    score: float


def words(text: str) -> list[str]:
    """Search words of a text: lower case, no stop words, plural s cut."""
    found = []
    for word in _WORD.findall(text.casefold()):
        if word not in _STOP:
            plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
            found.append(word[:-1] if plural else word)
    return found


@functools.cache
def _index(system: str) -> bm25s.BM25:
    """The BM25 index of a system, memory-mapped from the cache, built there on first use.

    Its documents are the titles of all rows, then their inclusion terms, row by row: a term is found
    by its own words, however much else belongs to the code.
    """
    directory: Path = ensure_tables() / f"{system}.bm25"
    if not directory.exists():
        table = load_table(system)
        titles = table.titles(table.codes)
        terms = table.notes_column("inclusion_terms")
        documents = [words(title) or ["-"] for title in titles]
        for own in terms:
            documents += [words(term) or ["-"] for term in own]
        index = bm25s.BM25()
        index.index(documents, show_progress=False)
        try:
            with atomic_directory(directory) as temporary:
                index.save(temporary, show_progress=False)
        except IcdtuneError:  # another process was faster: its index is the same
            if not directory.exists():
                raise
    return bm25s.BM25.load(directory, mmap=True, load_vocab=True)


@functools.cache
def _owners(system: str) -> npt.NDArray[np.int64]:
    """Row of each document of the index."""
    table = load_table(system)
    sizes = [len(terms) for terms in table.notes_column("inclusion_terms")]
    rows = np.arange(len(table))
    return np.concatenate([rows, np.repeat(rows, sizes)])


def search(
    query: str, system: str = "icd10cm", count: int = 10, billable: bool = False
) -> list[Hit]:
    """Codes whose title and inclusion terms match the query best, best first.

    Args:
        query: words in any order.
        system: name of the code system.
        count: how many hits at most.
        billable: leave out nodes that are not billable.

    Returns:
        Hits with positive score, each code by its best title or term; equal scores in the order of
        the tree, titles before terms.
    """
    table = load_table(get_system(system).name)
    index = _index(system)
    known = [word for word in words(query) if word in index.vocab_dict]
    if not known:
        return []
    scores = index.get_scores(known)
    owners = _owners(system)
    hits: list[Hit] = []
    seen: set[int] = set()
    for document in np.argsort(-scores, kind="stable"):
        if scores[document] <= 0 or len(hits) == count:
            break
        row = int(owners[document])
        code = table.codes[row]
        bills = table.billable(code)
        if row not in seen and (bills or not billable):
            hits.append(Hit(code, table.title(code), bills, float(scores[document])))
        seen.add(row)
    return hits
