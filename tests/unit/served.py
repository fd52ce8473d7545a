"""A policy that is served in the test's process, by the server itself: small, untrained, with a history and a goal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from understudy.algorithm import Algorithm
from understudy.envs.serving.app import PolicyServer
from understudy.envs.serving.running import check_address, server_of
from understudy.envs.serving.settings import Settings
from understudy.normaliser import Normaliser
from understudy.policy import Policy
from understudy.randomness import numpy_generator, torch_generator
from understudy.registry import algorithms

TOKEN = "a-token-for-the-tests"
SETTINGS = Settings("here", token=TOKEN, port=0, temperature=1.0, noise_seed=7)


def flow_policy(width: int = 3, history: int = 1, goal: int = 0, **settings: Any) -> Policy:
    """Return a flow policy of `history` states and a goal, whose chunks are noise to a part."""
    kind: type[Algorithm] = algorithms.get("flow_bc")
    chunks = {"action_chunking": True, "horizon_length": 6, "hidden_dims": (16,), "flow_steps": 2, **settings}
    size = width * history + goal
    algorithm = kind((size,), 2, kind.Config(**chunks))
    states = numpy_generator(0, "states").normal(1, 2, (40, size)).astype(np.float32)
    weights = algorithm.network(torch_generator(0, "served")).state_dict()
    return Policy(algorithm, [weights], Normaliser.fit(states, "zscore"), spec={"obs_horizon": history})


def walk(steps: int, width: int = 3, key: int = 0) -> np.ndarray:
    """Return made-up observations [steps, width]."""
    return numpy_generator(0, "walk", key).standard_normal((steps, width), np.float32)


def server(policy: Policy, settings: Settings = SETTINGS) -> PolicyServer:
    """Return the server of a policy's first member."""
    return PolicyServer(policy, 0, settings)


@contextmanager
def listening(policy: Policy, settings: Settings = SETTINGS) -> Iterator[int]:
    """Serve a policy on a free port of this machine, in a thread; give the port."""
    socket = check_address(settings)
    running = server_of(server(policy, settings).app(), settings)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]})
    thread.start()
    while not running.started:
        time.sleep(0.01)
    try:
        yield socket.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join()
        socket.close()
