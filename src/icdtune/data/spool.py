"""Texts on disk while a corpus is prepared: memory grows with their number, not with their length.

Also joins the documents of a note.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from icdtune.data.schema import Document

Place = tuple[int, int]
"""Offset and length in bytes."""
Piece = tuple[Place, str | None, str | None]
"""One document of a note: where its text is, its kind, the source's id."""


class Spool:
    """A temporary file that texts are appended to and read from; gone when it is closed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed in __exit__
        self._end = 0
        self._reading = False

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, text: str) -> Place:
        """Keep a text; where it is."""
        if self._reading:
            self._file.seek(self._end)
            self._reading = False
        data = text.encode()
        self._file.write(data)
        place = (self._end, len(data))
        self._end += len(data)
        return place

    def read(self, place: Place) -> str:
        """The text at a place."""
        self._reading = True
        self._file.seek(place[0])
        return self._file.read(place[1]).decode()


def joined(note_id: str, pieces: Sequence[Piece], spool: Spool) -> tuple[str, list[Document]]:
    """A note's text, its documents joined by a space as published, and their borders."""
    texts: list[str] = []
    borders: list[Document] = []
    start = 0
    for place, kind, document_id in pieces:
        text = spool.read(place)
        texts.append(text)
        borders.append(Document(note_id, start, start + len(text), kind, document_id))
        start += len(text) + 1
    return " ".join(texts), borders
