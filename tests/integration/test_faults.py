"""Break what a run or a sweep stands on, for real, and compare with one that was left alone.

The promise is in docs/reliability.md: the same weights and csv rows, each metric in MLflow once, no traceback.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sqlite3
from pathlib import Path

import psutil
import pytest
from tests.integration.breaking import (
    RUN,
    SWEEP,
    Server,
    assert_each_metric_once,
    assert_little_was_repeated,
    assert_same,
    assert_same_sweep,
    checkpoints,
    ended,
    named,
    only,
    step_in,
    step_of,
    store_of,
    wait_for,
)
from tests.integration.commands import Process, kill_when, run, start, workers
from tests.integration.test_online import step_of as saved_step

from understudy import tracking
from understudy.runs.directory import read_csv

pytestmark = [pytest.mark.faults, pytest.mark.slow]
IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "4"}
"""What waits for a server that hangs shall not wait for 20 s each time."""


ACTING = (
    *("train", "algo=hilserl", "env_name=Pendulum-v1", "offline_ratio=0", "hidden_dims=[16,16]", "batch_size=16"),
    *("utd_ratio=1", "start_training=20", "eval_episodes=0", "num_actors=2", "fragment_steps=10"),
    *("replay=ledger", "log_interval=10", "checkpoint_seconds=0.2", "launcher=inline", "tracking_uri=none"),
    *("training_steps=600", "save_dir=runs"),
)
"""A learner with two actors on Ray."""


# ---- a run ----


def test_a_killed_rollout_process_has_its_evaluation_played_again(undisturbed: Path, tmp_path: Path) -> None:
    process = start(*RUN, "eval_processes=true", "save_dir=runs", cwd=tmp_path)

    def workers() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in named(child)]

    wait_for(process, workers)
    workers()[0].kill()
    said = ended(process)
    assert said.count("died with exit code -9; the evaluation begins again") == 1
    assert_same(only(tmp_path), undisturbed)
    assert_each_metric_once(store_of(only(tmp_path)), store_of(undisturbed))


def test_a_disk_that_is_full_for_a_while_costs_the_work_since_the_last_checkpoint(
    undisturbed: Path, tmp_path: Path
) -> None:
    process = start(*RUN, "save_dir=runs", cwd=tmp_path)
    wait_for(process, lambda: step_of(tmp_path) >= 1200 and checkpoints(tmp_path))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4000, 4000))  # what is beyond that "does not fit"
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1, out + err
    assert [line for line in err.splitlines() if "no space left while writing" in line]
    assert "Traceback" not in err
    folder = only(tmp_path)
    newest, reached = checkpoints(folder)[-1], step_of(folder)
    ended(start("resume", str(folder), cwd=tmp_path))
    assert_little_was_repeated(folder, newest, reached)
    assert_same(folder, undisturbed)
    assert_each_metric_once(store_of(folder), store_of(undisturbed))


def test_a_run_whose_server_hangs_ends_without_it_and_is_sent_later(
    undisturbed: Path, server: Server, tmp_path: Path
) -> None:
    server.start()
    process = start(*RUN, "save_dir=runs", f"tracking_uri={server.address}", cwd=tmp_path, **IMPATIENT)
    wait_for(process, lambda: step_of(tmp_path) >= 300)
    server.hang()
    assert "`understudy sync` sends it once that is back" in ended(process)
    said = ended(start("sync", "runs", cwd=tmp_path, **IMPATIENT), code=1)
    assert said.startswith(f"understudy: no MLflow server answers at {server.address}")
    server.kill()
    server.start()
    assert "FINISHED" in ended(start("sync", "runs", cwd=tmp_path))
    assert_same(only(tmp_path), undisturbed)
    assert_each_metric_once(server.store, store_of(undisturbed))


JUMPING_CLOCK = """
import os, pathlib, time
_real = {"time": time.time, "time_ns": time.time_ns}
_file = pathlib.Path(os.environ["CLOCK_JUMP"])
def _jump():
    try:
        return float(_file.read_text() or 0)
    except (OSError, ValueError):
        return 0.0
