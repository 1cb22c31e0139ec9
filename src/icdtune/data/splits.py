"""Splits: the published ones, and our own by subject, stratified or random.

Stratified is iterative multi-label stratification (Sechidis, Tsoumakas, Vlahavas 2011, algorithm 1),
with subjects as its examples. The same input and seed give the same split.
"""

from __future__ import annotations

import hashlib
import heapq
import http.client
import os
import random
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
from platformdirs import user_cache_path

from icdtune.errors import IcdtuneError
from icdtune.files import atomic_file

RATIOS = {"train": 0.75, "val": 0.1, "test": 0.15}
"""Shares of the published MIMIC-IV splits (Edin et al. 2023)."""
LEAST = 10
"""Subjects of a code that is shared out: with fewer, some split would get none of it."""
REPOSITORY = (
    "https://raw.githubusercontent.com/JoakimEdin/medical-coding-reproducibility/main/files/data"
)
PUBLISHED = {
    "mimiciii_50": (
        "mimiciii_50/mimiciii_50_splits.feather",
        "7b78a5c2b1242f6114578a40943ea37ef73d0f9abd364abe462e7f6aff389d16",
    ),
    "mimiciii_clean": (
        "mimiciii_clean/mimiciii_clean_splits.feather",
        "deedf0fe76f80470ca85e71ff10fc2f9de70d28644d4143f5ccf6db635333b9e",
    ),
    "mimiciii_full": (
        "mimiciii_full/mimiciii_full_splits.feather",
        "85c763780c2526bc3e5edbc45649b13f380c90bc4cfcbdd57ca16af702acfb26",
    ),
    "mimiciv_icd10": (
        "mimiciv_icd10/mimiciv_icd10_split.feather",
        "f913edf80c41f52c0865c2c802ab65d0d7b24fdfc03307564d2808bb9a672b61",
    ),
    "mimiciv_icd9": (
        "mimiciv_icd9/mimiciv_icd9_split.feather",
        "b60d01628b76aa8874cb52bb06aa07f9d18ed03a441cbf0884e9b748300ab4bf",
    ),
}
"""Published split -> its file in the repository and its SHA-256."""
_ID_NAMES = ("_id", "hadm_id", "note_id", "encounter_id", "id")


def published(name: str, repository: str = REPOSITORY) -> Path:
    """The file of a published split, fetched into the user cache once and checked.

    Args:
        name: a key of `PUBLISHED`.

    Raises:
        IcdtuneError: it cannot be fetched, or is not the published file.
    """
    part, digest = PUBLISHED[name]
    root = os.environ.get("ICDTUNE_CACHE")
    path = (Path(root) if root else user_cache_path("icdtune")) / "splits" / Path(part).name
    if not path.exists():
        try:
            with urllib.request.urlopen(f"{repository}/{part}", timeout=60) as answer:
                content = answer.read()
        except (http.client.HTTPException, OSError) as error:
            raise IcdtuneError(
                f"the published split {name} could not be fetched ({type(error).__name__}). Download "
                f"{Path(part).name} elsewhere and give it with --split published:FILE"
            ) from None
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        path.unlink()
        raise IcdtuneError(f"{path} is not the published file: its checksum differs. Try again")
    return path


def read_split(path: Path) -> dict[str, str]:
    """Split of each id, from a file with an id column (`_id`, `hadm_id`, ...) and `split`.

    Feather as published, CSV, TSV or parquet; "dev" is "val". Raises IcdtuneError where the file is of
    another kind, or an id stands in two splits.
    """
    if not path.is_file():
        raise IcdtuneError(f"{path} does not exist. Check the path of the split file")
    try:
        if path.suffix in (".feather", ".arrow"):
            table = pl.DataFrame(feather.read_table(path))
        elif path.suffix == ".parquet":
            table = pl.read_parquet(path)
        else:
            separator = "\t" if path.suffix == ".tsv" else ","
            table = pl.read_csv(path, separator=separator, infer_schema=False)
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        raise IcdtuneError(
            f"{path} cannot be read as a split file ({type(error).__name__}). "
            f"Give feather, CSV or parquet"
        ) from None
    ids = next((name for name in _ID_NAMES if name in table.columns), None)
    if ids is None or "split" not in table.columns:
        raise IcdtuneError(
            f'{path} lacks an id column ({", ".join(_ID_NAMES)}) or "split". It has: '
            f"{', '.join(table.columns)}"
        )
    found: dict[str, str] = {}
    columns = table.select(pl.col(ids).cast(pl.String), pl.col("split").cast(pl.String))
    for row, (key, split) in enumerate(columns.iter_rows(), 1):
        if key is None or split is None:
            raise IcdtuneError(
                f"{path} row {row}: id or split is empty. Complete or remove the row"
            )
        split = "val" if split == "dev" else split
        if found.setdefault(key, split) != split:
            raise IcdtuneError(f"{path} row {row}: {key} is in two splits. Remove one of the rows")
    if not found:
        raise IcdtuneError(f"{path} names no ids. Give a split file with rows")
    return found


