"""understudy: train, sweep, track and serve policies that learn from demonstrations.

Importing this package is cheap: no torch, ray, mlflow or simulator is loaded until something needs it.
The names of `__all__` are the public Python interface (docs/python.md); the rest is reached by module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from understudy.errors import UnderstudyError, UserError

if TYPE_CHECKING:
    from understudy.cli.api import compare as compare
    from understudy.cli.api import evaluate as evaluate
    from understudy.cli.api import list_runs as list_runs
    from understudy.cli.api import sweep as sweep
    from understudy.cli.api import train as train
    from understudy.loading import load_policy as load_policy
    from understudy.runs.episodes import load_episodes as load_episodes

__version__ = "0.1.0"
"""The one place of the version: the distribution's metadata is read from this line."""

_LAZY = {
    **dict.fromkeys(("compare", "evaluate", "list_runs", "sweep", "train"), "understudy.cli.api"),
    **dict.fromkeys(("load_dataset", "write_dataset"), "understudy.envs.datasets"),
    "BCAgent": "understudy.trainables.algorithms.flow_bc:FlowBC",
    "BCAgentConfig": "understudy.trainables.algorithms.flow_bc:FlowBCConfig",
    "load_episodes": "understudy.runs.episodes",
    "load_policy": "understudy.loading",
}
__all__ = [
    "BCAgent",  # pyright: ignore[reportUnsupportedDunderAll]
    "BCAgentConfig",  # pyright: ignore[reportUnsupportedDunderAll]
    "UnderstudyError",
    "UserError",
    "__version__",
    "compare",
    "evaluate",
    "list_runs",
    "load_dataset",  # pyright: ignore[reportUnsupportedDunderAll]
    "load_episodes",
    "load_policy",
    "sweep",
    "train",
    "write_dataset",  # pyright: ignore[reportUnsupportedDunderAll]
]


def __getattr__(name: str) -> Any:
    """Import the module of a public name on its first use; AttributeError for any other name."""
    if name in _LAZY:
        module, _, other = _LAZY[name].partition(":")
        return getattr(importlib.import_module(module), other or name)
    raise AttributeError(f"module 'understudy' has no attribute {name!r}")
