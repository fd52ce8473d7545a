"""Find plug-ins by name: algorithms, data sources, search spaces and training loops.

The kernel imports none of the plug-in folders. A registry imports the modules of its folder on first
use, then the entry points that users' packages declare (group `understudy.<registry name>`), then the modules
that $UNDERSTUDY_PLUGINS names (they register themselves), and from then on answers by name. A new plug-in is
therefore one new file and no edit elsewhere.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from understudy.errors import UnderstudyError, UnknownName, did_you_mean

T = TypeVar("T")
PLUGINS = "UNDERSTUDY_PLUGINS"
"""Variable with the names, by commas, of modules that register plug-ins when they are imported."""


class Registry(Generic[T]):
    """A mapping from names to plug-ins of one kind, filled by importing one folder's modules."""

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind = kind
        self._package = package
        self._group = group
        self._items: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files its object under `name`; a name taken by another object raises."""

        def add(item: T) -> T:
            held = self._items.get(name)
            if held is not None and _origin(held) != _origin(item):
                raise UnderstudyError(
                    f"{self.kind} {name!r} is registered twice: by {_origin(held)} and {_origin(item)}"
                )
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> T:
        """Return the plug-in called `name`, or raise UnknownName with the nearest match."""
        self._load()
        if name not in self._items:
            raise UnknownName(f"unknown {self.kind} {name!r}{did_you_mean(name, self._items)}")
        return self._items[name]

    def names(self) -> list[str]:
        """Return every registered name, sorted."""
        self._load()
        return sorted(self._items)

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield (name, plug-in) in the names' order."""
        for name in self.names():
            yield name, self._items[name]

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        for entry in importlib.metadata.entry_points(group=self._group):
            self.register(entry.name)(entry.load())
        for name in filter(None, os.environ.get(PLUGINS, "").split(",")):
            importlib.import_module(name)


def _origin(item: Any) -> str:
    kind = item if hasattr(item, "__qualname__") else type(item)
    return f"{kind.__module__}.{kind.__qualname__}"


algorithms: Registry[Any] = Registry("algorithm", "understudy.trainables.algorithms", "understudy.algorithms")
loops: Registry[Any] = Registry("training loop", "understudy.trainables.loops", "understudy.loops")
sources: Registry[Any] = Registry("data source", "understudy.envs.sources", "understudy.sources")
search_spaces: Registry[Any] = Registry("search space", "understudy.search_spaces", "understudy.search_spaces")
