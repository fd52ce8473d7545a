"""The flow policy in jitted JAX, for an interpreter that has jax: what other benchmarks start beside themselves.

    PYTHON benchmarks/in_jax.py update --hidden 512 512 512 512 --horizon 5 --batch 256
    PYTHON benchmarks/in_jax.py act --rows 50

It needs jax and numpy alone. It says `ready` when all is compiled; to each line `SECONDS` that it then reads it answers
with a number: updates, or decisions, a second of the process's CPU time. Numbers go in and come out as numpy arrays.
The loss and the sampler are those of flow_bc (Adam written out, Euler steps), without their options.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

if len(os.sched_getaffinity(0)) == 1 or os.environ.get("OMP_NUM_THREADS") == "1":
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import jax.numpy as jnp
import numpy as np

OBSERVATION_DIM, ACTION_DIM, EULER_STEPS = 17, 6, 10
LR, BETA1, BETA2, EPS = 3e-4, 0.9, 0.999, 1e-8
Params = list[Any]


def dense(random: np.random.Generator, sizes: Sequence[int]) -> Params:
    """Return weights and biases of dense layers."""
    params: Params = []
    for before, after in itertools.pairwise(sizes):
        bound = math.sqrt(6 / (before + after))
        params.append((random.uniform(-bound, bound, (before, after)).astype(np.float32), np.zeros(after, np.float32)))
    return params


def mlp(params: Params, x: Any) -> Any:
    """GELU (tanh form) between dense layers."""
    for weight, bias in params[:-1]:
        x = jax.nn.gelu(x @ weight + bias)
    weight, bias = params[-1]
    return x @ weight + bias


def flow_loss(params: Params, key: Any, observations: Any, actions: Any, valid: Any) -> Any:
    """Return the masked squared error of the velocity."""
    batch, horizon, dim = actions.shape
    noise_key, time_key = jax.random.split(key)
    target = jnp.clip(actions, -1 + 1e-5, 1 - 1e-5).reshape(batch, horizon * dim)
    noise = jax.random.normal(noise_key, target.shape)
    t = jax.random.uniform(time_key, (batch, 1))
    predicted = mlp(params, jnp.concatenate([observations, (1 - t) * noise + t * target, t], axis=-1))
    error = (predicted - (target - noise)).reshape(actions.shape) ** 2
    return (error * valid[..., None]).mean()


def updates(given: argparse.Namespace) -> Callable[[float], float]:
    """Return what gives updates a second of the flow's loss with Adam."""
    random, size = np.random.default_rng(0), given.horizon * ACTION_DIM
    params = dense(random, [OBSERVATION_DIM + size + 1, *given.hidden, size])
    observations = random.standard_normal((given.batch, OBSERVATION_DIM), np.float32)
    actions = random.uniform(-1, 1, (given.batch, given.horizon, ACTION_DIM)).astype(np.float32)
    valid = np.ones((given.batch, given.horizon), np.float32)

    @jax.jit
    def update(state: Any, observations: Any, actions: Any, valid: Any) -> Any:
        params, first, second, step, key = state
        key, drawn = jax.random.split(key)
        loss, gradient = jax.value_and_grad(flow_loss)(params, drawn, observations, actions, valid)
        step = step + 1
        first = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, gradient)
        second = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, second, gradient)
        by_first, by_second = 1 - BETA1**step, 1 - BETA2**step
        params = jax.tree.map(
            lambda p, m, v: p - LR * (m / by_first) / (jnp.sqrt(v / by_second) + EPS), params, first, second
        )
        return (params, first, second, step, key), loss

    zeros = jax.tree.map(jnp.zeros_like, params)
    state = (jax.tree.map(jnp.asarray, params), zeros, zeros, jnp.zeros((), jnp.float32), jax.random.key(0))
    state, loss = update(state, observations, actions, valid)
    loss.block_until_ready()

    def measure(seconds: float) -> float:
        nonlocal state
        begun, count = time.process_time(), 0
        while (spent := time.process_time() - begun) < seconds:
            for _ in range(5):
                state, loss = update(state, observations, actions, valid)
            loss.block_until_ready()
            count += 5
        return count / spent

    return measure


def decisions(given: argparse.Namespace) -> Callable[[float], float]:
    """Return what gives decisions a second, from zeros, by Euler steps."""
    random, size = np.random.default_rng(0), given.horizon * ACTION_DIM
    params = jax.tree.map(jnp.asarray, dense(random, [OBSERVATION_DIM + size + 1, *given.hidden, size]))
    seen = random.standard_normal((given.rows, OBSERVATION_DIM), np.float32)

    @jax.jit
    def flow(params: Params, seen: Any) -> Any:
        def step(x: Any, index: Any) -> Any:
            t = jnp.full((given.rows, 1), index / EULER_STEPS)
            return x + mlp(params, jnp.concatenate([seen, x, t], axis=-1)) / EULER_STEPS, None

        x, _ = jax.lax.scan(step, jnp.zeros((given.rows, size)), jnp.arange(EULER_STEPS, dtype=jnp.float32))
        return jnp.clip(x, -1, 1)

    np.asarray(flow(params, seen))

    def measure(seconds: float) -> float:
        begun, count = time.process_time(), 0
        while (spent := time.process_time() - begun) < seconds:
            np.asarray(flow(params, seen))
            count += 1
        return count / spent

    return measure


def main() -> None:
    """Compile, say so, and answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["update", "act"])
    parser.add_argument("--hidden", type=int, nargs="+", default=[512] * 4)
    parser.add_argument("--horizon", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rows", type=int, default=1)
    given = parser.parse_args()
    measure = updates(given) if given.what == "update" else decisions(given)
    print("ready", flush=True)
    for line in sys.stdin:
        print(measure(float(line)), flush=True)


if __name__ == "__main__":
    main()
