"""Names of registered models: which ones MLflow and models:/ addresses take, and a valid one for any dataset's name."""

from __future__ import annotations

import hashlib
import re

from understudy.errors import SpecError
from understudy.spec.run import plain_name

LONGEST = 200
"""Characters of a model's name; databases hold 256."""
_REFUSED = re.compile(r"[/:.%\"'@?#\\\x00-\x1f\x7f]")
"""MLflow refuses some of these, the others cut a models:/ address short."""


def default_model_name(algo: str, env_name: str) -> str:
    """Return the name that models of an algorithm and a dataset have unless another is given."""
    return valid_model_name(f"{algo}-{plain_name(env_name)}")


def check_model_name(name: str, given: str = "model name") -> None:
    """Raise SpecError, with a name that would do, for one that no model can be registered under."""
    if name != valid_model_name(name):
        raise SpecError(
            f"{given}={name!r} cannot name a model: / : . % @ ? # \\ and quotes are not allowed, nor blanks around it,"
            f" nor more than {LONGEST} characters; {valid_model_name(name)!r} would do"
        )


def valid_model_name(name: str) -> str:
    """Return the name with `_` for what it may not hold; one that is too long ends in a hash of all of it."""
    text = _REFUSED.sub("_", name).strip() or "model"
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
