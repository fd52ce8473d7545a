"""The same training through Ray Train as in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.integration.commands import SMALL, run

RUN = (
    "train",
    *SMALL,
    "training_steps=100",
    "log_interval=20",
    "action_chunking=true",
    "horizon_length=3",
    "tracking_uri=none",
)


def train(root: Path, name: str, *words: str) -> Path:
    run(*RUN, f"save_dir={name}", *words, cwd=root)
    (flags,) = (root / name).rglob("flags.json")
    return flags.parent


def weights(folder: Path) -> torch.Tensor:
    state = torch.load(folder / "final_model.pt", weights_only=True)
    return torch.cat([value.flatten() for _, value in sorted(state["weights"].items())])


@pytest.mark.slow
def test_one_ray_worker_equals_inline_bit_for_bit_and_two_share_the_batch(hopper_data, tmp_path) -> None:
    inline = train(tmp_path, "inline")
    one = train(tmp_path, "one", "launcher=ray")
    two = train(tmp_path, "two", "launcher=ray", "num_workers=2")
    assert torch.equal(weights(one), weights(inline))
    for name in ("train.csv", "eval.csv"):
        assert (one / name).read_text() == (inline / name).read_text()
    # Two workers see each half of the same 16 samples: one step's gradient is the same but for rounding.
    torch.testing.assert_close(weights(two), weights(inline), rtol=1e-3, atol=1e-4)
    assert not torch.equal(weights(two), weights(inline))


@pytest.mark.slow
def test_a_worker_that_ray_cannot_place_is_refused_in_one_line(hopper_data, tmp_path) -> None:
    said = run(*RUN, "launcher=ray", "num_workers=16", "cpus=64", cwd=tmp_path, code=2)
    assert "more than this Ray holds" in said.strip().splitlines()[-1]
