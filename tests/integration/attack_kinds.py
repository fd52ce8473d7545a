"""What is attacked: the files of runs, sweeps, stores and source formats, pages made of them, and the command line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
from html import unescape
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import typer
from starlette.testclient import TestClient
from tests.contract import lerobot_examples, test_minari_pictures, test_robomimic_images
from tests.contract.source_examples import EXAMPLES, made_up, place
from tests.integration import test_own_data
from tests.integration.attacking import Outcome, Room
from tests.integration.breaking import only
from tests.integration.commands import run
from tests.integration.damaging import WORDS, damage, files_of
from tests.integration.damaging_arrays import damaged_member

import understudy
from understudy.cli import command_line, main
from understudy.dashboards.places import Root
from understudy.dashboards.server import make_app
from understudy.dashboards.site import Site
from understudy.registry import algorithms, sources
from understudy.runs import stop
from understudy.spec.keys import run_fields
from understudy.trainables.loops.hooks import Log

DATA = "mine"
SMALL = (
    *("algo=bc", f"env_name={DATA}", "hidden_dims=[8]", "batch_size=16", "log_interval=10", "launcher=inline"),
    *("data_dir=data", "save_dir=runs", "training_steps=40", "validation_fraction=0.4", "eval_episodes=0"),
)
STOPPED_AT = 20
LOST = "lost without a word"


class Kind:
    """One kind of attack; `attack` makes one input of a Random and returns what came of it."""

    def __init__(self, root: Path, here: bool = False) -> None:
        self.room = Room(root, self.make)
        self.room.here = here

    def make(self, folder: Path) -> None:
        """Fill the folder that is damaged."""

    def close(self) -> None:
        """Give back what it holds beside files."""

    def attack(self, random: Random) -> list[Outcome]:
        """Damage it and run commands on it."""
        raise NotImplementedError

    def damaged(self, folder: Path, random: Random) -> str:
        """Damage one file below a folder; return which and how."""
        file = random.choice(files_of(folder))
        if random.random() < 0.6 and (inside := damaged_member(file, random)):
            return f"{file.relative_to(self.room.work)}: {inside}"
        how, data = damage(file.read_bytes(), file.suffix, random)
        file.write_bytes(data)
        return f"{file.relative_to(self.room.work)}: {how}"


def make_data(data_dir: Path) -> None:
    """Write the dataset that runs are trained on."""
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(30, 3)).astype(np.float32) for _ in range(5)]
    episodes = [{"observations": one, "actions": np.tanh(one[:, :2])} for one in rows]
    understudy.write_dataset(DATA, episodes, data_dir=data_dir)


def in_this_process(*words: str) -> int:
    """Run a command here, without its output; return its exit code."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", ["understudy", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def same_weights(file: Path, other: dict[str, torch.Tensor]) -> bool:
    """Return whether a model has these weights, bit for bit."""
    mine = torch.load(file, weights_only=True)["weights"]
    return mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in other)


