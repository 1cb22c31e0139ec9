import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from icdtune.errors import IcdtuneError
from icdtune.files import atomic_directory, atomic_file, make_directory, read_json, write_json


def make_read_only(folder):
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def write_and_raise(target, file, error):
    """Begin to write what `target` yields, or `file` in it, and break off."""
    with target as temporary:
        (temporary / file if file else temporary).write_text("new")
        raise error


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "a" / "file.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert everything_in(tmp_path) == ["a", "a/file.txt"]


def test_a_failed_file_leaves_the_old_one_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_and_raise(atomic_file(path), "", KeyboardInterrupt)
    assert path.read_text() == "old"
    assert everything_in(tmp_path) == ["file.txt"]


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_files_and_folders_get_the_rights_the_user_asks_for(tmp_path, mask, file, folder):
    before = os.umask(mask)
    try:
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text("x")
        with atomic_directory(tmp_path / "folder"):
            pass
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == file
    assert (tmp_path / "folder").stat().st_mode & 0o777 == folder


def test_a_folder_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "out"
    with atomic_directory(path) as temporary:
        (temporary / "x").write_text("1")
        assert not path.exists()
    assert everything_in(tmp_path) == ["out", "out/x"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failed_folder_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        write_and_raise(atomic_directory(tmp_path / "out"), "x", error)
    assert everything_in(tmp_path) == []


def test_a_folder_that_holds_something_is_kept_unless_overwritten(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    with atomic_directory(path) as temporary:  # an empty folder may be filled
        (temporary / "old").write_text("1")
    with pytest.raises(IcdtuneError, match="already exists.*--overwrite"), atomic_directory(path):
        pass
    assert everything_in(tmp_path) == ["out", "out/old"]
    with atomic_directory(path, overwrite=True) as temporary:
        (temporary / "new").write_text("1")
        assert everything_in(path) == ["old"]
    assert everything_in(tmp_path) == ["out", "out/new"]


def test_a_failed_overwrite_keeps_the_old_folder(tmp_path):
    path = tmp_path / "out"
    with atomic_directory(path) as temporary:
        (temporary / "old").write_text("1")
    with pytest.raises(RuntimeError):
        write_and_raise(atomic_directory(path, overwrite=True), "new", RuntimeError)
    assert everything_in(tmp_path) == ["out", "out/old"]


def test_a_folder_that_came_up_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "out"
    slow = atomic_directory(path)
    (slow.__enter__() / "slow").write_text("1")
    with atomic_directory(path) as fast:
        (fast / "fast").write_text("1")
    with pytest.raises(IcdtuneError, match="already exists"):
        slow.__exit__(None, None, None)
    assert everything_in(tmp_path) == ["out", "out/fast"]


def test_a_folder_that_cannot_be_replaced_is_kept_and_nothing_left_beside_it(small_disk):
    """A mount point cannot be renamed: overwriting it fails, as with a volume of a container."""
    (small_disk / "old").write_text("1")
    with (
        pytest.raises((OSError, IcdtuneError)),
        atomic_directory(small_disk, overwrite=True) as new,
    ):
        (new / "new").write_text("1")
    assert everything_in(small_disk.parent) == ["disk", "disk/old"]


def test_a_full_disk_is_named_and_nothing_is_left(small_disk):
    full = r"cannot be written: No space left.*(another folder|room)"
    with (
        pytest.raises(IcdtuneError, match=rf"out {full}"),
        atomic_directory(small_disk / "out") as temporary,
    ):
        (temporary / "x").write_bytes(bytes(200_000))
    with (
        pytest.raises(IcdtuneError, match=rf"file {full}"),
        atomic_file(small_disk / "file") as temporary,
    ):
        temporary.write_bytes(bytes(200_000))
    with pytest.raises(IcdtuneError, match=rf"x\.json {full}"):
        write_json(small_disk / "x.json", "x" * 200_000)
    assert everything_in(small_disk) == []


def test_a_full_disk_leaves_the_old_file(small_disk):
    write_json(small_disk / "x.json", {"old": 1})
    with pytest.raises(IcdtuneError, match="No space left"):
        write_json(small_disk / "x.json", "x" * 200_000)
    assert everything_in(small_disk) == ["x.json"]
    assert read_json(small_disk / "x.json") == {"old": 1}


def test_a_read_only_disk_is_named_and_left_as_it_was(small_disk):
    write_json(small_disk / "x.json", {"old": 1})
    make_read_only(small_disk)
    with pytest.raises(IcdtuneError, match=r"x\.json cannot be written: Read-only"):
        write_json(small_disk / "x.json", {"new": 1})
    with (
        pytest.raises(IcdtuneError, match="out cannot be written: Read-only"),
        atomic_directory(small_disk / "out"),
    ):
        pass
    assert everything_in(small_disk) == ["x.json"]
    assert read_json(small_disk / "x.json") == {"old": 1}


def test_a_source_that_may_not_be_read_is_not_blamed_on_the_target(tmp_path):
    refused = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "in" / "notes.csv"))
    with pytest.raises((OSError, IcdtuneError), match=r"notes\.csv"):
        write_and_raise(atomic_directory(tmp_path / "out"), "x", refused)
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("below", [".", "a", "a/b"])
def test_a_file_in_the_way_of_a_folder_is_named(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(IcdtuneError, match="file.* a file stands in its way"):
        make_directory(tmp_path / "file" / below)


def test_json_comes_back_as_it_was_written(tmp_path):
    value = {"ñ": [1, 2.5, None, True, "é\n"], "empty": {}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert "ñ" in (tmp_path / "x.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_a_value_that_is_not_json_is_refused_and_leaves_nothing(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "x.json", {"x": value})
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n', r"x\.json line 2 is not valid JSON"),
        (b'{"a":\n\n oops}', r"x\.json line 3 is not valid JSON"),
        (b"", r"x\.json line 1 is not valid JSON"),
        (b'{"a": "\xff"}', r"x\.json is not UTF-8"),
    ],
)
def test_broken_json_names_file_and_line(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(IcdtuneError, match=message):
        read_json(tmp_path / "x.json")


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(IcdtuneError, match=r"x\.json does not exist"):
        read_json(tmp_path / "x.json")


def test_written_json_is_indented_and_ends_its_last_line(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    text = (tmp_path / "x.json").read_text()
    assert text == json.dumps({"a": 1}, indent=1) + "\n"


def test_what_a_dead_process_left_is_removed_by_the_next_write(tmp_path):
    script = (
        "import os, pathlib, signal; from icdtune.files import atomic_directory\n"
        f"with atomic_directory(pathlib.Path({str(tmp_path / 'corpus')!r})) as folder:\n"
        "    (folder / 'notes').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert len(everything_in(tmp_path)) == 2
    with atomic_directory(tmp_path / "corpus") as folder:
        (folder / "notes").write_text("whole")
    assert everything_in(tmp_path) == ["corpus", "corpus/notes"]


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    with atomic_directory(tmp_path / "a") as slow, atomic_directory(tmp_path / "a.b") as quick:
        (quick / "x").write_text("1")
        with atomic_file(tmp_path / "a") as other:
            other.write_text("2")
        assert slow.exists()
        (tmp_path / "a").unlink()
