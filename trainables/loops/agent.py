"""A trainer in five calls, for scripts and notebooks: create, update, sample_actions, save, load.

    agent = FlowBC.create(observation_shape=(17,), action_dim=6, config=FlowBCConfig(lr=1e-4))
    metrics = agent.update({"observations": observations, "actions": actions})
    actions = agent.sample_actions(observation)

It is a pack of one, so its numbers are those of the training loop given the same seed and batches.
Shape suffixes: B samples, O observation dims, A action dims, H steps of the action chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy import checkpoints
from understudy.algorithm import EXPERT, Algorithm, Batch
from understudy.envs.store.store import SALIENCY
from understudy.errors import CheckpointError, UserError
from understudy.normaliser import Normaliser
from understudy.observations import (
    Observations,
    ObservationShape,
    batch_size,
    batched,
    describe,
    each,
    named_parts,
    shape_of,
)
from understudy.policy import Policy
from understudy.randomness import torch_generator
from understudy.trainables.packs.pack import Pack
from understudy.trainables.packs.runners import part_of

FOLLOWING = ("rewards", "discounts", "next_observations")
Arrays = Mapping[str, Any]
"""observations [B, *O] (or a dict of parts), actions [B, A] or [B, H, A], optionally valid [B, H], and the columns that
the algorithm learns from beside them, `saliency/<camera>` [B, H, W, 1] among them, and where it learns from transitions
rewards and discounts [B] or [B, H] and next_observations [B, *O], and `expert/...` of the same names where it learns
from demonstrations beside them: numpy arrays or tensors."""


class Agent:
    """One member of `algorithm` with its optimiser; `seed` decides its weights and all its random numbers."""

    def __init__(
        self,
        algorithm: Algorithm,
        *,
        seed: int = 0,
        device: str = "cpu",
        normaliser: Normaliser | None = None,
    ) -> None:
        self.algorithm = algorithm
        self.pack = Pack(algorithm, [seed], normaliser=normaliser, device=device)
        self.seed = int(seed)
        self.step = 0
        self._fitted = not algorithm.fits or bool(algorithm.constants)
        self._decisions = 0

    def update(self, batch: Arrays) -> dict[str, float]:
        """Take one optimiser step and return the metrics; UserError names an array of the wrong shape.

        A method that computes constants from all data needs them before: UserError where the agent was made without.
        """
        if not self._fitted:
            name = self.algorithm.name
            raise UserError(
                f"{name} is trained with what it computes from all data first: `understudy train algo={name}` does"
                " that, an agent does where algorithm.constants = algorithm.fit(data) was set before it was made"
            )
        metrics = self.pack.update(self._batch(batch), self.step + 1)
        self.step += 1
        return {name: float(value[0]) for name, value in metrics.items()}

    def batch_update(self, batches: Arrays) -> dict[str, float]:
        """Take one step per leading index of `batches` (arrays [N, B, ...]) and return the metrics' means."""
        lengths = _lengths(batches)
        if len(lengths) != 1:
            raise UserError(f"batch_update needs one leading length for all arrays, not {_shapes(batches)}")
        rows = [self.update(part_of({**batches}, index)) for index in range(lengths.pop())]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}

    def sample_actions(self, observations: Any, temperature: float | None = None) -> np.ndarray:
        """Return actions for one observation [*O] or several [B, *O].

        [A] without action chunking and [H, A] with it, B in front for several. The policy's noise is
        N(0, temperature^2), drawn anew at every call from the agent's seed; temperature 0 is deterministic, and the
        default but for actor=best_of_n.
        """
        scale = self.algorithm.config.acting_temperature if temperature is None else temperature
        observations_BO, single = batched(observations, self.algorithm.observation_shape, "this agent")
        noise = torch.zeros(batch_size(observations_BO), *self.algorithm.noise_shape())
        if scale != 0.0:
            generator = torch_generator(self.seed, "agent noise", self._decisions)
            noise = torch.randn(noise.shape, generator=generator) * scale
            self._decisions += 1
        actions_BHA = self.pack.act(each(lambda part: part[None], observations_BO), noise[None])[0]
        actions = actions_BHA if self.algorithm.config.chunks.action_chunking else actions_BHA[:, 0]
        return actions[0] if single else actions

    def save(self, path: Path | str) -> None:
        """Write all that training goes on from to one .pt file, whole or not at all."""
        checkpoints.save(
            Path(path),
            {
                "algorithm": self.algorithm.name,
                "seed": self.seed,
                "step": self.step,
                "decisions": self._decisions,
                "normaliser": self.pack.normaliser.to_dict(),
                "member": self.pack.member_state(0),
            },
        )

    def load(self, path: Path | str) -> None:
        """Take the agent back to what `save` wrote, or to the policy that a run kept (`final_model.pt`).

        CheckpointError if the file is damaged, another method's or another network's.
        """
        saved = _of_a_run(checkpoints.load(Path(path)))
        if saved.get("algorithm") != self.algorithm.name:
            raise CheckpointError(f"{path} holds {saved.get('algorithm')!r}, this agent is {self.algorithm.name!r}")
        device = str(self.pack.device)
        clip = saved.get("action_clip")
        if clip is not None and hasattr(self.algorithm.config, "action_clip"):  # what the run knew of its environment
            config = self.algorithm.config.model_copy(update={"action_clip": clip})
            self.algorithm = type(self.algorithm)(self.algorithm.observation_shape, self.algorithm.action_dim, config)
        self.pack = Pack(
            self.algorithm, [saved["seed"]], normaliser=Normaliser.from_dict(saved["normaliser"]), device=device
        )
        self.pack.load_member_state(0, saved["member"])
        self._fitted = True
        self.seed, self.step, self._decisions = saved["seed"], saved["step"], saved["decisions"]

    @property
    def policy(self) -> Policy:
        """The policy as it is now: `agent.policy.runner()` acts in an environment."""
        weights = self.pack.weights(0)
        return Policy(self.algorithm, [weights], self.pack.normaliser, seeds=[self.seed], device=self.pack.device)

    def _batch(self, arrays: Arrays) -> Batch:
        """Return the pack's form of a batch: one leading member, chunk_length actions, a mask."""
        sampling = self.algorithm.config.sampling
        own = ["observations", "actions", *(FOLLOWING if sampling.transitions else ())]
        shown = [f"{EXPERT}{name}" for name in own if sampling.demonstrations]
        needed = [*own, *sampling.columns, *shown]
        missing = [name for name in needed if name not in arrays]
        if missing:
            raise UserError(f"a batch needs {' and '.join(needed)}: {', '.join(sorted(missing))} missing")
        actions = torch.as_tensor(arrays["actions"]).to(torch.float32)
        actions = (actions[:, None] if actions.ndim == 2 else actions)[:, : sampling.horizon]
        extra = [*sampling.columns, *(name for name in arrays if name.startswith(SALIENCY))]
        batch: Batch = {"observations": self._seen(arrays["observations"]), "actions": actions}
        batch |= {name: torch.as_tensor(arrays[name]) for name in extra}
        if sampling.transitions:
            batch |= self._following(arrays, "")
        chunk = (sampling.horizon, self.algorithm.action_dim)
        shape, wanted = shape_of(batch["observations"], leading=1), self.algorithm.observation_shape
        if shape != wanted or actions.shape[1:] != chunk or len(_lengths(batch)) > 1:
            raise UserError(
                f"a batch has {_shapes(arrays)}; this agent takes"
                f" observations [B, {_dims(wanted)}] and actions [B, {_dims(chunk)}]"
            )
        # Without chunking there is no mask: a single action is always inside its episode.
        valid = torch.ones(actions.shape[:2])
        if (self.algorithm.config.chunks.action_chunking or sampling.before) and "valid" in arrays:
            valid = torch.as_tensor(arrays["valid"]).to(torch.float32)[:, : sampling.horizon]
        batch["valid"] = valid
        if sampling.demonstrations:
            batch |= self._demonstrated(arrays)
        return part_of(batch, (None,))

    def _following(self, arrays: Arrays, whose: str) -> Batch:
        """Return what followed the actions of own (`""`) or demonstrated samples."""
        found: Batch = {f"{whose}next_observations": self._seen(arrays[f"{whose}next_observations"])}
        for name in [name for name in (f"{whose}rewards", f"{whose}discounts") if name in arrays]:
            values = torch.as_tensor(arrays[name]).to(torch.float32)
            found[name] = values[:, None] if values.ndim == 1 else values
        return found

    def _demonstrated(self, arrays: Arrays) -> Batch:
        """Return demonstrated samples, which may be more or fewer than one's own."""
        actions = torch.as_tensor(arrays[f"{EXPERT}actions"]).to(torch.float32)
        seen = self._seen(arrays[f"{EXPERT}observations"])
        found: Batch = {
            f"{EXPERT}observations": seen,
            f"{EXPERT}actions": actions[:, None] if actions.ndim == 2 else actions,
            **self._following(arrays, EXPERT),
        }
        shape = shape_of(seen, leading=1)
        if shape != self.algorithm.observation_shape or len(_lengths(found)) > 1:
            raise UserError(f"a batch has {_shapes(arrays)}: its {EXPERT}... arrays are not of one length and shape")
        return found

    def _seen(self, observations: Any) -> Observations:
        """Return observations as tensors, without the parts that this agent does not see."""
        shape = self.algorithm.observation_shape
        parts = named_parts(observations)
        if isinstance(shape, dict) and parts is not None:
            observations = {name: part for name, part in parts.items() if name in shape}
        return each(torch.as_tensor, observations)


def _of_a_run(saved: dict[str, Any]) -> dict[str, Any]:
    """Return what `save` would have written of a model that a run kept."""
    if not {"policy", "training"} <= set(saved):
        return saved
    policy = saved["policy"]
    facts = {"algorithm": policy["algorithm"], "normaliser": policy["normaliser"], "member": saved["training"]}
    begun = {"seed": saved.get("seed", 0), "step": saved.get("step", 0), "decisions": 0}
    return {**begun, **facts, "action_clip": policy["config"].get("action_clip")}


def _lengths(arrays: Arrays) -> set[int]:
    """Return the leading lengths of all arrays, those of the observations' parts among them."""
    found: set[int] = set()
    for array in arrays.values():
        parts = named_parts(array)
        found |= {len(part) for part in ([array] if parts is None else parts.values())}
    return found


def _shapes(arrays: Arrays) -> str:
    said: list[str] = []
    for name, array in arrays.items():
        parts = named_parts(array)
        said.append(f"{name} {np.shape(array) if parts is None else describe(shape_of(parts))}")
    return ", ".join(said)


def _dims(shape: ObservationShape) -> str:
    return describe(shape) if isinstance(shape, dict) else ", ".join(str(size) for size in shape)
