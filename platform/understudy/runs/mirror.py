"""Copy a run directory to any fsspec storage while it trains, and bring it back where the local one is gone.

The place is <checkpoint_storage>/<the run's folder below save_dir>. After each rolling checkpoint a thread of its own
copies what is new, the checkpoint last and after its checksum, so that what is there can always be resumed from. A
storage that is slow or away never holds training up: it is said once, and the next checkpoint tries again.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from understudy import checkpoints
from understudy.errors import StorageError, UnknownName, UserError
from understudy.files import storage_errors, write_json
from understudy.runs.directory import RunDir
from understudy.runs.ended import check_ended, note_ended
from understudy.runs.storage import open_storage, put, read_stored_json, remote_errors
from understudy.spec.keys import build_run
from understudy.spec.run import RunSpec

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

log = logging.getLogger("understudy")
CLOSE_SECONDS = 60.0
"""How long the end of a run waits for a storage that does not answer."""


def check(url: str) -> None:
    """Raise UserError when nothing here can write to such an address; the storage itself is not asked."""
    if url:
        open_storage(url)


def attach(run: RunDir, spec: RunSpec) -> None:
    """Assign the run its folder in the storage, noted in run.json, and fetch what the same run left there before.

    The folder of another run of the same name (begun on another machine in the same second) is left alone.
    """
    if not spec.placement.checkpoint_storage or run.state().get("storage"):
        return
    place = _place(run.path, spec)
    try:
        flags = read_stored_json(place, "flags.json")
        if flags is not None and build_run(flags).fingerprint() == spec.fingerprint():
            fetch(place, run.path)
            log.info("went on from what %s held", place)
        elif flags is not None:
            place += f"-{secrets.token_hex(4)}"
    except StorageError as error:
        log.warning("%s; checkpoints are copied there once it is back", error)
    run.update_state(storage=place)


def bring(url: str, save_dir: Path) -> Path:
    """Return the local directory of the run that a storage holds at `url`, fetched if it is missing or holds less.

    Where the run was on this machine, it goes on in its own directory. Else it comes below `save_dir`, whatever the
    storage's files say: they may be somebody else's. UserError for a storage that names a place outside it.
    """
    flags, state = read_stored_json(url, "flags.json"), read_stored_json(url, "run.json") or {}
    if flags is None:
        raise UnknownName(f"{url} holds no run: there is no flags.json")
    spec = build_run(flags)
    place = str(state.get("storage", url))
    below = place.removeprefix(spec.placement.checkpoint_storage.rstrip("/")).strip("/")
    if ".." in Path(below).parts or "://" in below:
        raise UserError(f"{url}: its run.json says that it is at {place}, which is no folder of a run")
    own = RunDir(Path(spec.placement.save_dir) / below)
    run = own if _is_of(own, place) else RunDir(save_dir.absolute() / below)
    if run.flags.is_file() and not _has_more(url, state, run):
        log.info("%s is here already, and the storage has no more of it: going on from that", run.path)
    else:
        with storage_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        with run.locked():
            fetch(url, run.path)
            check_ended(run)
            if run is not own:
                write_json(run.flags, {**flags, "save_dir": str(save_dir.absolute())})
                if run.state().get("status") == "finished":
                    note_ended(run)
        log.info("fetched %s to %s", url, run.path)
    return run.path


def _is_of(run: RunDir, place: str) -> bool:
    """Return whether a directory here is the run that a storage has a copy of."""
    return run.flags.is_file() and run.state().get("storage") == place


def _has_more(url: str, state: dict[str, Any], run: RunDir) -> bool:
    """Return whether a storage holds more of a run than its local directory: another machine may have gone on."""
    if run.state().get("status") == "finished":
        return False
    if state.get("status") == "finished":
        return True
    store, root = open_storage(url)
    with remote_errors(url):
        held = _rolling_steps(store, f"{root}/{run.resume.name}")
    here = checkpoints.rolling_steps(run.resume)
    return max(held, default=0) > max(here, default=-1)


def _rolling_steps(store: Any, folder: str) -> list[int]:
    """Return the steps of the rolling checkpoints in a folder of a storage, in order."""
    names = [name.rsplit("/", 1)[1] for name in store.find(folder)] if store.exists(folder) else []
    return sorted({int(name.split("_")[1].split(".")[0]) for name in names if name.startswith("step_")})


def fetch(url: str, folder: Path) -> None:
    """Copy all that the storage holds at `url` into `folder`; the files appear there when all have arrived."""
    store, root = open_storage(url)
    partial = folder / ".fetching"
    shutil.rmtree(partial, ignore_errors=True)
    with remote_errors(url):
        names = [name for name in sorted(store.find(root)) if not name.rsplit("/", 1)[1].startswith(".")]
        for name in names:
            target = partial / os.path.relpath(name, root)
            if not Path(os.path.normpath(target)).is_relative_to(partial):
                raise StorageError(f"{url} holds {name}, which is no file below it")
            target.parent.mkdir(parents=True, exist_ok=True)
            store.get_file(name, str(target))
    with storage_errors(folder):
        for file in sorted(partial.rglob("*"), key=lambda file: file.suffix == ".pt"):
            if file.is_file():
                target = folder / file.relative_to(partial)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    shutil.rmtree(partial, ignore_errors=True)


def copy_sweep(sweep: Path, spec: RunSpec, poll: Callable[[], None] | None = None) -> None:
    """Copy a sweep's own files beside its trials' copies; what goes wrong is said. `poll` may end it between two."""
    if not spec.placement.checkpoint_storage:
        return
    try:
        Copy(sweep, _place(sweep, spec), without="trials").update(poll)
    except StorageError as error:
        log.warning("%s; the sweep's own files are in %s only", error, sweep)


def finish(run: RunDir) -> None:
    """Copy a finished run's files and drop its rolling checkpoints from the storage; what goes wrong is said."""
    url = run.state().get("storage")
    if not url:
        return
    try:
        Copy(run.path, url).update()
        store, root = open_storage(url)
        with remote_errors(url):
            if store.exists(f"{root}/{run.resume.name}"):
                store.rm(f"{root}/{run.resume.name}", recursive=True)
    except StorageError as error:
        log.warning("%s; the finished run is in %s only", error, run.path)