class RunFiles(Kind):
    """Files of a run that has finished and of one that was stopped; what resume ends with is compared."""

    name: ClassVar[str] = "files of runs"

    def __init__(self, root: Path, here: bool = False) -> None:
        super().__init__(root, here)
        self.runs = {group: self._run(group) for group in ("done", "half")}
        half = self.room.work / self.runs["half"]
        assert self.room.say("resume", str(self.runs["half"])).code == 0
        self.rows = (half / "train.csv").read_bytes()
        self.weights = torch.load(half / "final_model.pt", weights_only=True)["weights"]

    def _run(self, group: str) -> Path:
        (found,) = (path.parent for path in (self.room.work / "runs").rglob("flags.json") if group in path.parts)
        return found.relative_to(self.room.work)

    def make(self, folder: Path) -> None:
        """Train one run to its end; stop another in the middle of it."""
        make_data(folder / "data")
        with contextlib.chdir(folder):
            assert in_this_process("train", *SMALL, "run_group=done") == 0
            with pytest.MonkeyPatch.context() as patch:
                log = Log.__call__

                def terminated(hook: Log, metrics: dict[str, Any] | None = None) -> None:
                    log(hook, metrics)
                    if hook._training.step == STOPPED_AT:
                        os.kill(os.getpid(), signal.SIGTERM)

                patch.setattr(stop, "LOOK_SECONDS", 0.0)
                patch.setattr(Log, "__call__", terminated)
                assert in_this_process("train", *SMALL, "run_group=half", "tracking_uri=none") == 143

    def attack(self, random: Random) -> list[Outcome]:
        """Damage a file of one of them, and go on with it, look at it and use it."""
        self.room.renew()
        group = random.choice(("done", "half", "half"))
        folder = self.room.work / self.runs[group]
        if group == "half":
            how = self.damaged(folder, random)
            found = [self.room.say("runs", "list", "--save_dir", "runs"), self.room.say("resume", str(folder))]
            if found[-1].code == 0 and not self._same(folder):
                found[-1].problems.append(LOST)
        else:
            held = {file: file.read_bytes() for file in results_of(folder)}
            how = self.damaged(folder, random)
            found = [self.room.say(*words) for words in random.sample(self._uses(folder), 2)]
            for outcome in found:
                resumed = outcome.words[:2] == ("resume", str(folder)) and outcome.code == 0
                if resumed and not all(holds(file, rows) for file, rows in held.items() if file.name != "flags.json"):
                    outcome.problems.append(LOST)
        for outcome in found:
            outcome.how = how
        return found

    def _same(self, folder: Path) -> bool:
        file = folder / "train.csv"
        return (
            file.is_file() and file.read_bytes() == self.rows and same_weights(folder / "final_model.pt", self.weights)
        )

    def _uses(self, folder: Path) -> list[tuple[str, ...]]:
        run = str(folder)
        return [
            ("evaluate", run),
            ("sync", "runs"),
            ("resume", run, "--add-steps", "10"),
            ("resume", run),
            ("train", "--fork", run, "training_steps=90", "save_dir=runs"),
            ("train", "--from", run, "seeds=[5]", "save_dir=runs"),
            ("runs", "list", "--save_dir", "runs"),
            ("runs", "show", folder.name, "--save_dir", "runs"),
            ("runs", "episodes", run),
            ("models", "register", run, "--as", "taken"),
            ("resume", "nothing", "--save_dir", "runs"),
        ]


def results_of(folder: Path) -> list[Path]:
    """Return the files below a run's or a sweep's folder that nothing may be lost of."""
    found = [*folder.rglob("*.csv"), *folder.rglob("*.arrow"), *folder.rglob("flags.json"), *folder.rglob("best.json")]
    return [path for path in found if ".ray" not in path.parts]


def holds(file: Path, held: bytes) -> bool:
    """Return whether a file is there and begins with these bytes."""
    return file.is_file() and file.read_bytes().startswith(held)


class SweepFiles(Kind):
    """Files of a sweep that has finished, its trials' and its best policy's among them."""

    name: ClassVar[str] = "files of sweeps"

    def __init__(self, root: Path, here: bool = False) -> None:
        super().__init__(root, here)
        found = only(self.room.work / "runs", "sweep.json")
        self.sweep = found.relative_to(self.room.work)
        self.held = {file.relative_to(found): file.read_bytes() for file in results_of(found)}

    def make(self, folder: Path) -> None:
        """Run a sweep of two trials."""
        make_data(folder / "data")
        words = ("lr=1e-3,1e-4", "sampler=grid", "scheduler=none", "seeds=[0]", "with_default=false", "num_trials=2")
        own = [word for word in SMALL if not word.startswith("launcher=")]
        run("sweep", *own, *words, "confirm_seeds=0", "register_as=none", cwd=folder)

    def attack(self, random: Random) -> list[Outcome]:
        """Damage a file of the sweep; go on with it, which changes no result, look at it and use it."""
        self.room.renew()
        folder = self.room.work / self.sweep
        how = self.damaged(folder, random)
        sweep = str(folder)
        uses = [
            ("evaluate", sweep),
            ("sync", "runs"),
            ("report", sweep),
            ("train", "--from", sweep, "seeds=[5]", "save_dir=runs"),
            ("runs", "list", "--save_dir", "runs"),
            ("models", "register", sweep, "--as", "taken"),
        ]
        found = [self.room.say(*random.choice(uses)), self.room.say("resume", sweep)]
        noted = found[0].words[:2] == ("models", "register") and found[0].code == 0  # which best.json is told
        held = {name: held for name, held in self.held.items() if not (noted and name.name == "best.json")}
        lost = [name for name in held if not holds(folder / name, held[name])]
        if found[1].code == 0 and lost:
            found[1].problems.append(LOST)
        for outcome in found:
            outcome.how = how
        return found


