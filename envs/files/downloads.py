"""Fetch published files over HTTP: resumed after broken connections and kills, checked, whole or not there at all.

What has arrived is in `<file>.part`, and `<file>.part.json` says of which version of which address. A later call asks
the server for the rest of that version (Range with If-Range, RFC 9110 section 13.1.5) and begins again when the
server has another one, or cannot send parts.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from understudy import __version__
from understudy.envs.files.part_files import claimed, mark, note_of, read_note
from understudy.envs.files.reading import kind_of
from understudy.errors import StorageError, UnderstudyError, UserError
from understudy.files import made_folder, sha256, storage_errors, sync_folder, write_json
from understudy.secrecy import without_secrets

if TYPE_CHECKING:
    import requests


@dataclass(frozen=True)
class Remote:
    """Where a dataset is published; `sha256` only where its publisher gives one."""

    url: str
    sha256: str | None = None

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.split("?")[0].rstrip("/").rpartition("/")[2]


log = logging.getLogger("understudy")
CHUNK = 1 << 15
WORTH_ASKING_AGAIN = {408, 425, 429, 500, 502, 503, 504}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
OnBytes = Callable[[int, int], None]
"""Called with (bytes so far, bytes in all; 0 where the server does not say)."""


class DownloadError(UnderstudyError):
    """A file cannot be fetched, or is not the one that was published."""


class Unreachable(DownloadError):
    """The server was never reached: this machine is offline, or the server is."""


class _TryAgain(Exception):
    """Another connection may bring more."""


@dataclass(frozen=True)
class Waiting:
    """Seconds to wait for the server to go on, and before asking again (doubled each time).

    `tries` connections in a row may bring nothing, `tries_offline` while the server was never reached.
    """

    patience: float = 30.0
    first_pause: float = 1.0
    longest_pause: float = 30.0
    tries: int = 6
    tries_offline: int = 2


def place_of(remote: Remote, folder: Path) -> Path:
    """Return where an address' file is kept: `folder/host/path`, so that datasets of one file share it."""
    parts = urlsplit(remote.url)
    path = [part for part in PurePosixPath(parts.path).parts if part not in ("/", "..")]
    if parts.scheme not in ("http", "https") or not parts.hostname or not path:
        raise UserError(f"{without_secrets(remote.url)!r} is no address of a file, like https://host/folder/file.hdf5")
    if parts.query:
        last = PurePosixPath(path[-1])
        path[-1] = f"{last.stem}-{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}{last.suffix}"
    return folder.joinpath(parts.netloc.rpartition("@")[2].replace(":", "_"), *path)


def fetch(
    remote: Remote,
    target: Path,
    progress: OnBytes | None = None,
    *,
    overwrite: bool = False,
    waiting: Waiting | None = None,
) -> Path:
    """Fetch a file to `target` and return it; one that is there already is taken if its checksum fits.

    Raises DownloadError in one line: no connection, the server's refusal, a wrong checksum.
    """
    wanted = remote.sha256.lower() if remote.sha256 else None
    if target.is_file() and not overwrite and wanted in (None, sha256(target)):
        log.info("%s was fetched before and is used; --overwrite fetches it again", target)
        return target
    part = target.with_name(f"{target.name}.part")
    with made_folder(target.parent), claimed(part) as file:
        _Transfer(remote, part, file, progress, waiting or Waiting()).run()
        with storage_errors(target):
            os.fsync(file.fileno())
        wrong = _wrong(part, wanted)
        if wrong:
            part.unlink()
            note_of(part).unlink(missing_ok=True)
            raise DownloadError(f"{without_secrets(remote.url)}: {wrong}; the file was removed")
        with storage_errors(target):
            os.replace(part, target)
            note_of(part).unlink(missing_ok=True)
            sync_folder(target.parent)
    return target


def _wrong(file: Path, wanted: str | None) -> str:
    """Return why a fetched file is not the one that was asked for; '' where nothing says so."""
    if wanted is not None and (found := sha256(file)) != wanted:
        return f"its SHA-256 is {found}, not {wanted}"
    kind = kind_of(file)
    return f"it is {kind}" if kind.startswith("a web page") else ""


