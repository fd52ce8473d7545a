"""Read npz and HDF5 files so that what is wrong with one is an error of one line that names the file and the cause.

A file is called damaged only where nothing else explains what a library could not read: not one that is locked,
forbidden, away, of another kind, or that says something else than is expected of it.
"""

from __future__ import annotations

import errno
import json
import lzma
import os
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
          NotImplementedError, SyntaxError, UnicodeError, tokenize.TokenError, MemoryError, OverflowError,
          lzma.LZMAError)  # fmt: skip
"""What numpy and h5py raise for broken files; a length that was damaged may ask for more memory than there is."""


def read_npz(
    file: Path, required: Sequence[str] = (), optional: Sequence[str] = (), headers: bool = False
) -> dict[str, Any]:
    """Return the named arrays of an npz; with `headers` only those under 80 kB are read, others are None."""
    check_readable(file, "npz")
    with damage(file, "npz"):
        opened = np.load(file, allow_pickle=False)
    if isinstance(opened, np.ndarray):
        raise DatasetError(f"{file}: a single array, not an npz archive")
    with damage(file, "npz"), opened as archive:
        for name in required:
            if name not in archive.files:
                raise DatasetError(f"{file}: no array {name!r}{did_you_mean(name, archive.files)}")
        check_archive(archive.zip, file)
        wanted = [name for name in (*required, *optional) if name in archive.files]
        if headers:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.zip.infolist()}
            return {name: archive[name] if sizes[name] < 80_000 else None for name in wanted}
        return {name: archive[name] for name in wanted}


