"""Where tracking and studies live: addresses, whether anything answers there, the server behind `understudy ui`.

Addresses of databases are made and read here only, by SQLAlchemy, which quotes what a path may hold (? % # quotes).
Must not import mlflow: all of this is asked before the seconds that the import takes.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import sqlite3
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from understudy.errors import StoreAway, TrackingError, UserError, did_you_mean
from understudy.files import user_path
from understudy.secrecy import without_secrets
from understudy.tracking.outages import is_away

if TYPE_CHECKING:
    from sqlalchemy import URL

OFF = "none"
UI_HOST, UI_PORT = "127.0.0.1", 5000
ANSWER_SECONDS = 5.0
"""How long a server may take to answer before it counts as away."""
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks", "file")


def sqlite_address(path: Path | str) -> str:
    """Return the address of a SQLite file, whatever characters its path holds."""
    from sqlalchemy import URL

    address = URL.create("sqlite", database=str(user_path(path).absolute()))
    if "%" in address.render_as_string():
        # With its driver named, MLflow leaves the address alone; else it makes a folder of the quoted path beside.
        address = address.set(drivername="sqlite+pysqlite")
    return address.render_as_string()


def default_tracking_uri(root: Path | str) -> str:
    """Return the embedded default: a SQLite store `mlflow.db` in `root` (artifacts go to `mlartifacts` beside it)."""
    return sqlite_address(Path(root) / "mlflow.db")


def absolute_address(address: str) -> str:
    """Return the address with a relative SQLite path made absolute: workers start in other folders."""
    path = sqlite_path(address)
    if path is None:
        return address
    url = _url(address)
    if "uri" in url.query:
        return address
    plain = _url(sqlite_address(path))
    driver = url.drivername if "+" in url.drivername else plain.drivername
    return plain.set(drivername=driver, query=url.query).render_as_string()


def sqlite_path(address: str) -> Path | None:
    """Return the absolute path of a SQLite database's file; None for any other address, and for one in memory."""
    if not _is_sqlite(address):
        return None
    url = _url(address)
    if not url.database or url.database == ":memory:":
        return None
    if url.database.startswith("file:") and "uri" in url.query:
        return Path(unquote(urlsplit(url.database).path)).absolute()
    return user_path(url.database).absolute()


def check_lasting(address: str) -> None:
    """Raise UserError for a SQLite database in memory: nobody else would see it, and it ends with the process."""
    if _is_sqlite(address) and sqlite_path(address) is None:
        raise UserError(f"{address!r} is a database in memory, which ends with the process: give a file's path")


def _is_sqlite(address: str) -> bool:
    return re.match(r"sqlite(\+\w+)?://", address) is not None


def _url(address: str) -> URL:
    """Parse a database's address; UserError when SQLAlchemy cannot, or when an unquoted `?` cuts its path short."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    path, mark, options = address.partition("?")
    try:
        if mark:
            parse_qsl(options, strict_parsing=True)
        return make_url(address)
    except (ArgumentError, ValueError):
        quoted = options.replace("?", "%3F")
        hint = f"; where the path has a question mark, write {path}%3F{quoted}" if mark else ""
        raise UserError(f"{without_secrets(address)!r} is no address of a database{hint}") from None


def artifact_root(tracking_uri: str) -> str | None:
    """Return where a new experiment's artifacts go; None leaves it to the server."""
    path = sqlite_path(tracking_uri)
    return None if path is None else path.with_name("mlartifacts").as_uri()


def reachable_artifacts(tracking_uri: str, artifact_uri: str) -> str:
    """Return the address of artifacts that a server stored for us, when its SQLite store is now read without it."""
    root = artifact_root(tracking_uri)
    if root is None or not artifact_uri.startswith("mlflow-artifacts:"):
        return artifact_uri
    return f"{root}/{urlsplit(artifact_uri).path.lstrip('/')}"


FOR_TRAINING = "workflowType=machine_learning"
"""Has MLflow's pages show a training's menu, not that of language models."""


