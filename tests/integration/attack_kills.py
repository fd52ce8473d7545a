"""Kills as attacks: commands that die before one of their changes in the file system or at any moment, and go on."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from random import Random
from typing import ClassVar

import numpy as np
import psutil
import torch
from tests.integration import test_own_data
from tests.integration.attack_kinds import DATA, LOST, SMALL, Kind, make_data, same_weights
from tests.integration.attacking import Outcome, problems_of
from tests.integration.breaking import only
from tests.integration.commands import Process, run, start
from tests.integration.test_actors import CUBES, free_address
from tests.integration.test_actors import SMALL as LEARNED

from understudy.envs.sources.lerobot.reader import read_episodes
from understudy.runs.directory import read_csv


class Kills(Kind):
    """Commands that are killed before one of their changes in the file system, and what comes of going on."""

    name: ClassVar[str] = "kills"
    last: ClassVar[dict[str, int]] = {"train": 130, "import": 40, "record": 60}
    """About how many changes a command makes."""
    record: ClassVar[tuple[str, ...]] = (
        *("record", "env_name=gym_hil/PandaPickCube-state-v0", "control=scripted", "num_episodes=3"),
        "root=cubes",
    )
    train: ClassVar[tuple[str, ...]] = ("train", *SMALL, "tracking_uri=none", "checkpoint_seconds=0", "seeds=[0,1]")

    def __init__(self, root: Path, here: bool = False) -> None:
        super().__init__(root, here)
        assert self.room.say(*self.train).code == 0
        self.whole = only(self.room.work / "runs")
        self.kept = root / "whole"
        shutil.copytree(self.whole, self.kept)
        assert self.room.say(*self.record).code == 0
        self.recorded = list(read_episodes(self.room.work / "cubes"))

    def make(self, folder: Path) -> None:
        """Write datasets and a file to import."""
        make_data(folder / "data")
        (folder / "files").mkdir()
        self.file = test_own_data.write("flat npz", folder / "files")

    def attack(self, random: Random) -> list[Outcome]:
        """Kill one command and go on."""
        self.room.renew()
        what = random.choice(("train", "train", "import", "record"))
        at = random.randrange(1, self.last[what])
        done = {"train": self._trained, "import": self._imported, "record": self._recorded}
        found = done[what](at)
        for outcome in found:
            outcome.how = f"{what} killed before change {at}"
        return found

    def _trained(self, at: int) -> list[Outcome]:
        found = [self.room.say(*self.train, dies_at=at)]
        runs = list((self.room.work / "runs").rglob("flags.json"))
        found.append(self.room.say("resume", str(runs[0].parent)) if runs else self.room.say(*self.train))
        if found[-1].code == 0 and not same_run(only(self.room.work / "runs"), self.kept):
            found[-1].problems.append(LOST)
        return found

    def _imported(self, at: int) -> list[Outcome]:
        words = (
            "data",
            "import",
            "npz",
            str(self.file),
            "--name",
            DATA,
            "--obs",
            "joints,front",
            "--action",
            "command",
        )
        words = (*words, "--data_dir", "data", "--overwrite")
        found = [self.room.say(*words, dies_at=at), self.room.say("data", "verify", DATA, "--data_dir", "data")]
        if found[1].code:
            found[1].problems.append(LOST)
        found.append(self.room.say(*words))
        left = [path.name for path in (self.room.work / "data").iterdir()]
        if found[-1].code or left != [DATA]:
            found[-1].problems.append(f"left {left}")
        return found

    def _recorded(self, at: int) -> list[Outcome]:
        found = [self.room.say(*self.record, dies_at=at), self.room.say(*self.record)]
        if found[-1].code == 0:
            mine = list(read_episodes(self.room.work / "cubes"))
            whole = len(mine) == len(self.recorded)
            for one, other in zip(mine, self.recorded, strict=False):
                whole = whole and all(np.array_equal(one[key], other[key]) for key in ("observations", "actions"))
            if not whole:
                found[-1].problems.append(LOST)
        return found


def same_run(mine: Path, other: Path) -> bool:
    """Return whether two run directories have the same csv rows and weights, and nothing half-written."""
    rows = [path.relative_to(other) for path in other.rglob("*.csv") if path.name != "timing.csv"]
    models = [path.relative_to(other) for path in other.rglob("final_model.pt")]
    whole = all((mine / name).is_file() for name in (*rows, *models))
    return (
        whole
        and all((mine / name).read_bytes() == (other / name).read_bytes() for name in rows)
        and all(same_weights(mine / name, torch.load(other / name, weights_only=True)["weights"]) for name in models)
    )


class SweepKills(Kind):
    """A sweep: its driver killed before one of its changes, or at any moment; or one of Ray's processes."""

    name: ClassVar[str] = "kills of sweeps"
    last: ClassVar[int] = 150
    """About how many changes its driver makes."""
    sweep: ClassVar[tuple[str, ...]] = (
        *("sweep", *(word for word in SMALL if not word.startswith("launcher="))),
        *("lr=1e-3,1e-4", "sampler=grid", "scheduler=none", "seeds=[0,1]", "with_default=false", "num_trials=2"),
        *("confirm_seeds=0", "register_as=none", "tracking_uri=none", "checkpoint_seconds=0", "max_concurrent=1"),
    )

    def __init__(self, root: Path, here: bool = False) -> None:
        super().__init__(root, here)
        self.room.limits = {}
        began = time.monotonic()
        assert self.room.say(*self.sweep).code == 0
        self.seconds = time.monotonic() - began
        self.kept = root / "whole"
        shutil.copytree(only(self.room.work / "runs", "sweep.json"), self.kept)

    def make(self, folder: Path) -> None:
        """Write the dataset."""
        make_data(folder / "data")

    def attack(self, random: Random) -> list[Outcome]:
        """Kill it and go on."""
        self.room.renew()
        who = random.choice(("change", "driver", "other"))
        at, when = random.randrange(1, self.last), random.random() * self.seconds
        if who == "change":
            found, how = [self.room.say(*self.sweep, dies_at=at)], f"driver killed before change {at}"
        else:
            found, how = [self._killed(who, when, random)], f"{who} killed after {when:.1f} s of {self.seconds:.1f}"
        sweeps = list((self.room.work / "runs").rglob("sweep.json"))
        if found[0].code:
            found.append(self.room.say("resume", str(sweeps[0].parent)) if sweeps else self.room.say(*self.sweep))
        if found[-1].code == 0 and not same_sweep(only(self.room.work / "runs", "sweep.json"), self.kept):
            found[-1].problems.append(LOST)
        for outcome in found:
            outcome.how = how
        return found

    def _killed(self, who: str, when: float, random: Random) -> Outcome:
        """Run the sweep and kill -9 its group, or one process of those that it started."""
        deadline = time.monotonic() + when
        place = random.random()  # drawn here: how many processes there are is no part of the input

        def kill(process: Process) -> None:
            while time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.01)
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if who == "driver":
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    others = psutil.Process(process.pid).children(recursive=True)
                    if others:
                        others[int(place * len(others))].kill()

        return self.room.say(*self.sweep, meanwhile=kill)