class Pages(RunFiles):
    """Pages of the dashboard about runs and a dataset with a damaged file."""

    name: ClassVar[str] = "pages"

    def attack(self, random: Random) -> list[Outcome]:
        """Damage a file and open each page that leads somewhere."""
        self.room.renew()
        folder = self.room.work / random.choice(("data", str(self.runs["done"]), str(self.runs["half"])))
        how = self.damaged(folder, random)
        site = Site(Root(self.room.work / "runs"), data_dir=self.room.work / "data")
        browser = TestClient(make_app(site), base_url="http://127.0.0.1:8765", raise_server_exceptions=False)
        ways, found = ["/"], []
        for way in ways:
            answer = browser.get(way)
            problems = ["traceback"] if answer.status_code >= 500 else []
            if "\x1b" in answer.text:
                problems.append("escape")
            found.append(Outcome(("GET", way), 0, "", answer.text[-2000:] if problems else "", 0, False, problems, how))
            inside = [unescape(link) for link in re.findall(r'(?:href|src)="(/[^"#]*)"', answer.text)]
            ways += [link for link in dict.fromkeys(inside) if link not in ways and "/static/" not in link][:12]
        return found


class StoreFiles(Kind):
    """Files of a dataset in our own form."""

    name: ClassVar[str] = "files of stores"

    def make(self, folder: Path) -> None:
        """Write the dataset."""
        make_data(folder / "data")

    def attack(self, random: Random) -> list[Outcome]:
        """Damage a file of the dataset; verify must notice it, and the rest take it or refuse it."""
        self.room.renew()
        folder = self.room.work / "data" / DATA
        kept = {file: file.read_bytes() for file in files_of(folder)}
        how = self.damaged(folder, random)
        uses = [
            ("data", "list", "--data_dir", "data"),
            ("data", "info", DATA, "--data_dir", "data"),
            ("data", "export", DATA, "out", "--format", "lerobot", "--data_dir", "data"),
            ("train", *SMALL, "tracking_uri=none"),
        ]
        found = [self.room.say("data", "verify", DATA, "--data_dir", "data"), self.room.say(*random.choice(uses))]
        rows = folder / "transitions.arrow"
        if found[0].code == 0 and rows.is_file() and rows.read_bytes() != kept[rows]:
            found[0].problems.append(LOST)
        for outcome in found:
            outcome.how = how
        return found


