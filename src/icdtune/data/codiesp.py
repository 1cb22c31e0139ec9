"""CodiEsp: Spanish clinical cases with ICD-10 codes and character-level evidence.

Miranda-Escalada et al. 2020, CLEF eHealth; CC BY 4.0; Zenodo record 3837305. The published training
split is cut into `train` and `val`; the published `dev` stays a split of its own that tuning never
sees; `test` is unlabelled where the source has no gold for it.
"""

from __future__ import annotations

import csv
import hashlib
import http.client
import io
import json
import random
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, get_args

from icdtune.codes.systems import get_system
from icdtune.data.evidence import Span
from icdtune.data.schema import Note, malformed
from icdtune.data.writer import CorpusWriter, InvalidCodes
from icdtune.errors import IcdtuneError
from icdtune.files import atomic_directory, read_text
from icdtune.progress import track

Language = Literal["en", "es"]
Kind = Literal["D", "P", "DP"]
RECORD = "https://zenodo.org/api/records/3837305"
VERSION = 1
VAL_NOTES = 75
VAL_SEED = 0
_ROLES = {"D": ("diagnosis", "icd10cm"), "P": ("procedure", "icd10pcs")}
_DOWNLOAD_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    zipfile.BadZipFile,
    KeyError,
    TypeError,
    StopIteration,
    ValueError,
)
_LABELS = {"DIAGNOSTICO": "D", "PROCEDIMIENTO": "P"}


def prepare(
    out: Path,
    source: Path,
    language: Language = "en",
    task: Kind = "D",
    invalid_codes: InvalidCodes = "keep",
    overwrite: bool = False,
) -> None:
    """Prepare a CodiEsp corpus.

    Args:
        out: folder of the corpus.
        source: folder with train/, dev/, test/ as published.
        language: "en" (machine translation) or "es" (original, with evidence).
        task: diagnoses, procedures or both.
        invalid_codes: what to do with well-formed codes that no table holds.
        overwrite: replace a corpus that is there.

    Raises:
        IcdtuneError: a file is missing or malformed, or `out` exists.
    """
    for option, value, known in (
        ("language", language, get_args(Language)),
        ("task", task, get_args(Kind)),
        ("invalid-codes", invalid_codes, get_args(InvalidCodes)),
    ):
        if value not in known:
            raise IcdtuneError(f'--{option} "{value}": choose one of {", ".join(known)}')
    source = _find_root(source)
    with CorpusWriter(
        out,
        name=f"codiesp-{language}-{task}",
        code_systems=dict(_ROLES[kind] for kind in task),
        source="CodiEsp v4 (Zenodo 3837305)",
        options={"language": language, "task": task, "val_notes": VAL_NOTES, "val_seed": VAL_SEED},
        protected=False,
        license="cc-by-4.0",
        description="CodiEsp: clinical cases coded by professionals (Miranda-Escalada et al. 2020).",
        invalid_codes=invalid_codes,
        overwrite=overwrite,
    ) as writer:
        for published in ("train", "dev", "test"):
            ids = _note_ids(source, published, language)
            gold = _gold(source, published, task, set(ids), invalid_codes)
            spans = _spans(source, published, task) if language == "es" and gold is not None else {}
            val = _validation(ids) if published == "train" else set()
            writer.filters[f"{published}_notes"] = len(ids)
            for note_id, note_spans in spans.items():
                spans[note_id] = [span for span in note_spans if span.end > span.start]
                empty = len(note_spans) - len(spans[note_id])
                writer.filters["empty_evidence_pieces_dropped"] += empty
            for note_id in track(ids, f"CodiEsp {published}"):
                path = _text_folder(source, published, language) / f"{note_id}.txt"
                text = read_text(path)
                codes = None if gold is None else tuple(gold.get(note_id, ()))
                split = "val" if note_id in val else published
                note = Note(note_id, note_id, text, codes)
                writer.add(split, note, str(path), spans.get(note_id, ()))


def _find_root(source: Path) -> Path:
    if not source.is_dir():
        raise IcdtuneError(
            f"{source} does not exist. Give the unpacked CodiEsp folder with --source, or fetch it "
            f"with --download"
        )
    for folder in (source, *sorted(p for p in source.iterdir() if p.is_dir())):
        if (folder / "train" / "trainD.tsv").exists():
            return folder
    raise IcdtuneError(
        f"{source} is not CodiEsp: it has no train/trainD.tsv. Give the folder that holds train/"
    )


