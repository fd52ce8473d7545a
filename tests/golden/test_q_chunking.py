"""flow_bc with a critic against the published code of Q-chunking in JAX: losses, targets, masks, updates, actions.

qc_reference.npz holds what github.com/ColinQiyangLi/qc at 48283b4 computed once (jax 0.10.2, flax 0.12.8, CPU): its
`ACFQLAgent.create` with small networks whose weights were moved by noise of std 0.3, its `Dataset.sample_sequence` on
38 drawn rows, three calls of its `update` and one of its `sample_actions`. Beside losses and weights the file has the
rows of each batch, and the noise that the code draws from its keys. No code of it is here.

One thing differs by design: after an episode's end, where nothing is counted, ours repeats its last action, and the
published code has the next episode's, which its vector field sees. The losses are compared on the latter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.algorithm import Batch, Draws
from understudy.envs.replay.replay import Replay
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.windows import Windows
from understudy.spec.data import DataSpec
from understudy.trainables.algorithms.flow_bc import FlowBC, FlowBCConfig
from understudy.trainables.packs.pack import Pack

FILE = np.load(Path(__file__).with_name("qc_reference.npz"))
HORIZON, DISCOUNT, UPDATES, SAMPLES = 3, 0.9, 3, 8
VARIANTS: dict[str, dict[str, Any]] = {
    "distill": {"actor": "distill-ddpg"},
    "best": {"actor": "best-of-n", "q_agg": "min"},
    "n_step": {"actor": "distill-ddpg", "q_agg": "min", "num_critics": 3, "action_chunking": False},
}
SHARED: dict[str, Any] = {
    **{"use_critic": True, "horizon_length": HORIZON, "flow_steps": 3, "hidden_dims": (8, 8), "alpha": 3.0},
    **{"value_hidden_dims": (12, 6), "lr": 1e-2, "tau": 0.2, "num_samples": 4},
}
Gather = Callable[[np.ndarray], dict[str, Any]]


def episodes() -> list[dict[str, np.ndarray]]:
    """Return the drawn rows as episodes of a store."""
    data = {name: FILE[f"data/{name}"] for name in ("observations", "actions", "rewards", "masks")}
    found, start = [], 0
    for length in FILE["data/lengths"]:
        rows = slice(start, start + length)
        episode = {name: values[rows] for name, values in data.items() if name != "masks"}
        episode["terminals"] = data["masks"][rows] == 0
        found.append({**episode, "final_observation": FILE["data/next_observations"][start + length - 1]})
        start += length
    return found


@pytest.fixture(scope="module", params=["store", "replay"])
def gather(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Gather:
    """Return a function of rows that gives their windows: of an episode store, or of a replay buffer."""
    folder = tmp_path_factory.mktemp(str(request.param))
    if request.param == "store":
        with StoreWriter(folder / "qc", name="qc", source="d4rl", env_id="x") as writer:
            for episode in episodes():
                writer.add_episode(episode)
        windows = Windows(
            EpisodeStore.open(folder / "qc"), DataSpec(discount=DISCOUNT), FlowBCConfig(**SHARED).sampling
        )
        return lambda rows: windows.gather(rows, (len(rows),))
    buffer = Replay(folder, (4,), 2, 1000)
    for episode in episodes():
        seen = [*episode["observations"], episode["final_observation"]]
        buffer.begin(seen[0])
        count = len(seen) - 1
        for step in range(count):
            end = bool(episode["terminals"][step])
            values = episode["actions"][step], float(episode["rewards"][step]), seen[step + 1]
            buffer.add(*values, terminated=end, ended=step == count - 1)
    return lambda rows: buffer.gather(rows, HORIZON, DISCOUNT)


class GivenDraws(FlowBC):
    """flow_bc with the reference's random numbers."""

    given: Draws

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        return self.given


def ours(path: str, config: FlowBCConfig) -> dict[str, str]:
    """Return the reference's names of the tensors of a part, `actor_bc_flow` and so on, by our names."""
    if path in ("critic", "target_critic"):
        return {}
    module = {"actor_bc_flow": "trunk", "actor_onestep_flow": "one_step"}[path]
    return {f"{module}.layers.{layer}": f"modules_{path}/mlp/Dense_{layer}" for layer in range(3)}


