"""Measure saved policies on episodes that were held out of training, without a simulator.

The losses are those that training reports, on the same batches; the errors are of the actions that the policy takes
there, in the data's own units. Shapes: K members, b samples, H steps of a chunk, A action dims.
"""

from __future__ import annotations

import numpy as np
import torch

from understudy.algorithm import Batch
from understudy.envs.rollouts.pools import Poll
from understudy.envs.store.store import EpisodeStore
from understudy.envs.windows.windows import Windows
from understudy.errors import UserError
from understudy.observations import each
from understudy.policy import Policy
from understudy.spec.run import RunSpec
from understudy.trainables.loops.batches import HELD_OUT, held_out_batch
from understudy.trainables.loops.data import all_windows, open_data
from understudy.trainables.loops.evaluation import Outcome, held_out_losses
from understudy.trainables.packs.pack import Pack

ERROR = "validation/action_mse"
MOST_TASKS = 50
"""Tasks that errors are given of, those with most samples."""


def judge(policy: Policy, spec: RunSpec, poll: Poll | None) -> Outcome:
    """Return the held-out measures of each member: losses, and squared errors of actions by dimension and by task.

    Another dataset than the one that the policy was trained on is measured whole. UserError where nothing was held out.
    """
    windows = _windows(policy, spec)
    pack = Pack(policy.algorithm, policy.seeds, normaliser=policy.normaliser, device=policy.device)
    for index, member in enumerate(pack.members):
        member.load_state_dict(policy.weights(index), strict=False)
    size, members = spec.config.batch_size, len(pack)
    batches = [held_out_batch(windows, members, number, size) for number in range(HELD_OUT)]
    rows = held_out_losses(pack, batches, poll)
    if policy.algorithm.acts:
        tasks = tasks_of(windows.store, _first_rows(windows, size))
        rows = [
            {**row, **errors} for row, errors in zip(rows, action_errors(policy, batches, tasks, poll), strict=True)
        ]
    summary = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    return Outcome(rows, summary, best_summary=summary)


def _windows(policy: Policy, spec: RunSpec) -> Windows:
    """Return the windows of what the policy was not trained on, after a check that it sees and does the same."""
    if spec.env_name != policy.env_name:
        windows = all_windows(spec)
    elif (held_out := open_data(spec).validation) is not None:
        windows = held_out
    elif not policy.algorithm.acts:
        raise UserError(f"{policy.algorithm.name} is scored on held-out episodes: give validation_fraction=0.1, say")
    else:
        raise UserError(
            f"{spec.env_name}: it was trained on every episode, and its data name no environment: there is nothing to"
            " evaluate it on; train with validation_fraction=0.1, or give env_name=DATASET with other data"
        )
    wanted = policy.algorithm.observation_shape, policy.algorithm.action_dim
    if (windows.observation_shape, windows.action_dim) != wanted:
        raise UserError(f"{spec.env_name}: its observations or actions are not of the shapes that the policy learned")
    return windows


def action_errors(
    policy: Policy, batches: list[Batch], tasks: tuple[np.ndarray, list[str]], poll: Poll | None = None
) -> list[dict[str, float]]:
    """Return for each member the mean squared error of the actions that it takes without noise.

    In all, by dimension where there are several, and by task: `tasks` are a number for each sample of all batches, and
    the names of these numbers.
    """
    numbers, names = tasks
    newest = policy.algorithm.config.sampling.before
    squared: list[np.ndarray] = []
    counted: list[np.ndarray] = []
    for batch in batches:
        if poll is not None:
            poll()
        wanted = batch["actions"][:, :, newest:].cpu().numpy()  # [K, b, H, A]
        valid = batch["valid"][:, :, newest:].cpu().numpy()  # [K, b, H]
        noise = torch.zeros(*wanted.shape[:2], *policy.algorithm.noise_shape())
        taken = policy.act_members(each(lambda part: part, batch["observations"]), noise)
        steps = min(taken.shape[2], wanted.shape[2])
        error = (taken[:, :, :steps] - wanted[:, :, :steps]).astype(np.float64) ** 2 * valid[:, :, :steps, None]
        squared.append(error.sum(axis=2))
        counted.append(valid[:, :, :steps].sum(axis=2))
    error_KBA, steps_KB = np.concatenate(squared, axis=1), np.concatenate(counted, axis=1)
    found: list[dict[str, float]] = []
    for error_BA, steps_B in zip(error_KBA, steps_KB, strict=True):
        by_dim = error_BA.sum(axis=0) / steps_B.sum()
        row = {ERROR: float(by_dim.mean())}
        if len(by_dim) > 1:
            row |= {f"{ERROR}_{dim}": float(value) for dim, value in enumerate(by_dim)}
        for number, name in enumerate(names):
            mine = numbers == number
            row[f"{ERROR}/{name}"] = float(error_BA[mine].mean(axis=1).sum() / steps_B[mine].sum())
        found.append(row)
    return found


def tasks_of(store: EpisodeStore, rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return a task's number for each row, and the tasks' names; none where the data tell of one task or of none.

    A task is an episode's text, `language`. Rows of tasks beyond the MOST_TASKS most frequent ones have the number -1.
    """
    if "language" not in store.manifest.episode_columns:
        return np.full(len(rows), -1), []
    texts = store.texts("language")
    episodes: list[int] = (np.searchsorted(store.starts, rows, side="right") - 1).tolist()
    given = [str(texts[episode]) for episode in episodes]
    names, counts = np.unique(given, return_counts=True)
    if len(names) < 2:
        return np.full(len(rows), -1), []
    kept = [str(names[place]) for place in np.argsort(-counts, kind="stable")[:MOST_TASKS]]
    place_of = {name: place for place, name in enumerate(kept)}
    return np.array([place_of.get(name, -1) for name in given]), kept


def _first_rows(windows: Windows, size: int) -> np.ndarray:
    """Return the store's row of each sample of the held-out batches."""
    return np.concatenate([windows.rows(windows.indices(0, number, size)) for number in range(HELD_OUT)])