def random_split(
    subjects: Sequence[str], seed: int = 0, ratios: Mapping[str, float] = RATIOS
) -> dict[str, str]:
    """Split of each distinct subject, drawn; the shares are of subjects."""
    order = sorted(set(subjects))
    random.Random(seed).shuffle(order)
    found: dict[str, str] = {}
    start, share = 0, 0.0
    for name, ratio in ratios.items():
        share += ratio
        stop = round(share * len(order))
        found |= dict.fromkeys(order[start:stop], name)
        start = stop
    return found


def stratified_split(
    codes: Mapping[str, set[str]], seed: int = 0, ratios: Mapping[str, float] = RATIOS
) -> dict[str, str]:
    """Split of each subject such that every code is shared out as the subjects are.

    Args:
        codes: subject -> its codes over all its notes.
        seed: decides ties.
        ratios: split -> share of the subjects; they add up to 1.

    Returns:
        Subject -> split. Takes about the number of (subject, code) pairs, times its logarithm.
    """
    rng = random.Random(seed)
    names = list(ratios)
    subjects = sorted(codes)
    held = [sorted(codes[subject]) for subject in subjects]
    carriers: dict[str, list[int]] = {}
    for i, own in enumerate(held):
        for code in own:
            carriers.setdefault(code, []).append(i)
    open_of = {code: len(rows) for code, rows in carriers.items()}
    want = [ratios[name] * len(subjects) for name in names]
    want_code = {code: [ratios[n] * size for n in names] for code, size in open_of.items()}
    chosen = [-1] * len(subjects)
    queue = [(size, code) for code, size in open_of.items()]
    heapq.heapify(queue)
    places = range(len(names))

    def assign(i: int, wishes: list[float]) -> None:
        top = max(wishes)
        best = [k for k in places if wishes[k] == top]
        if len(best) > 1:
            most = max(want[k] for k in best)
            best = [k for k in best if want[k] == most]
        k = best[0] if len(best) == 1 else rng.choice(best)
        chosen[i] = k
        want[k] -= 1
        for code in held[i]:
            want_code[code][k] -= 1
            open_of[code] -= 1
            if open_of[code]:
                heapq.heappush(queue, (open_of[code], code))

    while queue:  # the code with the fewest subjects left comes first
        size, code = heapq.heappop(queue)
        if size != open_of[code] or not size:
            continue
        for i in carriers[code]:
            if chosen[i] < 0:
                assign(i, want_code[code])
    for i in range(len(subjects)):  # subjects without codes
        if chosen[i] < 0:
            assign(i, want)
    return {subject: names[k] for subject, k in zip(subjects, chosen, strict=True)}


def by_note(
    kind: str, notes: Mapping[str, tuple[str, Sequence[str]]], seed: int, name: str | None = None
) -> tuple[dict[str, str], Counter[str]]:
    """Split of each note, and counts of what the published file and the data do not share.

    Args:
        kind: "published", "published:FILE", "stratified" or "random".
        notes: note id -> its subject and codes.
        name: published split that plain "published" means.

    Raises:
        IcdtuneError: another kind, no published split for this corpus, or one that names no note.
    """
    counts: Counter[str] = Counter()
    if kind == "stratified":
        held: dict[str, set[str]] = {}
        for subject, codes in notes.values():
            held.setdefault(subject, set()).update(codes)
        carriers = Counter(code for codes in held.values() for code in codes)
        shared = {code for code, count in carriers.items() if count >= LEAST}
        of_subject = stratified_split({s: own & shared for s, own in held.items()}, seed)
    elif kind == "random":
        of_subject = random_split([subject for subject, _ in notes.values()], seed)
    elif kind == "published" or kind.startswith("published:"):
        file = kind.removeprefix("published").removeprefix(":")
        if not file and name is None:
            raise IcdtuneError(
                "this corpus has no published split. Use --split stratified or random"
            )
        path = Path(file) if file else published(name or "")
        given = read_split(path)
        found = {note_id: given[note_id] for note_id in notes if note_id in given}
        if not found:
            raise IcdtuneError(f"{path} names none of the notes. Is it the split of this corpus?")
        counts["in_split_file_but_not_in_data"] = len(given) - len(found)
        counts["not_in_split_file"] = len(notes) - len(found)
        return found, counts
    else:
        raise IcdtuneError(
            f'--split "{kind}": choose published, published:FILE, stratified or random'
        )
    return {note_id: of_subject[subject] for note_id, (subject, _) in notes.items()}, counts
