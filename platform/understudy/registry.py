"""Find plug-ins by name: algorithms, data sources, encoders, search spaces, training loops and the rest.

One folder is one registry, and the kernel imports none of these folders: a registry imports the modules of its folder
on first use, then the entry points that users' packages declare (group `understudy.<registry's name>`), then the
modules that $UNDERSTUDY_PLUGINS names (they register themselves; of a folder, every file in it), and from then on
answers by name. A new plug-in is therefore one new file and no edit elsewhere. What is registered is checked at once: a
user's mistake is one line.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from understudy.errors import UnderstudyError, UnknownName, UserError, did_you_mean, nearest

if TYPE_CHECKING:
    import typer

    from understudy.algorithm import Algorithm
    from understudy.cluster.jobs import Cluster
    from understudy.envs.recording.control import Control
    from understudy.envs.sources.source import Source
    from understudy.envs.windows.relabelling import GoalStrategy
    from understudy.runs.loop import Loop
    from understudy.spec.augmentation import Operation
    from understudy.spec.space import SearchSpace
    from understudy.trainables.networks.pictures import EncoderFactory

T = TypeVar("T")
Item = TypeVar("Item")
"""A registered item's own type, which is narrower than its registry's."""
PLUGINS = "UNDERSTUDY_PLUGINS"
"""Variable with the names (or paths, like my_method.py), by commas, of modules and folders that register plug-ins when
they are imported."""
_PLUG_INS: set[str] = set()
"""Users' modules that were imported for what they register."""


class Registry(Generic[T]):
    """A mapping from names to plug-ins of one kind, filled by importing the modules of its folder.

    `base`, as "module:Class", is what an item must be a subclass of; without one it must be callable. Of `instances`
    one is kept, made of a class where one is registered. `named` items are given their name when they are registered.
    """

    def __init__(
        self, name: str, kind: str, *packages: str, base: str = "", instances: bool = False, named: bool = False
    ) -> None:
        self.kind = kind
        self._group = f"understudy.{name}"
        self._packages = packages
        self._base, self._instances, self._named = base, instances, named
        self._items: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        self._loaded: str | None = None
        """The value of $UNDERSTUDY_PLUGINS whose modules are loaded; None before the first use."""

    def register(self, name: str) -> Callable[[Item], Item]:
        """Return a decorator that files its object under `name`; UserError for what is unfit, or a name that is taken.

        The same object, and one of the same name in the same module (a module that is loaded anew), may come again.
        """
        caller = inspect.currentframe()
        above = caller.f_back if caller is not None else None
        module = above.f_globals.get("__name__", "?") if above is not None else "?"
        if type(name) is not str or not name:  # `@registry.register` without a name passes the class itself
            raise UserError(f'{module}: every {self.kind} has a name: .register("my_name")')

        def add(item: Item) -> Item:
            origin = _origin(item, module)
            held = self._origins.get(name, origin)
            if held != origin and self._items[name] is not item:
                raise UserError(f"{self.kind} {name!r} is registered twice: by {held} and {origin}")
            self._items[name], self._origins[name] = cast(T, self._checked(name, item, origin)), origin
            return item

        return add

    def get(self, name: str) -> T:
        """Return the plug-in called `name`, or raise UnknownName with the nearest match."""
        self._load()
        if name not in self._items:
            known = did_you_mean(name, self._items)
            own = (
                ""
                if nearest(name, self._items) or os.environ.get(PLUGINS)
                else f"; one of yours needs {PLUGINS}=FILE.py"
            )
            raise UnknownName(f"unknown {self.kind} {name!r}{known}{own}")
        return self._items[name]

    def origin(self, name: str) -> str:
        """Return the module and name of what is registered as `name`, for messages."""
        self._load()
        return self._origins.get(name, "?")

    def names(self) -> list[str]:
        """Return every registered name, sorted."""
        self._load()
        return sorted(self._items)

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield (name, plug-in) in the names' order."""
        for name in self.names():
            yield name, self._items[name]

    def _load(self) -> None:
        plugins = os.environ.get(PLUGINS, "")
        if self._loaded == plugins:
            return
        before, self._loaded = self._loaded, plugins
        try:
            for package in map(importlib.import_module, self._packages):
                for module in pkgutil.iter_modules(package.__path__):
                    _imported(f"{package.__name__}.{module.name}")
            for entry in importlib.metadata.entry_points(group=self._group):
                _PLUG_INS.add(entry.module)
                self.register(entry.name)(_imported(entry.value, entry.load))
            for name in [_module_of(text.strip()) for text in plugins.split(",") if text.strip()]:
                _PLUG_INS.add(name)
                folder = getattr(_imported(name), "__path__", ())
                for module in pkgutil.iter_modules(folder):
                    if not module.name.startswith("_"):
                        _imported(f"{name}.{module.name}")
            self._loaded = os.environ.get(PLUGINS, "")  # with whole paths now
        except BaseException:
            self._loaded = before  # or what did not come would be unknown from now on
            raise

    def _checked(self, name: str, item: Any, origin: str) -> Any:
        """Return what is kept of an item, with its name; UserError for one that could not be used."""
        what = f"{self.kind} {name!r} ({origin})"
        missing = sorted(getattr(item, "__abstractmethods__", ()))
        if missing:
            raise UserError(f"{what} lacks {', '.join(missing)}, which every {self.kind} has")
        if not self._base:
            if not callable(item):
                raise UserError(f"{what} is a {type(item).__name__}, which cannot be called")
            return item
        module, _, attribute = self._base.partition(":")
        base = getattr(importlib.import_module(module), attribute)
        if not (isinstance(item, base) or (isinstance(item, type) and issubclass(item, base))):
            raise UserError(f"{what} is no {attribute} of {module}")
        if self._instances and isinstance(item, type):
            item = item()
        if not self._instances and not isinstance(item, type):
            raise UserError(f"{what}: register the class, not an object of it")
        if self._named:
            given = vars(item if isinstance(item, type) else type(item)).get("name", name)
            if given != name:
                raise UserError(f"{what} says that its name is {given!r}: leave `name` out, registering gives it")
            setattr(item, "name", name)  # noqa: B010  (no attribute that a type checker knows)
        return item