def run_url(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """Return the run's page: on the server, or, for an embedded store, where `understudy ui` will serve it."""
    base = tracking_uri.rstrip("/") if tracking_uri.startswith("http") else f"http://{UI_HOST}:{UI_PORT}"
    return f"{without_secrets(base)}/#/experiments/{experiment_id}/runs/{run_id}?{FOR_TRAINING}"


def check_reachable(tracking_uri: str, seconds: float = ANSWER_SECONDS) -> None:
    """Raise TrackingError, in one line that says what to do, unless something answers at the address."""
    scheme = urlsplit(tracking_uri).scheme.split("+")[0]
    if scheme not in _SCHEMES and scheme:
        hint = did_you_mean(scheme, [*_SCHEMES, OFF])
        raise TrackingError(f"tracking_uri={without_secrets(tracking_uri)!r}: unknown kind of store {scheme!r}{hint}")
    check_lasting(tracking_uri)
    path = sqlite_path(tracking_uri)
    if path is not None:
        _check_sqlite(path, seconds)
    elif scheme in ("http", "https"):
        _check_http(tracking_uri, seconds)
    elif scheme in _PORTS:
        _check_database(tracking_uri, _PORTS[scheme], seconds)


def _check_sqlite(path: Path, seconds: float) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=max(seconds, 20.0))  # others may be writing: wait for them
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("PRAGMA schema_version").fetchone()
            connection.rollback()
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        if is_away(error):
            raise StoreAway(f"the tracking store {path} is busy ({error})") from None
        raise TrackingError(
            f"the tracking store {path} cannot be written ({error}):"
            " set tracking_uri=sqlite:////another/place/mlflow.db, a server's http:// address, or none"
        ) from None


def _check_http(tracking_uri: str, seconds: float) -> None:
    shown = without_secrets(tracking_uri)
    try:
        urllib.request.urlopen(f"{shown.rstrip('/')}/health", timeout=seconds).close()
    except urllib.error.HTTPError:
        return  # it answers; whether it lets us in is asked through the client
    except http.client.RemoteDisconnected as error:
        raise StoreAway(_no_answer(shown, error)) from None
    except http.client.HTTPException:
        raise TrackingError(
            f"what answers at {shown} does not speak HTTP: correct tracking_uri, or use tracking_uri=none"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StoreAway(_no_answer(shown, reason)) from None


def _no_answer(shown: str, reason: object) -> str:
    return f"no MLflow server answers at {shown} ({reason}): start it, correct tracking_uri, or use tracking_uri=none"


def _check_database(tracking_uri: str, default_port: int, seconds: float) -> None:
    parts = urlsplit(tracking_uri)
    host, port = parts.hostname or "localhost", parts.port or default_port
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError as error:
        raise StoreAway(
            f"no database answers at {host}:{port} ({error}): start it, correct tracking_uri, or use tracking_uri=none"
        ) from None


# ---- the server behind `understudy ui` ----


def ui_command(tracking_uri: str, port: int = UI_PORT, host: str = UI_HOST) -> tuple[list[str], dict[str, str]]:
    """Return (argv, environment additions) of the server that shows an embedded or database store.

    The store's address may hold a password, so it goes by the environment, which other users cannot list.
    Raises UserError when the address is a server already, or when the port is taken.
    """
    if tracking_uri == OFF:
        raise UserError("tracking_uri=none keeps no runs to show: give the tracking_uri of the runs")
    if tracking_uri.startswith("http"):
        raise UserError(f"{without_secrets(tracking_uri)} is a server already: open it in a browser")
    check_port(port, host)
    argv = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": absolute_address(tracking_uri),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    root = artifact_root(tracking_uri)
    if root:
        environment["MLFLOW_ARTIFACTS_DESTINATION"] = root
    return argv, environment


def check_port(port: int, host: str = UI_HOST) -> None:
    """Raise UserError, naming a free port, when `port` of this machine cannot be listened on."""
    if not 1 <= port <= 65535:
        raise UserError(f"port={port}: allowed are 1 to 65535")
    try:
        _listen(host, port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"port {port} of {host} cannot be used ({reason}): try port={_free(host, port)}") from None


def _listen(host: str, port: int) -> int:
    """Bind and let go; return the port bound."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        return server.getsockname()[1]


def _free(host: str, port: int) -> int:
    """Return a free port, the next ones first."""
    for candidate in range(port + 1, min(port + 50, 65536)):
        try:
            return _listen(host, candidate)
        except OSError:
            continue
    return _listen(host, 0)
