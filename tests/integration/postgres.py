"""A PostgreSQL server of a test's own: Debian's or any other's programs, a folder of its own, a free port."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.commands import free_port

PASSWORD = "pa55-of-the-test"


def program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs, which Debian keeps off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")) or [Path(shutil.which(name) or "")]
    assert found[-1].is_file(), f"{name} not found: install PostgreSQL (apt install postgresql)"
    return str(found[-1])


@contextmanager
def postgres(*databases: str) -> Iterator[str]:
    """Run a server with these databases; yield its address, `postgresql+psycopg2://USER:PASSWORD@HOST:PORT`."""
    root = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    if user:
        shutil.chown(root, user)
    word = root / "password"
    word.write_text(PASSWORD)
    word.chmod(0o644)
    port = free_port()
    data, control = str(root / "data"), program("pg_ctl")

    def call(*words: str) -> None:
        subprocess.run(words, check=True, cwd=root, stdout=subprocess.DEVNULL, timeout=600, user=user)

    try:
        call(program("initdb"), "-D", data, "-U", "ada", "-A", "scram-sha-256", f"--pwfile={word}", "--no-sync")
        settings = f"-p {port} -h 127.0.0.1 -k {root} -c fsync=off"
        call(control, "-D", data, "-o", settings, "-l", str(root / "log"), "-w", "start")
        try:
            login = f"ada:{PASSWORD}@127.0.0.1:{port}"
            for database in databases:
                call(program("psql"), "-q", f"postgresql://{login}/postgres", "-c", f"create database {database}")
            yield f"postgresql+psycopg2://{login}"
        finally:
            call(control, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(root, ignore_errors=True)
