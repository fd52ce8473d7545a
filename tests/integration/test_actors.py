"""Learners and actors in processes of their own: killed, they lose what was open and nothing else."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.integration.breaking import named, only
from tests.integration.commands import free_port, kill_when, run, start
from tests.integration.test_online import step_of

from understudy.runs.directory import read_csv

CUBES = "gym_hil/PandaPickCube-state-scripted-v0"
SMALL = (
    *("algo=hilserl", f"env_name={CUBES}", "hidden_dims=[16,16]", "batch_size=16", "start_training=20"),
    *("log_interval=10", "eval_episodes=0", "checkpoint_seconds=0.1", "launcher=inline", "tracking_uri=none"),
    *("takeover=scripted", "takeover_rate=1", "takeover_after=2", "publish_interval=10", "fragment_steps=5"),
    "replay=ledger",
)


@pytest.fixture(autouse=True)
def cubes(done) -> None:
    done("data", "generate", CUBES, "--episodes", "3", "--workers", "1", "--overwrite")


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


def _rows(folder: Path) -> list[dict[str, float]]:
    rows = read_csv(folder / "env.csv")
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    return rows


@pytest.mark.slow
def test_a_killed_learner_goes_on_and_its_actor_waits_for_it(done, tmp_path: Path) -> None:
    words = (*SMALL, f"actor_address={free_address()}")
    actor = start("actor", *words, "training_steps=400", cwd=tmp_path)
    learner = start("learner", *words, "training_steps=400", cwd=tmp_path)
    kill_when(learner, lambda: step_of(tmp_path) > 100)
    broken = only(tmp_path)
    reached = step_of(broken)
    said = run("resume", str(broken), cwd=tmp_path)
    assert "waiting for actors at" in said
    out, err = actor.communicate(timeout=300)
    assert actor.returncode == 0, err
    assert "the learner is gone; waiting for it" in out
    assert "the learner has finished" in out
    assert reached < 400
    updates = read_csv(broken / "online_agent.csv")
    assert [row["step"] for row in updates] == list(range(30, 401, 10))
    assert {"parameter_age", "policy_hz", "version", "lost_fragments"} < set(updates[-1])
    rows = _rows(broken)
    assert {row["interventions"] for row in rows} == {1.0}
    assert "the same weights" in done("learner", "--replay", str(broken))


@pytest.mark.slow
def test_an_actor_of_other_settings_or_without_a_learner_is_refused(tmp_path: Path) -> None:
    words = (*SMALL, f"actor_address={free_address()}")
    said = run("actor", *words, "training_steps=200", "--wait", "0", cwd=tmp_path, code=2)
    assert "no learner answers" in said or "start the learner first" in said
    learner = start("learner", *words, "training_steps=200", cwd=tmp_path)
    other = run("actor", *words, "training_steps=200", "batch_size=8", cwd=tmp_path, code=2)
    assert "its settings are not the learner's" in other
    first = start("actor", *words, "training_steps=200", cwd=tmp_path)
    assert learner.wait(300) == 0
    assert first.wait(300) == 0


def test_a_method_without_actors_is_refused_as_what_it_is(tmp_path: Path) -> None:
    for command in ("learner", "actor"):
        said = run(command, "algo=bc", "env_name=Pendulum-v1", cwd=tmp_path, code=2)
        assert said == "understudy: algo=bc has no actors of its own; algo=hilserl has\n"


@pytest.mark.slow
def test_seeds_have_actors_of_their_own_from_other_terminals(done, tmp_path: Path) -> None:
    words = (*SMALL, f"actor_address={free_address()}", "seeds=[0,5]", "training_steps=100")
    learner = start("learner", *words, cwd=tmp_path)
    actors = [start("actor", *words, cwd=tmp_path) for _ in range(2)]
    assert [process.wait(300) for process in (learner, *actors)] == [0, 0, 0]
    finished = only(tmp_path)
    assert {frozenset(row["actor"] for row in _rows(finished / name)) for name in ("sd000", "sd005")} == {
        frozenset([0.0]),
        frozenset([1.0]),
    }
    assert "160 updates were done again: the same weights" in done("learner", "--replay", str(finished))


@pytest.mark.slow
def test_an_actor_of_ray_that_is_killed_is_started_again(done, tmp_path: Path) -> None:
    learner = start("train", *SMALL, "num_actors=1", "seeds=[0,1]", "training_steps=400", cwd=tmp_path)
    killed = False
    while learner.poll() is None:
        acting = [p for p in psutil.Process(learner.pid).children(recursive=True) if "ActorProcess" in named(p)]
        if not killed and step_of(tmp_path) > 100 and acting:
            os.kill(acting[0].pid, signal.SIGKILL)
            killed = True
        time.sleep(0.1)
    _, err = learner.communicate()
    assert learner.returncode == 0, err
    assert killed
    assert err.count("died and is started again") == 1
    finished = only(tmp_path)
    lives = [read_csv(finished / name / "online_agent.csv")[-1]["actor_lives"] for name in ("sd000", "sd001")]
    assert sorted(lives) == [1, 2]
    assert [{row["actor"] for row in _rows(finished / name)} for name in ("sd000", "sd001")] == [{0.0}, {1.0}]
    assert "the same weights" in done("learner", "--replay", str(finished))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_tutorial_runs_from_recording_to_hilserl(tmp_path: Path) -> None:
    few = "n_heads=2 dim_model=16 dim_feedforward=16 n_encoder_layers=1 n_vae_encoder_layers=1"
    words = {
        "RECORD": "control=scripted num_episodes=2 height=32 width=32 pictures=h264",
        "ACT": f"training_steps=1 {few} batch_size=2 eval_episodes=0 tracking_uri=none",
        "CLASSIFIER": "training_steps=1 batch_size=2 latent_dim=8 hidden_dim=8 tracking_uri=none",
        "HILSERL": "training_steps=16 start_training=10 batch_size=4 utd_ratio=1 hidden_dims=[8] takeover=scripted"
        f" takeover_after=3 takeover_rate=1 eval_episodes=0 tracking_uri=none actor_address={free_address()}",
    }
    script = Path(__file__).resolve().parents[2] / "scripts" / "hilserl_tutorial.sh"
    environment = {**os.environ, **words, "UNDERSTUDY": f"{sys.executable} -m understudy"}
    done = subprocess.run(
        ["bash", str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=2900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 encoder tensors loaded, 0 kept as drawn" in done.stderr
    assert "the learner has finished" in done.stdout
    assert "the policy is in" in done.stdout


@pytest.mark.slow
def test_a_person_takes_over_at_the_keyboard_of_an_actor(tmp_path: Path) -> None:
    words = (
        *("algo=hilserl", "env_name=Pendulum-v1", "offline_ratio=0", "training_steps=400", "start_training=60"),
        *("hidden_dims=[8]", "batch_size=8", "eval_episodes=0", "eval_max_steps=30", "tracking_uri=none"),
        *("takeover=keyboard", f"actor_address={free_address()}", "fragment_steps=5", "launcher=inline"),
    )
    learner = start("learner", *words, cwd=tmp_path)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-m", "understudy", "actor", *words])
    seen, pressed = "", False
    while True:
        try:
            read = os.read(terminal, 4096)
        except OSError:  # Linux says so when the other end is closed
            break
        if not read:
            break
        seen += read.decode(errors="replace")
        if "takes over and gives back" in seen and not pressed:
            os.write(terminal, b" ")
            pressed = True
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, seen
    assert learner.wait(300) == 0
    rows = _rows(only(tmp_path))
    assert (max(row["interventions"] for row in rows), rows[-1]["interventions"]) == (1, 0)
    assert max(row["intervention_rate"] for row in rows) > 0
