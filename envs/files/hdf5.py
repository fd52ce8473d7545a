"""Write HDF5 files whole or not at all, and survive a full disk.

The HDF5 library ends the process with a segmentation fault at its exit once a write of its own has failed. So it
writes through a Python file that never fails: the first error is kept, and raised as soon as HDF5 is done.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from understudy.files import storage_errors, sync_folder

T = TypeVar("T")


class UnfailingFile(io.RawIOBase):
    """A file whose writes keep their first error in `error` and do nothing after it."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a place in the file."""
        return self._file.seek(offset, whence)

    def readable(self) -> bool:
        """Return True: libraries that take file objects ask."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place in the file."""
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`."""
        return self._file.readinto(buffer)

    def write(self, data: Any) -> int:
        """Write all of `data`, or keep the error."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self.error is None:
            try:
                done += self._file.write(view[done:])
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length, or keep the error."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        """Raise the error that was kept, if there is one."""
        if self.error is not None:
            raise self.error

    def checked(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items for a library that writes each, and raise the error once one could not be written."""
        for item in items:
            yield item
            self.check()


@contextlib.contextmanager
def unfailing(path: Path) -> Iterator[UnfailingFile]:
    """Give a new file at `path` to a library that writes HDF5 into it; the first error is raised at the block's end."""
    with open(path, "w+b", buffering=0) as raw:
        file = UnfailingFile(raw)
        try:
            yield file
        except (OSError, RuntimeError):
            file.check()  # HDF5 stumbles over what was not written: tell the cause
            raise
        file.check()


@contextlib.contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Give an h5py.File to fill and a check; the file is written beside `path` and renamed when the block ends well.

    The check raises StorageError when the disk is full; call it after each large write. Without it the error comes
    at the block's end.
    """
    import h5py

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = open(temporary, "w+b", buffering=0)  # noqa: SIM115  (closed below)
        with raw:
            file = UnfailingFile(raw)

            def check() -> None:
                with storage_errors(path):
                    file.check()

            try:
                with h5py.File(file, "w") as handle:
                    yield handle, check
            except (OSError, RuntimeError):
                check()  # HDF5 stumbles over what was not written: tell the cause
                raise
            check()
            with storage_errors(path):
                os.fsync(raw.fileno())
        with storage_errors(path):
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # where not even it could be made, the error is on its way already
            temporary.unlink()
