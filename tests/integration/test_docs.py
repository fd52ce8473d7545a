"""What the pages show works as it is written: every command is read, and those that can be run in small are run."""

from __future__ import annotations

import pytest
from tests.integration.documented import Shown, shown_commands, understand

COMMANDS = shown_commands()


@pytest.mark.parametrize("shown", COMMANDS, ids=[f"{item.place}: {item.text[:60]}" for item in COMMANDS])
def test_a_command_of_the_documentation_is_taken_as_it_is_written(shown: Shown) -> None:
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
