"""Read a JSON file as people write configurations: with comments, and commas after the last item.

LeRobot's configurations are such files; what their keys mean here is said where they are used. `flattened` names a
nested key by the way to it, as LeRobot's command line does: dataset.root.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from understudy.errors import UserError
from understudy.files import user_path

_TEXT_OR_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TEXT_OR_LAST_COMMA = re.compile(r'"(?:[^"\\\n]|\\.)*"|,(?=\s*[}\]])', re.DOTALL)


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file; UserError, with line and column, where it holds something else."""
    file = user_path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "no text"
        raise UserError(f"--config_path {path}: cannot be read ({said})") from None
    try:
        found: Any = json.loads(without_comments(text))
    except json.JSONDecodeError as error:
        raise UserError(
            f"--config_path {path}: line {error.lineno}, column {error.colno}: no readable JSON ({error.msg})"
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"--config_path {path}: holds a {type(found).__name__}, an object is needed: {{...}}")
    return cast("dict[str, Any]", found)


def without_comments(text: str) -> str:
    """Return JSON text with spaces for its // and /* */ comments and for commas before a closing bracket.

    Every character keeps its line and column.
    """
    text = _TEXT_OR_COMMENT.sub(lambda found: found[0] if found[0][0] == '"' else _blank(found[0]), text)
    return _TEXT_OR_LAST_COMMA.sub(lambda found: found[0] if found[0][0] == '"' else " ", text)


def _blank(text: str) -> str:
    return "".join("\n" if character == "\n" else " " for character in text)


def flattened(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return {"dataset.root": ...} of {"dataset": {"root": ...}}; an empty object has no keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            flat |= flattened(cast("Mapping[str, Any]", value), f"{name}.")
        else:
            flat[name] = value
    return flat


def config_words(words: list[str]) -> tuple[str | None, list[str]]:
    """Return the file that `--config_path FILE` (or =FILE, or config_path=FILE) names, and the other words."""
    path: str | None = None
    rest: list[str] = []
    waiting = False
    for word in words:
        name, sign, value = word.lstrip("-").partition("=")
        if waiting:
            path, waiting = word, False
        elif name.replace("-", "_") == "config_path" and (sign or word.startswith("--")):
            path, waiting = (value, False) if sign else (path, True)
        else:
            rest.append(word)
    if waiting:
        raise UserError("--config_path: which file? `--config_path config.json`")
    return path, rest
