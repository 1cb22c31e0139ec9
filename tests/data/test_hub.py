"""A data set of a hub, served on loopback: its splits stay, its columns are mapped."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from icdtune.data.hub import prepare
from icdtune.data.schema import Corpus
from icdtune.errors import IcdtuneError

TRAIN = {
    "note": ["Sugar high.", "Pressure high.", "Heart fails."],
    "icd": ["E11.9", "I10", "I50.9"],
}
VALIDATION = {"note": ["Pressure high again."], "icd": ["I10"]}
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "repo").mkdir()
    pl.DataFrame(TRAIN).write_parquet(tmp_path / "repo" / "train.parquet")
    pl.DataFrame(VALIDATION).write_parquet(tmp_path / "repo" / "validation.parquet")
    return tmp_path / "repo"


@pytest.fixture
def hub(folder: Path) -> Iterator[str]:
    """The address of a hub that holds one data set, me/notes."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    info = {
        "id": "me/notes",
        "sha": SHA,
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "lastModified": "2026-01-01T00:00:00.000Z",
        "siblings": [{"rfilename": name} for name in files],
    }
    tree = [
        {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for name, data in files.items()
    ]

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            name = path.rsplit("/", 1)[-1]
            if "/resolve/" in path and name in files:
                self.answer(files[name], "application/octet-stream")
            elif "/tree/" in path:
                self.answer(json.dumps(tree).encode())
            elif path.startswith("/api/datasets/me/notes"):
                self.answer(json.dumps(info).encode())
            else:
                self.answer(b"{}", status=404)

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:  # which of some paths there are
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.answer(json.dumps([entry for entry in tree if entry["path"] in asked]).encode())

        def answer(self, data: bytes, kind: str = "application/json", status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", SHA)
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            if status == 404:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            if os.environ.get("SHOW_HUB"):
                print(self.command, self.path, file=sys.stderr)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def notes(corpus: Corpus) -> dict[str, list[tuple[str, tuple[str, ...] | None]]]:
    return {split: [(n.text, n.codes) for n in corpus.notes(split)] for split in corpus.splits}


EXPECTED = {
    "train": [(text, (code,)) for text, code in zip(TRAIN["note"], TRAIN["icd"], strict=True)],
    "val": [("Pressure high again.", ("I10",))],
}


def test_a_data_set_of_a_hub_becomes_a_corpus(hub: str, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "icdtune", "prepare", "hub", "me/notes"),
        *("--text-column", "note", "--codes-column", "icd", "--out", str(tmp_path / "c")),
    ]
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    corpus = Corpus(tmp_path / "c")
    assert notes(corpus) == EXPECTED
    assert corpus.info.source == "hub me/notes"
    assert corpus.info.name == "notes"
    assert corpus.info.protected


def test_a_folder_of_datasets_is_taken_too(folder: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "c", str(folder), "note", "icd", protected=False)
    assert notes(Corpus(tmp_path / "c")) == EXPECTED
    with pytest.raises(IcdtuneError, match='split "train" has no column "text". It has: note, icd'):
        prepare(tmp_path / "d", str(folder), "text")


def test_what_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    with pytest.raises(IcdtuneError, match="could not be loaded"):
        prepare(tmp_path / "c", str(tmp_path / "nothing"), "note")
    assert not (tmp_path / "c").exists()
