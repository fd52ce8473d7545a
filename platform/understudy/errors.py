"""The exception tree. Everything understudy raises on purpose derives from UnderstudyError."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UnderstudyError(Exception):
    """Base of every error raised on purpose; the CLI prints it in one line and exits with `exit_code`."""

    exit_code = 1


class UserError(UnderstudyError):
    """The user's input is wrong: found before any work starts, nothing was written."""

    exit_code = 2


class SpecError(UserError):
    """A key or a value of a run's specification is wrong."""


class UnknownName(UserError):
    """A name that no registry, store or study holds."""


class DatasetError(UserError):
    """A dataset is missing, damaged, of the wrong shape, or unfit for what was asked."""


class TrainingDiverged(UnderstudyError):
    """The loss or a gradient became NaN or infinite; the step is in the message."""


class OutOfMemory(UnderstudyError):
    """The accelerator's memory does not hold the run; the message says what makes it smaller."""


class CheckpointError(UserError):
    """A checkpoint, a policy or a buffer is missing, damaged, or another network's."""


class TrackingError(UserError):
    """The tracking store cannot be reached, refuses the request or cannot be written."""


class StoreFull(TrackingError):
    """The disk that a tracking store lies on is full."""

    exit_code = 1


class StoreAway(TrackingError):
    """The tracking store does not answer or is busy. That passes, and what it missed is sent later."""


class NotTracked(UnderstudyError):
    """The work is done and saved, but the tracking store lacks some of it for a reason that does not pass."""


class Stopped(UnderstudyError):
    """Somebody wants the run to end: the last checkpoint is written, and `understudy resume` goes on from it."""


class Preempted(Stopped):
    """A scheduler wants the machine back."""

    exit_code = 143  # what a process ended by SIGTERM returns


class Interrupted(Stopped):
    """The user pressed Ctrl-C."""

    exit_code = 130  # what a process ended by SIGINT returns


class RayLost(Stopped):
    """The Ray that a run or a sweep stood on is gone; what was written is there."""


class StorageError(UnderstudyError):
    """The disk is full or a file cannot be written."""


def did_you_mean(name: str, allowed: Iterable[str], limit: int = 12, also: Iterable[str] = ()) -> str:
    """Return the tail of an error message: the closest allowed name, then what is allowed.

    Names of `also` are allowed too, but not listed. Upper and lower case are one, and so are dashes and underscores.

    >>> did_you_mean("flow_cb", ["flow_bc", "bc"])
    " (did you mean 'flow_bc'?); allowed: bc, flow_bc"
    """
    names = sorted({str(item) for item in allowed})
    close = nearest(name, [*names, *also])
    hint = f" (did you mean {close!r}?)" if close else ""
    if not names:
        return hint
    if len(names) > limit:
        near = difflib.get_close_matches(str(name), names, n=limit, cutoff=0.2) or names[:limit]
        return f"{hint}; allowed: {', '.join(near)}, ... ({len(names)} in all)"
    return f"{hint}; allowed: {', '.join(names)}"


def nearest(name: str, names: Iterable[str]) -> str:
    """Return which of the names is meant: the closest in spelling, else the shortest that has `name` in it, else ''."""
    plain = {_plain(item): item for item in sorted(names, reverse=True)}
    close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.65)
    if close:
        return plain[close[0]]
    around = [item for item in plain if len(name) > 2 and _plain(name) in item]
    return plain[min(around, key=lambda item: (len(item), item))] if around else ""


def _plain(name: str) -> str:
    return str(name).lower().replace("-", "_")


_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What moves a cursor, colours a terminal or turns the direction of text."""


def visible(text: str) -> str:
    """Return a text of others (a name, a file's content) with control characters as Python escapes them.

    >>> visible("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def to_install(extra: str) -> str:
    """Return how to get the packages of an extra, for messages: from the checkout, for no package index has them."""
    return f"run `make simulators`, or `pip install -e '.[{extra}]'`, in understudy's own folder"
