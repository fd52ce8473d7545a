"""understudy: train, sweep, track and serve policies that learn from demonstrations.

Importing this package is cheap: no torch, ray, mlflow or simulator is loaded until something needs it.
`load_policy`, `load_episodes` and the exception tree are the public Python interface; the rest is reached by module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from understudy.errors import UnderstudyError, UserError

if TYPE_CHECKING:
    from understudy.loading import load_policy as load_policy
    from understudy.runs.episodes import load_episodes as load_episodes

__version__ = "0.1.0"
"""The one place of the version: the distribution's metadata is read from this line."""

__all__ = ["UnderstudyError", "UserError", "__version__", "load_episodes", "load_policy"]

_LAZY = {"load_policy": "understudy.loading", "load_episodes": "understudy.runs.episodes"}


def __getattr__(name: str) -> Any:
    """Import the module of a public name on its first use; AttributeError for any other name."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'understudy' has no attribute {name!r}")
