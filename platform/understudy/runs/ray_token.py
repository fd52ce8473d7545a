"""The token that Ray's processes know each other by, made before Ray makes it.

Ray's own way, with no lock and readable by everyone on the machine, lets two that start at once on a new machine write
over each other's token: the processes of one then refuse each other.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

GIVEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def ensure_token() -> None:
    """Have a token where Ray looks for it: in ~/.ray/auth_token, for us alone; without a home in the environment."""
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode != "token" or any(os.environ.get(name) for name in GIVEN):
        return
    token = secrets.token_hex(32)
    try:
        file = Path.home() / ".ray" / "auth_token"
        _make(file, token)
        if file.stat().st_mode & 0o077:  # Ray's own
            file.chmod(0o600)
    except (OSError, RuntimeError):  # no home, or none that can be written
        os.environ["RAY_AUTH_TOKEN"] = token


def _make(file: Path, token: str) -> None:
    """Write a token, whole or not at all, where there is none; who comes second leaves the first one's."""
    if file.is_file():
        if file.stat().st_size:
            return
        file.unlink(missing_ok=True)  # left by a disk that was full
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = file.with_name(f"{file.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as target:
            target.write(token)
        with suppress(FileExistsError):
            os.link(own, file)
    finally:
        own.unlink(missing_ok=True)
