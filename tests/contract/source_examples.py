"""What the contract suites know of each source: an example of its names and dims, and episodes made up for it."""

from __future__ import annotations

import builtins
import errno
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from understudy.envs.simulators.video import rendering_available
from understudy.envs.sources.source import Source
from understudy.envs.store.episode import prepare_episode
from understudy.errors import UnderstudyError
from understudy.registry import sources


@dataclass(frozen=True)
class Example:
    """A dataset's name with the dims of its task, and what the format cannot do."""

    env_name: str
    observation_dim: int
    action_dim: int
    needs_final: bool = False
    """Whether episodes without a final observation are refused."""
    shift: float = 0.0
    """What the format adds to rewards: those that lose digits by it may be refused or come back rounded."""
    has_simulator: bool = True
    """Whether the task can be played here at all."""


EXAMPLES = {
    "bridge": Example("bridge:lift_carrot_100", 7, 7, needs_final=True, has_simulator=False),
    "d4rl": Example("hopper-medium-v2", 11, 3),
    "expert_buffer": Example("expert:Pendulum-v1", 3, 1, needs_final=True),
    "gym_hil": Example("gym_hil/PandaPickCube-state-scripted-v0", 21, 4),
    "lerobot": Example("lerobot:user/name", 7, 2, has_simulator=False),
    "minari": Example("minari:pendulum/scripted-v0", 3, 1, needs_final=True),
    "ogbench": Example("cube-single-scripted-singletask-task1-v0", 28, 5, needs_final=True),
    "robomimic": Example("lift-scripted-low_dim", 19, 7, shift=1.0),
}
"""A new source joins the suites with one entry here."""

NUMBERS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "plain": lambda rng, shape: rng.normal(size=shape),
    "constant": lambda rng, shape: np.full(shape, 0.25),
    "huge": lambda rng, shape: rng.normal(size=shape) * 1e30,
    "largest": lambda rng, shape: np.where(rng.random(shape) < 0.5, 3.4028234e38, -3.4028234e38),
    "denormal": lambda rng, shape: rng.integers(-9, 9, shape) * 1.401298464324817e-45,
    "signed zeros": lambda rng, shape: np.where(rng.random(shape) < 0.5, 0.0, -0.0),
    "whole": lambda rng, shape: rng.integers(-100, 100, shape),
}
DTYPES = ("<f4", ">f4", "<f8", ">f8")
SMALL_DTYPES = ("<f2", ">f2", "<i8", "i1", ">i4")
"""For whole numbers only: these hold each of them exactly."""
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": lambda array: array,
    "column-major": np.asfortranarray,
    "every second row of a larger array": lambda array: np.repeat(array, 2, axis=0)[::2],
    "reversed twice": lambda array: array[::-1].copy()[::-1],
}


def place(source: Source, folder: Path, stem: str = "data") -> Path:
    """Return where a test puts the source's file, or its folder."""
    return folder / f"{stem}{source.suffix}"


def data_files(path: Path) -> list[Path]:
    """Return the files of a written dataset, the largest first."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sorted(files, key=lambda file: -file.stat().st_size)


def made_up(
    example: Example,
    lengths: Iterable[int],
    *,
    seed: int = 0,
    numbers: str = "plain",
    dtype: str = "<f4",
    layout: str = "contiguous",
    final: bool = True,
) -> list[dict[str, np.ndarray]]:
    """Return episodes of those lengths. Rewards are -1 and 0, which every format's convention holds exactly."""
    rng = np.random.default_rng(seed)

    def rows(*shape: int) -> np.ndarray:
        return LAYOUTS[layout](NUMBERS[numbers](rng, shape).astype(np.float32).astype(dtype))

    episodes = []
    for length in lengths:
        terminals = np.zeros(length, bool)
        terminals[-1] = rng.random() < 0.5
        episode = {
            "observations": rows(length, example.observation_dim),
            "actions": rows(length, example.action_dim),
            "rewards": LAYOUTS[layout]((rng.integers(0, 2, length) - 1).astype(dtype)),
            "terminals": terminals,
        }
        episodes.append({**episode, "final_observation": rows(1, example.observation_dim)[0]} if final else episode)
    return episodes


