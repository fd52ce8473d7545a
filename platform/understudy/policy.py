"""A trained policy on disk and in memory: weights, configuration, normaliser; everything needed to act, and no more.

A policy folder holds `policy.json` and one safetensors file per member: `weights.safetensors`, or for the seeds of one
configuration `member_0.safetensors`, `member_1.safetensors`, ... Nothing in it can run code when it is loaded, and
neither mlflow nor an environment is needed.

Shape suffixes: B observations, H actions of the chunk, A action dims, M chosen members, R rows of one member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from understudy import checkpoints
from understudy.algorithm import Algorithm
from understudy.errors import CheckpointError, UserError, did_you_mean
from understudy.files import sha256, write_atomic, write_json
from understudy.folders import replaced_folder
from understudy.language import Told
from understudy.normaliser import Normaliser, NormaliserOn
from understudy.observations import (
    LANGUAGE,
    Arrays,
    Observations,
    as_shape,
    batch_size,
    batched,
    each,
    named_parts,
    parts_of,
    told_text,
    without_text,
)
from understudy.policy_document import POLICY_FILE, description, method_of, read_document
from understudy.randomness import torch_generator
from understudy.registry import loops

if TYPE_CHECKING:
    from understudy.envs.rollouts.runner import Runner

Weights = Mapping[str, torch.Tensor]


class Policy:
    """One algorithm, one normaliser, and the weights of one or several members (seeds)."""

    def __init__(
        self,
        algorithm: Algorithm,
        weights: Sequence[Weights],
        normaliser: Normaliser,
        *,
        env_name: str = "",
        environment: Mapping[str, Any] | None = None,
        seeds: Sequence[int] | None = None,
        spec: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.algorithm = algorithm
        if algorithm.fits and weights:
            algorithm.constants = {name: weights[0][name] for name in algorithm.fits if name in weights[0]}
        self.normaliser = normaliser
        self.env_name = env_name
        self.environment = dict(environment or {})
        self.seeds = list(range(len(weights))) if seeds is None else [int(seed) for seed in seeds]
        self.spec = dict(spec or {})
        self.device = torch.device(device)
        self._networks = [_network(algorithm, state).to(self.device) for state in weights]
        self._scaling = normaliser.on(self.device)

    def __len__(self) -> int:
        return len(self._networks)

    def weights(self, member: int = 0) -> dict[str, torch.Tensor]:
        """Return one member's parameters and lasting buffers on the CPU."""
        return {name: value.detach().cpu().contiguous() for name, value in self._networks[member].state_dict().items()}

    def network(self, member: int = 0) -> nn.Module:
        """Return one member's network, which takes no gradient; UserError where there is no such member."""
        if not 0 <= member < len(self):
            raise UserError(f"member {member} of a policy with {len(self)}: allowed are 0 to {len(self) - 1}")
        return self._networks[member]

    def member_of(self, seed: int | None) -> int:
        """Return the member of a seed, the first without one; UserError where no member has it."""
        if seed is not None and seed not in self.seeds:
            raise UserError(f"this policy has no seed {seed}: its seeds are {', '.join(map(str, self.seeds))}")
        return 0 if seed is None else self.seeds.index(seed)

    @property
    def scaling(self) -> NormaliserOn:
        """The normaliser's numbers on the policy's device."""
        return self._scaling

    def member(self, index: int) -> Policy:
        """Return a policy of this one member alone."""
        self.network(index)
        return self._like(self.algorithm, [self.weights(index)], [self.seeds[index]])

    def on(self, device: torch.device | str) -> Policy:
        """Return the policy on a device."""
        if torch.device(device) == self.device:
            return self
        weights = [self.weights(k) for k in range(len(self))]
        return self._like(self.algorithm, weights, self.seeds, device)

    def with_config(self, **changes: Any) -> Policy:
        """Return the policy with evaluation-time settings changed (flow_steps, say); its weights are the same."""
        if not changes:
            return self
        for key in changes:
            if key not in self.algorithm.evaluation_parameters:
                allowed = did_you_mean(key, self.algorithm.evaluation_parameters)
                raise UserError(f"{key!r} is no evaluation-time setting of {self.algorithm.name}{allowed}")
        weights = [self.weights(k) for k in range(len(self))]
        return self._like(self.algorithm.with_config(**changes), weights, self.seeds)

    def _like(
        self,
        algorithm: Algorithm,
        weights: Sequence[Weights],
        seeds: Sequence[int],
        device: torch.device | str | None = None,
    ) -> Policy:
        facts: dict[str, Any] = {"env_name": self.env_name, "environment": self.environment, "spec": self.spec}
        return Policy(algorithm, weights, self.normaliser, seeds=seeds, device=device or self.device, **facts)

    # ---- acting ----

    def act(
        self,
        observations: Arrays,
        temperature: float | None = None,
        *,
        seed: int = 0,
        generator: torch.Generator | None = None,
        member: int = 0,
    ) -> np.ndarray:
        """Return actions [B, H, A] float32 for raw observations [B, *O] (or [*O], then B is 1), or a dict of parts.

        A policy that is told task texts takes them as the part `language`, a text or one for each row (or their
        vectors, see `embed`); without it, `eval_language` holds.
        The policy's noise is N(0, temperature^2), from `generator`, or from `seed` when there is none; without a
        temperature it is the algorithm's own.
        """
        scale = self.algorithm.config.acting_temperature if temperature is None else temperature
        observations_BO, _ = self._batched(observations)
        shape = (batch_size(observations_BO), *self.algorithm.noise_shape())
        if scale == 0.0:
            noise = torch.zeros(shape)
        else:
            source = generator or torch_generator(seed, "policy")
            noise = torch.randn(shape, generator=source, device=source.device) * scale
        return self.act_members(each(lambda part: part[None], observations_BO), noise[None], [member])[0]

    def sample_actions(self, observations: Arrays, temperature: float | None = None, seed: int = 0) -> np.ndarray:
        """Return [A] (or the chunk [H, A]) for one observation, [B, A] (or [B, H, A]) for several."""
        observations_BO, single = self._batched(observations)
        actions = self.act(observations_BO, temperature, seed=seed)
        actions = actions if self.algorithm.config.chunks.action_chunking else actions[:, 0]
        return actions[0] if single else actions

    def embed(self, texts: str | Sequence[str]) -> np.ndarray:
        """Return the vectors [N, D] of task texts, [D] of one; UserError for a policy that is told none."""
        told = Told.of(self.algorithm.config.language)
        if told is None:
            raise UserError(f"this policy of {self.algorithm.name} was trained without task texts (language_encoder)")
        return told.embed([texts])[0] if isinstance(texts, str) else told.embed(list(texts))

    def _batched(self, observations: Any) -> tuple[Arrays, bool]:
        """Return observations [B, *O] with their texts' vectors, and whether a single one was given."""
        shape = self.algorithm.observation_shape
        if told_text(shape):
            rest = without_text(shape)
            name = None if isinstance(rest, dict) else next(iter(parts_of(rest)))
            given = dict(named_parts(observations) or {str(name): observations})
            text = given.get(LANGUAGE, self.algorithm.config.language.eval_language)
            if text is None:
                raise UserError("this policy goes by a task's text: give it as the part 'language', or eval_language=")
            vectors = self.embed(text) if _is_text(text) else np.asarray(text)
            first = next((part for part in parts_of(shape) if part != LANGUAGE), "")
            rows = np.ndim(given.get(first, ())) - len(parts_of(shape)[first])
            if vectors.ndim == 1 and rows == 1:  # one text for all rows
                vectors = np.repeat(vectors[None], len(given[first]), axis=0)
            observations = {**given, LANGUAGE: vectors}
        return batched(observations, shape, "this policy")

    def runner(self, member: int = 0, temperature: float | None = None, seed: int = 1_000_000) -> Runner:
        """Return what acts in an environment loop of one's own: `reset(observation, info)`, then `act(observation)`.

        It keeps the history, executes chunks, ensembles, and converts observations, by the code of evaluations: its
        episode e is that of an evaluation with `eval_seed=seed`, where the environment is reset with `seed + e`.
        """
        return loops.get(self.algorithm.loop).runner(self, member, temperature, seed)

    @torch.inference_mode()
    def act_members(
        self,
        observations: Arrays | Observations,
        noise: np.ndarray | torch.Tensor,
        members: Sequence[int] | None = None,
        algorithm: Algorithm | None = None,
    ) -> np.ndarray:
        """Return actions [M, R, H, A] of several members; observations [M, R, *O] raw, noise already scaled.

        The same arithmetic as a pack's, member after member, so an evaluation of a saved policy repeats its numbers.
        """
        chosen = range(len(self)) if members is None else members
        inputs = self._scaling.observations(each(lambda part: torch.as_tensor(part).to(self.device), observations))
        noise = torch.as_tensor(noise).to(self.device, torch.float32)
        act = (algorithm or self.algorithm).act
        rows = [each(lambda part, row=i: part[row], inputs) for i in range(len(chosen))]
        actions = torch.stack([act(self._networks[k], rows[i], noise[i]) for i, k in enumerate(chosen)])
        return self._scaling.actions_back(actions).cpu().numpy()

    # ---- on disk ----

    def document(self) -> dict[str, Any]:
        """Return the content of policy.json, without the list of files."""
        facts = {"env_name": self.env_name, "environment": self.environment, "spec": self.spec}
        return {**description(self.algorithm, self.normaliser), **facts}

    def save(self, folder: Path | str) -> Path:
        """Write the policy folder, whole or not at all; one that is there already is replaced, no other folder is."""
        from safetensors.torch import save

        folder = Path(folder)
        if any(folder.glob("*")) and not (folder / POLICY_FILE).is_file():
            raise UserError(f"{folder}: holds something else than a policy; choose another folder")
        names = ["weights.safetensors"] if len(self) == 1 else [f"member_{k}.safetensors" for k in range(len(self))]
        with replaced_folder(folder) as beside:
            members: list[dict[str, Any]] = []
            for index, name in enumerate(names):
                data = save(self.weights(index))
                write_atomic(beside / name, lambda file, data=data: file.write(data))
                members.append({"file": name, "seed": self.seeds[index], "sha256": sha256(beside / name)})
            write_json(beside / POLICY_FILE, {**self.document(), "members": members})
        return folder

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> Policy:
        """Read a policy folder; CheckpointError in one line, naming the file, for one that is missing or damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        document = read_document(folder)
        weights: list[dict[str, torch.Tensor]] = []
        for member in document["members"]:
            path = folder / member["file"]
            if not path.is_file():
                raise CheckpointError(f"{path} is missing, which {folder / POLICY_FILE} lists")
            if sha256(path) != member["sha256"]:
                raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in {POLICY_FILE}")
            try:
                weights.append(load_file(path))
            except SafetensorError as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from None
        return cls._from(document, weights, [member["seed"] for member in document["members"]], str(folder), device)

    @classmethod
    def from_checkpoint(cls, *paths: Path | str, device: torch.device | str = "cpu") -> Policy:
        """Return the policy of one or several .pt files of a run (several: the seeds of one configuration)."""
        states = [checkpoints.load(Path(path)) for path in paths]
        for path, state in zip(paths, states, strict=True):
            if not {"policy", "weights"} <= set(state):
                raise CheckpointError(f"{path} holds no policy: it is a checkpoint to resume from, not a model")
            if state["policy"]["algorithm"] != states[0]["policy"]["algorithm"]:
                raise CheckpointError(f"{path} is of another algorithm than {paths[0]}")
        seeds = [int(state.get("seed", index)) for index, state in enumerate(states)]
        return cls._from(states[0]["policy"], [state["weights"] for state in states], seeds, str(paths[0]), device)

    @classmethod
    def _from(
        cls, document: dict[str, Any], weights: Sequence[Weights], seeds: Sequence[int], where: str, device: Any
    ) -> Policy:
        kind = method_of(document, where)
        shape = as_shape(document["observation_shape"])
        algorithm = kind(shape, document["action_dim"], kind.Config.recorded(document["config"]))
        normaliser = Normaliser.from_dict(document["normaliser"])
        facts = {name: document[name] for name in ("env_name", "environment", "spec") if name in document}
        try:
            return cls(algorithm, weights, normaliser, seeds=seeds, device=device, **facts)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from None


def _is_text(given: Any) -> bool:
    """Return whether what was given is a text or several."""
    return isinstance(given, str) or np.asarray(given).dtype.kind in "UO"


def _network(algorithm: Algorithm, weights: Weights) -> nn.Module:
    """Build the algorithm's network with these weights; CheckpointError when they are another network's."""
    network = algorithm.network(torch_generator(0, "weights")).requires_grad_(False)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    held = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            problem = f"weight {name} has shape {held.get(name)}, the configuration wants {wanted.get(name)}"
            raise CheckpointError(problem)
    network.load_state_dict({name: value.detach() for name, value in weights.items()}, strict=False)
    return network.eval()
