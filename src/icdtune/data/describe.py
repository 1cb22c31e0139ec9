"""What a corpus is like: lengths, codes and their long tail, codes unseen in training, leakage.

One pass over the notes; what is kept of each is its length and, for near-duplicates, 64 numbers.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from icdtune.codes.tables import KNOWN, load_table
from icdtune.data.schema import Corpus, Note
from icdtune.progress import track

if TYPE_CHECKING:
    from datasketch import MinHash

BINS = ((1, 1), (2, 4), (5, 9), (10, 49), (50, 99), (100, None))
"""Numbers of training notes that carry a code, as bins."""
SHINGLE = 5
PERMUTATIONS = 64
SIMILAR = 0.8
"""Jaccard similarity of the sets of five successive words from which two notes are near-duplicates."""
LISTED = 20


def describe(corpus: Corpus, near_duplicates: bool = True) -> dict[str, Any]:
    """Figures of a corpus, as JSON holds them; no text is in them.

    Args:
        corpus: opened corpus.
        near_duplicates: also look for near-duplicates across splits (MinHash; 1.5 ms a note of 10 kB).
    """
    counts: dict[str, Counter[str]] = {}
    lengths: dict[str, dict[str, list[int]]] = {}
    leaks = _Leaks(near_duplicates)
    total = sum(info.notes for info in corpus.info.splits.values())
    for split, note in track(_notes(corpus), "Describe", total):
        own = lengths.setdefault(split, {"words": [], "characters": [], "codes": []})
        own["words"].append(len(note.text.split()))
        own["characters"].append(len(note.text))
        if note.codes is not None:
            own["codes"].append(len(note.codes))
            counts.setdefault(split, Counter()).update(note.codes)
        leaks.add(split, note)
    found: dict[str, Any] = corpus.info.model_dump() | {
        "splits": {
            split: corpus.info.splits[split].model_dump()
            | {name: _spread(values) for name, values in lengths[split].items() if values}
            for split in lengths
        },
        "unknown_codes": _unknown(corpus, counts),
        "duplicates": leaks.exact(),
        "near_duplicates": leaks.near() if near_duplicates else None,
        "evidence": _evidence(corpus),
    }
    if train := counts.get("train"):
        found["tail"] = _tail(train)
        found["frequencies"] = sorted(train.values(), reverse=True)
        found["unseen"] = _unseen(counts)
    return found


def _notes(corpus: Corpus) -> Iterator[tuple[str, Note]]:
    for split in corpus.splits:
        for note in corpus.notes(split):
            yield split, note


def _spread(values: Sequence[int]) -> dict[str, float]:
    numbers = np.array(values)
    quantiles = {f"p{q}": float(np.percentile(numbers, q)) for q in (5, 25, 50, 75, 95)}
    return {"mean": round(float(numbers.mean()), 2), "max": int(numbers.max()), **quantiles}


def _tail(train: Mapping[str, int]) -> dict[str, Any]:
    """How many codes, and which share of the mentions, are seen how often."""
    whole = sum(train.values())
    ranked = sorted(train.values(), reverse=True)
    rows = []
    for low, high in BINS:
        inside = [n for n in train.values() if n >= low and (high is None or n <= high)]
        title = f"{low}" if high == low else f"{low}-{high}" if high else f">={low}"
        rows.append({"notes": title, "codes": len(inside), "mentions": sum(inside) / whole})
    head = ranked[: max(1, len(ranked) // 10)]
    return {"bins": rows, "codes": len(train), "share_of_top_tenth": sum(head) / whole}


def _unseen(counts: Mapping[str, Counter[str]]) -> dict[str, Any]:
    """Of each split's codes, what training does not hold: share of the distinct ones and mentions."""
    known = {"train": set(counts["train"])}
    if "val" in counts:
        known["train and val"] = known["train"] | set(counts["val"])
    found: dict[str, Any] = {}
    for name, seen in known.items():
        found[name] = {"distinct_codes": len(seen)}
        for split, own in counts.items():
            if split not in name.split(" and "):
                new = {code: n for code, n in own.items() if code not in seen}
                found[name][split] = {
                    "codes": len(new) / len(own),
                    "mentions": sum(new.values()) / own.total(),
                }
    return found


def _unknown(corpus: Corpus, counts: Mapping[str, Counter[str]]) -> list[dict[str, Any]]:
    """Codes that the tables do not hold: mistyped, retired, or of another year."""
    tables = [load_table(name) for name in corpus.info.code_systems.values()]
    whole: Counter[str] = sum(counts.values(), Counter())
    missing = {
        code: n
        for code, n in whole.items()
        if not any(table.standing(code)[0] in KNOWN for table in tables)
    }
    ranked = sorted(missing.items(), key=lambda item: (-item[1], item[0]))
    return [{"code": code, "notes": n} for code, n in ranked]


def _evidence(corpus: Corpus) -> dict[str, Any] | None:
    """Mentions with evidence and the share of those in several pieces."""
    pieces: Counter[tuple[str, int]] = Counter()
    for span in corpus.evidence():
        pieces[span.note_id, span.group] += 1
    if not pieces:
        return None
    several = sum(n > 1 for n in pieces.values())
    return {"mentions": len(pieces), "discontinuous": several / len(pieces)}


class _Leaks:
    """Notes of different splits that are the same, or nearly so."""

    def __init__(self, near: bool) -> None:
        self._texts: dict[bytes, list[tuple[str, str]]] = {}
        self._signatures: list[tuple[str, str, MinHash]] | None = [] if near else None

    def add(self, split: str, note: Note) -> None:
        """Take in a note."""
        words = note.text.lower().split()
        digest = hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
        self._texts.setdefault(digest, []).append((split, note.note_id))
        if self._signatures is None:
            return
        from datasketch import MinHash

        shingles = {
            " ".join(words[i : i + SHINGLE]).encode()
            for i in range(max(1, len(words) - SHINGLE + 1))
        }
        signature = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
        signature.update_batch(list(shingles))
        self._signatures.append((split, note.note_id, signature))

    def exact(self) -> dict[str, Any]:
        """Texts that stand in more than one split, case and white space aside."""
        shared = [same for same in self._texts.values() if len({split for split, _ in same}) > 1]
        repeated = sum(len(same) - 1 for same in self._texts.values())
        listed = [[list(one) for one in same] for same in shared[:LISTED]]
        return {"repeated": repeated, "across_splits": len(shared), "listed": listed}

    def near(self) -> dict[str, Any]:
        """Pairs of notes of two splits that are alike, as MinHash estimates; with the first of them."""
        from datasketch import MinHashLSH

        signatures = self._signatures or []
        index = MinHashLSH(threshold=SIMILAR, num_perm=PERMUTATIONS)
        pairs: list[tuple[str, str, str, str, float]] = []
        touched: dict[str, set[str]] = {}
        for at, (split, note_id, signature) in enumerate(track(signatures, "Near-duplicates")):
            for other in index.query(signature):
                first_split, first_id, first = signatures[int(str(other))]
                similarity = float(signature.jaccard(first))
                if first_split != split and similarity >= SIMILAR:
                    pairs.append((first_split, first_id, split, note_id, round(similarity, 3)))
                    touched.setdefault(split, set()).add(note_id)
            index.insert(str(at), signature)
        return {
            "threshold": SIMILAR,
            "pairs": len(pairs),
            "notes": {split: len(ids) for split, ids in touched.items()},
            "listed": [list(pair) for pair in pairs[:LISTED]],
        }
