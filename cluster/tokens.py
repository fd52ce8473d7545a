"""The token of a Ray head: made before the head starts, kept in a file that only its owner reads, never shown."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from understudy.cluster.profile import Profile
from understudy.errors import UserError
from understudy.files import make_secret, user_path

RAY_DEFAULT = "~/.ray/auth_token"


@dataclass(frozen=True)
class Token:
    """A token's value, and where it was found."""

    value: str
    source: str

    def __repr__(self) -> str:
        return f"Token(source={self.source!r})"


def own_path(profile: Profile) -> Path:
    """Return the file of a token that understudy makes for this profile."""
    return profile.state / "token"


def make_token(path: Path) -> None:
    """Write a new token to `path` with mode 0600, unless there is one."""
    if path.is_file():
        os.chmod(path, 0o600)
        return
    make_secret(path)


def find_token(profile: Profile) -> Token | None:
    """Return the profile's token: its token_path, understudy's own, then Ray's environment and default file."""
    if profile.authentication == "none":
        return None
    if profile.token_path:
        return _read(user_path(profile.token_path))
    if own_path(profile).is_file():
        return _read(own_path(profile))
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Token(os.environ["RAY_AUTH_TOKEN"].strip(), "$RAY_AUTH_TOKEN")
    if os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return _read(user_path(os.environ["RAY_AUTH_TOKEN_PATH"]))
    default = user_path(RAY_DEFAULT)
    return _read(default) if default.is_file() else None


def _read(path: Path) -> Token:
    try:
        value = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the token {path} ({getattr(error, 'strerror', None) or error})") from None
    if not value:
        raise UserError(f"the token file {path} is empty")
    return Token(value, str(path))


def environment(token_path: Path | str) -> dict[str, str]:
    """Return the variables that make Ray ask for the token in that file."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path)}
