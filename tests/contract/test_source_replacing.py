"""Datasets that are written where one is: the old one is there until the new one is whole, wherever the path leads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.contract.source_examples import made_up, one_line, place, same_episodes
from tests.unit.test_replaced_folders import dead_pid

from understudy import folders
from understudy.envs.sources.source import task_of
from understudy.envs.store.finding import find_store, list_stores
from understudy.envs.store.transfer import ImportOptions, export_store, import_file
from understudy.envs.store.writer import StoreWriter
from understudy.errors import DatasetError, StorageError


class Failing:
    """Make one call of os.rename or os.replace fail, counted from 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
        self.left = call
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, function: Any) -> Any:
        def called(*arguments: Any, **more: Any) -> None:
            self.left -= 1
            if self.left == 0:
                raise OSError(5, "Input/output error")
            function(*arguments, **more)

        return called


def set_aside(folder: Path) -> Path:
    """Leave a folder as a process does that is killed between the two renames."""
    return folder.rename(folder.with_name(f".{folder.name}.{folders._host()}.{dead_pid()}.0123abcd.old"))


def test_the_old_dataset_is_whole_whichever_rename_fails(source, example, tmp_path) -> None:
    path, first, second = place(source, tmp_path), made_up(example, [5]), made_up(example, [2, 3], seed=1)
    source.write(path, iter(first), example.env_name, {})
    for call in range(1, 100):
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, call)
            if source.name == "lerobot":
                failing.left += 10_000  # each of its files is renamed too, beside the place
            try:
                source.write(path, iter(second), example.env_name, {})
            except StorageError as error:
                one_line(error, "Input/output error")
            else:
                break
        same_episodes(source.task(example.env_name).read(path), first)
        assert list(tmp_path.iterdir()) == [path]
    same_episodes(source.task(example.env_name).read(path), second)


def test_a_dataset_that_a_killed_writer_had_set_aside_is_read(source, example, tmp_path) -> None:
    path = place(source, tmp_path)
    source.write(path, iter(made_up(example, [5])), example.env_name, {})
    if source.suffix:
        pytest.skip("a file takes another's place in one step")
    set_aside(path / "data" if source.name == "minari" else path)
    import_file(task_of(example.env_name), path, tmp_path / "stores")
    same_episodes(source.task(example.env_name).read(path), made_up(example, [5]))


def test_a_store_that_a_killed_import_had_set_aside_is_found_listed_and_not_overwritten(
    source, example, tmp_path
) -> None:
    path, data_dir = place(source, tmp_path), tmp_path / "stores"
    source.write(path, iter(made_up(example, [5])), example.env_name, {})
    store = import_file(task_of(example.env_name), path, data_dir)
    name = store.name
    set_aside(store.path)
    assert find_store(name, data_dir).manifest.content_hash == store.manifest.content_hash
    set_aside(store.path)
    assert [manifest.name for manifest in list_stores(data_dir)] == [name]
    set_aside(store.path)
    writer = StoreWriter(store.path, name=name, source=source.name, env_id="")
    with pytest.raises(DatasetError, match="exists already"), writer:
        pass


@pytest.mark.parametrize("call", [1, 2])
def test_a_store_is_as_it_was_when_a_rename_fails(source, example, tmp_path, call) -> None:
    path, data_dir = place(source, tmp_path), tmp_path / "stores"
    source.write(path, iter(made_up(example, [5])), example.env_name, {})
    before = import_file(task_of(example.env_name), path, data_dir).manifest.content_hash
    source.write(path, iter(made_up(example, [2, 2])), example.env_name, {})
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, call)
        with pytest.raises(StorageError) as error:
            import_file(task_of(example.env_name), path, data_dir, ImportOptions(overwrite=True))
    one_line(error, "Input/output error")
    assert find_store(example.env_name, data_dir).manifest.content_hash == before
    assert len(list(data_dir.iterdir())) == 1


@pytest.mark.parametrize("said", ["out{}", "./new/out{}", "~/out{}", "../out{}", "out{}/"])
def test_a_dataset_is_exported_wherever_a_path_leads(source, example, tmp_path, monkeypatch, said) -> None:
    path = place(source, tmp_path)
    source.write(path, iter(made_up(example, [3, 2])), example.env_name, {})
    store = import_file(task_of(example.env_name), path, tmp_path / "stores")
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    written = export_store(store, said.format(source.suffix), source.name)
    expected = Path(os.path.abspath(os.path.expanduser(said.format(source.suffix))))
    if said.endswith("/") and source.suffix:
        expected = expected / f"{store.path.name}{source.suffix}"
    assert Path(os.path.abspath(written)) == expected
    assert expected.exists()
    same_episodes(source.task(example.env_name).read(written), made_up(example, [3, 2]))


def test_an_existing_folder_of_other_things_is_left_alone(source, example, tmp_path) -> None:
    path = place(source, tmp_path)
    source.write(path, iter(made_up(example, [3])), example.env_name, {})
    store = import_file(task_of(example.env_name), path, tmp_path / "stores")
    folder = tmp_path / "thesis"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "chapter.tex").write_text("years of work")
    if source.suffix:
        written = export_store(store, folder, source.name)
        assert written == folder / f"{store.path.name}{source.suffix}"
        with pytest.raises(DatasetError, match="exists already"):
            export_store(store, folder, source.name)
    else:
        with pytest.raises(DatasetError) as error:
            export_store(store, folder, source.name, overwrite=True)
        one_line(error, "thesis", "choose another folder")
    assert (folder / "data" / "chapter.tex").read_text() == "years of work"