def _module_of(name: str) -> str:
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


def _imported(module: str, load: Callable[[], Any] | None = None) -> Any:
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


def _origin(item: Any, module: str) -> str:
    """Return what an item is known by: its own name where it has one, else its type and the module that adds it."""
    if inspect.isroutine(item) or isinstance(item, type):
        return f"{item.__module__}.{item.__qualname__}"
    return f"{type(item).__qualname__} of {module}"


algorithms: Registry[type[Algorithm]] = Registry(
    "algorithms", "algorithm", "understudy.trainables.algorithms", base="understudy.algorithm:Algorithm", named=True
)
encoders: Registry[EncoderFactory] = Registry("encoders", "encoder", "understudy.trainables.networks.encoders")
sources: Registry[Source] = Registry(
    "sources",
    "data source",
    "understudy.envs.sources",
    base="understudy.envs.sources.source:Source",
    instances=True,
    named=True,
)
goal_strategies: Registry[GoalStrategy] = Registry("goal_strategies", "goal strategy", "understudy.envs.windows.goals")
augmentations: Registry[type[Operation]] = Registry(
    "augmentations",
    "augmentation operation",
    "understudy.envs.windows.augmentations",
    base="understudy.spec.augmentation:Operation",
    named=True,
)
search_spaces: Registry[SearchSpace] = Registry(
    "search_spaces",
    "search space",
    "understudy.search_spaces",
    base="understudy.spec.space:SearchSpace",
    instances=True,
)
commands: Registry[Callable[[typer.Typer], None]] = Registry(
    "commands",
    "command group",
    *("understudy.envs.commands", "understudy.cluster.commands", "understudy.dashboards.commands"),
)
"""Functions that add commands to the command line; each lives with what it commands."""
controls: Registry[type[Control]] = Registry(
    "controls",
    "control",
    "understudy.envs.recording.controls",
    base="understudy.envs.recording.control:Control",
    named=True,
)
"""What a person, or an oracle in a person's place, drives an environment by."""
cluster_kinds: Registry[type[Cluster]] = Registry(
    "cluster_kinds", "kind of cluster", "understudy.cluster.kinds", base="understudy.cluster.jobs:Cluster"
)
loops: Registry[type[Loop]] = Registry(
    "loops", "training loop", "understudy.trainables.loops", base="understudy.runs.loop:Loop"
)
