"""Training with somebody in the loop: corrections are counted, and a killed run goes on as if it had not been."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.breaking import only
from tests.integration.commands import kill_when, start
from tests.integration.test_online import same, step_of

from understudy.runs.directory import read_csv

CUBES = "gym_hil/PandaPickCube-state-scripted-v0"
SMALL = (
    *("algo=hilserl", f"env_name={CUBES}", "hidden_dims=[16,16]", "batch_size=16", "start_training=20"),
    *("training_steps=160", "log_interval=20", "eval_episodes=0", "checkpoint_seconds=0.02", "launcher=inline"),
    *("takeover=scripted", "takeover_rate=1", "takeover_after=5", "takeover_steps=4", "tracking_uri=none"),
)


@pytest.mark.slow
def test_a_killed_run_that_is_corrected_resumes_to_the_same_rows_and_weights(done, tmp_path: Path) -> None:
    done("data", "generate", CUBES, "--episodes", "3", "--workers", "1", "--overwrite")
    done("train", *SMALL, "seeds=[0,1]", "eval_episodes=1", "eval_max_steps=20", "save_dir=whole")
    words = (*SMALL, "seeds=[0,1]", "eval_episodes=1", "eval_max_steps=20", "save_dir=broken")
    process = start("train", *words, cwd=tmp_path)
    kill_when(process, lambda: step_of(tmp_path / "broken") > 50)
    broken, whole = only(tmp_path / "broken"), only(tmp_path / "whole")
    assert 0 < step_of(broken) < 160
    done("resume", str(broken))
    same(broken, whole)
    rows = [row for seed in ("sd000", "sd001") for row in read_csv(whole / seed / "env.csv")]
    assert {row["interventions"] for row in rows} <= {0, 1}
    assert any(row["interventions"] for row in rows)
    for row in rows:
        assert row["intervention_rate"] * row["length"] <= 4 * row["interventions"] + 1e-6


def test_the_grippers_critic_and_the_penalty_are_logged(done, tmp_path: Path) -> None:
    done("data", "generate", CUBES, "--episodes", "3", "--workers", "1", "--overwrite")
    done("train", *SMALL, "training_steps=60", "gripper=discrete", "takeover_until=40")
    run = only(tmp_path)
    assert {"grasp_loss", "grasp_q_mean"} < set(read_csv(run / "online_agent.csv")[-1])
