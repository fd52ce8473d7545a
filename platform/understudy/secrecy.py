"""Where secrets stand in addresses: the one place that knows, used wherever an address is shown or kept.

A password or a token is the user part of an address (`user:password@`, `token@`) or a value of its query
or its fragment (`?password=`, a cloud's signature, `#token=`).
"""

from __future__ import annotations

import re

_USER = re.compile(
    r"(?<=://)(?:[^/\s]+@"  # user:password@, token@, to the last @ of the host's part
    r"|[^/\s@:]+:(?!\d+(?:[/?#\s]|$))[^\s@]*@)"  # a password with a slash in it; host:5000/a@b has a port
)
_KEY = r"pass(?:word|wd|phrase)?|pwd|secret|api_?key|access_?key(?:_?id)?|auth|token|sig|signature|credentials?"
_QUERY = re.compile(rf"([?&;#](?:[\w.-]*[._-])?(?:aws)?(?:{_KEY})=)[^&;#\s]*[^&;#\s'\"),\]:]", re.I)
_NAME = re.compile(r"(^|[._-])(password|passwd|secret|api_?key|access_?key|token|credentials?)$", re.I)
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://\S+")
_NAMED_USERS = re.compile(r"(postgres\w*|mysql|mariadb|mssql|oracle|sftp|ssh|ftps?|smb|(web)?hdfs|abfss?|wasbs?|az)\b")
"""Schemes where a name before @ is a user, or a container, and no token."""


def without_secrets(text: str) -> str:
    """Return a text in which addresses have no user part, and no value of their query that is a secret."""
    return _QUERY.sub(r"\1***", _USER.sub("", text))


def shown(text: str) -> str:
    """Return a message in which each address that holds a secret stands without it; all others as they are."""
    return _ADDRESS.sub(lambda found: without_secrets(found[0]) if holds_secret(found[0]) else found[0], text)


def holds_secret(address: str) -> bool:
    """Return whether an address has a password, a token or a signature in it; a user's name alone is none."""
    if _QUERY.search(address):
        return True
    found = _USER.search(address)
    return found is not None and (":" in found[0] or not _NAMED_USERS.match(address))


def is_secret(key: str) -> bool:
    """Return whether a key's name says that its value must not be shown."""
    return _NAME.search(key) is not None
