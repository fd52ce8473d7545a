"""How often a robot waits for its policy: a control loop of 20 ms, a network of 30 ms each way, asked late and ahead.

    python benchmarks/serving.py [--steps 500] [--period 20] [--delay 30]

`understudy serve`'s own server answers in a process of its own, through a relay that holds every byte back for the
delay; the robot's side is `envs/serving/client.py`. A step whose action comes later than the step is long after its
observation is a missed deadline; the loop goes on from there, as a robot's does. It needs websockets (the extra
`deploy`).
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from measuring import machine
from understudy.envs.serving.client import PolicyClient

OBSERVATION_DIM, ACTION_DIM, CHUNK, EXECUTED = 17, 6, 16, 8
TOKEN = "the-token-of-this-benchmark"


@dataclass
class Played:
    """What a robot's loop came to."""

    missed: int
    waits: list[float]
    """Milliseconds from a step's observation to its action."""


def make_policy(folder: Path) -> None:
    """Save an untrained flow policy of the published size (4 x 512, 10 Euler steps) with chunks of 16 actions."""
    from understudy.normaliser import Normaliser
    from understudy.policy import Policy
    from understudy.randomness import torch_generator
    from understudy.trainables.algorithms.flow_bc import FlowBC, FlowBCConfig

    config = FlowBCConfig(action_chunking=True, horizon_length=CHUNK, n_action_steps=EXECUTED)
    algorithm = FlowBC((OBSERVATION_DIM,), ACTION_DIM, config)
    weights = algorithm.network(torch_generator(0, "benchmark")).state_dict()
    Policy(algorithm, [weights], Normaliser.identity((OBSERVATION_DIM,))).save(folder)


def serve(folder: str, ports: Any) -> None:
    """Serve the policy on a free port, which is put into the queue."""
    import torch

    from understudy.envs.serving.app import PolicyServer
    from understudy.envs.serving.running import check_address, server_of
    from understudy.envs.serving.settings import Settings

    torch.set_num_threads(1)
    settings = Settings(folder, token=TOKEN, port=0, device="cpu")
    listening = check_address(settings)
    policy, member = settings.load()
    app = PolicyServer(policy, member, settings).app()
    ports.put(listening.getsockname()[1])
    server_of(app, settings).run(sockets=[listening])


class Relay(threading.Thread):
    """A network: passes bytes on to a port of this machine, each after `delay` seconds, in order."""

    def __init__(self, target: int, delay: float) -> None:
        super().__init__(daemon=True)
        self.target, self.delay = target, delay
        self.port = 0
        self.ready = threading.Event()

    def run(self) -> None:
        """Relay until the process ends."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        await server.serve_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(2**16):
            loop.call_later(self.delay, writer.write, data)
        loop.call_later(self.delay, writer.close)


def play(port: int, steps: int, period: float, lead: int) -> Played:
    """Run a control loop for so many steps of `period` seconds."""
    robot = PolicyClient(f"ws://127.0.0.1:{port}", TOKEN, lead=lead)
    seen = np.random.default_rng(0).standard_normal((steps, OBSERVATION_DIM)).astype(np.float32)
    robot.reset(seen[0])
    waits: list[float] = []
    begins = time.perf_counter()
    for observation in seen:
        asked = time.perf_counter()
        robot.act(observation)
        waits.append(1e3 * (time.perf_counter() - asked))
        begins = max(begins + period, time.perf_counter())  # a robot that stood still goes on from here
        time.sleep(max(0.0, begins - time.perf_counter()))
    missed = sum(wait > 1e3 * period for wait in waits)
    return Played(missed, waits)


def main() -> None:
    """Print missed deadlines and waits, asked as a chunk ends and ahead of need."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--period", type=float, default=20, help="milliseconds of a control step")
    parser.add_argument("--delay", type=float, default=30, help="milliseconds of the network, each way")
    parser.add_argument("--leads", type=int, nargs="+", default=[0, 2, 4, 6])
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "policy"
        make_policy(folder)
        ports = context.Queue()
        server = context.Process(target=serve, args=(str(folder), ports), daemon=True)
        server.start()
        relay = Relay(ports.get(timeout=300), given.delay / 1e3)
        relay.start()
        relay.ready.wait()
        print(f"{machine()}; {given.steps} steps of {given.period:g} ms, a network of {given.delay:g} ms each way")
        print(f"flow_bc 4 x 512, 10 Euler steps, chunks of {CHUNK} actions of which {EXECUTED} are executed")
        print(f"{'asked ahead by':>15} {'missed deadlines':>17} {'wait, ms: median':>17} {'99 %':>7} {'most':>7}")
        for lead in given.leads:
            played = play(relay.port, given.steps, given.period / 1e3, lead)
            middle, late, most = np.percentile(played.waits, [50, 99, 100])
            print(f"{lead:>9} steps {played.missed:>17} {middle:>17.2f} {late:>7.1f} {most:>7.1f}")
        server.terminate()


if __name__ == "__main__":
    main()
