"""A lock file is one process's at a time, names who has it, and is free when that process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.contract.source_examples import one_line

from understudy.errors import StorageError, UserError
from understudy.files import held
from understudy.runs.directory import hold

HOLDING = """
import sys, time
from pathlib import Path
from understudy.files import held
from understudy.runs.directory import hold
with held(Path(sys.argv[1]), "taken"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_holder_is_told_who_has_it_and_takes_it_when_that_process_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        for _ in range(2):  # who asks in vain does not wipe the holder's name
            with pytest.raises(UserError) as error, held(lock, "run x is in use by process {holder}; stop it first"):
                pass
            one_line(error, f"run x is in use by process {process.pid} on ")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with held(lock, "taken"):
        assert lock.read_text().startswith(f"{os.getpid()} on ")


def test_one_process_cannot_hold_a_lock_twice_and_may_let_go_in_another_thread(tmp_path: Path) -> None:
    first = held(tmp_path / ".lock", "taken by {holder}")
    first.__enter__()
    with pytest.raises(UserError, match=f"taken by {os.getpid()}"), held(tmp_path / ".lock", "taken by {holder}"):
        pass
    thread = threading.Thread(target=lambda: first.__exit__(None, None, None))
    thread.start()
    thread.join()
    with held(tmp_path / ".lock", "taken"):
        pass


def test_what_the_block_raises_is_its_own_and_lets_go(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="of the block"), held(tmp_path / ".lock", "taken"):
            raise OSError("of the block")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as error, held(tmp_path / "file" / ".lock", "taken"):
        pass
    one_line(error, str(tmp_path / "file"))


def test_who_holds_a_run_removes_what_a_killed_process_half_wrote_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for folder in (run, run / "resume", run / "sd000"):
        folder.mkdir()
        for name in (".run.json.12345.tmp", ".step_5.pt.tmp", "..step_5.pt.tmp.12345.tmp", "kept.tmp", ".kept"):
            (folder / name).write_text("half")
            os.utime(folder / name, (1, 1))
        (folder / ".flags.json.1.tmp").write_text("being written this moment")
    with hold(run / ".lock", "run"):
        for folder in (run, run / "resume", run / "sd000"):
            left = {path.name for path in folder.iterdir() if path.is_file()} - {".lock"}
            assert left == {".flags.json.1.tmp", "kept.tmp", ".kept"}
