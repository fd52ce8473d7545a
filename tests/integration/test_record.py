"""`understudy record` as its users start it: an oracle, keys of a terminal, kills."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.integration.commands import kill_when, run, start

from understudy.envs.sources.lerobot.reader import read_episodes

STATE = "env_name=gym_hil/PandaPickCube-state-v0"
SCRIPTED = (STATE, "control=scripted")


def _info(root: Path) -> dict:
    return json.loads((root / "meta" / "info.json").read_text())


def test_an_oracles_recording_is_shown_trained_on_and_replayed(tmp_path: Path, done: Callable[..., str]) -> None:
    root = tmp_path / "cubes"
    said = done("record", *SCRIPTED, f"root={root}", "num_episodes=3")
    assert "episode 3 of 3: success" in said
    assert (_info(root)["total_episodes"], _info(root)["codebase_version"]) == (3, "v3.0")
    assert _info(root)["features"]["action"]["names"] == ["x", "y", "z", "gripper"]
    assert {"next.reward", "next.done", "next.success"} < set(_info(root)["features"])
    shown = done("data", "info", f"lerobot:{root}")
    assert "lerobot, environment gym_hil/PandaPickCube-v0" in shown
    assert "success   3 of 3 episodes" in shown
    replayed = done("record", *SCRIPTED, f"root={root}", "mode=replay", "replay_episode=2")
    assert "return 1, success True" in replayed
    words = ("algo=bc", f"env_name=lerobot:{root}", "training_steps=2", "hidden_dims=[8]", "eval_episodes=1")
    assert "success" in done("train", *words, "tracking_uri=none")


def test_a_killed_recording_goes_on_and_is_what_it_would_have_been(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start("record", *SCRIPTED, f"root={killed}", "num_episodes=400", cwd=tmp_path)
    kill_when(process, lambda: (killed / "meta" / "info.json").is_file() and _info(killed)["total_episodes"] > 1)
    count = _info(killed)["total_episodes"]
    said = run("record", *SCRIPTED, f"root={killed}", f"num_episodes={count + 1}", cwd=tmp_path)
    assert f"has {count} episodes; going on" in said
    run("record", *SCRIPTED, f"root={whole}", f"num_episodes={count + 1}", cwd=tmp_path)
    for one, other in zip(read_episodes(killed), read_episodes(whole), strict=True):
        np.testing.assert_array_equal(one["actions"], other["actions"])
        np.testing.assert_array_equal(one["observations"], other["observations"])
    refused = run("record", *SCRIPTED, f"root={killed}", "seed=1", "num_episodes=500", cwd=tmp_path, code=2)
    assert "was begun with seed=0, not 1" in refused


def test_keys_of_a_terminal_drive_mark_success_throw_away_and_end(tmp_path: Path) -> None:
    root = tmp_path / "swings"
    words = ("env_name=Pendulum-v1", f"root={root}", "fps=50", "num_episodes=2", "control_time_s=60")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests were started in the background
        os.execv(sys.executable, [sys.executable, "-m", "understudy", "record", *words])
    _until(terminal, "episode 0 step 3/")
    os.write(terminal, b"r")  # throw away, and begin again
    _until(terminal, "episode 0 step 1/")
    os.write(terminal, b"\x1b[C")  # full torque to the right
    _until(terminal, "episode 0 step 12/")
    os.write(terminal, b"s")
    _until(terminal, "episode 1 of 2: success")
    _until(terminal, "episode 1 step 2/")
    os.write(terminal, b"\x1b")
    _until(terminal, "episode 2 of 2: failure")
    assert _ended(pid, terminal) == 0
    first, second = read_episodes(root)
    assert first["actions"].max() == 2.0
    assert (first["success"][-1], first["terminals"][-1], first["rewards"][-1]) == (1, 1, 1.0)
    assert (second["success"].max(), second["terminals"][-1]) == (0, 1)


def test_ctrl_c_at_the_keyboard_keeps_what_had_ended_and_gives_the_terminal_back(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        words = ["env_name=Pendulum-v1", "root=swings", "fps=50", "num_episodes=5"]
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests were started in the background
        os.execv(sys.executable, [sys.executable, "-m", "understudy", "record", *words])
    _until(terminal, "episode 0 step 3/")
    os.write(terminal, b"s")
    _until(terminal, "episode 1 step 3/")
    os.write(terminal, b"\x03")
    _until(terminal, "the same command goes on")
    assert _ended(pid, terminal) == 130
    assert _info(tmp_path / "swings")["total_episodes"] == 1


def test_an_oracle_corrects_a_policy_and_each_takeover_is_counted(tmp_path: Path, done: Callable[..., str]) -> None:
    words = ("algo=bc", STATE.replace("-state-", "-state-scripted-"), "training_steps=1", "hidden_dims=[8]")
    done("data", "generate", "gym_hil/PandaPickCube-state-scripted-v0", "--episodes", "2")
    done("train", *words, "eval_episodes=0", "tracking_uri=none", "save_dir=runs")
    model = next((tmp_path / "runs").rglob("final_model.pt"))
    root = tmp_path / "corrected"
    said = done("record", *SCRIPTED, f"policy={model}", f"root={root}", "num_episodes=2")
    assert said.count("taken over 1 times") == 2
    for episode in read_episodes(root):
        marks = episode["interventions"]
        assert (marks[:10].max(), marks[10:].min(), int(np.diff(marks.astype(int)).clip(0).sum())) == (0, 1, 1)
        assert episode["success"][-1] == 1


def test_a_keyboard_without_a_terminal_is_one_line(tmp_path: Path, done: Callable[..., str]) -> None:
    assert "is no terminal" in done("record", STATE, f"root={tmp_path / 'x'}", code=2)


@pytest.mark.parametrize("env_name", ["lift-mh-low_dim", "cube-single-play-singletask-task1-v0"])
@pytest.mark.slow
def test_lift_and_ogbenchs_cube_are_recorded_too(tmp_path: Path, done: Callable[..., str], env_name: str) -> None:
    root = tmp_path / "data"
    said = done("record", f"env_name={env_name}", "control=scripted", f"root={root}", "num_episodes=1")
    assert "episode 1 of 1: success" in said


def _until(terminal: int, wanted: str) -> str:
    """Read what the command prints until `wanted` is there."""
    seen = ""
    while wanted not in seen:
        try:
            read = os.read(terminal, 4096)
        except OSError:
            read = b""
        assert read, f"ended before {wanted!r}: {seen[-2000:]}"
        seen += read.decode(errors="replace")
    return seen


def _ended(pid: int, terminal: int) -> int:
    while True:
        try:
            if not os.read(terminal, 4096):
                break
        except OSError:  # Linux says so when the other end is closed
            break
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert not os.WIFSIGNALED(status), signal.Signals(os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)
