"""Save and read training state: one .pt file per save, atomic, checksummed, never unpickled.

A checkpoint is a dict of tensors and plain values that `torch.load(weights_only=True)` reads. Beside each
`x.pt` stands `x.pt.sha256` in the format of the sha256sum tool. Randomness is counter-based, so the step is
all the random state there is. `RollingWriter` writes in a thread of its own, so that training hardly waits.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from understudy.errors import CheckpointError
from understudy.files import sha256, storage_errors, write_atomic

FORMAT = 1
KEEP_ROLLING = 2
UNPACKED_BYTES, UNPACKED_RATIO = 2**24, 4
"""What is in a file may be so large whatever the file's size, and so many times its size: torch does not compress."""
log = logging.getLogger("understudy")


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` with its checksum; a crash at any moment leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    write_atomic(temporary, lambda file: _write(file, {"format": FORMAT, **state}))
    sidecar, line = path.with_name(path.name + ".sha256"), f"{sha256(temporary)}  {path.name}\n".encode()
    replaced = sidecar.read_bytes() if path.is_file() and sidecar.is_file() else b""
    write_atomic(sidecar, lambda file: file.write(line + replaced))  # both are right until the file is there
    with storage_errors(path):
        temporary.replace(path)
    if replaced:
        write_atomic(sidecar, lambda file: file.write(line))


def _write(file: BinaryIO, document: dict[str, Any]) -> None:
    import torch  # it takes seconds, and most commands read no checkpoint

    try:
        torch.save(document, file)
    except RuntimeError as error:
        # Closing its half-written archive, torch hides the full disk that broke it.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; raises CheckpointError, in one line, when it is missing or damaged."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}")
    sidecar = path.with_name(path.name + ".sha256")
    if sidecar.is_file() and sha256(path).encode() not in sidecar.read_bytes().split():
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in {sidecar.name}")
    check_unpacked(path)
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  (torch raises many types for a damaged zip)
        raise CheckpointError(f"{path} cannot be read: {_why_unreadable(error)}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is no understudy checkpoint of format {FORMAT}")
    held = cast("dict[str, Any]", state)
    if held.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no understudy checkpoint of format {FORMAT}")
    return held


def check_unpacked(path: Path) -> None:
    """Raise CheckpointError for a file whose parts unpack to far more than it holds: torch writes them as they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # torch says what is the matter with it
    size = path.stat().st_size
    if claimed > UNPACKED_BYTES + UNPACKED_RATIO * size:
        raise CheckpointError(f"{path} is no file of torch's: {size} bytes that unpack to {claimed / 1e6:.1f} MB")


def _why_unreadable(error: Exception) -> str:
    """Return in a few words why torch could not read a file; torch itself tells at length what else could be tried."""
    told = [line.strip() for line in str(error).splitlines() if line.strip()]
    held = next((line for line in told if "Unsupported global: " in line), None)
    if held is not None:
        name = held.partition("Unsupported global: ")[2].removeprefix("GLOBAL ").split()[0]
        return f"it holds the Python object {name}, and only weights and numbers are read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it is damaged, or no PyTorch file"


def rolling_steps(folder: Path) -> list[int]:
    """Return the steps of the rolling checkpoints in `folder`, newest first."""
    found = (re.fullmatch(r"step_(\d+)\.pt", path.name) for path in folder.glob("step_*.pt"))
    return sorted((int(match[1]) for match in found if match), reverse=True)


def save_rolling(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the rolling checkpoint of `step` and drop all but the newest two."""
    save(folder / f"step_{step}.pt", state)
    for old in rolling_steps(folder)[KEEP_ROLLING:]:
        remove(folder / f"step_{old}.pt")


def load_newest(folder: Path) -> dict[str, Any] | None:
    """Return the newest whole rolling checkpoint, or None when there is none.

    A damaged one is said so in the log and the one before is taken; when all are damaged, CheckpointError.
    """
    steps = rolling_steps(folder)
    problems: list[str] = []
    for step in steps:
        try:
            return load(folder / f"step_{step}.pt")
        except CheckpointError as error:
            log.warning("%s; falling back to the one before", error)
            problems.append(str(error))
    if problems:
        raise CheckpointError(f"every checkpoint in {folder} is damaged: {'; '.join(problems)}")
    return None


class RollingWriter:
    """Write rolling checkpoints in the background: a context manager that has written the last one when it ends.

    One is being written and at most one waits; a newer one takes the place of the one that waits, which nobody
    needs any more. What goes wrong in the thread is raised by the next `submit`, or at the end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed = threading.Condition()
        self._waiting: tuple[int, dict[str, Any], Callable[[], None], Callable[[], None]] | None = None
        self._error: BaseException | None = None
        self._busy = self._closing = False
        self._thread = threading.Thread(target=self._work, name="understudy-checkpoints", daemon=True)
        self.seconds: float | None = None
        """What the newest one took to be written, with `before` and `after`; None before the first."""

    def __enter__(self) -> RollingWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if kind is None:
            self._raise()
        elif self._error is not None:
            log.warning("the last checkpoint was not written: %s", self._error)

    def submit(self, step: int, state: dict[str, Any], before: Callable[[], None], after: Callable[[], None]) -> None:
        """Have `state` (whose tensors nobody changes any more) written: `before()`, the file, then `after()`."""
        with self._changed:
            self._raise()
            self._waiting = (step, state, before, after)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything submitted is on disk."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is None and not self._busy)
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closing)
                if self._waiting is None:
                    return
                (step, state, before, after), self._waiting = self._waiting, None
                self._busy = True
            began = time.monotonic()
            try:
                before()
                save_rolling(self._folder, step, state)
                after()
                self.seconds = time.monotonic() - began
            except BaseException as error:  # noqa: BLE001  (raised in the thread that trains)
                self._error = error
            with self._changed:
                self._busy = False
                self._changed.notify_all()


def remove(path: Path) -> None:
    """Delete a checkpoint and its checksum."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".sha256").unlink(missing_ok=True)
