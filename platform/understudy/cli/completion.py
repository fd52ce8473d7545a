"""Complete the `key=value` words of a command in the shell: keys, the values of those that have few, local datasets.

The shells' scripts are typer's (`understudy --install-completion`). What there is to offer is listed once, which
imports torch, and kept in $UNDERSTUDY_HOME/cache until a source file or a plug-in changes. Nothing heavy is imported
here: a press of TAB must not be felt.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from typer.core import TyperCommand

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.files import home, user_path, write_json
from understudy.plugins import PLUGINS

log = logging.getLogger("understudy")
CACHE = "completion.json"
MANIFEST = "manifest.json"
"""File that a folder with a dataset holds."""
BREAKS = ("=", ":")
"""Words of their own in bash, which splits `algo=bc` into three."""
Values = dict[str, list[str]]
"""Keys with what is offered as their values: all that are allowed, or the default."""


@dataclass(frozen=True)
class Tables:
    """What can be completed: keys with their values."""

    shared: Values
    """Keys of a run of any algorithm, and groups of configuration files."""
    algos: dict[str, Values]
    """The own keys of each algorithm."""
    sweep: Values
    evaluate: Values
    spaces: dict[str, str]
    """The algorithm of each search space."""


@dataclass(frozen=True)
class Offered:
    """A completion, with the fields that typer's formats for the shells ask for."""

    value: str
    help: str = ""
    type: str = "plain"


class KeyCommand(TyperCommand):
    """A command whose words are `key=value`, which a shell completes."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return options and `key=value` words for the word under the cursor; nothing where that fails."""
        try:
            words, incomplete, typed = _typed(list(ctx.args), incomplete)
            offered = offers(str(ctx.info_name), words, incomplete, tables())
        except Exception as error:  # noqa: BLE001  (a traceback in the middle of a command line helps nobody)
            log.debug("no completion: %s", error)
            return []
        options = super().shell_complete(ctx, incomplete) if incomplete.startswith("-") else []
        return [*options, *(Offered(word[typed:]) for word in offered)]


def _typed(words: list[str], incomplete: str) -> tuple[list[str], str, int]:
    """Return the words before the cursor, the one under it, and how many of its characters the shell keeps itself."""
    if "COMP_WORDS" in os.environ:
        split = shlex.split(os.environ["COMP_WORDS"])
        place = int(os.environ["COMP_CWORD"])
        under = split[place] if place < len(split) else ""
        whole = _rejoined([*split[1:place], under])
        replaced = "" if under in BREAKS else under
        return whole[:-1], whole[-1], len(whole[-1]) - len(replaced)
    line = os.environ.get("_TYPER_COMPLETE_ARGS")
    if line is None:
        return words, incomplete, 0
    split = shlex.split(line)[1:]
    return (split, "", 0) if line.endswith(" ") or not split else (split[:-1], split[-1], 0)


def _rejoined(words: Sequence[str]) -> list[str]:
    """Return words as they were typed, with those joined that bash splits at `=` and `:`."""
    joined: list[str] = []
    open_ = False
    for word in words:
        if joined and (word in BREAKS or open_):
            joined[-1] += word
        else:
            joined.append(word)
        open_ = word in BREAKS
    return joined


def offers(command: str, words: Sequence[str], incomplete: str, known: Tables) -> list[str]:
    """Return the whole words that `incomplete` may become after `words` of a command, sorted."""
    dashes = "--" if incomplete.startswith("--") else ""
    given = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    values = _values(command, given, known)
    key, equals, start = incomplete.removeprefix(dashes).partition("=")
    if not equals:
        found = [name for name in values if name.startswith(key) and name not in given]
        if len(found) > 1 or not found:
            return [f"{dashes}{name}=" for name in sorted(found)]
        # The shell sets a space after a word that is the only one: never after KEY=.
        key, start = found[0], ""
    before = start[: start.rfind(",") + 1]
    some = values.get(key, []) if key != "env_name" else datasets(given.get("data_dir", ""))
    picked = before.split(",")
    words_ = [f"{dashes}{key}={before}{value}" for value in some if value not in picked]
    if not equals and len(words_) < 2:
        words_.append(f"{dashes}{key}=")
    return sorted(word for word in words_ if word.startswith(incomplete))


def _values(command: str, given: dict[str, str], known: Tables) -> Values:
    """Return the keys that the command takes beside those that are given, with their values."""
    if command == "evaluate":
        return known.evaluate
    algos = [name for name in given.get("algo", "").split(",") if name]
    if command == "sweep" and given.get("space") in known.spaces:
        algos.append(known.spaces[given["space"]])
    own = [known.algos.get(name, {}) for name in algos]
    swept = known.sweep if command == "sweep" else {}
    return {**known.shared, **swept, **{key: values for fields in own for key, values in fields.items()}}


def datasets(data_dir: str) -> list[str]:
    """Return the names of the datasets that are here."""
    folder = user_path(data_dir) if data_dir else home() / "datasets"
    if not folder.is_dir():
        return []
    found = [place.name for place in folder.iterdir() if (place / MANIFEST).is_file()]
    return sorted(name.replace("__", "/") for name in found if not name.startswith("."))


def tables() -> Tables:
    """Return what can be completed, from the cache where that is of this version, its files and these plug-ins."""
    path = home() / "cache" / CACHE
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # missing, damaged: listed again
        kept: dict[str, Any] = json.loads(path.read_bytes())
        if kept["of"] == _of(kept["of"]["files"]):
            return _read(kept["tables"])
    from understudy.cli.completion_tables import list_tables

    listed, files = list_tables()
    with suppress(UnderstudyError):  # a home that cannot be written: slower each time, and complete
        write_json(path, {"of": _of(files), "tables": listed})
    return Tables(**listed)


def _of(files: Sequence[str]) -> dict[str, Any]:
    """Return what a cache is of: the version, the plug-ins, and when packages and source files were changed."""
    packages = sysconfig.get_path("purelib")
    return {
        "version": __version__,
        "plugins": os.environ.get(PLUGINS, ""),
        "files": {file: _changed(file) for file in (packages, *(name for name in files if name != packages))},
    }


def _changed(file: str) -> int:
    try:
        return os.stat(file).st_mtime_ns
    except OSError:
        return 0


def _read(kept: dict[str, Any]) -> Tables:
    """Return the tables that JSON holds; TypeError or KeyError for others."""
    read = Tables(**kept)
    for values in (read.shared, read.sweep, read.evaluate, *read.algos.values()):
        if not all(isinstance(cast(Any, value), list) for value in values.values()):
            raise TypeError("values are lists")
    return read
