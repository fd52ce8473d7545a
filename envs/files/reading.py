"""Read npz and HDF5 files so that a damaged one is an error of one line that names the file."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import DatasetError, did_you_mean

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, TypeError, RuntimeError,
          NotImplementedError, SyntaxError, UnicodeError, tokenize.TokenError, MemoryError, OverflowError)  # fmt: skip
"""What numpy and h5py raise for broken files; a length that was damaged may ask for more memory than there is."""


def read_npz(
    file: Path, required: Sequence[str] = (), optional: Sequence[str] = (), headers: bool = False
) -> dict[str, Any]:
    """Return the named arrays of an npz; with `headers` only those under 80 kB are read, others are None."""
    with damage(file, "npz"):
        opened = np.load(_existing(file), allow_pickle=False)
    if isinstance(opened, np.ndarray):
        raise DatasetError(f"{file}: a single array, not an npz archive")
    with damage(file, "npz"), opened as archive:
        for name in required:
            if name not in archive.files:
                raise DatasetError(f"{file}: no array {name!r}{did_you_mean(name, archive.files)}")
        wanted = [name for name in (*required, *optional) if name in archive.files]
        if headers:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.zip.infolist()}
            return {name: archive[name] if sizes[name] < 80_000 else None for name in wanted}
        return {name: archive[name] for name in wanted}


@contextmanager
def open_hdf5(file: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading; one that is missing, truncated or of another kind raises DatasetError."""
    import h5py

    _existing(file)
    with damage(file, "HDF5"):
        handle = h5py.File(file, "r")
    with handle:
        yield handle


def read_dataset(path: Path, file: Any, name: str) -> np.ndarray:
    """Return one dataset of an open HDF5 file as numbers."""
    if name not in file:
        parent, _, _ = name.rpartition("/")
        present = list(file[parent]) if parent and parent in file else list(file)
        raise DatasetError(f"{path}: no dataset {name!r}{did_you_mean(name.rpartition('/')[2], present)}")
    with damage(path, "HDF5"):
        array = np.asarray(file[name][()])
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise DatasetError(f"{path}: {name} holds {array.dtype} of shape {array.shape}, not rows of numbers")
    return array


@contextmanager
def damage(file: Path, kind: str) -> Iterator[None]:
    """Turn the many errors of a damaged file into one DatasetError."""
    try:
        yield
    except DAMAGE as error:
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DatasetError(f"{file}: not a readable {kind} file, truncated or damaged ({said})") from error


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise DatasetError(f"{file}: no such file")
    return file
