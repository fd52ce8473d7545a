"""A plug-in of each kind is one file: CONTRIBUTING.md's own examples, used from a temporary folder; and broken ones.

All commands run in one process, which forks for each set of plug-ins.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy import registry
from understudy.envs.store.writer import StoreWriter

ROOT = Path(__file__).parents[2]
TRAIN = ("train", "data_dir=data", "save_dir=runs", "tracking_uri=none", "training_steps=3", "eval_episodes=0")
SMALL = ("batch_size=8", "log_interval=1", "launcher=inline", "device=cpu")
HEAD = """import torch
from torch import nn
from understudy.algorithm import Algorithm
from understudy.cluster.jobs import Cluster
from understudy.envs.sources.source import Source
from understudy.registry import *
from understudy.spec.augmentation import Operation
from understudy.spec.space import SearchSpace
from understudy.trainables.algorithms.bc import BC
"""


def examples() -> dict[str, str]:
    """Return CONTRIBUTING.md's files by their names."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    return dict(re.findall(r"```python\n# my_plugins/(\w+\.py)\n(.*?)```", page, re.DOTALL))


def package() -> dict[str, bytes]:
    """Return every file of the package and of the page."""
    folders = ("platform", "envs", "trainables", "search_spaces", "cluster", "dashboards")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")]
    return {str(path): path.read_bytes() for path in [*files, ROOT / "pyproject.toml", ROOT / "CONTRIBUTING.md"]}


@dataclass(frozen=True)
class Said:
    """What one command left behind."""

    code: int
    out: str
    err: str


