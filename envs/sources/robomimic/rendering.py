"""Draw the pictures of robomimic files that have none, from the simulator's states that they hold.

robomimic publishes no picture files for simulated tasks, and its users make them with `dataset_states_to_obs`; this
gives the same pictures, several demonstrations at once. A picture of 84 x 84 with all that MuJoCo draws takes 0.06 s of
CPU time without a GPU: the 31 000 steps of lift-mh with two cameras take more than an hour of it.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.files.processes import available_cpus, process_pool
from understudy.envs.files.reading import damage, open_hdf5, read_dataset
from understudy.envs.sources.source import task_of
from understudy.envs.sources.task import Episode, Settings
from understudy.envs.store.store import FINAL, IMAGES
from understudy.errors import DatasetError

DEMOS_PER_WORKER = 4
"""Fewer are not worth the start of a process."""


def rendered(path: Path, demos: Sequence[str], env_name: str, settings: Settings) -> Iterator[Episode]:
    """Yield the picture columns of each demonstration in order."""
    text = json.dumps(settings)
    workers = min(available_cpus(), len(demos) // DEMOS_PER_WORKER)
    if workers <= 1:
        env = _made(env_name, text)
        try:
            yield from (render_demonstration(path, demo, env) for demo in demos)
        finally:
            env.close()
        return
    pending: deque[Future[Episode]] = deque()
    died = f"{path}: a process that renders its pictures died; is there too little memory?"
    with process_pool(workers, died, alone="`taskset -c 0` before the command has it render in one process") as pool:
        for demo in demos:
            pending.append(pool.submit(_render_in_worker, path, demo, env_name, text))
            if len(pending) > 2 * workers:  # finished pictures wait in memory
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def render_demonstration(path: Path, demo: str, env: Any) -> Episode:
    """Return the columns of one demonstration's pictures, and those after its last action, which is played."""
    with open_hdf5(path) as file, damage(path, "HDF5"):
        states = read_dataset(path, file, f"data/{demo}/states")
        actions = read_dataset(path, file, f"data/{demo}/actions")
        xml = file[f"data/{demo}"].attrs.get("model_file")
    if not isinstance(xml, str) or states.ndim != 2 or len(states) != len(actions) or len(states) == 0:
        what = "no model_file" if not isinstance(xml, str) else f"{len(actions)} actions, but states {states.shape}"
        raise DatasetError(f"{path}: data/{demo} has {what}, and its pictures are drawn from model and states")
    task: Any = env.unwrapped
    try:
        task.set_model(xml)
    except Exception as error:  # robosuite and MuJoCo raise whatever their parsers do
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DatasetError(f"{path}: the model_file of data/{demo} cannot be used ({said})") from error
    seen = [_pictures(task.set_state(state)) for state in states]
    last = _pictures(env.step(actions[-1])[0])
    columns = {f"{IMAGES}{camera}": np.stack([row[camera] for row in seen]) for camera in last}
    return {**columns, **{f"{FINAL}{IMAGES}{camera}": picture for camera, picture in last.items()}}


def _render_in_worker(path: Path, demo: str, env_name: str, settings: str) -> Episode:
    return render_demonstration(path, demo, _kept(env_name, settings))


@functools.lru_cache(maxsize=1)
def _kept(env_name: str, settings: str) -> Any:
    return _made(env_name, settings)


def _made(env_name: str, settings: str) -> Any:
    env = task_of(env_name).make_env(settings=json.loads(settings))
    env.reset(seed=0)
    return env


def _pictures(observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in observation.items() if name != "state"}
