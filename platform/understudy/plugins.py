"""Import users' plug-ins (what $UNDERSTUDY_PLUGINS and entry points name), and tell a failing one by its name."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from typing import Any

from understudy.errors import UnderstudyError, UserError

PLUGINS = "UNDERSTUDY_PLUGINS"
"""Variable with the names (or paths, like my_method.py), by commas, of modules and folders that register plug-ins when
they are imported."""
_PLUG_INS: set[str] = set()
"""Users' modules that were imported for what they register."""


def module_of(name: str) -> str:
    """Return the module of a plug-in that is named by itself or by the path of its file or folder.

    Of a path, the folder that it lies in is put into Python's path, and the variable then holds the whole path, for
    the processes that are started from here.
    """
    if not name.endswith(".py") and os.sep not in name:
        return name
    path = os.path.abspath(os.path.expanduser(name)).rstrip(os.sep)
    if not os.path.exists(path):
        raise UserError(f"{PLUGINS}: {name}: no such file or folder")
    module = os.path.basename(path).removesuffix(".py")
    if not module.isidentifier() or module in sys.stdlib_module_names:
        raise UserError(f"{PLUGINS}: {name}: {module!r} cannot be imported by that name")
    if os.path.dirname(path) not in sys.path:
        sys.path.append(os.path.dirname(path))
    os.environ[PLUGINS] = os.environ[PLUGINS].replace(name, path)
    return module


def imported(module: str, load: Callable[[], Any] | None = None) -> Any:
    """Import a plug-in's module; whatever goes wrong is one UserError line that names the module and the place."""
    try:
        return load() if load else importlib.import_module(module)
    except UserError as error:
        raise UserError(f"plug-in {module}: {error}") from error
    except (Exception, SystemExit) as error:
        name = module.partition(":")[0]
        if isinstance(error, SystemExit) and name.startswith("understudy."):
            raise  # no module of this package ends the process: a signal came while it was imported
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            reason = "there is no module of that name; is its folder in PYTHONPATH?"
        else:
            reason = f"{type(error).__name__}: {_said(error)}{_place(module, error)}"
        raise UserError(f"plug-in {module} cannot be imported: {reason}") from error


def _said(error: BaseException) -> str:
    """Return an error's message in one line."""
    from pydantic import ValidationError  # not before something went wrong: commands start without it

    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
    lines = str(error.msg if isinstance(error, SyntaxError) else error).strip().splitlines()
    return lines[0] if lines else "it says no more"


def _place(module: str, error: BaseException) -> str:
    """Return file and line of the innermost code of `module` that an error passed through, else of any code."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}, line {error.lineno})"
    places = _places(error)
    own = [place for place in places if _within(place[0], {module.partition(":")[0]})] or places
    return f" ({own[-1][1]}, line {own[-1][2]})"


def _places(error: BaseException) -> list[tuple[str, str, int]]:
    """Return module, file and line of the code that an error passed through, the innermost last."""
    return [
        (str(frame.f_globals.get("__name__")), frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]


def _within(module: str, names: Collection[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def note_plug_in(module: str) -> None:
    """Count a module, and what lies below it, among the users' own."""
    _PLUG_INS.add(module)


def from_plug_in(item: Any) -> bool:
    """Return whether a class or function, or an object's class, comes from a user's plug-in."""
    kind = item if isinstance(item, type) or inspect.isroutine(item) else type(item)
    return _within(kind.__module__, _PLUG_INS)


def is_plug_in(module: str) -> bool:
    """Return whether a module is a user's plug-in, or part of one."""
    return _within(module, _PLUG_INS)


@contextmanager
def plug_in_errors(called: Any = None) -> Generator[None]:
    """Turn what the code of a user's plug-in raises within into a UserError line that names its module and place.

    So does what is raised by calling the plug-in's object `called` with arguments that it does not take.
    """
    try:
        yield
    except UnderstudyError:
        raise
    except Exception as error:
        places = _places(error)
        own = [place for place in places if _within(place[0], _PLUG_INS)]
        if not own and not from_plug_in(called):
            raise
        kind = called if isinstance(called, type) else type(called)
        module, file, line = own[-1] if own else (kind.__module__, *places[-1][1:])
        raise UserError(f"plug-in {module}: {type(error).__name__}: {_said(error)} ({file}, line {line})") from error
