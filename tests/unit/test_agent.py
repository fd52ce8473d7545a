"""The agent of scripts and notebooks, where observations have several parts. Arrays of one part are contract tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from understudy.errors import UserError
from understudy.registry import algorithms
from understudy.trainables.algorithms.flow_bc import FlowBC, FlowBCConfig
from understudy.trainables.loops.agent import Agent

SHAPE = {"state": (4,), "front": (8, 8, 3), "goal/state": (2,)}


def agent(**settings: Any) -> Agent:
    """Return a small agent that sees a state, a picture and a goal."""
    return Agent(FlowBC(SHAPE, 3, FlowBCConfig(hidden_dims=(16,), encoder="impala_small", **settings)))


def arrays(*lead: int) -> dict[str, Any]:
    """Return a batch with these leading lengths."""
    random = np.random.default_rng(0)
    return {
        "observations": {
            "state": random.normal(size=(*lead, 4)),
            "front": random.integers(0, 256, size=(*lead, 8, 8, 3), dtype=np.uint8),
            "goal/state": random.normal(size=(*lead, 2)),
            "wrist": random.integers(0, 256, size=(*lead, 9, 9, 3), dtype=np.uint8),
        },
        "actions": random.uniform(-1, 1, size=(*lead, 3)),
    }


def test_batch_update_of_several_parts_equals_a_sequence_of_updates() -> None:
    one, two = agent(ema_rate=0.5, grad_accumulation=2), agent(ema_rate=0.5, grad_accumulation=2)
    batches = arrays(3, 6)
    for index in range(3):
        seen = {name: part[index] for name, part in batches["observations"].items()}
        one.update({"observations": seen, "actions": batches["actions"][index]})
    two.batch_update(batches)
    assert torch.equal(one.pack.parameters, two.pack.parameters)


def test_actions_for_one_dict_are_those_of_a_batch_of_it() -> None:
    observations = arrays(5)["observations"]
    one = agent().sample_actions({name: part[2] for name, part in observations.items()})
    assert one.shape == (3,)
    np.testing.assert_allclose(one, agent().sample_actions(observations)[2], atol=1e-5)


def test_a_saved_agent_of_several_parts_goes_on_bit_for_bit(tmp_path: Any) -> None:
    settings = {"warmup_steps": 3, "ema_rate": 0.1, "precision": "fp16"}
    first, second = agent(**settings), agent(**settings)
    first.update(arrays(6))
    first.save(tmp_path / "agent.pt")
    second.load(tmp_path / "agent.pt")
    assert first.update(arrays(6)) == second.update(arrays(6))
    assert torch.equal(first.pack.parameters, second.pack.parameters)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": np.zeros((6, 5))}, r"state \(6, 5\)"),
        ({"front": np.zeros((5, 8, 8, 3), np.uint8)}, r"front \(5, 8, 8, 3\)"),
    ],
)
def test_a_part_of_the_wrong_shape_is_named(change: dict[str, Any], said: str) -> None:
    data = arrays(6)
    data["observations"].update(change)
    with pytest.raises(UserError, match=said) as caught:
        agent().update(data)
    assert "\n" not in str(caught.value)


def test_a_missing_part_is_named() -> None:
    data = arrays(6)
    del data["observations"]["goal/state"]
    with pytest.raises(UserError, match=r"goal/state \(2,\)"):
        agent().update(data)
    with pytest.raises(UserError, match="needs 'goal/state'"):
        agent().sample_actions(data["observations"])


def test_a_method_that_computes_constants_from_all_data_is_not_trained_without_them() -> None:
    kind = algorithms.get("vq_bet")
    agent = kind.create((3 * kind.Config().obs_horizon,), 2, kind.Config())
    with pytest.raises(UserError, match="vq_bet is trained with what it computes from all data first: `understudy tr"):
        agent.update({"observations": np.zeros((4, 3 * kind.Config().obs_horizon)), "actions": np.zeros((4, 2))})
