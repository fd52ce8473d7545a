"""What `understudy serve` was told: plain values, so that a replica on another machine can be told them too."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from understudy.errors import UserError
from understudy.files import home, make_secret
from understudy.policy import Policy

VARIABLE = "UNDERSTUDY_SERVE_TOKEN"
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """One served policy."""

    model: str
    """models:/NAME@ALIAS, runs:/RUN_ID/model, or a path."""
    words: tuple[str, ...] = ()
    """Evaluation-time settings, key=value."""
    tracking_uri: str = ""
    device: str = "auto"
    member_seed: int | None = None
    """The seed that acts, of several."""
    temperature: float | None = None
    noise_seed: int = 1_000_000
    """Seed of the noise; evaluations' `eval_seed`."""
    token: str = ""
    """What clients have to say; none where it is empty."""
    host: str = "127.0.0.1"
    port: int = 8000
    max_request: int = 16 * 2**20
    """Bytes of the largest request."""
    max_clients: int = 64
    http_sessions: bool = True
    """Whether HTTP requests may be of one episode; not where each may come to another replica."""
    idle_seconds: float = 600.0
    """Seconds without a request after which an HTTP session is forgotten."""

    def load(self) -> tuple[Policy, int]:
        """Return the policy, and which of its members acts."""
        from understudy.devices import resolve_device
        from understudy.loading import load_policy, with_settings

        device = resolve_device(self.device)
        policy = with_settings(load_policy(self.model, self.tracking_uri or None, device), self.words)
        if not policy.algorithm.acts:
            raise UserError(f"{policy.algorithm.name} gives no actions: it only judges")
        return policy, policy.member_of(self.member_seed)


def token_file() -> Path:
    """Return the file of the token that understudy makes: $UNDERSTUDY_HOME/serve.token."""
    return home() / "serve.token"


def server_token(given: Path | None) -> tuple[str, str]:
    """Return the token, and where it is: in the file given, in $UNDERSTUDY_SERVE_TOKEN, or in a file of mode 0600.

    The file is made where there is none; UserError for one that others may read, or that holds no token.
    """
    if given is None and os.environ.get(VARIABLE):
        return _checked(os.environ[VARIABLE].strip(), f"${VARIABLE}")
    file = given or token_file()
    if given is None and not file.is_file():
        make_secret(file)
    try:
        mode, text = file.stat().st_mode & 0o077, file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the token {file} ({getattr(error, 'strerror', None) or error})") from None
    if mode:
        raise UserError(f"the token {file} may be read by others: chmod 600 {file}")
    return _checked(text, str(file))


def _checked(text: str, where: str) -> tuple[str, str]:
    if len(text) < 16 or not text.isascii() or not text.isprintable() or " " in text:
        raise UserError(f"the token in {where} is too short or no plain text: give at least 16 letters and digits")
    return text, where
