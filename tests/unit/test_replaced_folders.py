"""A folder is replaced whole or not at all, whichever rename fails and wherever the process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from understudy import folders
from understudy.errors import StorageError
from understudy.folders import replaced_folder, restore_folder, restore_folders

KILLED = """
import os, signal, sys
from pathlib import Path
from understudy.folders import replaced_folder
rename, count = os.rename, [0]
def killing(*arguments, **more):
    count[0] += 1
    if count[0] == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*arguments, **more)
os.rename = killing
with replaced_folder(Path(sys.argv[1])) as folder:
    (folder / "new").write_text("new")
"""


def replace(path: Path) -> None:
    with replaced_folder(path) as folder:
        (folder / "new").write_text("new")


def names(folder: Path) -> list[str]:
    return sorted(str(item.relative_to(folder)) for item in folder.rglob("*"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "set.v1"
    path.mkdir()
    (path / "old").write_text("old")
    return path


def failing(monkeypatch: pytest.MonkeyPatch, *failing_calls: int, error: BaseException) -> None:
    """Make these calls of os.rename raise, counted from 1."""
    rename, count = os.rename, [0]

    def counted(*arguments: str, **more: int) -> None:
        count[0] += 1
        if count[0] in failing_calls:
            raise error
        rename(*arguments, **more)

    monkeypatch.setattr(os, "rename", counted)


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["OSError", "Ctrl-C"])
def test_whichever_rename_fails_the_old_folder_is_in_its_place(
    old: Path, monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException
) -> None:
    failing(monkeypatch, call, error=error)
    with pytest.raises(StorageError if isinstance(error, OSError) else KeyboardInterrupt):
        replace(old)
    assert names(old.parent) == ["set.v1", "set.v1/old"]
    replace(old)
    assert names(old.parent) == ["set.v1", "set.v1/new"]


def test_a_folder_that_cannot_be_put_back_is_named_and_comes_back_later(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 2, 3, error=OSError(5, "Input/output error"))
    with pytest.raises(StorageError, match=r"what was there lies in .*/\.set\.v1\..*\.old") as raised:
        replace(old)
    aside = Path(str(raised.value).rpartition(" lies in ")[2])
    assert names(aside) == ["old"]
    restore_folder(old)
    assert not old.exists(), "this process might still be at it"
    monkeypatch.setattr(folders, "_SWAP_SECONDS", 0.0)
    restore_folders(old.parent)
    assert names(old.parent) == ["set.v1", "set.v1/old"]


@pytest.mark.parametrize("call", [1, 2])
def test_a_process_killed_between_the_renames_loses_nothing(old: Path, call: int) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(old), str(call)], timeout=600, check=False)
    assert done.returncode == -signal.SIGKILL
    assert old.exists() == (call == 1)
    assert names(restore_folder(old)) == ["old"]
    replace(old)
    assert names(old.parent) == ["set.v1", "set.v1/new"], "what the killed process left is gone"


def test_a_folder_is_restored_under_its_own_name_only(tmp_path: Path) -> None:
    (tmp_path / f".set.v1.host.{dead_pid()}.0123abcd.old").mkdir()
    assert not restore_folder(tmp_path / "set").exists()
    assert not restore_folder(tmp_path / "v1").exists()
    files_of_others = sorted(tmp_path.iterdir())
    restore_folder(tmp_path / "set.v1")
    assert sorted(tmp_path.iterdir()) == files_of_others, "another machine set it aside this moment"


def test_the_newest_of_several_is_restored(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / f".set.{folders._host()}.{dead_pid()}.0000000{number}.old"
        folder.mkdir()
        (folder / str(number)).write_text("")
    assert names(restore_folder(tmp_path / "set")) == ["2"]
    replace(tmp_path / "set")
    assert names(tmp_path) == ["set", "set/new"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("bad episode")])
def test_an_error_in_the_block_leaves_nothing_not_even_parents(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), replaced_folder(tmp_path / "a" / "b" / "set") as folder:
        (folder / "half").write_text("")
        raise error
    assert names(tmp_path) == []


def test_paths_may_be_relative_and_links_are_followed(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old)
    link = old.parent / "link"
    link.symlink_to(old)
    replace(link)
    assert link.is_symlink()
    assert names(old) == ["new"]
    monkeypatch.chdir(old.parent)
    replace(Path("other"))
    assert names(old.parent / "other") == ["new"]


def test_a_file_in_the_place_of_a_folder_is_replaced_too(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("a file")
    replace(tmp_path / "set")
    assert names(tmp_path) == ["set", "set/new"]


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def half_written(folder: Path, host: str = "another") -> Path:
    left = folder / f".set.{host}.1.0123abcd"
    left.mkdir()
    (left / "half").write_text("half")
    return left


def age(folder: Path, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be so much later."""
    now = folders.time.time()
    monkeypatch.setattr(folders.time, "time", lambda: now + seconds)


@pytest.mark.parametrize("looked", ["by its name", "at the whole folder", "to replace it"])
def test_what_a_killed_process_of_another_host_left_half_written_is_removed_once_nobody_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked: str
) -> None:
    left = half_written(tmp_path)
    look = {"by its name": restore_folder, "at the whole folder": restore_folders, "to replace it": replace}[looked]
    place = tmp_path if looked == "at the whole folder" else tmp_path / "set"
    look(place)
    assert left.is_dir(), "it may be at work"
    age(left, 700, monkeypatch)
    look(place)
    assert not left.exists()


def test_a_folder_that_a_process_of_another_host_still_writes_is_left_alone_however_old_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(folders, "_host", lambda: "another")
        writing = replaced_folder(tmp_path / "set")
        beside = writing.__enter__()
    age(beside, 1e6, monkeypatch)
    restore_folders(tmp_path)
    assert beside.is_dir()
    writing.__exit__(None, None, None)
    assert (tmp_path / "set").is_dir()


def test_a_file_system_without_locks_keeps_what_is_half_written_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(folders.fcntl, "flock", refuse)
    left = half_written(tmp_path)
    age(left, 3600, monkeypatch)
    restore_folders(tmp_path)
    assert left.is_dir()
    age(left, 90_000, monkeypatch)
    restore_folders(tmp_path)
    assert not left.exists()
    replace(tmp_path / "set")
    assert names(tmp_path) == ["set", "set/new"]