def recording(path: Path, pictures: bool) -> None:
    """Write a file of the lab's: three episodes of Pendulum's shape."""
    rng, rows = np.random.default_rng(0), 60
    columns: dict[str, Any] = {
        "observations": rng.normal(size=(rows, 3)).astype(np.float32),
        "actions": rng.uniform(-2, 2, (rows, 1)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "ends": np.isin(np.arange(rows), (19, 39, 59)),
    }
    if pictures:
        columns["images/front"] = rng.integers(0, 256, (rows, 16, 16, 3), np.uint8)
    np.savez(path, **columns)


def stored(path: Path, pictures: bool, text: str = "") -> None:
    """Write a store of four episodes of no source's task, each with a text where one is given."""
    rng = np.random.default_rng(0)
    with StoreWriter(path, name=path.name, source="test", env_id="none") as writer:
        for _ in range(4):
            episode = {"observations": rng.normal(size=(9, 3)), "actions": rng.uniform(-1, 1, (9, 2))}
            frames = {"images/front": rng.integers(0, 256, (9, 16, 16, 3), np.uint8)} if pictures else {}
            told = {"language": text} if text else {}
            writer.add_episode({**episode, **frames, **told, "rewards": np.zeros(9), "terminals": np.zeros(9)})


GOOD = {
    "help": ["--help"],
    "keys": ["train", "algo=linear_bc", "--help"],
    "import": ["data", "import", "lab", "demo.npz", "--data_dir", "data"],
    "import pictures": ["data", "import", "lab", "film.npz", "--data_dir", "data"],
    "episodes": ["episodes", "lab:demo", "--data-dir", "data"],
    "train": [
        *(*TRAIN, *SMALL, "algo=linear_bc", "env_name=lab:film", "seeds=[0,1]", "shrinkage=0.01"),
        *("encoder=patches", "goal_relabelling=halfway", "augmentation=[random_grey,random_shift]", "random_grey=0.5"),
        *("augment_where=workers", "loader_workers=1"),
    ],
    "critic": [*TRAIN, *SMALL, "algo=td_bc", "env_name=lab:demo", "seeds=[0,1]", "discount=0.9", "target_rate=0.1"],
    "loop": [*TRAIN, *SMALL, "algo=timed_bc", "env_name=lab:demo", "hidden_dims=[16]", "eval_episodes=1"],
    "text": [*TRAIN, *SMALL, "algo=bc", "env_name=told", "hidden_dims=[8]", "language_encoder=hashed_words"],
    "space": ["sweep", "space=linear_bc", "env_name=lab:demo", "data_dir=data", "num_trials=2", "--cfg"],
    "control": ["record", "env_name=lab:demo", "root=babbled", "control=babble", "num_episodes=1", "control_time_s=2"],
    "cluster": ["cluster", "render", "desk.yaml", "room=B12"],
    "refused": ["cluster", "up", "desk.yaml"],
    "unknown algorithm": [*TRAIN, "algo=linear_cb", "env_name=lab:demo"],
    "unknown operation": [*TRAIN, "algo=linear_bc", "env_name=lab:film", "augmentation=random_gray"],
    "unknown key": [*TRAIN, "algo=linear_bc", "env_name=lab:demo", "shrinkag=1"],
    "idle key": [*TRAIN, "algo=linear_bc", "env_name=lab:demo", "random_grey=0.5"],
}


@dataclass(frozen=True)
class Broken:
    """A module with a mistake, how it is met, and what is said of it."""

    text: str
    words: tuple[str, ...] = ("algo=mine", "env_name=states")
    parts: tuple[str, ...] = ()
    code: int = 2
    command: tuple[str, ...] = field(default=(*TRAIN, *SMALL, "hidden_dims=[8]"))


def module(kind: str, head: str, body: str) -> str:
    """Return a module that registers a class as `mine`; its body begins in line 13."""
    return f'{HEAD}\n@{kind}.register("mine")\nclass {head}:\n    {body}\n'


def algorithm(body: str) -> str:
    """Return a module with an algorithm that is bc but for `body`."""
    return module("algorithms", "Mine(BC)", body)


def loss(*lines: str) -> str:
    """Return a module with an algorithm of this loss."""
    return algorithm("\n        ".join(["def loss(self, network, target, batch, draws):", *lines]))


USUAL = "loss, _ = super().loss(network, target, batch, draws)"
PICTURES = ("algo=bc", "env_name=film", "hidden_dims=[8]")
BROKEN = {
    "missing package": Broken("import no_such_package\n", parts=("ModuleNotFoundError", "no_such_package", "line 1")),
    "syntax": Broken("x = = 1\n", parts=("SyntaxError", "line 1")),
    "exits": Broken("raise SystemExit('no licence')\n", parts=("SystemExit: no licence",)),
    "no method": Broken(
        module("algorithms", "Mine(Algorithm)", "def draw(self, n, generator): return {}"),
        parts=("algorithm 'mine'", "lacks act, loss, network, noise_shape"),
    ),
    "no name": Broken(f"{HEAD}\n@algorithms.register\nclass Mine(BC): ...\n", parts=('.register("my_name")',)),
    "empty name": Broken(f'{HEAD}\n@algorithms.register("")\nclass Mine(BC): ...\n', parts=('.register("my_name")',)),
    "another name": Broken(algorithm('name = "yours"'), parts=("its name is 'yours'",)),
    "a name that is taken": Broken(
        f'{HEAD}\n@algorithms.register("bc")\nclass Mine(BC): ...\n', parts=("'bc' is registered twice",)
    ),
    "another kind of thing": Broken(
        module("algorithms", "Mine", "..."), parts=("is no Algorithm of understudy.algorithm",)
    ),
    "an object": Broken(
        f'{HEAD}\nalgorithms.register("mine")(BC((3,), 2))\n', parts=("register the class, not an object of it",)
    ),
    "settings of another kind": Broken(algorithm("class Config: lr = 1"), parts=("Config", "line ")),
    "an earlier contract": Broken(
        algorithm("def loss(self, network, batch, draws): return network(batch['observations']).mean(), {}"),
        parts=("TypeError", "loss()"),
    ),
    "loss alone": Broken(loss(USUAL, "return loss"), parts=("must return (loss, dict of metrics), not a tensor []",)),
    "a loss for each sample": Broken(
        loss("return network.features(batch['observations'], draws)[0].sum(1), {}"),
        parts=("must be a scalar tensor that depends on the network, not a tensor [2]",),
    ),
    "a metric that is no number": Broken(
        loss(USUAL, "return loss, {'m': 'high'}"), parts=("the metric 'm' must be a number, not str",)
    ),
    "a loss that raises": Broken(loss("return batch['action'].mean(), {}"), parts=("KeyError: 'action'", "line 14")),
    "draws of another size": Broken(
        algorithm("def draw(self, batch_size, generator): return {'x': torch.zeros(5)}"),
        parts=("draw(2, generator) must return a dict of tensors [2, ...]",),
    ),
    "a network without weights": Broken(
        algorithm("def network(self, generator): return nn.Identity()"), parts=("parameters to train",)
    ),
    "actions of another shape": Broken(
        algorithm("def act(self, network, observations, noise): return torch.zeros(2, 1)"),
        parts=("act must return actions [2, 1, 2], not a tensor [2, 1]",),
    ),
    "no such loop": Broken(algorithm('loop = "ofline"'), parts=("training loop 'ofline'", "did you mean 'offline'")),
    "an encoder of another kind": Broken(
        f'{HEAD}\nencoders.register("flat")(lambda shape, config, generator: nn.Flatten())\n',
        (*PICTURES, "encoder=flat"),
        ("gives a Flatten, not a PictureEncoder",),
    ),
    "an encoder that raises": Broken(
        f'{HEAD}\n@encoders.register("flat")\ndef flat(shape, config, generator):\n    return 1 / 0\n',
        (*PICTURES, "encoder=flat"),
        ("ZeroDivisionError", "line 13"),
    ),
    "a text encoder of another kind": Broken(
        f'{HEAD}\ntext_encoders.register("mine")(lambda: 3)\n',
        ("algo=bc", "env_name=states", "language_encoder=mine"),
        ("text encoder 'mine'", "gives a int, not a TextEncoder"),
    ),
    "a text encoder that raises": Broken(
        f'{HEAD}\n@text_encoders.register("mine")\ndef mine():\n    return 1 / 0\n',
        ("algo=bc", "env_name=states", "language_encoder=mine"),
        ("ZeroDivisionError", "line 13"),
    ),
    "a strategy that gives no goals": Broken(
        f'{HEAD}\ngoal_strategies.register("now")(lambda steps: steps.index * 0)\n',
        ("algo=bc", "env_name=states", "goal_relabelling=now"),
        ("goal strategy 'now' (broken.<lambda>) must give each step [b] an offset of at least 1",),
    ),
    "an operation of another shape": Broken(
        module("augmentations", "Mine(Operation)", "def apply(self, values, uniforms): return values[..., ::2]"),
        (*PICTURES, "encoder=impala_small", "augmentation=mine"),
        ("augmentation operation 'mine'", "shape and type must stay"),
    ),
    "an operation with a key of others": Broken(
        module("augmentations", "Mine(Operation)", "lr: float = 1.0\n    def apply(self, values, _): return values"),
        ("algo=bc", "env_name=states"),
        parts=("the key 'lr'", "algorithm 'bc'"),
    ),
    "a source without names": Broken(
        module("sources", "Mine(Source)", "def parse(self, env_name): return None"),
        parts=("data source 'mine'", "lacks known_names"),
    ),
    "a kind of cluster that does nothing": Broken(
        module("cluster_kinds", "Mine(Cluster)", "..."),
        (),
        ("kind of cluster 'mine'", "lacks down, find"),
        command=("cluster", "render", "desk.yaml"),
    ),
    "a space without dimensions": Broken(
        f"{HEAD}\nsearch_spaces.register('mine')(SearchSpace(algo='bc'))\n",
        (),
        ("dimensions: Field required", "line 11"),
        command=("sweep", "space=mine", "--cfg"),
    ),
    "a command that is taken": Broken(
        f"{HEAD}\n@commands.register('mine')\ndef add_to(app): app.command('train')(print)\n",
        (),
        ("'mine' (broken.add_to) adds a command 'train', and there is one",),
        command=("--help",),
    ),
    "metrics that are floats": Broken(loss(USUAL, "return loss, {'one': 1.0}"), code=0),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Said]]:
    """Run every command once; what each said, by its name in GOOD and BROKEN."""
    folder = tmp_path_factory.mktemp("plug-ins")
    before = package()
    (folder / "mine" / "my_plugins").mkdir(parents=True)
    for name, text in examples().items():
        (folder / "mine" / "my_plugins" / name).write_text(text)
    recording(folder / "demo.npz", pictures=False)
    recording(folder / "film.npz", pictures=True)
    stored(folder / "data" / "film", pictures=True)
    stored(folder / "data" / "states", pictures=False)
    stored(folder / "data" / "told", pictures=False, text="lift the cup")
    (folder / "desk.yaml").write_text("kind: office\ndescription: under the desk\n")
    groups: list[Any] = [[plugins(folder / "mine", "my_plugins"), list(GOOD.values())]]
    for number, item in enumerate(BROKEN.values()):
        (folder / f"broken{number}").mkdir()
        (folder / f"broken{number}" / "broken.py").write_text(item.text)
        groups.append([plugins(folder / f"broken{number}", "broken"), [[*item.command, *item.words]]])
    (folder / "groups.json").write_text(json.dumps(groups))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.contract.plugin_driver", "groups.json", "results.json"]
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=600)
    results = json.loads((folder / "results.json").read_text())
    assert package() == before, "files of the package were edited"
    found = [Said(*item) for group in results for item in group]
    made = "".join(path.read_text() for path in folder.glob("runs/**/flags.json"))
    timed = len(list(folder.glob("runs/**/seconds.txt")))
    yield {**dict(zip([*GOOD, *BROKEN], found, strict=True)), "flags": Said(timed, made, "")}


