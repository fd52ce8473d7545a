"""The secret that learners and actors know each other by: in $UNDERSTUDY_ACTOR_KEY, or a file of the user's."""

from __future__ import annotations

import os
from pathlib import Path

from understudy.errors import UserError
from understudy.files import make_secret
from understudy.spec.placement import home

VARIABLE = "UNDERSTUDY_ACTOR_KEY"


def key_file() -> Path:
    """Return the file: $UNDERSTUDY_HOME/actor.key."""
    return home() / "actor.key"


def actor_key(*, make: bool) -> bytes:
    """Return the secret; a learner may `make` it, an actor is told where it comes from."""
    given = os.environ.get(VARIABLE)
    if given:
        return given.encode()
    file = key_file()
    if not file.is_file():
        if not make:
            raise UserError(
                f"no {file}: start the learner first, or copy its file here (or set {VARIABLE} for both of them)"
            )
        make_secret(file)
    return file.read_text().strip().encode()
