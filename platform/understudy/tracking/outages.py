"""Tell a store that is away, which waiting mends, from a fault, which it does not. Must not import mlflow.

Clients of stores raise what they like (requests', botocore's, SQLAlchemy's, MLflow's own errors, one wrapped in the
other), so the whole chain of causes is looked at, and other packages' errors are known by the names of their classes.
"""

from __future__ import annotations

import errno
import re
import socket
import sqlite3
from collections.abc import Iterator

from understudy.errors import StoreAway

_NETWORK = frozenset(
    {errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH}
    | {errno.ETIMEDOUT, errno.EPIPE, errno.ENOTCONN}
)
_NAMES = re.compile(r"Connection(Error|Closed|Reset|Refused)|ConnectError|Timeout|ProtocolError|ServiceUnavailable")
_REFUSED = re.compile(r"authentication|access denied|permission denied|password|does not exist|unknown database", re.I)
"""What a database says that is there and does not let us in."""


def is_away(error: BaseException, served: bool = False) -> bool:
    """Return whether the error means that a store is away or busy; `served`: a server's own 5xx answers count too."""
    for item in _causes(error):
        if isinstance(item, StoreAway | ConnectionError | TimeoutError | socket.gaierror):
            return True
        if isinstance(item, sqlite3.Error):
            return re.search("lock|busy", str(item)) is not None
        if isinstance(item, OSError) and item.errno in _NETWORK:
            return True
        names = [kind.__name__ for kind in type(item).__mro__]
        if any(map(_NAMES.search, names)):
            return True
        if "OperationalError" in names and not hasattr(item, "orig"):  # a driver's own, not SQLAlchemy's around it
            return _REFUSED.search(str(item)) is None
    return served and any(_status(item) in (408, 429, *range(500, 600)) for item in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int:
    """Return the HTTP status of an MlflowException, 0 for any other error."""
    status = getattr(error, "get_http_status_code", None)
    return int(status()) if status else 0
