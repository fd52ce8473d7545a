"""What the pages show works as it is written: every command is read, and those that can be run in small are run."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from tests.integration.commands import run
from tests.integration.documented import PAGES, ROOT, Shown, advised_commands, python_blocks, shown_commands, understand

from understudy.cli import main
from understudy.cluster.profile import load_profile

COMMANDS = shown_commands()
ADVICE = advised_commands()


@pytest.mark.parametrize("shown", COMMANDS, ids=[f"{item.place}: {item.text[:60]}" for item in COMMANDS])
def test_a_command_of_the_documentation_is_taken_as_it_is_written(shown: Shown) -> None:
    understand(shown)


@pytest.mark.parametrize("shown", ADVICE, ids=[item.text for item in ADVICE])
def test_a_command_that_a_message_advises_exists_with_its_options(shown: Shown) -> None:
    understand(shown)


@pytest.mark.parametrize(
    "text",
    [
        "understudy trian env_name=x",
        "understudy train lrr=1",
        "understudy train algo=flow_cb",
        "understudy train sparse=perhaps",
        "understudy sweep space=flow_bd",
        "understudy sweep space=flow_bc num_trails=3",
        "understudy evaluate RUN eval_episods=3",
        "understudy data generate NAME --episode 3",
        "understudy data export NAME FILE --format minary",
        "understudy data import d4rll FILE",
        "understudy cluster render kuberay workers.gpu.maxx=8",
        "understudy submit sweep space=flow_bc --profil slurm",
        "make quikstart",
        "make test SLOWW=1",
        "python benchmarks/results.py --onyl goals",
    ],
)
def test_a_command_that_does_not_exist_is_found_out(text: str) -> None:
    with pytest.raises(Exception, match=r"\w"):
        understand(Shown("here", text, whole=True))


# ---- and run, in small ----

SMALL = ("training_steps=2", "log_interval=1", "seeds=[0,1]", "batch_size=4")
"""What a training of the pages is given besides, so that it takes seconds."""
ONLY_READ = {
    "halfcheetah-policy-v2": "its expert takes minutes to be found",
    "expert:Swimmer-v5": "the same",
    "halfcheetah-medium-v2": "a download",
    "hopper-medium-v2": "a download, or a model that is registered",
    "lift-mh-low_dim": "a download",
    "cube-single-mixed-singletask-task1-v0": "what a policy does that takes minutes to be trained",
    "lift-mixed-low_dim": "the same",
    "lerobot:/data/pick_cube": "a folder of the reader's",
    "lerobot:me/cubes": "a recording of the reader's",
    "my-reach": "the reader's own data",
    "my_module:MyEnv": "an environment of the reader's: tests/integration/test_own_data.py has one",
}
"""Datasets whose commands are read and not run, and why."""


def name_of(words: list[str]) -> str:
    """Return the dataset that a `data generate` or a `train` names."""
    given = [word.split("=", 1)[1] for word in words if word.startswith("env_name=")]
    if words[1] == "train":
        return given[0] if given else "halfcheetah-medium-v2"
    return words[3]


def do(folder: Path, *words: str) -> None:
    """Run a command in `folder`, in this process, which imports each simulator once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(sys, "argv", ["understudy", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0, words


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make every dataset that the pages generate, by their commands, with three episodes each; return the folder."""
    folder = tmp_path_factory.mktemp("documented")
    whole = [item.words for item in COMMANDS if item.whole]
    generated = {name_of(words): words for words in whole if words[1:3] == ["data", "generate"]}
    for name in ("cube-single-scripted-v0", "minari:pendulum/scripted-v0"):
        generated[name] = ["understudy", "data", "generate", name]
    for name, words in generated.items():
        if name not in (*ONLY_READ, "NAME"):
            do(folder, *words[1:], "--episodes", "3", "--workers", "1", "--data_dir", "data")
    script = next(words for words in whole if words[:2] == ["python", "tests/contract/bridge_tree.py"])
    small = [*script[2:], "--trajectories", "12", "--steps", "3"]
    subprocess.run([sys.executable, str(ROOT / script[1]), *small], cwd=folder, check=True)
    read = next(words for words in whole if words[1:5] == ["data", "import", "bridge-raw", "bridge_raw"])
    do(folder, *read[1:], "--num-workers", "1", "--data_dir", "data")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_trainings_of_the_pages_run_in_small_on_the_datasets_of_the_pages(made: Path) -> None:
    ran = []
    for item in COMMANDS:
        if item.words[:2] != ["understudy", "train"] or not item.place.startswith("docs/") or not item.whole:
            continue
        if name_of(item.words) in (*ONLY_READ, "NAME") or any("=" not in word for word in item.words[2:]):
            continue
        if any(word.startswith(("frames=", "offline_steps=")) for word in item.words):  # online: learns for minutes
            continue
        place = next((made / "data" / "raw").glob("*PandaPickCube*lerobot*"))
        words = [word.replace("lerobot:PATH", f"lerobot:{place}") for word in item.words]
        none = "eval_episodes=0" in words or "algo=reward_classifier" in words
        played = ["eval_episodes=0"] if none else ["eval_episodes=1", "eval_max_steps=4"]
        do(made, *words[1:], *SMALL, *played, "data_dir=data", "tracking_uri=none")
        ran.append(item.text)
    assert len(ran) >= 15


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_what_the_page_about_data_prints_is_what_its_commands_print(made: Path) -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    name = "cube-single-scripted-singletask-task1-v0"
    shown = page.split(f"$ understudy data info {name}\n")[1].split("\n\n`understudy data verify")[0]
    printed = run("data", "info", name, "--data_dir", "data", cwd=made)
    for line in shown.splitlines():
        label = re.match(r"    (  \w+|\w+)  ", line)
        if label and not line.strip().startswith(("hash", "size")):
            assert label[1] in printed, line
    columns = re.findall(r"(\w+) (\[\d*\])", shown.split("columns")[1].split("length")[0])
    assert columns == re.findall(r"(\w+) (\[\d*\])", printed.split("columns")[1].split("length")[0])
    line = page.split(f"$ understudy data generate {name} --episodes 100\n")[1].split("\n\n")[0].splitlines()[-1]
    form = re.escape(line.strip().split(", in ")[0].replace("100 episodes, 5645", "3 episodes, N"))
    said = run("data", "generate", name, "--episodes", "3", "--data_dir", "again", cwd=made)
    assert re.search(form.replace("N", r"\d+").replace(re.escape("..."), r"\w+"), said), said
    export = next(item.words for item in COMMANDS if item.words[1:4] == ["data", "export", name] and item.whole)
    run(*export[1:], "--data_dir", "data", cwd=made)
    assert (made / "cubes.hdf5").is_file()


def test_pages_print_no_hash_that_another_version_would_change() -> None:
    for path in PAGES:
        assert not re.search(r"\bhash +[0-9a-f]{8,}", path.read_text()), path


@pytest.mark.slow
def test_the_recorder_of_the_page_about_data_records(tmp_path: Path) -> None:
    (block,) = python_blocks(ROOT / "docs" / "data.md")
    place = tmp_path / "pick_cube"
    rng = np.random.default_rng(0)
    names = {
        "states": rng.normal(size=(6, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (6, 2)).astype(np.float32),
        "rewards": np.zeros(6, np.float32),
        "ends": np.arange(6) == 5,
        "frames": rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8),
    }
    exec(block.replace("/data/pick_cube", str(place)), names)
    assert "1 episodes, 6 transitions" in run(
        "data", "import", "lerobot", str(place), "--name", f"lerobot:{place}", "--data_dir", "data", cwd=tmp_path
    )


def test_the_profile_of_the_page_about_clusters_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    block = page.split("# ~/.understudy/clusters/lab.yaml\n")[1].split("\n\n")[0]
    (tmp_path / "lab.yaml").write_text(textwrap.dedent(block))
    profile = load_profile(str(tmp_path / "lab.yaml"))
    assert profile.kind == "slurm"
    assert profile.mlflow_uri == "http://mlflow.lab:5000"
