"""Wrong input and broken surroundings: one line on stderr, an honest exit code, nothing half-written."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.integration.breaking import only
from tests.integration.commands import SMALL
from tests.unit.command_line import Said

from understudy.envs.store.finding import store_path
from understudy.envs.store.writer import StoreWriter
from understudy.runs.directory import RunDir, read_csv
from understudy.spec.keys import build_run

TRAIN = ("train", *SMALL, "training_steps=20", "log_interval=10", "tracking_uri=none", "save_dir=runs")


def refused(said: Said, *parts: str, code: int = 2) -> None:
    """Check the exit code, and that stderr is exactly one line with all the parts."""
    assert said.code == code, said.err
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("understudy: ")
    for part in parts:
        assert part in said.err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("lrr=1",), ("unknown key 'lrr'", "did you mean 'lr'?")),
        (
            ("algo=flow_cb",),
            ("unknown algorithm 'flow_cb'", "did you mean 'flow_bc'?", "allowed: flow_bc, "),
        ),
        (
            ("env_name=hoper-medium-v2",),
            ("unknown environment 'hoper-medium-v2'", "did you mean 'hopper-medium-v2'?"),
        ),
        (("env_name=walker2d-expert-v2",), ("no dataset 'walker2d-expert-v2'", "data download", "download=true")),
        (
            ("action_chunking=true", "horizon_length=5000"),
            ("horizon 5000 is longer than every episode", "the longest has"),
        ),
        (("device=gpu",), ("device='gpu'", "allowed are auto, cpu, cuda, cuda:N")),
        (("device=meta",), ("device='meta'", "allowed are auto, cpu, cuda, cuda:N")),
        (("encoder=impala_smal",), ("encoder='impala_smal': no such choice", "did you mean 'impala_small'?")),
        (("encoder=impala_small",), ("encoder= is for pixels",)),
        (("tracking_uri=http://127.0.0.1:9",), ("no MLflow server answers at http://127.0.0.1:9", "tracking_uri=none")),
        (("tracking_uri=htp://127.0.0.1:9",), ("unknown kind of store 'htp'", "did you mean 'http'?")),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(hopper_data, say, tmp_path, words, parts) -> None:
    refused(say(*TRAIN, *words), *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("env_name=hoper-medium-v2",), "did you mean 'hopper-medium-v2'?"),
        (("encoder=impala_small",), "encoder= is for pixels"),
        (("encoder=impala_smal",), "did you mean 'impala_small'?"),
        (("ogbench_dataset_dir=nowhere",), "no .npz files there"),
        (("algo=bc", "encoder=resnet10", "encoder_weights=nowhere.pt"), "no such file or folder"),
        (("algo=bc", "encoder=resnet10", "encoder_weights=models:/x@best"), "encoder_weights=models:/x@best: "),
        (("action_chunking=true", "horizon_length=5000"), "horizon 5000 is longer than every episode"),
        (("device=gpu",), "device='gpu'"),
        (("save_dir=~nobodyofthisname/x",), "there is no such user"),
        (("data_dir=~nobodyofthisname/x",), "there is no such user"),
    ],
)
def test_what_training_refuses_cfg_refuses_with_the_same_line(hopper_data, say, tmp_path, words, part) -> None:
    shown, trained = say(*TRAIN, "tracking_uri=", *words, "--cfg"), say(*TRAIN, "tracking_uri=", *words)
    refused(trained, part)
    assert (shown.code, shown.err) == (2, trained.err)
    assert list(tmp_path.iterdir()) == []


def test_what_a_sweep_refuses_cfg_refuses_with_the_same_line(hopper_data, say) -> None:
    words = ("sweep", "env_name=hopper-medium-v2", "horizon_length=1,5000")
    assert say(*words, "--cfg").err == say(*words).err


def test_a_cuda_device_that_is_not_there_is_refused(hopper_data, say, tmp_path) -> None:
    refused(say(*TRAIN, "device=cuda:99"), "device='cuda:99'")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(hopper_data, say, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in ("file", "file/runs"):
        trained = say(*TRAIN, f"save_dir={place}")
        refused(trained, f"cannot write {tmp_path / place}", "choose another save_dir", code=1)
        assert say(*TRAIN, f"save_dir={place}", "--cfg").err == trained.err


@pytest.fixture
def copied(hopper_data, tmp_path) -> Path:
    """A data folder of the test's own with the Hopper dataset in it."""
    shutil.copytree(hopper_data / "hopper-medium-v2", tmp_path / "data" / "hopper-medium-v2")
    return tmp_path / "data"


