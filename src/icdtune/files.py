"""Atomic writes: what has its final name is whole.

A killed process leaves hidden temporary names; the next write to the same path removes them.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from icdtune.errors import IcdtuneError

_UNWRITABLE = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM})


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, else removed."""
    if path.is_dir():
        raise IcdtuneError(f"{path} is a folder. Give the name of a file")
    make_directory(path.parent)
    with _writing(path):
        _sweep(path)
        handle, name = tempfile.mkstemp(prefix=_prefix(path), dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_directory(
    path: Path, overwrite: bool = False, mark: str | None = None
) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success it is renamed to `path`, else removed.

    Raises IcdtuneError where `path` holds something already and `overwrite` is false, or where it is
    not of the kind to overwrite: a folder that holds the file `mark`.
    """
    path = path.absolute() if path == Path() else path
    refuse_existing(path, overwrite, mark)
    make_directory(path.parent)
    with _writing(path):
        _sweep(path)
        temporary = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            refuse_existing(path, overwrite, mark)  # another process may have been faster
            _replace_directory(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def refuse_existing(path: Path, overwrite: bool, mark: str | None = None) -> None:
    """IcdtuneError where `path` is a file or a folder that holds something.

    With `overwrite`, a folder that holds the file `mark` may be replaced, nothing else.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise IcdtuneError(f"{path} already exists. Choose another folder or pass --overwrite")
    if mark is not None and not (path / mark).exists():
        raise IcdtuneError(
            f"{path} is not replaced: it holds no {mark}, so it is something else. "
            f"Choose another folder or remove it yourself"
        )


def check_name(name: str, what: str) -> str:
    """The name, where it can be that of a file or folder; IcdtuneError else."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is None:
        raise IcdtuneError(
            f'{what} "{name}" cannot name a file. Use letters, digits, dot, dash and underscore'
        )
    return name


def read_text(path: Path) -> str:
    """Read UTF-8 text, with or without byte order mark; IcdtuneError where it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise IcdtuneError(f"{path} is not UTF-8 text. Save it as UTF-8") from None
    except FileNotFoundError:
        raise IcdtuneError(f"{path} does not exist. Check the path") from None
    except IsADirectoryError:
        raise IcdtuneError(f"{path} is a folder. Give the name of a file") from None


def _replace_directory(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    old = retired / path.name
    try:
        path.rename(old)
        temporary.rename(path)
    except BaseException:
        if old.exists():
            old.rename(path)
        retired.rmdir()
        raise
    shutil.rmtree(retired)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an IcdtuneError that names what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE or not _concerns(error, path):
            raise
        raise IcdtuneError(
            f"{_final(path)} cannot be written: {os.strerror(error.errno)}. "
            f"Make room or choose another folder"
        ) from error


def _final(path: Path) -> Path:
    """The path with the hidden names of unfinished work as they will be."""
    pattern = r"^\.(.+)\.(?:\w+-\d+\.\w{8}|training)$"
    return Path(*(re.sub(pattern, r"\1", part) for part in path.parts))


def _concerns(error: OSError, path: Path) -> bool:
    """Whether an error is about writing `path`, not about a file elsewhere, as a source is."""
    if error.filename is None:
        return True
    named = Path(os.fsdecode(error.filename))
    ours = [p for p in (named, *named.parents) if p.parent == path.parent]
    return named in path.parents or any(
        p == path or p.name.startswith(f".{path.name}.") for p in ours
    )


def make_directory(path: Path) -> None:
    """Create a directory and its parents; IcdtuneError where a file stands in the way."""
    try:
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise IcdtuneError(
            f"{_final(path)} cannot be a folder: a file stands in its way. Choose another"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, UTF-8."""
    with atomic_file(path) as temporary:
        text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; IcdtuneError where the file is absent or is not JSON."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise IcdtuneError(
            f"{path} line {error.lineno} is not valid JSON. Write the file again"
        ) from None


def _prefix(path: Path) -> str:
    """How temporary names beside `path` begin: with the machine and process that own them."""
    return f".{path.name}.{_machine()}-{os.getpid()}."


def _machine() -> str:
    return re.sub(r"\W", "_", socket.gethostname()) or "host"


def _sweep(path: Path) -> None:
    """Remove what writes to `path` left behind whose process on this machine is gone."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.{_machine()}-(\d+)\.\w{{8}}")
    for sibling in path.parent.iterdir():
        match = pattern.fullmatch(sibling.name)
        if match and not _alive(int(match[1])):
            if sibling.is_dir():
                shutil.rmtree(sibling, ignore_errors=True)
            else:
                sibling.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