@contextmanager
def open_hdf5(file: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading; one that is missing, truncated or of another kind raises DatasetError."""
    import h5py

    check_readable(file, "HDF5")
    with damage(file, "HDF5"):
        handle = h5py.File(file, "r")
    with handle:
        with damage(file, "HDF5"):
            _check_hdf5(file, handle)
        yield handle


CLAIM_BYTES, CLAIM_RATIO = 2**30, 2000
"""A file may claim this much whatever its size, and so many times its size: no compression of rows reaches that."""


def _check_hdf5(file: Path, handle: Any) -> None:
    """Raise WrongContent for a file whose data lie in other files, or whose datasets claim more than it can hold."""
    import h5py

    low_level: Any = h5py  # its stubs lack h5l

    def linked(name: bytes, info: Any) -> str | None:  # raising in here breaks h5py: what is returned ends the visit
        is_link = info.type == low_level.h5l.TYPE_EXTERNAL
        return (
            f"{name.decode(errors='replace')} is a link into another file, which is not followed" if is_link else None
        )

    def stored(name: str, item: Any) -> str | None:
        nonlocal claimed
        if not isinstance(item, h5py.Dataset):
            return None
        claimed += item.nbytes
        elsewhere = item.external or (item.is_virtual and {rows.file_name for rows in item.virtual_sources()} != {"."})
        return f"the rows of {name} are in another file, which is not read" if elsewhere else None

    claimed = 0
    leads_out = handle.id.links.visit(linked, info=True) or handle.visititems(stored)
    if leads_out:
        raise WrongContent(leads_out)
    check_claim(claimed, file)


def check_claim(claimed: int, file: Path) -> None:
    """Raise WrongContent where a file's or folder's arrays claim far more bytes than it can hold, compressed or not."""
    parts = file.rglob("*") if file.is_dir() else [file]
    size = sum(part.stat().st_size for part in parts)
    if claimed > max(CLAIM_BYTES, CLAIM_RATIO * size):
        raise WrongContent(f"its arrays claim {claimed / 1e9:.1f} GB in a file of {size} bytes")


def check_archive(archive: zipfile.ZipFile, file: Path) -> None:
    """Raise WrongContent where what is in a zip claims more than it can hold, or than the memory that is free."""
    import psutil

    unpacked = sum(info.file_size for info in archive.infolist())
    check_claim(unpacked, file)
    free = psutil.virtual_memory().available
    if unpacked > free:
        raise WrongContent(f"its arrays unpack to {unpacked / 1e6:.1f} MB, and {free / 1e6:.1f} MB of memory are free")


def read_dataset(path: Path, file: Any, name: str) -> np.ndarray:
    """Return one dataset of an open HDF5 file as numbers."""
    if name not in file:
        parent, _, _ = name.rpartition("/")
        present = list(file[parent]) if parent and parent in file else list(file)
        raise DatasetError(f"{path}: no dataset {name!r}{did_you_mean(name.rpartition('/')[2], present)}")
    with damage(path, "HDF5"):
        _check_memory(file[name])
        array = np.asarray(file[name][()])
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise DatasetError(f"{path}: {name} holds {array.dtype} of shape {array.shape}, not rows of numbers")
    return array


def _check_memory(rows: Any) -> None:
    """Raise WrongContent where a dataset that is read whole has more bytes than the memory that is free."""
    import psutil

    size, free = int(getattr(rows, "nbytes", 0)), psutil.virtual_memory().available
    if size > free:
        raise WrongContent(f"{rows.name} has {size / 1e6:.1f} MB, and {free / 1e6:.1f} MB of memory are free")


class WrongContent(ValueError):
    """What a file says is not what is expected of it, though it can be read; `damage` puts the file's name before."""


@contextmanager
def damage(file: Path, kind: str) -> Iterator[None]:
    """Turn the many errors of a file that cannot be read into one DatasetError that says what is the matter."""
    try:
        yield
    except WrongContent as error:
        raise DatasetError(f"{file}: {error}") from error
    except DAMAGE as error:
        raise DatasetError(f"{file}: {_cause(file, kind, error)}") from error


@contextmanager
def understood(file: Path, kind: str) -> Iterator[None]:
    """Turn the errors of taking apart what a readable file says into one DatasetError: a key that is not there, say."""
    try:
        yield
    except KeyError as error:
        raise DatasetError(f"{file}: no {error.args[0]!r} in it, which {kind} has") from error
    except WrongContent as error:
        raise DatasetError(f"{file}: {error}") from error
    except (ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise DatasetError(f"{file}: says something else than {kind} does ({_said(error)})") from error


def _cause(file: Path, kind: str, error: Exception) -> str:
    """Return in few words why a file cannot be read, and what to do where something can be done."""
    said = _said(error)
    if "unable to lock file" in said:
        return (
            "is locked (HDF5's lock): a program has it open for writing; close that, or, where nothing does and the"
            " file system has no locks, set HDF5_USE_FILE_LOCKING=FALSE"
        )
    if "already open for" in said:
        return (
            "was not closed by the program that wrote it, or is being written; wait for that, or run"
            f" `h5clear -s {file}` where it has ended"
        )
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.errno in SYSTEM:
        return f"cannot be read ({os.strerror(error.errno).lower()}){SYSTEM[error.errno]}"
    if isinstance(error, MemoryError):
        return f"a {kind} file that asks for more memory than there is: damaged, or too large for this machine"
    other = kind_of(file) if kind in (*_MAGIC.values(), "mp4") else ""
    if other and other != kind:
        return f"not a readable {kind} file: it is {other}"
    return f"not a readable {kind} file, truncated or damaged ({said})"


SYSTEM = {
    errno.EACCES: "; ask its owner for it, or `chmod u+r` it",
    errno.EPERM: "; ask its owner for it",
    errno.EISDIR: "; a file is needed here",
    errno.ELOOP: "; it is a link to itself",
    errno.ENAMETOOLONG: "",
    errno.EIO: "; the disk or the network file system fails",
    errno.ESTALE: "; the network file system lost it, try again",
    errno.ETIMEDOUT: "; the network file system does not answer",
    errno.ENOLCK: "; the file system has no locks: set HDF5_USE_FILE_LOCKING=FALSE",
    errno.EMFILE: "; raise `ulimit -n`",
    errno.ENFILE: "; the machine has too many files open",
}
"""Errors of the system and not of the file, with what to do."""
_MAGIC = {
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"PK\x03\x04": "npz",
    b"PAR1": "parquet",
    b"ARROW1": "an Arrow file",
    b"\x93NUMPY": "npy",
    b"\x1f\x8b": "compressed with gzip: unpack it",
    b"BZh": "compressed with bzip2: unpack it",
    b"\xfd7zXZ": "compressed with xz: unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it",
    b"version https://git-lfs": "a pointer of Git LFS and not the file itself: run `git lfs pull`",
    b"<!doctype html": "a web page, such as a server sends in the place of a file",
    b"<html": "a web page, such as a server sends in the place of a file",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"{": "JSON or other text",
}
"""How files of a kind begin."""


def kind_of(file: Path) -> str:
    """Return what kind of file it is by how it begins; '' where that says nothing."""
    try:
        with open(file, "rb") as stream:
            head = stream.read(64)
    except OSError:
        return ""
    if not head:
        return "empty"
    if head[4:8] == b"ftyp":
        return "mp4"
    return next((kind for magic, kind in _MAGIC.items() if head.lower().startswith(magic.lower())), "")


def _said(error: Exception) -> str:
    """Return the first line of what an error says."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def check_readable(file: Path, kind: str) -> Path:
    """Return the file, after a check that the system lets it be read."""
    with damage(file, kind), open(file, "rb"):
        return file


def read_json(file: Path, kind: str) -> dict[str, Any]:
    """Return the object that a file of JSON holds."""
    check_readable(file, kind)
    with damage(file, kind):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise WrongContent(f"is no JSON ({error}); it is cut short or was edited") from error
        if not isinstance(found, dict):
            raise WrongContent(f"is {type(found).__name__}, an object is expected")
        return found
