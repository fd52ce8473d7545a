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
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from understudy.errors import UnknownName, UserError, did_you_mean, nearest
from understudy.plugins import PLUGINS, imported, module_of, note_plug_in

if TYPE_CHECKING:
    from pathlib import Path

    import typer

    from understudy.algorithm import Algorithm
    from understudy.cluster.jobs import Cluster
    from understudy.envs.recording.control import Control
    from understudy.envs.sources.source import Source
    from understudy.envs.windows.relabelling import GoalStrategy
    from understudy.language import TextEncoder
    from understudy.runs.loop import Loop
    from understudy.spec.augmentation import Operation
    from understudy.spec.space import SearchSpace
    from understudy.trainables.networks.pictures import EncoderFactory

T = TypeVar("T")
Item = TypeVar("Item")
"""A registered item's own type, which is narrower than its registry's."""


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
                    imported(f"{package.__name__}.{module.name}")
            for entry in importlib.metadata.entry_points(group=self._group):
                note_plug_in(entry.module)
                self.register(entry.name)(imported(entry.value, entry.load))
            for name in [module_of(text.strip()) for text in plugins.split(",") if text.strip()]:
                note_plug_in(name)
                folder = getattr(imported(name), "__path__", ())
                for module in pkgutil.iter_modules(folder):
                    if not module.name.startswith("_"):
                        imported(f"{name}.{module.name}")
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


def _origin(item: Any, module: str) -> str:
    """Return what an item is known by: its own name where it has one, else its type and the module that adds it."""
    if inspect.isroutine(item) or isinstance(item, type):
        return f"{item.__module__}.{item.__qualname__}"
    return f"{type(item).__qualname__} of {module}"


algorithms: Registry[type[Algorithm]] = Registry(
    "algorithms", "algorithm", "understudy.trainables.algorithms", base="understudy.algorithm:Algorithm", named=True
)
encoders: Registry[EncoderFactory] = Registry("encoders", "encoder", "understudy.trainables.networks.encoders")
text_encoders: Registry[Callable[[], TextEncoder]] = Registry(
    "text_encoders", "text encoder", "understudy.envs.text_encoders"
)
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
reports: Registry[Callable[[Path, Path], None]] = Registry("reports", "report", "understudy.dashboards.reports")
"""Functions (sweep's folder, file) that write what a sweep's run in MLflow gets at its end; their names are the
files'."""
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
