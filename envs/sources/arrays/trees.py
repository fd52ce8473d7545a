"""Open a file of named arrays as a flat table from paths to arrays whose rows are read when they are asked for.

HDF5, npz (or a folder of .npy files), zarr of format 2 (a folder or a zip), and folders of such files, one an episode.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from understudy.envs.files.reading import (
    WrongContent,
    check_archive,
    check_claim,
    check_readable,
    damage,
    kind_of,
    open_hdf5,
)
from understudy.envs.sources.arrays import zarr
from understudy.errors import DatasetError


class Rows(Protocol):
    """An array [N, *shape] that may lie on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole shape."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Return some rows."""
        ...


Tree = Mapping[str, Rows]
SUFFIXES = {"hdf5": (".hdf5", ".h5", ".hdf"), "npz": (".npz",), "zarr": (".zarr", ".zip")}


class Guarded:
    """An array whose rows are read from a file: what is wrong with them is an error of one line that names the file."""

    def __init__(self, rows: Rows, file: Path, kind: str) -> None:
        self._rows, self._file, self._kind = rows, file, kind

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole shape."""
        with damage(self._file, self._kind):
            return self._rows.shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return some rows."""
        with damage(self._file, self._kind):
            return self._rows[rows]


class NpzArray:
    """An array of an npz, read whole when rows are first asked for."""

    def __init__(self, archive: Any, name: str) -> None:
        self._archive, self._name = archive, name
        self._read: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole shape."""
        return self._array().shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return some rows."""
        return self._array()[rows]

    def _array(self) -> np.ndarray:
        if self._read is None:
            try:
                self._read = np.asarray(self._archive[self._name])
            except ValueError as error:
                if "allow_pickle" in str(error):
                    raise WrongContent(
                        f"{self._name} holds Python objects (None, lists of unlike length), not numbers"
                    ) from error
                raise
        return self._read


def data_files(path: Path, kind: str) -> list[Path]:
    """Return the files that a path stands for: itself, or those of a folder; of a zarr folder every file in it."""
    if not path.is_dir():
        return [path]
    if _is_zarr(path):
        return sorted(item for item in path.rglob("*") if item.is_file())
    return episode_files(path, kind) or sorted(path.glob("*.npy"))


def episode_files(path: Path, kind: str) -> list[Path]:
    """Return the files of a folder that are one episode each, in the order of the numbers in their names."""
    suffixes = SUFFIXES.get(kind) or [suffix for items in SUFFIXES.values() for suffix in items]
    return sorted((item for item in path.iterdir() if item.suffix in suffixes), key=lambda item: in_order(item.name))


@contextmanager
def open_tree(path: Path, kind: str) -> Iterator[Tree]:
    """Open a file of that kind (`arrays`: whichever it is); a folder's files are groups of their names."""
    with ExitStack() as stack:
        yield _opened(path, kind, stack)


def _opened(path: Path, kind: str, stack: ExitStack) -> dict[str, Rows]:
    if path.is_dir() and not _is_zarr(path):
        return _of_folder(path, kind, stack)
    found = _kind_of(path)
    if not found:
        raise DatasetError(f"{path}: is none of HDF5, npz, zarr and a folder of .npy files, by how it begins")
    if kind not in ("arrays", found):
        raise DatasetError(f"{path}: is {found}, not {kind}")
    with damage(path, found):
        arrays = _of_file(path, found, stack)
    return {name: Guarded(rows, path, found) for name, rows in arrays.items()}


def _of_file(path: Path, kind: str, stack: ExitStack) -> Mapping[str, Rows]:
    if kind == "hdf5":
        return _of_hdf5(stack.enter_context(open_hdf5(path)))
    if kind == "npz":
        archive = stack.enter_context(np.load(check_readable(path, "npz"), allow_pickle=False))
        check_archive(archive.zip, path)
        return {name: NpzArray(archive, name) for name in archive.files}
    files = zarr.Folder(path) if path.is_dir() else zarr.Zip(stack.enter_context(zipfile.ZipFile(path)))
    arrays = zarr.arrays_of(files)
    check_claim(sum(array.nbytes for array in arrays.values()), path)
    return arrays


def _of_folder(path: Path, kind: str, stack: ExitStack) -> dict[str, Rows]:
    tree: dict[str, Rows] = {}
    episodes = episode_files(path, kind)
    for file in episodes:
        tree |= {f"{file.stem}/{name}": rows for name, rows in _opened(file, kind, stack).items()}
    if not episodes and kind in ("arrays", "npz"):
        with damage(path, "npy"):
            tree = {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in sorted(path.glob("*.npy"))}
    if not tree:
        raise DatasetError(
            f"{path}: no file in this folder is {'HDF5, npz, zarr or npy' if kind == 'arrays' else kind}"
        )
    return tree


def _of_hdf5(file: Any) -> dict[str, Rows]:
    found: dict[str, Rows] = {}

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "shape") and item.dtype.kind in "biuf" and item.shape:
            found[name] = item

    file.visititems(visit)
    return found


def _kind_of(path: Path) -> str:
    if path.is_dir():
        return "zarr" if _is_zarr(path) else ""
    with damage(path, "data"):
        check_readable(path, "data")
        said = kind_of(path)
    if said != "npz":  # how a zip begins
        return "hdf5" if said == "HDF5" else ""
    with damage(path, "npz"), zipfile.ZipFile(path) as archive:
        return "npz" if all(name.endswith(".npy") for name in archive.namelist()) else "zarr"


def _is_zarr(path: Path) -> bool:
    if (path / "zarr.json").is_file():
        raise DatasetError(f"{path}: is zarr of format 3; format 2 is read: write it with zarr_format=2")
    return any((path / name).is_file() for name in (".zgroup", ".zmetadata"))


def in_order(name: str) -> list[tuple[int, str]]:
    """Return what sorts demo_2 before demo_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def rows_of(tree: Tree, name: str, begin: int, end: int) -> np.ndarray:
    """Return rows of one array; WrongContent where they are no numbers."""
    array = np.asarray(tree[name][begin:end])
    if array.dtype.kind not in "biuf":
        raise WrongContent(f"{name} holds {array.dtype}, not numbers")
    return array