class SourceFiles(Kind):
    """Files of the formats that datasets come in, those with pictures and videos among them: each is imported."""

    name: ClassVar[str] = "files of formats"

    def make(self, folder: Path) -> None:
        """Write a small dataset in each format."""
        self.imports: dict[str, tuple[str, ...]] = {}
        for kind, example in EXAMPLES.items():
            (folder / kind).mkdir()
            source = sources.get(kind)
            file = place(source, folder / kind)
            source.write(file, iter(made_up(example, [30, 1, 20])), example.env_name, {})
            self.imports[kind] = (kind, str(file), "--name", example.env_name)
        self._make_pictures(folder)

    def _make_pictures(self, folder: Path) -> None:
        for name, write in (("lerobot videos", lerobot_examples.foreign), ("lerobot pictures", own_lerobot)):
            self.imports[name] = ("lerobot", str(write(folder / name / "data")), "--name", "lerobot:any/thing")
        (folder / "robomimic pictures").mkdir()
        file = test_robomimic_images.write(folder / "robomimic pictures" / "data.hdf5")
        self.imports["robomimic pictures"] = ("robomimic", str(file), "--name", test_robomimic_images.LIFT)
        with pytest.MonkeyPatch.context() as patch:
            data = test_minari_pictures.collected("hwc", folder / "minari pictures", patch)
        self.imports["minari pictures"] = ("minari", str(data), "--name", test_minari_pictures.NAME)
        for name, kind in (("npz", "flat npz"), ("zarr", "zarr"), ("hdf5", "robomimic's")):
            (folder / name).mkdir()
            file = test_own_data.write(kind, folder / name)
            keys = ("--obs", "joints,front", "--action", "command")
            self.imports[name] = (name, str(file), "--name", DATA, *keys)

    def attack(self, random: Random) -> list[Outcome]:
        """Damage a file and import the dataset."""
        self.room.renew()
        kind = random.choice(sorted(self.imports))
        how = self.damaged(self.room.work / kind, random)
        found = [self.room.say("data", "import", *self.imports[kind], "--data_dir", "stores")]
        left = list((self.room.work / "stores").glob("*")) if (self.room.work / "stores").is_dir() else []
        if found[0].code and left:
            found[0].problems.append(f"left {left[0].name}")
        found[0].how = how
        return found


def own_lerobot(root: Path) -> Path:
    """Write two episodes as our own writer does."""
    return lerobot_examples.written(root, 2)


class CommandLine(Kind):
    """Values of keys and options that nobody means."""

    name: ClassVar[str] = "command line"
    left_out: ClassVar[set[str]] = {"ui", "dashboard", "learner", "actor", "quickstart", "cluster", "expert", "submit"}
    """Commands that wait for others, or for ever."""

    def make(self, folder: Path) -> None:
        """Write a dataset and a run."""
        make_data(folder / "data")
        with contextlib.chdir(folder):
            assert in_this_process("train", *SMALL) == 0

    def attack(self, random: Random) -> list[Outcome]:
        """Give an odd value to a key of a training or a sweep, or to an option of another command."""
        self.room.renew()
        words = self._keys(random) if random.random() < 0.7 else self._options(random)
        return [self.room.say(*(word.replace("\0", "") for word in words))]

    def _keys(self, random: Random) -> list[str]:
        algo = random.choice(sorted(algorithms.names()))
        key, value = random.choice(sorted(run_fields(algo))), random.choice(WORDS)
        base = [word for word in (f"algo={algo}", *SMALL[1:]) if not word.startswith(f"{key}=")]
        command = random.choice(("train", "train", "train", "sweep"))
        return [command, *base, "tracking_uri=none", f"{key}={value}", *self._dry(key, value, command, random)]

    def _dry(self, key: str, value: str, command: str, random: Random) -> list[str]:
        """Return --cfg where doing it would write where the user says, or is a sweep, or is long by what it says."""
        elsewhere = key.endswith(("_dir", "_uri", "_storage", "project", "run_group"))
        return ["--cfg"] if command == "sweep" or elsewhere or random.random() < 0.5 or self.room.here else []

    def _options(self, random: Random) -> list[str]:
        commands = [item for item in leaves(typer.main.get_command(command_line())) if item[0][0] not in self.left_out]
        path, command = random.choice(commands)
        run = next(path.parent for path in (self.room.work / "runs").rglob("flags.json"))
        words = [*path]
        options = [item for item in command.params if item.param_type_name == "option" and item.name != "help"]
        for item in command.params:
            if item.param_type_name == "argument":
                words.append(random.choice((*WORDS, str(run), DATA, run.name)))
        for item in random.sample(options, min(len(options), random.randrange(3))):
            words += [item.opts[0]] if item.is_flag else [item.opts[0], random.choice(WORDS)]
        return words


def leaves(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Return the commands below one, with their words."""
    if not hasattr(command, "commands"):
        return [(path, command)]
    return [leaf for name, inside in command.commands.items() for leaf in leaves(inside, (*path, name))]