def test_a_truncated_dataset_is_refused(copied, say, tmp_path) -> None:
    file = copied / "hopper-medium-v2" / "transitions.arrow"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(say(*TRAIN, f"data_dir={copied}"), str(file), "truncated", "import the dataset again")
    assert not (tmp_path / "runs").exists()


def test_a_dataset_of_another_task_than_its_environment_is_refused(say, tmp_path) -> None:
    place, name = tmp_path / "data" / "walker2d-medium-v2", "walker2d-medium-v2"
    hopper = {"observations": (20, 11), "actions": (20, 3), "rewards": (20,), "terminals": (20,)}
    with StoreWriter(place, name=name, source="d4rl", env_id="Walker2d-v4", provenance={"env_name": name}) as writer:
        writer.add_episode({column: np.zeros(shape) for column, shape in hopper.items()})
    said = say(*TRAIN, "env_name=walker2d-medium-v2", f"data_dir={tmp_path / 'data'}")
    refused(said, "(11,) and 3 action dims", "(17,) and 6", "not of one task")
    assert not (tmp_path / "runs").exists()


def test_an_environment_of_discrete_actions_is_refused_before_a_step_is_trained(say, tmp_path) -> None:
    name = "expert:CartPole-v1"
    place = store_path(name, tmp_path / "data")
    known = {"env_name": name}
    rows = {"observations": (20, 4), "actions": (20, 1), "rewards": (20,), "terminals": (20,)}
    with StoreWriter(place, name=name, source="expert_buffer", env_id="CartPole-v1", provenance=known) as writer:
        writer.add_episode({column: np.zeros(shape) for column, shape in rows.items()})
    said = say(*TRAIN, f"env_name={name}", f"data_dir={tmp_path / 'data'}")
    refused(said, f"environment {name}", "Discrete(2)", "a Box of float32 with one axis is needed")
    assert not (tmp_path / "runs").exists()


def test_a_dataset_whose_environment_nobody_knows_is_refused(copied, say, tmp_path) -> None:
    manifest = copied / "hopper-medium-v2" / "manifest.json"
    data = json.loads(manifest.read_text())
    data["provenance"]["env_name"] = "hoper-medium-v9"
    manifest.write_text(json.dumps(data))
    refused(say(*TRAIN, f"data_dir={copied}"), "unknown environment 'hoper-medium-v9'", "did you mean 'hopper-medium-v")
    assert not (tmp_path / "runs").exists()


# ---- importing ----


@pytest.fixture
def file(understudy_home, hopper_data, tmp_path) -> Path:
    """A copy of the Hopper file for the test to spoil."""
    return Path(shutil.copy(understudy_home / "hopper_medium-v2.hdf5", tmp_path / "file.hdf5"))


def nan(file: Path) -> None:
    with h5py.File(file, "r+") as data:
        values = np.array(data["observations"])
        values[100, 3] = np.nan
        del data["observations"]
        data["observations"] = values


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def other_kind(file: Path) -> None:
    file.write_text("hello")


def fewer_rewards(file: Path) -> None:
    with h5py.File(file, "r+") as data:
        rewards = np.array(data["rewards"])[:-1]
        del data["rewards"]
        data["rewards"] = rewards


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (nan, ("column 'observations' has NaN or infinity", "episode ", "step ")),
        (cut, ("file.hdf5", "truncated or damaged")),
        (other_kind, ("file.hdf5", "not a readable HDF5 file")),
        (fewer_rewards, ("file.hdf5", "rewards")),
        (Path.unlink, ("file.hdf5: no such file",)),
    ],
)
def test_a_spoilt_file_is_refused_and_leaves_no_dataset(file, say, tmp_path, spoil, parts) -> None:
    spoil(file)
    refused(say("data", "import", "d4rl", "file.hdf5", "--name", "hopper-medium-v2", "--data_dir", "data"), *parts)
    assert not list((tmp_path / "data").glob("*")) + list((tmp_path / "data").glob(".*"))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("d4rll", "file.hdf5"), ("unknown data source 'd4rll'", "did you mean 'd4rl'?")),
        (("d4rl", "file.hdf5", "--name", "mine"), ("'mine' is not a name that d4rl has published", "--env_name")),
        (("d4rl", "file.hdf5", "--name", "../up", "--env_name", "hopper-medium-v2"), ("'../up'", "plain name")),
    ],
)
def test_an_import_under_a_wrong_name_is_refused(file, say, tmp_path, words, parts) -> None:
    refused(say("data", "import", *words, "--data_dir", "data"), *parts)
    assert not (tmp_path / "data").exists()