def same_sweep(mine: Path, other: Path) -> bool:
    """Return whether two sweeps have the same trials, rows and weights; speeds apart."""
    trials = sorted(path.name for path in (other / "trials").iterdir())
    summaries = [[without_speed(row) for row in read_csv_texts(folder / "summary.csv")] for folder in (mine, other)]
    return (
        trials == sorted(path.name for path in (mine / "trials").iterdir())
        and summaries[0] == summaries[1]
        and all(same_run(mine / "trials" / name, other / "trials" / name) for name in trials)
    )


def read_csv_texts(path: Path) -> list[dict[str, str]]:
    """Return a csv file's rows as texts."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_speed(row: dict[str, str]) -> dict[str, str]:
    """Return a row without what a clock measured."""
    return {key: value for key, value in row.items() if key != "steps_per_sec"}


class LearnerKills(Kind):
    """A learner and its actor, of which one is killed; its ledger of updates must come to the same weights."""

    name: ClassVar[str] = "kills of learners"
    last: ClassVar[int] = 300
    """About how many changes a learner makes."""

    def make(self, folder: Path) -> None:
        """Make demonstrations."""
        words = ("data", "generate", CUBES, "--episodes", "3", "--workers", "1", "--data_dir", "data")
        run(*words, cwd=folder)

    def attack(self, random: Random) -> list[Outcome]:
        """Kill the learner before one of its changes, or the actor at any moment, and go on."""
        self.room.renew()
        words = (*LEARNED, "data_dir=data", "save_dir=runs", f"actor_address={free_address()}", "training_steps=120")
        home = str(self.room.home)
        act = partial(start, "actor", *words, "--wait", "600", cwd=self.room.work, UNDERSTUDY_HOME=home)
        actors = [act()]
        at, when = random.randrange(1, self.last), random.random() * 12
        if random.random() < 0.7:
            how = f"learner killed before change {at}"
            found = [self.room.say("learner", *words, dies_at=at)]
        else:
            how = f"actor killed after {when:.1f} s"

            def replace(process: Process) -> None:
                deadline = time.monotonic() + when
                while time.monotonic() < deadline and process.poll() is None:
                    time.sleep(0.01)
                if process.poll() is not None:
                    return  # it has ended: another actor would wait for one that never comes
                actors[0].kill()
                actors.append(
                    start("actor", *words, "--wait", "600", cwd=self.room.work, UNDERSTUDY_HOME=str(self.room.home))
                )

            found = [self.room.say("learner", *words, meanwhile=replace)]
        runs = list((self.room.work / "runs").rglob("flags.json"))
        if found[0].code:
            found.append(self.room.say("resume", str(runs[0].parent)) if runs else self.room.say("learner", *words))
        if found[-1].code:
            found[-1].problems.append("did not go on")
        try:
            found.append(outcome_of(actors[-1]))
        finally:
            for actor in actors:
                actor.kill()
        folder = only(self.room.work / "runs")
        found.append(self.room.say("learner", "--replay", str(folder)))
        if "the same weights" not in found[-1].out or not steps_once(folder / "env.csv"):
            found[-1].problems.append(LOST)
        for outcome in found:
            outcome.how = how
        return found


def outcome_of(process: Process) -> Outcome:
    """Return what an actor came to."""
    try:
        out, err = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        return Outcome(("actor",), -9, "", "", 0, True, ["hang"])
    outcome = Outcome(("actor",), int(process.returncode or 0), out, err, 0)
    outcome.problems = problems_of(outcome)
    return outcome


def steps_once(path: Path) -> bool:
    """Return whether a csv file's rows have each step once, in order."""
    steps = [row["step"] for row in read_csv(path)]
    return bool(steps) and steps == sorted(set(steps))