class _Transfer:
    """One file on its way: connections are made until all of it is in the part file."""

    def __init__(self, remote: Remote, part: Path, file: BinaryIO, progress: OnBytes | None, waiting: Waiting) -> None:
        self._remote, self._part, self._file, self._progress, self._waiting = remote, part, file, progress, waiting
        self._have = file.seek(0, os.SEEK_END)
        self._version = read_note(part, remote.url)
        self._shown = without_secrets(remote.url)
        self._reached = False

    @property
    def _total(self) -> int:
        return int(self._version.get("size", 0))

    def run(self) -> None:
        """Fetch what is missing; give up after some connections in a row that brought nothing."""
        if self._have and self._have == self._total:
            return  # killed between the last byte and the check
        failures = 0
        with _session(self._remote.url) as session:
            while True:
                before = self._have
                try:
                    self._connect(session)
                    return
                except _TryAgain as error:
                    failures = 1 if self._have > before else failures + 1
                    self._give_up_or_wait(failures, str(error))

    def _give_up_or_wait(self, failures: int, why: str) -> None:
        tries = self._waiting.tries if self._reached else self._waiting.tries_offline
        if failures >= tries:
            if not self._reached:
                raise Unreachable(f"{self._shown}: {why}")
            here = f"; {self._have} bytes are kept, the same command goes on" if self._have else ""
            raise DownloadError(f"{self._shown}: {why}, {failures} times in a row{here}")
        time.sleep(min(self._waiting.first_pause * 2 ** (failures - 1), self._waiting.longest_pause))

    def _connect(self, session: requests.Session) -> None:
        """Ask for what is missing and write it; anything that another try may mend is _TryAgain."""
        import requests

        headers = {"Accept-Encoding": "identity"}  # lengths and parts are those of the file itself
        validator = self._version.get("validator")
        if self._have and (validator or (self._version and self._remote.sha256)):
            headers["Range"] = f"bytes={self._have}-"
            if validator:
                headers["If-Range"] = validator
        try:
            timeout = self._waiting.patience
            with session.get(self._remote.url, headers=headers, stream=True, timeout=timeout) as response:
                self._reached = True
                self._accept(response)
                self._check_space()
                for chunk in response.iter_content(CHUNK):
                    self._write(chunk)
        except (requests.exceptions.SSLError, requests.TooManyRedirects, requests.exceptions.InvalidURL) as error:
            raise DownloadError(f"{self._shown}: {_reason(error, self._waiting.patience)}") from error
        except requests.RequestException as error:
            raise _TryAgain(_reason(error, self._waiting.patience)) from error
        if self._total and self._have != self._total:
            raise _TryAgain(f"the server said {self._total} bytes and sent {self._have}")

    def _write(self, chunk: bytes) -> None:
        with storage_errors(self._part):
            self._file.write(chunk)
            self._file.flush()  # what has arrived must outlive a kill
        self._have += len(chunk)
        if self._progress is not None:
            self._progress(self._have, self._total)

    def _accept(self, response: requests.Response) -> None:
        """Prepare for an answer's body: the rest of the file (206), or all of it (200)."""
        status = response.status_code
        if status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            same = _validator(response) in (None, self._version.get("validator"))
            if found and int(found[1]) == self._have and found[2] in ("*", str(self._total)) and same:
                return
        if status in (206, 416):
            self._restart({})
            raise _TryAgain("the server has another version of the file")
        if status in WORTH_ASKING_AGAIN:
            raise _TryAgain(f"the server answers {status} {response.reason}")
        if status != 200:
            raise DownloadError(f"{self._shown}: the server answers {status} {response.reason}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(f"{self._shown}: the server sends it compressed although it was asked not to")
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isascii() and length.isdecimal() else 0
        self._restart({"url": mark(self._remote.url), "validator": _validator(response), "size": size})

    def _restart(self, version: dict[str, Any]) -> None:
        """Begin with an empty part file of `version`."""
        with storage_errors(self._part):
            self._file.seek(0)
            self._file.truncate()
        self._have, self._version = 0, version
        write_json(note_of(self._part), version)

    def _check_space(self) -> None:
        needed, free = 2 * self._total - self._have, shutil.disk_usage(self._part.parent).free
        if needed > free:
            raise StorageError(
                f"{self._part.parent}: {_size(needed)} are needed for {self._remote.file_name} and its dataset,"
                f" {_size(free)} are free; free some, or give another --data_dir"
            )


def _session(url: str) -> requests.Session:
    import requests

    session = requests.Session()
    session.headers["User-Agent"] = f"understudy/{__version__}"
    session.trust_env = urlsplit(url).hostname not in LOOPBACK  # no proxy is between this machine and itself
    return session


def _validator(response: requests.Response) -> str | None:
    """Return what names this version of the file: its ETag, if a strong one, or the time of its last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _reason(error: Exception, patience: float) -> str:
    """Return what went wrong in a few words: requests' own message holds three layers of them."""
    import requests

    if isinstance(error, requests.exceptions.InvalidURL):  # its own message would show what follows the user's name
        return "its host cannot be read from the address; a / in a password is written %2F"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer within {patience:g} s"
    text = str(error)
    if "BadStatusLine" in text or "LineTooLong" in text:
        return "what answers there does not speak HTTP"
    if "NameResolution" in text or "getaddrinfo" in text:
        return "its host name cannot be resolved (no internet here?)"
    if "refused" in text:
        return "the connection was refused"
    found = re.findall(r"\[Errno -?\d+\] ([^'\")]+)", text)
    broken = isinstance(error, requests.exceptions.ChunkedEncodingError) or "IncompleteRead" in text
    return found[-1] if found else "the connection broke" if broken else text.splitlines()[0][:200]


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