def _text_folder(source: Path, split: str, language: Language) -> Path:
    return source / split / ("text_files_en" if language == "en" else "text_files")


def _note_ids(source: Path, split: str, language: Language) -> list[str]:
    folder = _text_folder(source, split, language)
    ids = sorted(path.stem for path in folder.glob("*.txt"))
    if not ids:
        raise IcdtuneError(f"{folder} holds no .txt files. Unpack CodiEsp again")
    return ids


def _validation(ids: list[str]) -> set[str]:
    return set(random.Random(VAL_SEED).sample(ids, min(VAL_NOTES, len(ids) // 5)))


def _gold(
    source: Path, split: str, task: Kind, ids: set[str], invalid_codes: InvalidCodes
) -> dict[str, list[str]] | None:
    """Codes of each note in the file's order, None where the split's gold is not published here."""
    gold: dict[str, list[str]] = {}
    for kind in task:
        path = source / split / f"{split}{kind}.tsv"
        if not path.exists():
            if split == "test":
                return None
            raise IcdtuneError(f"{path} does not exist. Unpack CodiEsp again")
        for line, (note_id, code) in _rows(path, 2):
            if note_id not in ids:
                raise IcdtuneError(
                    f"{path} line {line}: its note has no text file. Unpack CodiEsp again"
                )
            name = _ROLES[kind][1]
            if get_system(name).canonical(code) is None and invalid_codes != "quarantine":
                raise malformed(f"{path} line {line}", code, {_ROLES[kind][0]: name})
            gold.setdefault(note_id, []).append(_canonical(code, _ROLES[kind][1]))
    return gold


def _spans(source: Path, split: str, task: Kind) -> dict[str, list[Span]]:
    """Evidence spans of each note; the pieces of one mention share a group."""
    path = source / split / f"{split}X.tsv"
    found: dict[str, list[Span]] = {}
    if not path.exists():
        return found
    for group, (line, (note_id, label, code, _, places)) in enumerate(_rows(path, 5)):
        if label not in _LABELS:
            raise IcdtuneError(
                f"{path} line {line}: its label is neither {' nor '.join(_LABELS)}. Correct it"
            )
        if _LABELS[label] not in task:
            continue
        system = _ROLES[_LABELS[label]][1]
        try:
            pieces = [[int(x) for x in piece.split()] for piece in places.split(";")]
            spans = [Span(note_id, _canonical(code, system), a, b, group) for a, b in pieces]
        except ValueError:
            raise IcdtuneError(
                f'{path} line {line}: field "offsets" is not "start end;start end". Correct it'
            ) from None
        found.setdefault(note_id, []).extend(spans)
    return found


def _canonical(code: str, system: str) -> str:
    return get_system(system).canonical(code) or code


def _rows(path: Path, fields: int) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(
        io.StringIO(read_text(path), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE
    )
    for row in reader:
        if not row:
            continue
        if len(row) != fields:
            raise IcdtuneError(
                f"{path} line {reader.line_num}: {len(row)} fields, not {fields}. "
                f"Unpack CodiEsp again"
            )
        yield reader.line_num, [cell.strip() for cell in row]


def download(directory: Path, record: str = RECORD) -> Path:
    """Fetch the published archive into `directory`, check it against the record's MD5, unpack it.

    Returns the folder; an existing one is used as it is. Raises IcdtuneError without a network or
    where the checksum differs.
    """
    if directory.exists():
        return directory
    try:
        with urllib.request.urlopen(record, timeout=60) as answer:
            files = json.load(answer)["files"]
        entry = next(f for f in files if f["key"].endswith(".zip"))
        with atomic_directory(directory) as temporary, tempfile.TemporaryFile() as archive:
            with urllib.request.urlopen(entry["links"]["self"], timeout=60) as answer:
                shutil.copyfileobj(answer, archive)
            _check_md5(archive, entry["checksum"], entry["key"])
            with zipfile.ZipFile(archive) as bundle:
                bundle.extractall(temporary)
    except _DOWNLOAD_ERRORS as error:
        raise IcdtuneError(
            f"CodiEsp could not be fetched from {record} ({type(error).__name__}). Download the "
            f"archive elsewhere, unpack it, and give the folder with --source"
        ) from None
    return directory


def _check_md5(archive: IO[bytes], checksum: str, name: str) -> None:
    archive.seek(0)
    digest = hashlib.md5(archive.read()).hexdigest()
    if checksum.removeprefix("md5:") != digest:
        raise IcdtuneError(f"{name}: checksum differs from the published one. Download it again")
    archive.seek(0)
