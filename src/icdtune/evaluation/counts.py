"""Turn gold and predictions into sparse counts per subject, the unit that is resampled.

Everything a metric needs is linear in the subjects, so that a bootstrap resample is a matrix product.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from icdtune.codes.tables import load_table
from icdtune.data.labels import Task
from icdtune.data.predictions import Predictions
from icdtune.data.schema import canonical_code
from icdtune.errors import IcdtuneError

PRECISION_AT = (5, 8, 15)
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Counts:
    """What a coder got right and wrong, by subject.

    Attributes:
        codes: the columns: the label space in its order, then any other predicted code.
        in_space: (codes,) whether a column belongs to the label space.
        valid: (codes,) whether the code tables hold the code.
        true_positive, predicted, gold: (subjects, codes) sparse numbers of notes.
        sums: note-level quantities summed by subject, each (subjects,); "notes" counts notes.
        subjects: the rows.
        notes: digest of the note ids, to tell whether two counts are about the same notes.
    """

    codes: tuple[str, ...]
    in_space: Bools
    valid: Bools
    true_positive: sp.csr_array
    predicted: sp.csr_array
    gold: sp.csr_array
    sums: dict[str, Floats]
    subjects: tuple[str, ...]
    notes: str


@dataclass(frozen=True)
class Totals:
    """Counts summed over (weighted) subjects; the last axis runs over resamples.

    Attributes:
        true_positive, predicted, gold: (codes, resamples).
        sums: name -> (resamples,).
        in_space, valid, seen: (codes,); `seen` is gold in the whole evaluated split.
    """

    true_positive: Floats
    predicted: Floats
    gold: Floats
    sums: dict[str, Floats]
    in_space: Bools
    valid: Bools
    seen: Bools

    def select(self, codes: Bools) -> Totals:
        """The same totals over some codes only."""
        return Totals(
            self.true_positive[codes],
            self.predicted[codes],
            self.gold[codes],
            self.sums,
            self.in_space[codes],
            self.valid[codes],
            self.seen[codes],
        )


def count(task: Task, split: str, predictions: Predictions) -> Counts:
    """Count a coder's predictions against the gold of a split.

    Gold is restricted to the label space; every predicted code counts, also outside it. Raises
    IcdtuneError for an unlabelled split or predictions for other notes than the split's.
    """
    ids, subjects, gold = task.gold(split)
    if not ids:
        raise IcdtuneError(f'{task.corpus.path} split "{split}" has no notes in this label space')
    order = _align(task, split, ids, predictions)
    table = predictions.table.take(pa.array(order, pa.int64()))
    columns = dict(task.labels.index)
    pred_note, pred_code = _pairs(table["codes"], columns, task.corpus.info.code_systems)
    lengths = np.fromiter((len(codes) for codes in gold), np.int64, len(gold))
    gold_note = np.repeat(np.arange(len(ids)), lengths)
    gold_code = np.fromiter(
        (columns[code] for codes in gold for code in codes), np.int64, int(lengths.sum())
    )
    ranked = table["ranked_codes"]
    if ranked.null_count:
        ranked = pc.if_else(pc.is_null(ranked), table["codes"], ranked)
    rank_note, rank_code = _pairs(ranked, columns, task.corpus.info.code_systems, first=False)
    width = len(columns)
    gold_keys = np.unique(gold_note * width + gold_code)
    pred_keys = np.unique(pred_note * width + pred_code)
    hit_keys = np.intersect1d(gold_keys, pred_keys, assume_unique=True)
    names, row_of = np.unique(np.array(subjects), return_inverse=True)

    def by_subject(keys: npt.NDArray[np.int64]) -> sp.csr_array:
        rows = row_of[keys // width]
        values = np.ones(len(keys), np.float32)
        return sp.csr_array((values, (rows, keys % width)), shape=(len(names), width))

    per_note = _note_sums(len(ids), width, gold_keys, pred_keys, hit_keys)
    per_note.update(_ranking(len(ids), width, gold_keys, rank_note, rank_code))
    sums = {
        name: np.bincount(row_of, weights=values, minlength=len(names)).astype(float)
        for name, values in per_note.items()
    }
    codes = tuple(columns)
    in_space = np.arange(width) < len(task.labels.codes)
    return Counts(
        codes,
        in_space,
        _valid(codes, task.corpus.info.code_systems),
        by_subject(hit_keys),
        by_subject(pred_keys),
        by_subject(gold_keys),
        sums,
        tuple(str(name) for name in names),
        hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest(),
    )


def average(parts: Sequence[Counts]) -> Counts:
    """Mean of counts over runs (seeds) on the same notes: expected counts of a run."""
    if len(parts) == 1:
        return parts[0]
    aligned = align_columns(parts)
    first = aligned[0]

    def mean(name: str) -> sp.csr_array:
        total = sum((getattr(part, name) for part in aligned[1:]), getattr(first, name))
        return sp.csr_array(total.astype(float) / len(aligned))

    sums = {k: np.mean([part.sums[k] for part in aligned], axis=0) for k in first.sums}
    return Counts(
        first.codes,
        first.in_space,
        first.valid,
        mean("true_positive"),
        mean("predicted"),
        mean("gold"),
        sums,
        first.subjects,
        first.notes,
    )


def align_columns(parts: Sequence[Counts]) -> list[Counts]:
    """Give counts over the same subjects and label space the same columns."""
    first = parts[0]
    space = int(first.in_space.sum())
    for part in parts[1:]:
        same = part.codes[: int(part.in_space.sum())] == first.codes[:space]
        if part.notes != first.notes or not same:
            raise IcdtuneError(
                "the predictions are for different notes or label spaces. Predict the same split "
                "with the same label space to compare or combine"
            )
    extra = dict.fromkeys(code for part in parts for code in part.codes[space:])
    columns = {code: i for i, code in enumerate([*first.codes[:space], *extra])}
    valid = np.zeros(len(columns), bool)
    for part in parts:
        valid[[columns[code] for code in part.codes]] = part.valid
    in_space = np.arange(len(columns)) < space

    def widen(part: Counts, matrix: sp.csr_array) -> sp.csr_array:
        to = np.array([columns[code] for code in part.codes], np.int64)
        coo = matrix.tocoo()
        shape = (matrix.shape[0], len(columns))
        return sp.csr_array((coo.data, (coo.row, to[coo.col])), shape=shape)

    return [
        Counts(
            tuple(columns),
            in_space,
            valid,
            widen(part, part.true_positive),
            widen(part, part.predicted),
            widen(part, part.gold),
            part.sums,
            part.subjects,
            part.notes,
        )
        for part in parts
    ]


def _align(
    task: Task, split: str, ids: list[str], predictions: Predictions
) -> npt.NDArray[np.int64]:
    """Row of each note's prediction; IcdtuneError unless they are for exactly these notes."""
    given = predictions.table["note_id"].to_pylist()
    row = {note_id: i for i, note_id in enumerate(given)}
    if len(row) != len(given):
        twice = next(note for i, note in enumerate(given) if row[note] != i)
        raise IcdtuneError(
            f'{predictions.source}: field "note_id": {twice} stands twice. Keep one row a note'
        )
    missing = [note_id for note_id in ids if note_id not in row]
    if missing:
        raise IcdtuneError(
            f"{predictions.source}: {len(missing)} of {len(ids)} notes of split "
            f'"{split}" are missing, first {missing[0]}. Predict the whole split'
        )
    if len(given) > len(ids):
        every = set(task.corpus.columns(split, "note_id")["note_id"].to_pylist())
        other = next((note for note in given if note not in every), None)
        if other is not None:
            at = row[other]
            raise IcdtuneError(
                f'{predictions.source} row {at}: field "note_id": {other} is not a note of split '
                f'"{split}". Evaluate on the split that was predicted'
            )
    return np.fromiter((row[note_id] for note_id in ids), np.int64, len(ids))


