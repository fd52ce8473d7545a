"""A store is of the files that lie there now: what they hold counts, and not when they were written."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.lerobot_examples import made, written
from tests.contract.source_examples import EXAMPLES, made_up, one_line

from understudy.envs.sources import opening
from understudy.envs.sources.opening import open_imported, open_named
from understudy.envs.sources.source import task_of
from understudy.envs.store import origins
from understudy.envs.store.columns import PictureEncoding
from understudy.envs.store.finding import store_path
from understudy.envs.store.store import MANIFEST, EpisodeStore, Manifest
from understudy.envs.store.transfer import ImportOptions, import_file
from understudy.errors import DatasetError, StorageError
from understudy.files import write_atomic
from understudy.registry import sources
from understudy.spec.keys import build_run
from understudy.spec.run import RunSpec

CUBES = EXAMPLES["ogbench"]


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the datasets that are imported from here on."""
    seen: list[str] = []

    def counted(*arguments: Any, **options: Any) -> EpisodeStore:
        seen.append(arguments[0].env_name)
        return import_file(*arguments, **options)

    monkeypatch.setattr(opening, "import_file", counted)
    return seen


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    written(tmp_path / "set", 2, pictures="image")
    return build_run({"env_name": f"lerobot:{tmp_path}/set", "data_dir": str(tmp_path / "stores")})


def manifest_of(spec: RunSpec) -> Manifest:
    return Manifest.read(store_path(spec.env_name, spec.placement.datasets))


def test_older_files_that_are_put_in_the_place_are_imported(spec: RunSpec, tmp_path: Path, imports: list[str]) -> None:
    older = written(tmp_path / "older", 3, pictures="image")
    for file in older.rglob("*"):
        os.utime(file, (1e9, 1e9))
    assert open_named(spec).manifest.num_episodes == 2
    (tmp_path / "set").rename(tmp_path / "gone")
    older.rename(tmp_path / "set")
    assert open_named(spec).manifest.num_episodes == 3
    open_named(spec)
    assert len(imports) == 2


def test_files_of_one_size_and_time_are_told_apart(tmp_path: Path, imports: list[str]) -> None:
    source, folder = sources.get("ogbench"), tmp_path / "npz"
    for number in (0, 1):
        source.write(folder / f"{number}.npz", iter(made_up(CUBES, [5], seed=number)), CUBES.env_name, {})
        os.utime(folder / f"{number}.npz", (1e9, 1e9))
    assert len({file.stat().st_size for file in folder.iterdir()}) == 1
    one = open_imported(folder / "0.npz", CUBES.env_name, tmp_path / "stores")
    (folder / "1.npz").replace(folder / "0.npz")
    other = open_imported(folder / "0.npz", CUBES.env_name, tmp_path / "stores")
    assert one.manifest.content_hash != other.manifest.content_hash
    assert len(imports) == 2


def test_files_that_were_touched_copied_or_moved_are_not_imported_again(
    spec: RunSpec, tmp_path: Path, imports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_named(spec)
    for file in (tmp_path / "set").rglob("*"):
        os.utime(file)
    open_named(spec)
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    shutil.rmtree(tmp_path / "set")
    (tmp_path / "copy").rename(tmp_path / "set")
    open_named(spec)
    assert len(imports) == 1
    monkeypatch.setattr(origins, "sha256", lambda file: pytest.fail(f"{file} was read although nothing changed"))
    open_named(spec)


def test_a_folder_with_a_file_more_is_imported_again(spec: RunSpec, tmp_path: Path, imports: list[str]) -> None:
    open_named(spec)
    written(tmp_path / "set", 1, first=2, pictures="image")
    assert open_named(spec).manifest.num_episodes == 3


def change_manifest(spec: RunSpec, change: Any) -> None:
    file = store_path(spec.env_name, spec.placement.datasets) / MANIFEST
    data = json.loads(file.read_text())
    change(data["provenance"])
    file.write_text(json.dumps(data))


def without_looks(provenance: dict[str, Any]) -> None:
    provenance["files"] = [{name: item[name] for name in ("name", "sha256")} for item in provenance["files"]]


def test_a_store_that_knows_the_hashes_only_is_compared_by_them_once(
    spec: RunSpec, tmp_path: Path, imports: list[str]
) -> None:
    open_named(spec)
    change_manifest(spec, without_looks)
    open_named(spec)
    assert len(imports) == 1
    assert set(manifest_of(spec).provenance["files"][0]) == {"name", "sha256", "size", "mtime_ns", "ctime_ns"}
    change_manifest(spec, without_looks)
    shutil.rmtree(tmp_path / "set")
    written(tmp_path / "set", 1, first=7, pictures="image")
    assert open_named(spec).manifest.num_episodes == 1


def test_a_store_that_knows_nothing_of_its_files_goes_by_time_and_says_so(
    spec: RunSpec, tmp_path: Path, imports: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    open_named(spec)
    change_manifest(spec, lambda provenance: provenance.pop("files"))
    open_named(spec)
    assert (len(imports), "taken for the same as they are by its time" in caplog.text) == (1, True)
    os.utime(tmp_path / "set/meta/info.json", (4e9, 4e9))
    open_named(spec)
    assert (len(imports), "taken for older than they are by its time" in caplog.text) == (2, True)


def test_a_store_that_cannot_be_written_is_used_all_the_same(
    spec: RunSpec, tmp_path: Path, imports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_named(spec)
    before = (store_path(spec.env_name, spec.placement.datasets) / MANIFEST).read_bytes()
    os.utime(tmp_path / "set/meta/info.json")

    def refuse(path: Path, write: Any) -> None:
        raise StorageError(f"cannot write {path}: Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(origins, "write_atomic", refuse)
        open_named(spec)
    assert len(imports) == 1
    assert (store_path(spec.env_name, spec.placement.datasets) / MANIFEST).read_bytes() == before


def test_files_that_change_while_they_are_imported_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sources.get("ogbench")
    file = tmp_path / "cubes.npz"
    source.write(file, iter(made_up(CUBES, [5])), CUBES.env_name, {})
    kind = type(source.task(CUBES.env_name))
    read = kind.read

    def reading(self: Any, path: Path) -> Iterator[Any]:
        yield from read(self, path)
        write_atomic(path, lambda stream: stream.write(b"a newer one"))

    monkeypatch.setattr(kind, "read", reading)
    with pytest.raises(DatasetError) as error:
        import_file(task_of(CUBES.env_name), file, tmp_path / "stores")
    one_line(error, str(file), "was written to while it was imported")
    assert list((tmp_path / "stores").glob("*")) == []


def test_what_is_imported_again_is_imported_as_before(
    spec: RunSpec, tmp_path: Path, imports: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("cv2")
    caplog.set_level(logging.INFO)
    options = ImportOptions(pictures=PictureEncoding("jpeg", 70), reading={"tolerance_s": 0.01})
    import_file(task_of(spec.env_name), tmp_path / "set", spec.placement.datasets, options)
    before = manifest_of(spec)
    written(tmp_path / "set", 1, first=2, pictures="image")
    after = open_named(spec).manifest
    assert "its files have changed; importing them again" in caplog.text
    assert after.num_episodes == 3
    assert after.columns == before.columns
    assert after.provenance["jpeg_quality"] == 70
    assert after.provenance["reading"] == {"tolerance_s": 0.01}
    store = EpisodeStore.open(store_path(spec.env_name, spec.placement.datasets))
    frames = store.frames("images/front").gather(np.arange(2))
    assert np.abs(frames.astype(int) - made(0)["images/front"][:2]).mean() < 8
