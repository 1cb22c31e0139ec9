"""Score found evidence against what people marked: over codes that are predicted and marked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from icdtune.data.evidence import Span
from icdtune.evaluation.counts import Floats
from icdtune.evaluation.intervals import percentiles, resample_weights

METRICS = ("token_f1", "token_precision", "token_recall", "iou")


@dataclass(frozen=True)
class EvidenceCounts:
    """Sums over the pairs of a note and a code, one entry a subject.

    Attributes:
        subjects: whose notes they are.
        found, marked, both: tokens of the found spans, of the marked ones, and of both.
        iou: the pairs' intersections over unions, summed.
        pairs: number of pairs.
    """

    subjects: tuple[str, ...]
    found: Floats
    marked: Floats
    both: Floats
    iou: Floats
    pairs: Floats


def count_evidence(
    found: Iterable[Span],
    marked: Iterable[Span],
    notes: Mapping[str, tuple[str, list[tuple[int, int]]]],
    predicted: Mapping[str, Iterable[str]],
) -> EvidenceCounts:
    """Compare spans token by token.

    A token counts where a span touches it. Pairs are the codes of a note that are predicted and have
    marked evidence; one without found spans counts with none.

    Args:
        found, marked: spans of any notes, any codes.
        notes: note id -> subject and the characters [start, end) of its tokens.
        predicted: note id -> codes.
    """
    pairs = {(note, code) for note, codes in predicted.items() for code in codes}
    gold = _tokens(marked, notes, pairs)
    own = _tokens(found, notes, set(gold))
    subjects = sorted({subject for subject, _ in notes.values()})
    row = {subject: i for i, subject in enumerate(subjects)}
    sums = np.zeros((5, len(subjects)))
    for pair, wanted in gold.items():
        got = own.get(pair, set())
        both = len(got & wanted)
        values = (len(got), len(wanted), both, both / max(1, len(got | wanted)), 1)
        sums[:, row[notes[pair[0]][0]]] += values
    return EvidenceCounts(tuple(subjects), *sums)


def evidence_metrics(
    counts: EvidenceCounts, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, dict[str, float]]:
    """Each of METRICS with its interval by subject.

    Token precision, recall and F1 are over all pairs' tokens; "iou" is the mean over the pairs of
    intersection over union (as in DeYoung et al. 2020, without a threshold). Intervals are cut at 0
    and 1.
    """
    values = {name: float(v[0]) for name, v in _values(counts, _once(counts)).items()}
    drawn = _drawn(counts, resamples, seed)
    found = {}
    for name, value in values.items():
        limits = percentiles(drawn[name], value, level)
        found[name] = {"value": value} | {
            end: min(1.0, max(0.0, limit)) for end, limit in limits.items()
        }
    return found


def compare_evidence(
    first: EvidenceCounts,
    second: EvidenceCounts,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, float]]:
    """Second minus first over the same subjects: difference and its paired interval."""
    one, two = (_values(counts, _once(counts)) for counts in (first, second))
    before, after = (_drawn(counts, resamples, seed) for counts in (first, second))
    found = {}
    for name in METRICS:
        difference = float(two[name][0] - one[name][0])
        limits = percentiles(after[name] - before[name], difference, level)
        found[name] = {"difference": difference, **limits}
    return found


def _tokens(
    spans: Iterable[Span],
    notes: Mapping[str, tuple[str, list[tuple[int, int]]]],
    pairs: set[tuple[str, str]],
) -> dict[tuple[str, str], set[int]]:
    """Pair -> its tokens."""
    touched: dict[tuple[str, str], set[int]] = defaultdict(set)
    for span in spans:
        if (span.note_id, span.code) in pairs and span.note_id in notes:
            offsets = notes[span.note_id][1]
            touched[span.note_id, span.code].update(
                i for i, (start, end) in enumerate(offsets) if start < span.end and span.start < end
            )
    return touched


def _once(counts: EvidenceCounts) -> Floats:
    return np.ones((len(counts.subjects), 1))


def _drawn(counts: EvidenceCounts, resamples: int, seed: int) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    parts = [
        _values(counts, w.astype(float))
        for w in resample_weights(len(counts.subjects), resamples, rng)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in METRICS}


def _values(counts: EvidenceCounts, weights: Floats) -> dict[str, Floats]:
    """Each metric for every column of weights (subjects, resamples)."""
    found, marked, both, iou, pairs = (
        getattr(counts, name) @ weights for name in ("found", "marked", "both", "iou", "pairs")
    )
    return {
        "token_f1": 2 * both / np.maximum(found + marked, 1),
        "token_precision": both / np.maximum(found, 1),
        "token_recall": both / np.maximum(marked, 1),
        "iou": iou / np.maximum(pairs, 1),
    }