def _pairs(
    column: pa.ChunkedArray, columns: dict[str, int], systems: dict[str, str], first: bool = True
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(note, column) of every code of a list column; new codes get new columns if `first`.

    Codes are canonicalised where they can be, a malformed one stays as it is. Without `first` an
    unknown code gets column -1.
    """
    array = column.combine_chunks()
    notes = pc.list_parent_indices(array).to_numpy(zero_copy_only=False).astype(np.int64)
    encoded = pc.list_flatten(array).dictionary_encode()
    ids = np.full(len(encoded.dictionary), -1, np.int64)
    for at, raw in enumerate(encoded.dictionary.to_pylist()):
        code = raw if raw in columns else canonical_code(raw, systems) or raw
        ids[at] = columns.setdefault(code, len(columns)) if first else columns.get(code, -1)
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    return notes, ids[indices] if len(ids) else np.empty(0, np.int64)


def _valid(codes: Sequence[str], systems: dict[str, str]) -> Bools:
    tables = [load_table(name) for name in systems.values()]
    return np.array(
        [any(code in t and t.system.canonical(code) == code for t in tables) for code in codes],
        bool,
    )


def _note_sums(
    notes: int,
    width: int,
    gold: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    hits: npt.NDArray[np.int64],
) -> dict[str, Floats]:
    """Exact match and sample F1 of each note; both sets empty count as 1."""
    n_gold, n_pred, n_hit = (
        np.bincount(keys // width, minlength=notes) for keys in (gold, predicted, hits)
    )
    size = n_gold + n_pred
    f1 = np.divide(2.0 * n_hit, size, out=np.ones(notes), where=size > 0)
    exact = (n_hit == n_gold) & (n_hit == n_pred)
    return {
        "notes": np.ones(notes),
        "exact_match": exact.astype(float),
        "sample_f1": f1,
        "coded_notes": (n_gold > 0).astype(float),
    }


def _ranking(
    notes: int,
    width: int,
    gold: npt.NDArray[np.int64],
    note: npt.NDArray[np.int64],
    code: npt.NDArray[np.int64],
) -> dict[str, Floats]:
    """Average precision and hits in the first k of each note's ranking (a repeat is a miss)."""
    n_gold = np.bincount(gold // width, minlength=notes)
    starts = np.searchsorted(note, np.arange(notes))
    rank = np.arange(len(note)) - starts[note]
    keys = np.where(code >= 0, note * width + code, -1)
    at = np.searchsorted(gold, keys)
    hit = at < len(gold)
    hit[hit] = gold[at[hit]] == keys[hit]
    positions = np.flatnonzero(hit)
    _, once = np.unique(keys[positions], return_index=True)
    positions = positions[np.sort(once)]
    hit_note, hit_rank = note[positions], rank[positions]
    nth = np.arange(len(positions)) - np.searchsorted(hit_note, hit_note) + 1
    summed = np.bincount(hit_note, weights=nth / (hit_rank + 1.0), minlength=notes)
    result = {"average_precision": np.divide(summed, n_gold, out=np.zeros(notes), where=n_gold > 0)}
    for k in PRECISION_AT:
        result[f"precision_at_{k}"] = np.bincount(hit_note[hit_rank < k], minlength=notes) / k
    return result
