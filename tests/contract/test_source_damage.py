"""Damaged, half-downloaded and half-written files of every registered source: one clear line, and nothing left over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.contract.source_examples import (
    EXAMPLES,
    copy,
    data_files,
    made_up,
    one_line,
    place,
    same_episodes,
)

from understudy.envs.sources.source import task_of
from understudy.envs.store.finding import find_store
from understudy.envs.store.transfer import ImportOptions, episodes_of, import_file
from understudy.errors import DatasetError, StorageError
from understudy.registry import sources

KINDS = sorted(EXAMPLES)
EPISODES = {kind: made_up(EXAMPLES[kind], [30, 1, 20]) for kind in KINDS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    """One whole dataset of each source, which no test may change."""
    folder = tmp_path_factory.mktemp("whole")
    paths = {}
    for kind in KINDS:
        paths[kind] = place(sources.get(kind), folder, kind)
        sources.get(kind).write(paths[kind], iter(EPISODES[kind]), EXAMPLES[kind].env_name, {})
    return paths


@pytest.fixture
def made(kind, source, whole, tmp_path) -> Path:
    """A dataset of the source, to be damaged."""
    return copy(whole[kind], place(source, tmp_path))


def refused(kind: str, path: Path, stores: Path) -> str:
    """Import a file that must be refused; return the line, which names the file, after a look at what is left."""
    with pytest.raises(DatasetError) as error:
        import_file(task_of(EXAMPLES[kind].env_name), path, stores)
    assert not stores.exists() or list(stores.iterdir()) == []
    return one_line(error, str(path))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_a_file_that_is_cut_short_is_refused(kind, made, tmp_path, share) -> None:
    file = data_files(made)[0]
    size = file.stat().st_size
    os.truncate(file, min(int(size * share), size - 1))
    refused(kind, made, tmp_path / "stores")


def test_any_file_of_a_folder_that_is_empty_is_refused_or_not_needed(kind, source, example, made) -> None:
    for file in data_files(made):
        data = file.read_bytes()
        file.write_bytes(b"")
        try:
            same_episodes(source.task(example.env_name).read(made), EPISODES[kind])
            source.task(example.env_name).provenance(made)
        except DatasetError as error:
            one_line(error, str(made))
        file.write_bytes(data)


def test_a_file_that_is_not_there_is_refused(kind, source, tmp_path) -> None:
    assert "no such file" in refused(kind, place(source, tmp_path), tmp_path / "stores")


def test_a_download_that_has_not_ended_is_not_taken_for_the_file(kind, source, made, tmp_path) -> None:
    file = data_files(made)[0]
    part = file.rename(file.with_name(f"{file.name}.part"))
    os.truncate(part, part.stat().st_size // 2)
    refused(kind, made, tmp_path / "stores")
    if made == file:
        refused(kind, part, tmp_path / "stores")


@pytest.mark.parametrize("other", [*KINDS, "text", "zeros", "npy", "json"])
def test_another_formats_file_is_refused(kind, source, whole, tmp_path, other) -> None:
    if other == kind:
        return
    file = place(source, tmp_path)
    if other in KINDS:
        file.write_bytes(data_files(whole[other])[0].read_bytes())
    elif other == "npy":
        np.save(tmp_path / "array.npy", np.zeros((3, 3)))
        (tmp_path / "array.npy").rename(file)
    else:
        file.write_bytes({"text": b"not found\n", "zeros": bytes(10_000), "json": b'{"a": 1}'}[other])
    refused(kind, file, tmp_path / "stores")


@pytest.mark.parametrize("inside", ["nothing", "text"])
def test_a_folder_of_something_else_is_refused(kind, source, tmp_path, inside) -> None:
    folder = place(source, tmp_path)
    folder.mkdir()
    if inside == "text":
        (folder / "README.md").write_text("nothing here")
    refused(kind, folder, tmp_path / "stores")


def test_a_folder_in_the_place_of_a_file_is_refused(kind, made, tmp_path) -> None:
    file = data_files(made)[0]
    file.unlink()
    file.mkdir()
    refused(kind, made, tmp_path / "stores")


def test_a_link_to_nowhere_is_refused(kind, made, tmp_path) -> None:
    file = data_files(made)[0]
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    refused(kind, made, tmp_path / "stores")


def test_a_link_to_itself_is_refused(kind, made, tmp_path) -> None:
    file = data_files(made)[0]
    file.unlink()
    file.symlink_to(file)
    refused(kind, made, tmp_path / "stores")


def test_a_refused_file_leaves_a_store_that_was_there(kind, example, made, tmp_path) -> None:
    before = import_file(task_of(example.env_name), made, tmp_path / "stores").manifest.content_hash
    file = data_files(made)[0]
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(DatasetError) as error:
        import_file(task_of(example.env_name), made, tmp_path / "stores", ImportOptions(overwrite=True))
    one_line(error)
    file.write_bytes(b"")
    os.truncate(file, 100)
    with pytest.raises(DatasetError, match="exists already"):
        import_file(task_of(example.env_name), made, tmp_path / "stores")
    assert find_store(example.env_name, tmp_path / "stores").manifest.content_hash == before


def in_a_process(calls: list[str]) -> list[str]:
    """Run functions of `source_examples` in a process of its own, which must end well; return its lines."""
    program = "\n".join(["from tests.contract.source_examples import *", *calls])
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'platform'}:{root}"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False, timeout=600
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-300:], done.stderr[-2000:])
    return done.stdout.splitlines()


def calls_for_each(function: str, folder: Path, *more: object) -> list[str]:
    """Return a call for each source, with a folder of its own."""
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
    return [f"{function}{(kind, str(folder / kind), *more)!r}" for kind in KINDS]


@pytest.fixture(scope="module")
def troubled(tmp_path_factory) -> tuple[Path, list[str]]:
    """A folder where datasets were damaged, killed writers wrote, and the disk was full; and what was printed.

    One process did all of it, the full disk last: a library that is upset by it shows so when its process ends.
    """
    folder = tmp_path_factory.mktemp("troubled")
    calls = calls_for_each("flip_and_read", folder / "flipped", 12)
    calls += calls_for_each("write_and_die", folder / "killed")
    calls += calls_for_each("write_on_a_full_disk", folder / "full")
    return folder, in_a_process(calls)


def check_flipped(folder: Path, lines: list[str], cases: int) -> None:
    found = [line.removeprefix("flipped ").split(" ", 2) for line in lines if line.startswith("flipped ")]
    assert len(found) == cases * len(KINDS)
    for kind, case, said in found:
        path = place(sources.get(kind), folder / kind)
        assert said.startswith(("read ", f"refused {path}")), (kind, case, said)


@pytest.mark.slow
def test_changed_bytes_at_a_files_start_are_refused_or_harmless(troubled) -> None:
    folder, lines = troubled
    check_flipped(folder / "flipped", lines, 12)


@pytest.mark.slow
def test_a_great_many_changed_bytes_are_refused_or_harmless(tmp_path) -> None:
    check_flipped(tmp_path, in_a_process(calls_for_each("flip_and_read", tmp_path, 60)), 60)


def test_a_killed_writer_leaves_nothing_in_the_files_place_and_does_not_hinder_the_next(
    kind, source, example, troubled
) -> None:
    path = place(source, troubled[0] / "killed" / kind)
    assert not path.exists()
    source.write(path, iter(EPISODES[kind]), example.env_name, {})
    same_episodes(source.task(example.env_name).read(path), EPISODES[kind])


def test_a_full_disk_is_one_line_and_leaves_nothing(kind, troubled) -> None:
    folder, lines = troubled
    said = [line for line in lines if line.startswith(f"full {kind} ")]
    assert len(said) == 1
    assert said[0].startswith(f"full {kind} StorageError no space left")
    assert list((folder / "full" / kind).iterdir()) == []


def test_episodes_that_break_off_leave_the_file_that_was_there(kind, source, example, made) -> None:
    def broken():
        yield from EPISODES[kind]
        raise RuntimeError("the simulator died")

    with pytest.raises(RuntimeError, match="the simulator died"):
        source.write(made, broken(), example.env_name, {})
    same_episodes(source.task(example.env_name).read(made), EPISODES[kind])
    assert list(made.parent.iterdir()) == [made]
    fresh = place(source, made.parent, "fresh")
    with pytest.raises(RuntimeError, match="the simulator died"):
        source.write(fresh, broken(), example.env_name, {})
    assert not fresh.exists()
    assert list(made.parent.iterdir()) == [made]


def test_a_place_that_cannot_be_written_is_one_line(kind, source, example, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as error:
        source.write(place(source, tmp_path / "file"), iter(EPISODES[kind]), example.env_name, {})
    one_line(error)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_whole_file_is_read(kind, example, made, tmp_path) -> None:
    same_episodes(episodes_of(import_file(task_of(example.env_name), made, tmp_path / "stores")), EPISODES[kind])