class Mirror:
    """Keep a run's place in the storage up to date in the background; nothing for a run that has none.

    A context manager: its end waits for the last copy, as long as the storage answers.
    """

    def __init__(self, run: RunDir) -> None:
        url = run.state().get("storage")
        self._copy = Copy(run.path, url) if url else None
        self._changed = threading.Condition()
        self._due = self._closing = self._away = False
        self._thread = threading.Thread(target=self._work, name="understudy-mirror", daemon=True)

    def __enter__(self) -> Mirror:
        if self._copy:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._copy:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            if kind is not KeyboardInterrupt:  # ends at once: the run directory has it all
                self._thread.join(CLOSE_SECONDS)

    def submit(self) -> None:
        """Have the newest checkpoint copied."""
        if self._copy:
            with self._changed:
                self._due = True
                self._changed.notify_all()

    def _work(self) -> None:
        assert self._copy is not None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._closing)
                if not self._due:
                    return
                self._due = False
            try:
                self._copy.update()
            except StorageError as error:
                if not self._away:
                    log.warning("%s; training goes on, the next checkpoint tries again", error)
                self._away = True
            else:
                self._away = False


class Copy:
    """The copy of a run directory, or of a sweep's folder `without` its trials; knows what it has sent already."""

    def __init__(self, folder: Path, url: str, without: str = "") -> None:
        self._folder, self._url, self._without = folder, url, without
        self._sent: dict[str, tuple[int, int]] = {}

    def update(self, poll: Callable[[], None] | None = None) -> None:
        """Send what changed, checkpoints last, and drop all but the newest rolling ones; raises StorageError."""
        store, root = open_storage(self._url)
        with remote_errors(self._url):
            for name, stamp in self._files():
                if poll is not None:
                    poll()
                if self._sent.get(name) != stamp and put(store, self._folder / name, f"{root}/{name}"):
                    self._sent[name] = stamp
            self._drop_old(store, f"{root}/resume")

    def _files(self) -> list[tuple[str, tuple[int, int]]]:
        """Return (name, stamp) of all but hidden files: small ones, then checksums, then what they are of."""
        found: list[tuple[str, tuple[int, int]]] = []
        for place, folders, names in os.walk(self._folder):
            folders[:] = [folder for folder in folders if folder != self._without and not folder.startswith(".")]
            for name in names:
                path = Path(place, name)
                if not name.startswith(".") and path.is_file():
                    held = path.stat()
                    found.append((path.relative_to(self._folder).as_posix(), (held.st_size, held.st_mtime_ns)))
        order = {".sha256": 1, ".pt": 2}
        return sorted(found, key=lambda item: (order.get(Path(item[0]).suffix, 0), item[0]))

    @staticmethod
    def _drop_old(store: AbstractFileSystem, resume: str) -> None:
        names = [name.rsplit("/", 1)[1] for name in store.find(resume)] if store.exists(resume) else []
        for step in _rolling_steps(store, resume)[: -checkpoints.KEEP_ROLLING]:
            for name in (f"step_{step}.pt", f"step_{step}.pt.sha256"):
                if name in names:
                    store.rm_file(f"{resume}/{name}")


def _place(path: Path, spec: RunSpec) -> str:
    """Return where a folder's copy is: as it stands below save_dir, by its bare name where it stands elsewhere."""
    path, root = path.absolute(), Path(spec.placement.save_dir)
    below = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    return f"{spec.placement.checkpoint_storage.rstrip('/')}/{below}"
