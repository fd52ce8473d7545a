"""What MLflow is told of a run as text: parameters, tags, where its code comes from. Knows no mlflow."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

from understudy import __version__
from understudy.secrecy import is_secret, without_secrets

GIT_SECONDS = 5.0
"""How long git may take to say where a run's code is at."""
LONGEST_PARAM = 500
"""Characters of a parameter's value: what every MLflow server takes."""


def source_tags() -> dict[str, str]:
    """Return who began the run, where, and with which code."""
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": "understudy",
        "understudy.host": socket.gethostname(),
        "understudy.version": __version__,
        **git_tags(os.getcwd()),
    }


@lru_cache(maxsize=8)
def git_tags(folder: str) -> dict[str, str]:
    """Return the commit that the working folder is at, and whether files differ from it; nothing without git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=GIT_SECONDS)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        if not commit:
            return {}
        dirty = str(bool(git("status", "--porcelain", "--untracked-files=no"))).lower()
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"mlflow.source.git.commit": commit, "git_commit": commit, "git_dirty": dirty}


def _user() -> str:
    """Return the user's name, its number where it has none (containers run as any number)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the first before Python 3.13
        return str(os.getuid())


def printable(params: Mapping[str, Any]) -> dict[str, str]:
    """Return params as MLflow takes them: nested keys joined by dots, secrets hidden, long values cut."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            nested = printable(cast("Mapping[str, Any]", value))
            flat |= {f"{key}.{inner}": text for inner, text in nested.items()}
            continue
        text = "***" if is_secret(key) and value else without_secrets(_typed(value))
        if len(text) > LONGEST_PARAM:
            text = f"{text[: LONGEST_PARAM - 40]}... ({len(text)} characters)"
        flat[key[:250]] = text
    return flat


def _typed(value: Any) -> str:
    """Return a parameter as JSON has it (`true`, `null`, `[0, 1]`), so that its type can be read back; texts stay."""
    if isinstance(value, bool | int | float | list | tuple | None):
        return json.dumps(value, default=str)
    return str(value)


def tag_texts(tags: Mapping[str, Any]) -> dict[str, str]:
    """Return tags as MLflow takes them: texts, without passwords, long ones cut."""
    return {key[:250]: without_secrets(str(value))[:5000] for key, value in tags.items()}
