"""torchrun's workers train one run together: one directory, one set of rows, an error said once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from tests.contract.bridge_tree import make_tree
from tests.integration.breaking import wait_for
from tests.integration.commands import SMALL, free_port, workers

from understudy.runs.directory import RunDir, read_csv

RUN = ("train", "algo=bc", *SMALL, "training_steps=60", "log_interval=20", "tracking_uri=none", "save_dir=runs")


def torchrun(*words: str, cwd: Path) -> subprocess.Popen[str]:
    """Start `torchrun --nproc_per_node=2 -m understudy WORDS`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    return subprocess.Popen(
        [*command, "-m", "understudy", *words],
        cwd=cwd,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ours(text: str) -> list[str]:
    """Return the lines of ours among torchrun's own."""
    return [line for line in text.splitlines() if line.startswith("understudy: ")]


def weights(root: Path) -> torch.Tensor:
    (file,) = root.rglob("final_model.pt")
    state = torch.load(file, weights_only=True)
    return torch.cat([value.flatten() for _, value in sorted(state["weights"].items())])


@pytest.mark.slow
def test_two_workers_equal_one_within_rounding_write_one_run_and_make_it_longer(hopper_data, done, tmp_path) -> None:
    done(*RUN, "save_dir=one")
    out, err = (process := torchrun(*RUN, "save_dir=two", cwd=tmp_path)).communicate(timeout=600)
    assert process.returncode == 0, err
    assert out.count("run directory:") == 1
    (flags,) = (tmp_path / "two").rglob("flags.json")
    torch.testing.assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"), rtol=1e-3, atol=1e-4)
    assert not torch.equal(weights(tmp_path / "two"), weights(tmp_path / "one"))
    rows = [len(next((tmp_path / name).rglob("train.csv")).read_text().splitlines()) for name in ("one", "two")]
    assert rows == [4, 4]

    process = torchrun("resume", str(flags.parent), "--add-steps", "20", cwd=tmp_path)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert out.count("run directory:") == 1
    assert [row["step"] for row in read_csv(flags.parent / "train.csv")] == [20, 40, 60, 80]


BRIDGE = ("train", "algo=gc_ddpm_bc", "bridgedata=lift_carrot_100", "ddp.enabled=true", "encoder=impala_small",
          "batch_size=4", "num_steps=2", "log_interval=1", "tracking_uri=none")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("imported", [True, False], ids=["from its dataset", "from out.npy, imported by one of two"])
def test_a_line_of_the_published_bridgedata_training_trains_one_run(done, tmp_path, imported) -> None:
    raw, made, arrays = (tmp_path / name for name in ("raw", "data", "numpy"))
    make_tree(raw, trajectories=4, steps=3)
    done("data", "import", "bridge-raw", "--input_path", str(raw), "--output_path", str(arrays), "--num_workers", "1",
         "--depth", "2", "--im_size", "64", "--train_proportion", "0.5", "--data_dir", str(made))  # fmt: skip
    data = (f"data_dir={made}",) if imported else (f"data_dir={tmp_path / 'new'}", f"data_path={arrays}")
    out, err = (process := torchrun(*BRIDGE, *data, "save_dir=runs", cwd=tmp_path)).communicate(timeout=600)
    assert process.returncode == 0, err
    assert out.count("run directory:") == 1
    assert [out.count(f"[Step {step}/2]") for step in (1, 2)] == [1, 1]
    assert "validation/" in out
    (flags,) = tmp_path.rglob("flags.json")
    assert [row["step"] for row in read_csv(flags.parent / "train.csv")] == [1, 2]
    assert (flags.parent / "final_model.pt").is_file()


@pytest.mark.slow
def test_an_error_is_said_once_with_its_exit_code_in_torchruns_report(hopper_data, tmp_path) -> None:
    _, err = (process := torchrun(*RUN, "lrr=1", cwd=tmp_path)).communicate(timeout=600)
    assert process.returncode != 0
    assert len(ours(err)) == 1, err
    assert "unknown key 'lrr'" in ours(err)[0]
    assert list(tmp_path.rglob("flags.json")) == []
    assert "exitcode  : 2" in err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((*RUN, "lrr=1"), "unknown key 'lrr'"),
        ((*RUN, "batch_size=15"), "batch_size=15 does not divide by the 2 workers of torchrun"),
        ((*RUN, "launcher=ray"), "launcher=ray starts workers of its own"),
        ((*RUN, "env_name=walker2d-expert-v2"), "no dataset 'walker2d-expert-v2'"),
        (("sweep", "algo=bc", "lr=1e-4,1e-3"), "`understudy sweep` is no work to share"),
        (("evaluate", "nothing"), "`understudy evaluate` is no work to share"),
    ],
)
def test_one_worker_of_two_says_what_is_wrong_and_nothing_is_written(hopper_data, tmp_path, words, part) -> None:
    both = workers(*words, cwd=tmp_path)
    assert [code for code, _, _ in both] == [2, 2]
    (line,) = [line for _, _, err in both for line in ours(err)]
    assert part in line
    assert list(tmp_path.rglob("flags.json")) == []


def test_one_worker_of_two_prints_the_specification_and_that_a_run_has_finished(hopper_data, done, tmp_path) -> None:
    both = workers(*RUN, "--cfg", cwd=tmp_path)
    assert [code for code, _, _ in both] == [0, 0]
    assert "".join(out for _, out, _ in both).count("training_steps: 60") == 1
    done(*RUN)
    (flags,) = tmp_path.rglob("flags.json")
    both = workers("resume", str(flags.parent), cwd=tmp_path)
    assert [code for code, _, _ in both] == [0, 0]
    assert "".join(out for _, out, _ in both).count("has finished already (60 steps)") == 1


LONG = (*RUN, "training_steps=1000000", "checkpoint_seconds=0", "eval_episodes=0", "log_interval=10")


def stop(process: subprocess.Popen[str]) -> int:
    """Send SIGTERM to torchrun and return the step that its workers say they stopped at, once."""
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0
    assert len(ours(err)) == 1, err
    assert "stopped by SIGTERM at step" in ours(err)[0]
    return int(ours(err)[0].split(" at step ")[1].split(";")[0])


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_that_torchrun_goes_on_from(hopper_data, tmp_path) -> None:
    process = torchrun(*LONG, cwd=tmp_path)
    wait_for(process, lambda: bool(list(tmp_path.rglob("train.csv"))))
    stopped = stop(process)
    (flags,) = tmp_path.rglob("flags.json")
    state = RunDir(flags.parent).state
    assert (state()["status"], state()["step"]) == ("interrupted", stopped)
    process = torchrun("resume", str(flags.parent), cwd=tmp_path)
    wait_for(process, lambda: state().get("resumed_at") == [stopped] and state()["step"] > stopped)
    assert stop(process) > stopped


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_others_with_one_line(hopper_data, tmp_path) -> None:
    process = torchrun(*LONG, cwd=tmp_path)
    wait_for(process, lambda: bool(list(tmp_path.rglob("train.csv"))))
    workers = [item for item in psutil.Process(process.pid).children() if "understudy" in item.cmdline()]
    victim = next(item for item in workers if item.environ()["RANK"] == "1")
    victim.kill()
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0
    assert len(ours(err)) == 1, err
    assert "another worker of torchrun ended" in ours(err)[0]
    assert RunDir(next(tmp_path.rglob("flags.json")).parent).state()["status"] == "failed"
