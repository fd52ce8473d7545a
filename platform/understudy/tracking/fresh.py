"""A new SQLite store as a copy of one that was made before: MLflow makes its tables by sixty migrations.

They take two seconds of a CPU and some four hundred syncs of the disk. So they are done once for each version of
MLflow, without syncs, in $UNDERSTUDY_HOME/cache. MLflow makes the tables itself wherever this cannot be done.
"""

from __future__ import annotations

import logging
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.files import home, write_atomic
from understudy.tracking.addresses import sqlite_address
from understudy.tracking.client import client, tracking_errors, untyped

log = logging.getLogger("understudy")


def fill(path: Path, newest: str) -> None:
    """Give an empty database file the tables of the installed MLflow, whose schema has the revision `newest`.

    Nothing is changed in a file that holds anything.
    """
    try:
        with closing(sqlite3.connect(path, timeout=20.0)) as store:
            if not store.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                with closing(sqlite3.connect(_template(newest))) as template:
                    template.backup(store)
    except (OSError, sqlite3.Error, UnderstudyError) as error:  # no home, a full one, one that cannot be written
        log.debug("MLflow makes the tables of %s itself: %s", path, error)


def revision(path: Path) -> str | None:
    """Return the schema revision of a store; None for a new, empty file."""
    with closing(sqlite3.connect(path)) as store:
        try:
            row = store.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:  # no such table
            return None
    return row[0] if row else None


def _template(newest: str) -> Path:
    """Return a store with the revision `newest` and no experiments; it is made where there is none."""
    import mlflow

    path = home() / "cache" / f"mlflow-{mlflow.__version__}.db"
    try:
        held = revision(path) if path.is_file() else None
    except sqlite3.DatabaseError:  # damaged
        held = None
    if held != newest:
        write_atomic(path, lambda file: file.write(_new_store()))
    return path


def place_of(connection: sqlite3.Connection) -> str:
    """Return the path of a connection's database; "" for one in memory."""
    return connection.execute("PRAGMA database_list").fetchone()[2]


def _new_store() -> bytes:
    """Return the bytes of a store that MLflow has just made, without its first experiment.

    Every store gets that one when MLflow opens it: it holds the place of the store's artifacts.
    """
    from sqlalchemy import Engine, event

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder).resolve() / "mlflow.db"

        def unsynced(connection: Any, _record: object) -> None:
            if isinstance(connection, sqlite3.Connection) and place_of(connection) == str(made):
                connection.execute("PRAGMA synchronous = OFF")

        event.listen(Engine, "connect", unsynced)
        try:
            with tracking_errors(sqlite_address(made)):
                untyped(client(sqlite_address(made))).search_experiments(max_results=1)
        finally:
            event.remove(Engine, "connect", unsynced)
        with closing(sqlite3.connect(made)) as store:
            store.execute("DELETE FROM experiments")
            store.commit()
            return store.serialize()