time.time = lambda: _real["time"]() + _jump()
time.time_ns = lambda: _real["time_ns"]() + int(_jump() * 1e9)
"""


def test_a_wall_clock_that_jumps_by_days_back_and_forth_changes_nothing(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(JUMPING_CLOCK)
    path = os.pathsep.join([str(tmp_path / "clock"), os.environ.get("PYTHONPATH", "")])
    clock = {"PYTHONPATH": path, "CLOCK_JUMP": str(tmp_path / "jump")}
    process = start(*RUN, "save_dir=runs", cwd=tmp_path, fresh=True, **clock)
    for step, days in ((300, -1), (1000, 1)):
        wait_for(process, lambda step=step: step_of(tmp_path) >= step and checkpoints(tmp_path))
        before = checkpoints(tmp_path)[-1]
        (tmp_path / "jump").write_text(str(days * 86400))
        wait_for(
            process, lambda before=before: step_in(checkpoints(tmp_path)[-1]) > step_in(before)
        )  # as if nothing were
    ended(process)
    assert_same(only(tmp_path), undisturbed)
    assert_each_metric_once(store_of(only(tmp_path)), store_of(undisturbed))


def test_an_mlflow_server_that_is_killed_during_a_run_ends_with_every_row_once(
    undisturbed: Path, server: Server, tmp_path: Path
) -> None:
    server.start()
    process = start(*RUN, "save_dir=runs", f"tracking_uri={server.address}", cwd=tmp_path)
    wait_for(process, lambda: step_of(tmp_path) >= 300)
    server.kill()
    wait_for(process, lambda: step_of(tmp_path) >= 1500)
    server.start()
    ended(process)
    said = ended(start("sync", str(only(tmp_path)), cwd=tmp_path))  # nothing, where it came back before the end
    assert "nothing to send" in said or "FINISHED" in said
    assert_same(only(tmp_path), undisturbed)
    assert_each_metric_once(server.store, store_of(undisturbed))


def test_a_run_whose_server_went_for_good_is_sent_by_sync_once_it_is_back(
    undisturbed: Path, server: Server, tmp_path: Path
) -> None:
    server.start()
    process = start(*RUN, "save_dir=runs", f"tracking_uri={server.address}", cwd=tmp_path)
    wait_for(process, lambda: step_of(tmp_path) >= 300)
    server.kill()
    assert "`understudy sync` sends it once that is back" in ended(process)
    folder = only(tmp_path)
    said = ended(start("sync", "runs", cwd=tmp_path), code=1)
    assert said.startswith(f"understudy: no MLflow server answers at {server.address}")
    assert len(said.splitlines()) == 1
    server.start()
    said = ended(start("sync", "runs", cwd=tmp_path))
    assert f"{folder}: " in said
    assert "metric values, " in said
    assert said.strip().endswith("FINISHED")
    assert "nothing to send" in ended(start("sync", "runs", cwd=tmp_path))
    assert_same(folder, undisturbed)
    assert_each_metric_once(server.store, store_of(undisturbed))
    shown = tracking.run_details(tracking.default_tracking_uri(server.store.parent), folder.name)
    assert {"flags.json", "train.csv", "final_model.pt"} <= set(shown["artifacts"])


def test_a_killed_ray_train_worker_is_replaced_and_the_run_ends_the_same(hopper_data: Path, tmp_path: Path) -> None:
    words = (*RUN, "training_steps=600", "eval_interval=300")
    both = workers(*words, "save_dir=whole", "tracking_uri=none", cwd=tmp_path)  # two processes, without Ray
    assert [code for code, _, _ in both] == [0, 0], both
    process = start(*words, "launcher=ray", "num_workers=2", "save_dir=runs", cwd=tmp_path)
    wait_for(process, lambda: step_of(tmp_path / "runs") >= 200)
    found = [child for child in psutil.Process(process.pid).children(recursive=True) if "TrainWorker" in named(child)]
    assert len(found) == 2
    folder = only(tmp_path / "runs")
    newest, reached = checkpoints(folder)[-1], step_of(folder)
    found[1].kill()
    ended(process)
    assert_little_was_repeated(folder, newest, reached)
    assert_same(only(tmp_path / "runs"), only(tmp_path / "whole"))
    store = store_of(only(tmp_path / "runs"))
    assert_each_metric_once(store, store)


# ---- a sweep ----


def test_a_killed_trial_is_started_again_and_goes_on_from_its_own_checkpoint(
    undisturbed_sweep: Path, tmp_path: Path
) -> None:
    process = start(*SWEEP, "save_dir=runs", cwd=tmp_path)
    second = "trials/0001/**/train.csv"
    wait_for(process, lambda: any(step_of(log.parent) >= 300 for log in tmp_path.rglob(second)))
    trial = only(tmp_path, "sweep.json") / "trials" / "0001"
    newest, reached = checkpoints(trial)[-1], step_of(trial)
    psutil.Process(json.loads((trial / "run.json").read_text())["pid"]).kill()
    assert "trial 0001: its process or its node died; it is started again" in ended(process)
    assert_little_was_repeated(trial, newest, reached)
    assert_same_sweep(only(tmp_path, "sweep.json"), undisturbed_sweep)


def test_a_killed_sweep_with_a_truncated_checkpoint_goes_on_in_one_process_however_often_it_is_resumed(
    undisturbed_sweep: Path, tmp_path: Path
) -> None:
    process = start(*SWEEP, "save_dir=runs", cwd=tmp_path)
    kill_when(process, lambda: len(list(tmp_path.rglob("trials/0001/resume/step_*.pt"))) >= 2)
    sweep = only(tmp_path, "sweep.json")
    trial = sweep / "trials" / "0001"
    before, newest = checkpoints(trial)
    reached = step_of(trial)
    newest.write_bytes(newest.read_bytes()[:-100])
    finished = sweep / "trials" / "0000" / "sd000" / "final_model.pt"
    made = finished.stat().st_mtime_ns
    first = start("resume", str(sweep), cwd=tmp_path)
    wait_for(first, lambda: str(first.pid) in (sweep / ".lock").read_text())
    said = ended(start("resume", str(sweep), cwd=tmp_path), code=2)
    assert f"process {first.pid}" in said
    assert len(said.strip().splitlines()) == 1
    ended(first)
    assert finished.stat().st_mtime_ns == made  # a trial that was finished is not done again
    assert_little_was_repeated(trial, before, reached)
    assert_same_sweep(sweep, undisturbed_sweep)


def test_the_trials_of_a_node_that_is_lost_go_on_at_another(undisturbed_sweep: Path, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        process = start(*SWEEP, "save_dir=runs", cwd=tmp_path, RAY_ADDRESS=str(cluster.address))
        wait_for(process, lambda: step_of(tmp_path) >= 300)
        trial = next(tmp_path.rglob("trials/*/run.json")).parent
        pid = json.loads((trial / "run.json").read_text())["pid"]
        raylet = next(parent for parent in psutil.Process(pid).parents() if "raylet" in parent.name())
        assert raylet.pid in [node.all_processes["raylet"][0].process.pid for node in nodes]
        newest, reached = checkpoints(trial)[-1], step_of(trial)
        for lost in [raylet, *raylet.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may go when its parent does
                lost.kill()
        ended(process)
        assert_little_was_repeated(trial, newest, reached)
        assert_same_sweep(only(tmp_path, "sweep.json"), undisturbed_sweep)
    finally:
        cluster.shutdown()


def family(process: Process) -> list[psutil.Process]:
    """Return a command's process and all below it, Ray's included."""
    first = psutil.Process(process.pid)
    return [first, *first.children(recursive=True)]


@pytest.mark.parametrize(
    ("whom", "code", "line"),
    [
        ("every process", 143, "stopped by SIGTERM"),  # as systemd and container runtimes end a control group
        ("raylet", 1, "Ray's raylet died"),
        ("gcs_server", 1, "Ray's gcs_server died"),
    ],
)
def test_a_sweep_whose_ray_is_gone_ends_in_a_line_leaves_no_process_and_goes_on(
    undisturbed_sweep: Path, tmp_path: Path, whom: str, code: int, line: str
) -> None:
    process = start(*SWEEP, "save_dir=runs", cwd=tmp_path)
    wait_for(process, lambda: step_of(tmp_path) >= 300)
    all_of_it = family(process)
    for one in all_of_it:
        with contextlib.suppress(psutil.NoSuchProcess):
            if whom == "every process":
                one.terminate()
            elif one.name() == whom:
                one.kill()
    out, err = process.communicate(timeout=600)
    sweep = only(tmp_path, "sweep.json")
    assert process.returncode == code, out + err
    assert err.splitlines()[-1] == f"understudy: {line}; `understudy resume {sweep}` goes on", out + err
    assert len(err.splitlines()) == 1, err
    assert "aylet is terminated" not in out
    assert json.loads((sweep / "run.json").read_text())["status"] == "interrupted"
    assert psutil.wait_procs(all_of_it, timeout=60)[1] == []
    ended(start("resume", str(sweep), cwd=tmp_path))
    assert_same_sweep(sweep, undisturbed_sweep)


@pytest.mark.parametrize("whom", ["raylet", "gcs_server"])
def test_a_run_on_ray_whose_ray_is_gone_ends_in_a_line_leaves_no_process_and_goes_on(
    undisturbed: Path, tmp_path: Path, whom: str
) -> None:
    process = start(*RUN, "launcher=ray", "save_dir=runs", cwd=tmp_path)
    wait_for(process, lambda: step_of(tmp_path) >= 300)
    all_of_it = family(process)
    next(one for one in all_of_it if one.name() == whom).kill()
    out, err = process.communicate(timeout=600)
    folder = only(tmp_path)
    assert process.returncode == 1, out + err
    assert err == f"understudy: Ray's {whom} died; `understudy resume {folder}` goes on\n", out + err
    assert "aylet is terminated" not in out
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert psutil.wait_procs(all_of_it, timeout=60)[1] == []
    ended(start("resume", str(folder), cwd=tmp_path))
    assert_same(folder, undisturbed)
    assert_each_metric_once(store_of(folder), store_of(undisturbed))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_group_while_ray_is_started_ends_it_and_leaves_nothing(
    hopper_data: Path, tmp_path: Path, number: int
) -> None:
    process = start(*SWEEP, "save_dir=runs", cwd=tmp_path)
    wait_for(process, lambda: any(one.name() == "gcs_server" for one in family(process)))
    all_of_it = family(process)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 128 + number, out + err
    assert "Traceback" not in out + err
    assert psutil.wait_procs(all_of_it, timeout=60)[1] == []
    assert list(tmp_path.rglob("sweep.json")) == []


def test_a_sweep_whose_server_went_is_sent_and_its_best_policy_registered_by_sync(
    hopper_data: Path, server: Server, tmp_path: Path
) -> None:
    words = [word for word in SWEEP if word != "register_as=none"]
    server.start()
    process = start(*words, "save_dir=runs", f"tracking_uri={server.address}", cwd=tmp_path)
    wait_for(process, lambda: any(tmp_path.rglob("trials/0000/resume/step_*.pt")))
    server.kill()
    assert "registers the best policy once it is back" in ended(process)
    sweep = only(tmp_path, "sweep.json")
    server.start()
    said = ended(start("sync", sweep.name, cwd=tmp_path)).splitlines()
    assert [line.split(":")[0] for line in said] == [str(sweep / "trials/0000"), str(sweep / "trials/0001"), str(sweep)]
    assert "nothing to send" in ended(start("sync", sweep.name, cwd=tmp_path))
    assert_each_metric_once(server.store, server.store)
    with sqlite3.connect(server.store) as connection:
        children = "select count(*) from tags where key = 'mlflow.parentRunId'"
        assert connection.execute(children).fetchall() == [(2,)]
        assert connection.execute("select version from model_versions").fetchall() == [(1,)]


# ---- a learner and its actors ----


def acting(process: Process) -> list[psutil.Process]:
    """Return the actors of a learner that has a Ray of its own."""
    return [one for one in family(process)[1:] if "ActorProcess" in named(one)]


def test_the_actors_of_a_node_that_is_lost_act_on_at_another(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
        process = start(*ACTING, cwd=tmp_path, RAY_ADDRESS=str(cluster.address))
        wait_for(process, lambda: saved_step(tmp_path) >= 100)
        raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes]
        actors = {raylet: [one for one in raylet.children() if "ActorProcess" in named(one)] for raylet in raylets}
        (lost,) = [raylet for raylet in raylets if actors[raylet]]  # one placement group, packed
        assert len(actors[lost]) == 2
        for one in [lost, *lost.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may go when its parent does
                one.kill()
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, out + err
        told = {line.split(";")[0] for line in err.splitlines()}
        assert told, "both died, so that one at least acts on elsewhere; Ray may tell of the other after the last step"
        assert told <= {f"actor {number} died and is started again" for number in range(2)}
    finally:
        cluster.shutdown()
    folder = only(tmp_path)
    updates = read_csv(folder / "online_agent.csv")
    assert [row["step"] for row in updates] == list(range(30, 601, 10))
    assert 2 < updates[-1]["actor_lives"] <= 2 + len(told)
    assert "the same weights" in run("learner", "--replay", str(folder), cwd=tmp_path)


@pytest.mark.parametrize("whom", ["raylet", "gcs_server"])
def test_a_learner_whose_actors_ray_is_gone_ends_in_a_line_leaves_no_process_and_goes_on(
    tmp_path: Path, whom: str
) -> None:
    process = start(*ACTING, cwd=tmp_path)
    wait_for(process, lambda: saved_step(tmp_path) >= 100)
    all_of_it = family(process)
    assert len(acting(process)) == 2
    next(one for one in all_of_it if one.name() == whom).kill()
    out, err = process.communicate(timeout=600)
    folder = only(tmp_path)
    assert process.returncode == 1, out + err
    assert err.splitlines()[-1] == f"understudy: Ray's {whom} died; `understudy resume {folder}` goes on", out + err
    assert "Traceback" not in out + err
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert psutil.wait_procs(all_of_it, timeout=60)[1] == []
    ended(start("resume", str(folder), cwd=tmp_path))
    assert read_csv(folder / "online_agent.csv")[-1]["step"] == 600
    assert "the same weights" in run("learner", "--replay", str(folder), cwd=tmp_path)