def weights(variant: str, stage: str, config: FlowBCConfig) -> dict[str, torch.Tensor]:
    """Return the reference's weights under our names; those of the target begin with `target.`."""
    found: dict[str, np.ndarray] = {}
    actors = ["actor_bc_flow", *(["actor_onestep_flow"] if config.actor == "one_step" else [])]
    for part in actors:
        for mine, theirs in ours(part, config).items():
            found[f"{mine}.weight"] = FILE[f"{variant}/{stage}/{theirs}/kernel"].T
            found[f"{mine}.bias"] = FILE[f"{variant}/{stage}/{theirs}/bias"]
    for prefix, part in (("chunk_critic.", "critic"), ("target.", "target_critic")):
        for member in range(config.num_critics):
            for layer in range(3):
                theirs, mine = f"{variant}/{stage}/modules_{part}/value_net", f"{prefix}values.members.{member}"
                found[f"{mine}.{2 * layer}.weight"] = FILE[f"{theirs}/Dense_{layer}/kernel"][member].T
                found[f"{mine}.{2 * layer}.bias"] = FILE[f"{theirs}/Dense_{layer}/bias"][member]
                if layer < 2:
                    found[f"{mine}.{2 * layer + 1}.norm.weight"] = FILE[f"{theirs}/LayerNorm_{layer}/scale"][member]
                    found[f"{mine}.{2 * layer + 1}.norm.bias"] = FILE[f"{theirs}/LayerNorm_{layer}/bias"][member]
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}


def split(named: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return a network's weights, and its target critic's."""
    target = {name.removeprefix("target."): value for name, value in named.items() if name.startswith("target.")}
    return {name: value for name, value in named.items() if not name.startswith("target.")}, target


def batch_of(windows: dict[str, Any]) -> Batch:
    return {name: torch.as_tensor(value)[None] for name, value in windows.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_updates_and_actions_are_the_references(gather: Gather, variant: str) -> None:
    config = FlowBCConfig(**{"action_chunking": True, **SHARED, **VARIANTS[variant]})
    algorithm = GivenDraws((4,), 2, config)
    pack = Pack(algorithm, [0])
    state = pack.member_state(0)
    before, target = split(weights(variant, "before", config))
    assert before.keys() == state["weights"].keys()
    pack.load_member_state(0, {**state, "weights": before, "targets": {"chunk_critic": target}})
    for update in range(UPDATES):
        place = f"{variant}/{update}"
        rows, last = FILE[f"{place}/rows"], FILE[f"{place}/batch/valid"][:, -1]
        windows = gather(rows)
        np.testing.assert_array_equal(windows["valid"], FILE[f"{place}/batch/valid"])
        for name, theirs in (
            ("n_step_rewards", FILE[f"{place}/batch/rewards"][:, -1]),
            ("n_step_discounts", DISCOUNT**HORIZON * FILE[f"{place}/batch/masks"][:, -1]),
        ):
            mine = np.asarray(windows[name])
            np.testing.assert_allclose(mine * last, theirs * last, rtol=1e-6, atol=1e-7)
        theirs = FILE["data/actions"][rows[:, None] + np.arange(HORIZON)]
        valid = FILE[f"{place}/batch/valid"][..., None]
        np.testing.assert_array_equal(np.asarray(windows["actions"]) * valid, theirs * valid)
        windows["actions"] = theirs
        drawn = {name: FILE[f"{place}/draws/{name}"] for name in ("noise", "time", "next_noise")}
        if config.actor == "one_step":
            drawn["distilled_noise"] = FILE[f"{place}/draws/distilled_noise"]
        drawn["next_noise"] = drawn["next_noise"].reshape(SAMPLES, *algorithm.noise_shape())
        algorithm.given = {name: torch.from_numpy(value) for name, value in drawn.items()}
        metrics = pack.update(batch_of(windows), update + 1)
        for name in ("critic_loss", "q_mean", "q_max", "q_min", "actor_loss", "bc_flow_loss"):
            theirs = FILE[f"{place}/info/{name}"]
            np.testing.assert_allclose(metrics[name].item(), theirs, rtol=3e-5, atol=1e-5, err_msg=f"{name}, {update}")
        if config.actor == "one_step":
            np.testing.assert_allclose(metrics["distill_loss"].item(), FILE[f"{place}/info/distill_loss"], rtol=3e-5)
    after, slow = split(weights(variant, "after", config))
    state = pack.member_state(0)
    for name, value in after.items():
        np.testing.assert_allclose(state["weights"][name], value, atol=1e-4, err_msg=name)
    for name, value in slow.items():
        np.testing.assert_allclose(state["targets"]["chunk_critic"][name], value, atol=1e-5, err_msg=f"target {name}")
    noise = FILE[f"{variant}/act/noise"].reshape(1, SAMPLES, *algorithm.noise_shape())
    actions = pack.act(FILE["data/observations"][None, :SAMPLES], noise)
    np.testing.assert_allclose(actions[0].reshape(SAMPLES, -1), FILE[f"{variant}/act/actions"], atol=5e-4)