def test_a_dataset_is_not_replaced_unless_asked(copied, understudy_home, say) -> None:
    words = ("data", "import", "d4rl", str(understudy_home / "hopper_medium-v2.hdf5"), "--name", "hopper-medium-v2")
    before = (copied / "hopper-medium-v2" / "manifest.json").stat().st_mtime_ns
    refused(say(*words, "--data_dir", str(copied)), "exists already", "--overwrite")
    assert (copied / "hopper-medium-v2" / "manifest.json").stat().st_mtime_ns == before
    assert say(*words, "--data_dir", str(copied), "--overwrite").code == 0


def test_an_encoding_of_pictures_that_changes_nothing_is_refused_or_said(file, say) -> None:
    words = ("data", "import", "d4rl", "file.hdf5", "--name", "hopper-medium-v2", "--data_dir", "data")
    refused(say(*words, "--jpeg_quality", "50"), "jpeg_quality=50 changes nothing without --image_encoding jpeg")
    assert "image_encoding=jpeg changes nothing: there are no pictures" in say(*words, "--image_encoding", "jpeg").out


# ---- other commands ----


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ("resume", "sd000_2020"),
            ("sd000_2020: no such run or sweep", "give its folder, its name or its MLflow run id"),
        ),
        (("resume", "."), ("is no run directory or sweep",)),
        (("evaluate", "nowhere"), ("no policy at 'nowhere'", "models:/NAME@ALIAS", ".pt file")),
        (("evaluate", "models:/flow_bc@best"), ("there is no tracking store",)),
        (("runs", "list"), ("nothing is tracked in", "--save_dir")),
        (("runs", "show", "abc"), ("nothing is tracked in", "--save_dir")),
        (("models", "list", "--tracking_uri", "none"), ("tracking_uri=none keeps nothing",)),
        (("models", "show", "flow_bc"), ("nothing is tracked in", "--save_dir")),
        (("data", "info", "hoper"), ("no dataset 'hoper'", "data import")),
        (("data", "generate", "cube-single-scripted-singletask-task9-v0"), ("unknown environment", "did you mean")),
        (
            ("sweep", "space=flow_bc", "env_name=hoper-medium-v2"),
            ("unknown environment 'hoper-medium-v2'", "did you mean"),
        ),
        (("sweep", "env_name=hopper-medium-v2", "horizon_length=1,5000"), ("horizon 5000 is longer",)),
        (
            ("data", "generate", "minari:pendulum/scripted-v0", "--workers", "100000"),
            ("--workers", "less than or equal to 256"),
        ),
        (("data", "import", "bridge-raw", "tree", "--num_workers", "5000"), ("--num", "less than or equal to 256")),
        (
            ("data", "generate", "minari:pendulum/scripted-v0", "--episodes", "1000000000000"),
            ("--episodes", "10000000"),
        ),
        (("models", "register", "run", "--episodes", "1000000000000"), ("less than or equal to 1000000",)),
        (("serve", "model", "--replicas", "100000"), ("--replicas", "less than or equal to 1024")),
        (("ui", "--port", "70000"), ("port=70000: allowed are 1 to 65535",)),
        (("ui", "--tracking_uri", "http://127.0.0.1:9"), ("is a server already", "open it in a browser")),
    ],
)
def test_a_name_that_is_not_there_is_refused_and_nothing_is_made(hopper_data, say, tmp_path, words, parts) -> None:
    refused(say(*words), *parts)
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_refused_with_a_free_one(say, tmp_path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(say("ui", "--port", str(port)), f"port {port} of 127.0.0.1 cannot be used", "try port=")
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_an_evaluation_would_ignore_is_refused(hopper_data, say) -> None:
    assert say(*TRAIN, "eval_episodes=0").code == 0
    folder = only(Path("runs"))
    refused(say("evaluate", str(folder), "lr=1e-4"), "lr is no key of an evaluation", "flow_steps")
    assert "2 episodes" in say("evaluate", str(folder), "eval_episodes=2", "flow_steps=3").out


@pytest.mark.parametrize("name", ["flags.json", "run.json"])
@pytest.mark.parametrize("content", ['{"algo": "flow', "[1, 2]", ""])
def test_a_file_of_a_run_that_was_cut_or_changed_by_hand_is_one_line(say, tmp_path, name, content) -> None:
    run = RunDir.at(tmp_path / "run", build_run({}))
    run.update_state(status="interrupted")
    (run.path / name).write_text(content)
    refused(say("resume", "run"), f"run/{name}", "changed by hand")


@pytest.mark.parametrize(
    "content",
    [
        *('{"status": "interrupted", "step": "a\\nb"}', '{"status": 3}', '{"step": true}', '{"origin": "here"}'),
        *('{"earlier_commits": 3}', '{"lost_rows": [[]]}', '{"files": []}', '{"storage": {}}'),
    ],
)
def test_a_value_of_a_runs_state_that_is_of_another_kind_is_one_line(say, tmp_path, content) -> None:
    run = RunDir.at(tmp_path / "run", build_run({}))
    (run.path / "run.json").write_text(content)
    refused(say("resume", "run"), "run/run.json", "changed by hand")


def test_a_sweeps_file_that_was_cut_is_one_line(say, tmp_path) -> None:
    (tmp_path / "sweep").mkdir()
    for content in ('{"run": {"al', "[]", '{"nothing": 1}'):
        (tmp_path / "sweep" / "sweep.json").write_text(content)
        refused(say("resume", "sweep"))


# ---- a full disk, in a process of its own: the limit is the process's ----


def run_limited(*words: str, cwd: Path, size: int) -> tuple[int, str]:
    """Run the command where no file can grow beyond `size` bytes, as on a full disk; return exit code and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "understudy", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        check=False,
    )
    return done.returncode, done.stderr


def test_a_disk_that_fills_up_during_an_import_leaves_no_dataset(file, tmp_path) -> None:
    words = ("data", "import", "d4rl", "file.hdf5", "--name", "hopper-medium-v2", "--data_dir", "data")
    code, err = run_limited(*words, cwd=tmp_path, size=20_000)
    refused(Said(code, "", err), "no space left while writing", "free some", code=1)
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_a_disk_that_fills_up_during_training_ends_it_in_one_line_and_resume_goes_on(
    hopper_data, say, tmp_path
) -> None:
    words = ("eval_episodes=0", "training_steps=40", "save_interval=20", "hidden_dims=[256,256]")
    code, err = run_limited(*TRAIN, *words, cwd=tmp_path, size=100_000)
    refused(Said(code, "", err), "no space left while writing", code=1)
    folder = only(tmp_path / "runs")
    state = json.loads((folder / "run.json").read_text())
    assert state["status"] == "failed"
    assert state["origin"]["torch"]
    assert "StorageError: no space left while writing" in (folder / "log.txt").read_text()
    assert not list(folder.rglob("*.tmp")) + list(folder.rglob("*.pt")), "a file was left half-written"
    assert [row["step"] for row in read_csv(folder / "train.csv")] == [10, 20]
    said = say("resume", str(folder))
    assert said.code == 0
    assert "it failed: no space left" in said.out
    assert [row["step"] for row in read_csv(folder / "train.csv")] == [10, 20, 30, 40]
    assert {path.name for path in folder.glob("*.pt")} == {"checkpoint_20.pt", "checkpoint_40.pt", "final_model.pt"}


@pytest.mark.parametrize("word", ["expert_data", "env_name", "save_dir", "data_dir", "encoder_weights"])
def test_a_name_that_no_file_can_have_is_one_line(say, tmp_path, word) -> None:
    said = say("train", "algo=bc", f"{word}={'a' * 600}")
    assert said.code == 2
    assert len(said.err.splitlines()) == 1, said.err


def test_a_refused_serve_makes_no_token(say, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    refused(say("serve", "models:/x@best", "--replicas", "3"), "change nothing without --cluster")
    assert not (tmp_path / "home").exists()