def plugins(folder: Path, name: str) -> dict[str, str]:
    """Return the variables that a user sets."""
    return {"UNDERSTUDY_PLUGINS": name, "PYTHONPATH": f"{folder}:{ROOT / 'platform'}:{ROOT}"}


def test_the_page_has_a_file_for_every_registry() -> None:
    kinds = [name for name, item in vars(registry).items() if isinstance(item, registry.Registry)]
    text = "".join(examples().values())
    assert [kind for kind in kinds if f"{kind}.register(" not in text] == []


def test_the_report_of_the_page_writes_its_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(registry.reports, "_items", dict(registry.reports.items()))
    monkeypatch.setattr(registry.reports, "_origins", {})
    exec(compile(examples()["winner.py"], "winner.py", "exec"), {"__name__": "winner"})
    (tmp_path / "best.json").write_text(json.dumps({"trial": 3, "parameters": {"lr": 0.001}}))
    registry.reports.get("winner.txt")(tmp_path, tmp_path / "winner.txt")
    assert (tmp_path / "winner.txt").read_text() == "trial 3: {'lr': 0.001}\n"


@pytest.mark.slow
def test_a_plug_in_of_each_kind_is_one_file_and_no_edit_elsewhere(said) -> None:
    for name in (
        "help",
        "keys",
        "import",
        "import pictures",
        "episodes",
        "train",
        "critic",
        "loop",
        "text",
        "space",
        "control",
        "cluster",
    ):
        assert said[name].code == 0, f"{name}: {said[name].out}{said[name].err}"
    assert "Print how many episodes a dataset has." in said["help"].out
    assert "shrinkage" in said["keys"].out
    assert "random_grey" in said["keys"].out
    assert said["episodes"].out == "3\n"
    assert '"random_grey": 0.5' in said["flags"].out
    assert '"language_encoder": "hashed_words"' in said["flags"].out
    assert said["flags"].code == 1  # run with the loop that writes seconds.txt
    assert "algo: linear_bc" in said["space"].out
    assert "1 episodes in " in said["control"].out
    assert "room B12" in said["cluster"].out
    assert said["refused"].code == 2
    assert "desk needs room (where the machines are)" in said["refused"].err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("unknown algorithm", "did you mean 'linear_bc'"),
        ("unknown operation", "did you mean 'random_grey'"),
        ("unknown key", "did you mean 'shrinkage'"),
        ("idle key", "random_grey=0.5 changes nothing without random_grey in augmentation="),
    ],
)
def test_names_and_keys_of_plug_ins_are_checked_as_the_builtin_ones(said, name: str, hint: str) -> None:
    assert said[name].code == 2
    assert hint in said[name].err


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plug_in_is_one_line_that_names_it(said, name: str) -> None:
    wanted, found = BROKEN[name], said[name]
    assert found.code == wanted.code, found.err
    if wanted.code:
        (line,) = found.err.splitlines()
        assert "broken" in line
        assert all(part in line for part in wanted.parts), line
