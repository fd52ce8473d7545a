"""Folders of runs and sweeps as the trainers write them, made without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.simulators.video import write_mp4
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.files import write_json
from understudy.runs.clips import Clip, write_clip
from understudy.runs.directory import CsvLog
from understudy.runs.episodes import EpisodeLog, Played, Setting
from understudy.statistics import interval

STEPS = (100, 200, 300, 400)
SEEDS = (0, 1, 2)


def flags(**changes: Any) -> dict[str, Any]:
    """Return a run's keys."""
    keys = {"algo": "bc", "env_name": "lift-mh-low_dim", "seeds": list(SEEDS), "training_steps": 400, "lr": 1e-3}
    return {**keys, "eval_episodes": 10, "save_dir": "runs", **changes}


def make_run(folder: Path, level: float = 0.5, state: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Make a run directory of three seeds whose success rises to `level`."""
    keys = flags(**changes)
    write_json(folder / "flags.json", keys)
    random = np.random.default_rng(int(level * 1e6))
    seeds = keys["seeds"] or [keys.get("seed", 0)]
    final: dict[str, float] = {}
    episodes = EpisodeLog(folder / "episodes.arrow")
    log, members = CsvLog(folder / "eval.csv"), {seed: folder / f"sd{seed:03d}" for seed in seeds}
    for step in STEPS:
        won = (random.random((len(seeds), 10)) < level * step / STEPS[-1]).astype(float)
        final = {"return": float(won.mean()) * 10, "length": 30.0, **interval(won).as_metrics("success")}
        log.append(step, final)
        for seed, own in zip(seeds, won, strict=True):
            members[seed].mkdir(exist_ok=True)
            CsvLog(members[seed] / "eval.csv").append(step, {"return": 1.0, "success": float(own.mean())})
            CsvLog(members[seed] / "train.csv").append(step, {"actor_loss": 1 / step})
        recorder = episodes.at(step)
        for played in [
            Played(seed, episode, 1_000_000 + episode, float(own[episode]), 30, float(own[episode]))
            for seed, own in zip(seeds, won, strict=True)
            for episode in range(10)
        ]:
            recorder.add(Setting(), played)
        recorder.finish()
    CsvLog(folder / "timing.csv").append(400, {"time": 1.0, "steps_per_sec": 50.0})
    write_json(folder / "run.json", {"status": "finished", "step": 400, "metrics": final, **(state or {})})
    return folder


def make_sweep(folder: Path, trials: int = 8, status: str = "finished", **best: Any) -> Path:
    """Make a sweep's folder whose last trial is its best."""
    record = {
        "run": flags(),
        "dimensions": {
            "lr": {"kind": "interval", "low": 1e-5, "high": 1e-2, "log": True, "integer": False},
            "horizon_length": {"kind": "choice", "values": [1, 5, 10]},
        },
        "grid": {},
        "options": {"num_trials": trials, "objective": ["auto"], "direction": ["auto"], "final_episodes": 50},
    }
    write_json(folder / "sweep.json", record)
    write_json(folder / "run.json", {"status": status, "driven_seconds": 61.0})
    for number in range(trials):
        values = {"lr": 10.0 ** (-5 + 3 * number / trials), "horizon_length": [1, 5, 10][number % 3]}
        make_run(folder / "trials" / f"{number:04d}", (number + 1) / (trials + 1), **values)
    if status == "finished":
        write_json(folder / "best.json", confirmed(trials - 1) | best)
    return folder


def confirmed(trial: int) -> dict[str, Any]:
    """Return what best.json holds."""
    metrics = {"return": 8.0, "success": 0.8, "success_low": 0.7, "success_high": 0.87}
    rival = {
        "name": "trial 2", "trial": 2, "parameters": {"lr": 1e-4}, "chosen": {}, "ranked": 0.7, "is_default": False,
        "seeds": list(SEEDS), "metrics": metrics | {"success": 0.75}, "below": [0.05, -0.02, 0.12],
        "distinguishable": False,
    }  # fmt: skip
    return {
        "trial": trial, "parameters": {"lr": 3e-3, "horizon_length": 5}, "metrics": metrics, "seed": 1, "ranked": 0.9,
        "seeds": list(SEEDS), "fresh": True, "compared": [rival], "is_default": False, "model": "models:/bc/1",
        "is_best": True, "why": "the first", "training_steps": 400,
    }  # fmt: skip


def make_clip(run: Path, seed: int = 0, episode: int = 3, success: float = 0.0, **changes: Any) -> Clip:
    """Film an episode of a run: 31 steps of a square that moves to the right, with its actions and states."""
    columns = {
        "actions": np.sin(np.arange(31)[:, None] / 5 + np.arange(3)).astype(np.float32),
        "rewards": np.linspace(-1, 0, 31).astype(np.float32),
        "observations": np.cos(np.arange(31)[:, None] / 9 + np.arange(4)),
    }
    frames = np.full((12, 48, 64, 3), 230, np.uint8)
    for place, frame in enumerate(frames):
        frame[16:32, 4 * place : 4 * place + 16] = (0, 114, 178)
    given: dict[str, Any] = {"step": 400, "setting": "", "returns": success, "length": 31, "frame_skip": 3, "fps": 10}
    given |= {"reset_seed": 1_000_000 + episode, "env_name": "x", **changes}
    clip = Clip(seed=seed, episode=episode, success=success, **given)
    write_mp4(frames, run / "videos" / f"{clip.stem}.mp4", clip.fps)
    return write_clip(run / "videos", clip, columns)


def make_store(data_dir: Path, name: str) -> EpisodeStore:
    """Write a store of three episodes with a camera, whose pictures are as red as the row's number."""
    folder = data_dir / name
    with StoreWriter(folder, name=name, source="lab", env_id="x") as writer:
        for number in range(3):
            rows = np.arange(4) + 4 * number
            pictures = np.zeros((4, 6, 8, 3), np.uint8)
            pictures[..., 0] = 10 * rows[:, None, None]
            writer.add_episode(
                {
                    "observations": np.repeat(rows[:, None], 2, axis=1).astype(np.float32),
                    "actions": np.full((4, 3), number, np.float32),
                    "rewards": np.full(4, number, np.float32),
                    "terminals": np.array([0, 0, 0, 1]),
                    "images/front <b>": pictures,
                    "language": np.array(f"put <i>{number}</i> away"),
                }
            )
    return EpisodeStore.open(folder)


def data_in(page: str) -> dict[str, Any]:
    """Return the numbers that stand in a page."""
    import html
    import re

    found = re.search(r"data-json='([^']*)'", page)
    assert found is not None
    return json.loads(html.unescape(found[1]))
