"""A shell's TAB completes key=value words: as typer's script for bash asks, with words split at `=` or not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.command_line import understudy

from understudy.cli.completion import CACHE

Complete = Callable[[str], list[str]]
BEFORE = "_UNDERSTUDY_COMPLETE", "COMP_WORDS", "COMP_CWORD"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with two datasets, whose list of keys is made once."""
    home = tmp_path_factory.mktemp("home")
    for name in ("mine-v1", "minari:D4RL__door-v2"):
        (home / "datasets" / name).mkdir(parents=True)
        (home / "datasets" / name / "manifest.json").write_text("{}")
    return home


@pytest.fixture
def complete(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Complete:
    """Return a function that prints what bash's TAB offers at the end of a line, sorted."""
    monkeypatch.setenv("UNDERSTUDY_HOME", str(home))

    def at_the_end_of(line: str) -> list[str]:
        for name, value in zip(BEFORE, ("complete_bash", line, str(line.count(" "))), strict=True):
            monkeypatch.setenv(name, value)
        said = understudy(monkeypatch, capsys)
        assert (said.code, said.err) == (0, "")
        return said.out.split()

    return at_the_end_of


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("understudy train algo=flow_bc hor", ["horizon_length=", "horizon_length=5"]),
        ("understudy train algo = flow_bc hor", ["horizon_length=", "horizon_length=5"]),
        ("understudy train hor", []),
        ("understudy train algo=flow", ["algo=flow_bc", "algo=flow_transformer"]),
        ("understudy train algo = flow", ["flow_bc", "flow_transformer"]),
        ("understudy compare algo = flow_bc,gc_", ["flow_bc,gc_bc", "flow_bc,gc_ddpm_bc"]),
        ("understudy train algo=bc --poli", ["--policy=gaussian", "--policy=gmm", "--policy=mse"]),
        ("understudy train launcher = ", ["inline", "ray"]),
        ("understudy train save_best =", ["false", "true"]),
        ("understudy train device = ", ["auto", "cpu", "cuda"]),
        ("understudy train preset=q", ["preset=qc"]),
        ("understudy sweep sampler = g", ["gp", "grid"]),
        ("understudy sweep space = flow_bc hor", ["horizon_length=", "horizon_length=5"]),
        ("understudy evaluate RUN flow_st", ["flow_steps=", "flow_steps=10"]),
        ("understudy evaluate RUN training_st", []),
        ("understudy train env_name = mi", ["minari:D4RL/door-v2", "mine-v1"]),
        ("understudy train env_name = minari : D", ["D4RL/door-v2"]),
        ("understudy train 'no", []),
    ],
)
def test_keys_and_values_are_offered(complete: Complete, line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_keys_that_are_given_are_not_offered_again(complete: Complete) -> None:
    assert {"seed=", "seeds="} <= set(complete("understudy train se"))
    assert "seeds=" not in complete("understudy train seeds=3 se")


def test_with_the_cache_there_torch_is_not_imported(complete: Complete, home: Path) -> None:
    assert complete("understudy train algo=flow_bc hor")
    program = (
        "import sys; from understudy.cli import main\n"
        "try: main()\n"
        "finally: print(*[name for name in ('torch', 'hydra', 'ray') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["horizon_length=", "horizon_length=5"]
    assert done.stderr.split() == []


@pytest.mark.parametrize("held", ["", "{}", "[1]", '{"of": {"files": 3}}', "a cache of another version"])
def test_a_cache_that_is_damaged_or_of_another_version_is_made_again(complete: Complete, home: Path, held: str) -> None:
    complete("understudy train algo=flow_bc hor")
    file = home / "cache" / CACHE
    whole = json.loads(file.read_text())
    old = {"of": {**whole["of"], "version": "0"}, "tables": {**whole["tables"], "algos": {}}}
    file.write_text(json.dumps(old) if held.startswith("a ") else held)
    assert complete("understudy train algo=flow_bc hor") == ["horizon_length=", "horizon_length=5"]
    assert json.loads(file.read_text()) == whole


def test_nothing_is_printed_where_a_plug_in_cannot_be_imported(
    complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_PLUGINS", "no_such_module")
    assert complete("understudy train algo=flow_bc hor") == []
