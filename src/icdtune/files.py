"""Atomic writes: what has its final name is whole; what was interrupted is gone or replaced."""

from __future__ import annotations

import errno
import json
import os
import shutil
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
    make_directory(path.parent)
    with _writing(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
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
def atomic_directory(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success it is renamed to `path`, else removed.

    Raises IcdtuneError where `path` holds something already and `overwrite` is false.
    """
    refuse_existing(path, overwrite)
    make_directory(path.parent)
    with _writing(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            refuse_existing(path, overwrite)  # another process may have been faster
            _replace_directory(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def refuse_existing(path: Path, overwrite: bool) -> None:
    """IcdtuneError where `path` is a file or a folder that holds something, unless `overwrite`."""
    if path.exists() and not overwrite and (not path.is_dir() or any(path.iterdir())):
        raise IcdtuneError(f"{path} already exists. Choose another folder or pass --overwrite")


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
            f"{path} cannot be written: {os.strerror(error.errno)}. "
            f"Make room or choose another folder"
        ) from error


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
        raise IcdtuneError(f"{path} cannot be a folder: a file stands in its way") from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, UTF-8."""
    with atomic_file(path) as temporary:
        text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; IcdtuneError where the file is absent or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IcdtuneError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        where = f" line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise IcdtuneError(f"{path}{where} is not valid JSON. Write the file again") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