@st.composite
def any_episodes(draw: st.DrawFn, example: Example) -> list[dict[str, np.ndarray]]:
    """Draw episodes of odd lengths, numbers, dtypes and memory layouts."""
    numbers = draw(st.sampled_from(sorted(NUMBERS)))
    return made_up(
        example,
        draw(st.lists(st.integers(1, 9), min_size=1, max_size=5)),
        seed=draw(st.integers(0, 2**32 - 1)),
        numbers=numbers,
        dtype=draw(st.sampled_from((*DTYPES, *SMALL_DTYPES) if numbers == "whole" else DTYPES)),
        layout=draw(st.sampled_from(sorted(LAYOUTS))),
        final=example.needs_final or draw(st.booleans()),
    )


def same_episodes(found: Iterable[Any], expected: Iterable[Any]) -> None:
    """Assert that episodes hold the same float32 bits in every column that was given."""
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        mine, wanted = prepare_episode(one, number), prepare_episode(other, number)
        assert set(mine) == set(wanted), number
        for name, array in wanted.items():
            assert mine[name].dtype == array.dtype, name
            assert mine[name].tobytes() == array.tobytes(), (number, name, mine[name], array)


def one_line(error: pytest.ExceptionInfo[Any] | UnderstudyError, *parts: str) -> str:
    """Return an error's text after a check that it is one line and holds the parts."""
    text = str(error.value if isinstance(error, pytest.ExceptionInfo) else error)
    assert "\n" not in text
    for part in parts:
        assert part in text, text
    return text


def flip_and_read(kind: str, folder: str, cases: int) -> None:
    """Write a dataset, read copies with random bytes of its first half kilobyte changed; print what came of each.

    It runs in a process of its own, so that a crash of a library is seen for what it is.
    """
    source, example, rng = sources.get(kind), EXAMPLES[kind], random.Random(0)
    path = place(source, Path(folder))
    source.write(path, iter(made_up(example, [30, 1, 20])), example.env_name, {})
    original = data_files(path)[0].read_bytes()
    for case in range(cases):
        file = data_files(path)[0]
        data = bytearray(original)
        for _ in range(rng.choice([1, 4, 16])):
            data[rng.randrange(min(512, len(data)))] = rng.randrange(256)
        file.write_bytes(bytes(data))
        try:
            said = f"read {len(list(source.task(example.env_name).read(path)))} episodes"
        except UnderstudyError as error:
            said = "refused " + one_line(error)
        except Exception as error:  # noqa: BLE001  (which one it was is the finding)
            said = f"{type(error).__name__}: {error}".replace("\n", " ")
        print("flipped", kind, case, said, flush=True)
        file.write_bytes(original)


def write_and_die(kind: str, folder: str) -> None:
    """Write a dataset in a fork of this process that is killed before the last episode."""
    source, example = sources.get(kind), EXAMPLES[kind]

    def episodes() -> Iterator[dict[str, np.ndarray]]:
        yield from made_up(example, [100] * 40)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        source.write(place(source, Path(folder)), episodes(), example.env_name, {})
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def write_on_a_full_disk(kind: str, folder: str) -> None:
    """Write a dataset where no file can be larger than 20 kB; print what came of it."""
    import resource

    source, example = sources.get(kind), EXAMPLES[kind]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    try:
        source.write(place(source, Path(folder)), iter(made_up(example, [100] * 40)), example.env_name, {})
        said = "written"
    except Exception as error:  # noqa: BLE001  (which one it was is the finding)
        said = f"{type(error).__name__} {error}"
    print("full", kind, said, flush=True)


def copy(path: Path, target: Path) -> Path:
    """Copy a file or folder."""
    if path.is_dir():
        return Path(shutil.copytree(path, target))
    return Path(shutil.copy(path, target))


def forbid(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Let the system refuse to open a file, which it never does to root."""
    if os.geteuid() != 0:
        file.chmod(0)
        return
    original = builtins.open

    def refusing(name: object, *arguments: object, **more: object) -> object:
        if str(name) == str(file):
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return original(name, *arguments, **more)

    monkeypatch.setattr(builtins, "open", refusing)


def assert_same_episodes(first: Iterable[dict[str, Any]], second: Iterable[dict[str, Any]]) -> None:
    """Assert that both have the same episodes with the same columns and numbers."""
    for one, other in zip(first, second, strict=True):
        assert set(one) == set(other)
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key], err_msg=key)


def can_render() -> bool:
    """Return whether pictures can be drawn here."""
    reason = rendering_available()
    assert reason is None or "no videos" in reason
    return reason is None
