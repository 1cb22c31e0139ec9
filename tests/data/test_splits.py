"""Splits: the published files, and stratification that shares out every code."""

from __future__ import annotations

import hashlib
import http.server
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SHARED

from icdtune.data import splits
from icdtune.data.splits import by_note, published, random_split, read_split, stratified_split
from icdtune.errors import IcdtuneError

COUNTS = {  # train, val, test as REFERENCE gives them
    "mimiciii_50": (8_066, 1_573, 1_729),
    "mimiciii_full": (47_719, 1_631, 3_372),
    "mimiciii_clean": (38_401, 5_577, 8_734),
    "mimiciv_icd9": (154_542, 21_980, 32_804),
    "mimiciv_icd10": (89_099, 13_378, 19_802),
}


@pytest.fixture(scope="module")
def published_files() -> Path:
    path = SHARED / "data" / "published_splits"
    if not path.is_dir():
        pytest.skip(f"no {path}: set ICDTUNE_SHARED to the folder that holds data/")
    return path


@pytest.mark.parametrize("name", COUNTS)
def test_each_published_split_file_loads_with_its_published_counts(
    published_files: Path, name: str
) -> None:
    part, digest = splits.PUBLISHED[name]
    path = published_files / Path(part).name
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    counts = Counter(read_split(path).values())
    assert tuple(counts[split] for split in ("train", "val", "test")) == COUNTS[name]


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A repository on loopback, and its folder."""
    folder = tmp_path / "repository"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


def test_a_published_split_is_fetched_once_and_checked(
    repository: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, folder = repository
    monkeypatch.setenv("ICDTUNE_CACHE", str(tmp_path / "cache"))
    content = b"_id,split\n1,train\n"
    (folder / "x.csv").write_bytes(content)
    monkeypatch.setitem(splits.PUBLISHED, "x", ("x.csv", hashlib.sha256(content).hexdigest()))
    path = published("x", address)
    assert read_split(path) == {"1": "train"}
    (folder / "x.csv").unlink()
    assert published("x", address) == path
    monkeypatch.setitem(splits.PUBLISHED, "y", ("y.csv", "0" * 64))
    with pytest.raises(IcdtuneError, match="could not be fetched"):
        published("y", address)
    (folder / "y.csv").write_bytes(content)
    with pytest.raises(IcdtuneError, match="checksum differs"):
        published("y", address)
    assert not (tmp_path / "cache" / "splits" / "y.csv").exists()


subjects = st.dictionaries(
    st.integers(0, 400).map(str), st.sets(st.integers(0, 12).map(str), max_size=5), max_size=60
)


@given(subjects, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_stratification_gives_each_subject_one_split_and_repeats_itself(
    codes: dict[str, set[str]], seed: int
) -> None:
    found = stratified_split(codes, seed)
    assert found.keys() == codes.keys()
    assert set(found.values()) <= set(splits.RATIOS)
    assert stratified_split(dict(reversed(codes.items())), seed) == found


def test_stratification_shares_out_every_code_and_the_subjects() -> None:
    rng = random.Random(1)
    codes = {
        str(i): {str(int(300 * rng.random() ** 3)) for _ in range(rng.randint(1, 12))}
        for i in range(4_000)
    }
    carriers = Counter(code for own in codes.values() for code in own)
    shared = {code for code, count in carriers.items() if count >= splits.LEAST}
    held = {subject: own & shared for subject, own in codes.items()}
    found = stratified_split(held)
    sizes = Counter(found.values())
    drawn = random_split(list(codes))
    for split, ratio in splits.RATIOS.items():
        assert sizes[split] == pytest.approx(4_000 * ratio, rel=0.12)
        off = {}
        for name, split_of in (("ours", found), ("random", drawn)):
            counts = Counter(code for s in codes if split_of[s] == split for code in held[s])
            assert name == "random" or all(counts[code] for code in shared)
            off[name] = sum(abs(counts[c] - carriers[c] * ratio) / carriers[c] for c in shared)
        assert off["ours"] < off["random"] / 2


def test_a_random_split_has_the_shares_and_depends_on_the_seed_alone() -> None:
    names = [str(i) for i in range(200)]
    found = random_split(names, 1)
    assert Counter(found.values()) == {"train": 150, "val": 20, "test": 30}
    assert random_split(names[::-1], 1) == found
    assert random_split(names, 2) != found


def test_notes_of_a_subject_stay_together() -> None:
    notes = {f"{i}": (str(i // 3), ("A", "B")) for i in range(90)}
    for kind in ("stratified", "random"):
        found, _ = by_note(kind, notes, 0)
        assert all(found[str(i)] == found[str(i - i % 3)] for i in range(90))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "_id,part\n1,train\n",
            'encounter_id, id) or "split". It has: _id, part',
        ),
        ("_id,split\n", "names no ids"),
        ("_id,split\n1,train\n1,test\n", "row 2: 1 is in two splits"),
        ("_id,split\n1,\n", "row 1: id or split is empty"),
    ],
)
def test_a_bad_split_file_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(IcdtuneError) as caught:
        read_split(tmp_path / "s.csv")
    assert problem in str(caught.value)


def test_a_corpus_without_published_split_says_so(tmp_path: Path) -> None:
    with pytest.raises(IcdtuneError, match="no published split"):
        by_note("published", {"1": ("1", ())}, 0)
    (tmp_path / "s.feather").write_bytes(b"nonsense")
    with pytest.raises(IcdtuneError, match="cannot be read as a split file"):
        read_split(tmp_path / "s.feather")
