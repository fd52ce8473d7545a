"""The commands that the documentation shows, and whether the command line would take them as they are written."""

from __future__ import annotations

import ast
import atexit
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
from typer.main import get_command

from understudy.cli import command_line
from understudy.cli.actors import EXAMPLES as OF_ACTORS
from understudy.cli.compare import EXAMPLES as OF_COMPARE
from understudy.cli.expert import EXAMPLES as OF_EXPERT
from understudy.cli.expert import read_expert
from understudy.cli.pipeline import plan
from understudy.cli.sweep import read_sweep
from understudy.cli.sweep_command import EXAMPLES as OF_SWEEP
from understudy.cli.train import read_run, run_values
from understudy.cli.train_command import EXAMPLES as OF_TRAIN
from understudy.cluster.commands.jobs import SUBMIT
from understudy.cluster.profile import list_profiles, load_profile
from understudy.config_files import config_words
from understudy.envs.commands.record import EXAMPLES as OF_RECORD
from understudy.envs.recording.settings import read_words as read_words_of_recording
from understudy.matrix.cells import cells_of, is_matrix
from understudy.matrix.pipeline import is_pipeline, read_words
from understudy.matrix.published import cells_of_study, study_of
from understudy.registry import algorithms, sources
from understudy.spec.compose import flat_values, parse
from understudy.spec.evaluation import EvaluationSpec
from understudy.spec.keys import algo_of, check_keys, resolve_key
from understudy.spec.placement import PLACES_OF_AN_EVALUATION

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = ("understudy ", "python ", "torchrun ", "make ", ".ci/run")
MORE = "..."
"""Words that a page leaves out."""


@dataclass(frozen=True)
class Shown:
    """One command as a page shows it; in running text it may lack its arguments."""

    place: str
    text: str
    whole: bool

    @property
    def words(self) -> list[str]:
        """The command's words, without a prompt, a comment and what is left out."""
        plain = self.text.removeprefix("$ ").replace(".venv/bin/", "")
        return [word for word in shlex.split(re.split(r"\s+[#|]|\s2>&1", plain)[0]) if word != MORE]


def shown_commands() -> list[Shown]:
    """Return every command of the pages and of the help texts."""
    return [item for path in PAGES for item in _of_page(path)] + list(_of_help())


def python_blocks(path: Path) -> list[str]:
    """Return the blocks of Python in a page: those that import from understudy."""
    blocks = re.split(r"\n(?=\S)", path.read_text())
    inside = ["\n".join(line[4:] for line in block.splitlines() if not line or line[:4] == "    ") for block in blocks]
    return [block for block in inside if re.search(r"^from understudy", block, re.MULTILINE)]


def advised_commands() -> list[Shown]:
    """Return every command in backquotes of the package's own texts; a part that is filled in later is the word 1."""
    folders = ("platform", "envs", "trainables", "cluster", "dashboards", "search_spaces")
    files = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py") if "static" not in path.parts)
    found = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            for text in re.findall(r"`(understudy [^`]+)`", _text_of(node)):
                words = [_FILLED.get(word, word) for word in re.sub(r"<\w+>|%\w", "1", text).split(" ")]
                if words[1:] not in (["1"], ["--help"]):
                    place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                    found.setdefault(text, Shown(place, " ".join(words), whole=False))
    return list(found.values())


_FILLED = {
    "SOURCE": "d4rl",
    "N": "1",
    "algo=1": "algo=bc",
    "algo=X": "algo=bc",
    "algo=A,B": "algo=bc,flow_bc env_name=X",
}
"""What stands for words that a message leaves to its reader."""


def _text_of(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "1" for part in node.values)
        return "".join(map(str, parts))
    return ""


def _of_page(path: Path) -> Iterator[Shown]:
    fenced = False  # files of Python, which test_plugins.py runs
    for number, line in enumerate(path.read_text().splitlines(), 1):
        place = f"{path.relative_to(ROOT)}:{number}"
        fenced ^= line.startswith("```")
        if fenced:
            continue
        if line.startswith("    "):
            if line.strip().removeprefix("$ ").removeprefix(".venv/bin/").startswith(COMMANDS):
                yield Shown(place, line.strip(), whole=True)
            continue
        for text in re.findall(r"`([^`]+)`", line):
            if text.startswith(COMMANDS):
                yield from (Shown(place, one, whole=False) for one in _alternatives(text))


def _alternatives(text: str) -> Iterator[str]:
    """Yield the commands that `data list | info` and `jobs list|logs -f` stand for."""
    text = re.sub(r"\[(--[^]]*)\]", r"\1", text.replace("\\|", "|"))
    if "|" not in text or "'" in text:
        yield text
        return
    first, *others = (part.strip() for part in text.split("|"))
    yield first
    before = first.rsplit(" ", 1)[0]
    yield from (f"{before} {other}" for other in others)


def _of_help() -> Iterator[Shown]:
    texts = {
        "train": OF_TRAIN,
        "sweep": OF_SWEEP,
        "compare": OF_COMPARE,
        "expert": OF_EXPERT,
        "submit": SUBMIT,
        "record": OF_RECORD,
        "learner": OF_ACTORS,
        **dict(_epilogs(_root(), "")),
    }
    for name, text in texts.items():
        for line in text.splitlines():
            if line.startswith("  understudy "):
                yield Shown(f"understudy {name} --help", line.strip(), whole=True)


def _epilogs(command: Any, name: str) -> Iterator[tuple[str, str]]:
    if command.epilog and name:
        yield name, command.epilog
    for child, item in getattr(command, "commands", {}).items():
        yield from _epilogs(item, f"{name} {child}".strip())


def _root() -> Any:
    return get_command(command_line())


# ---- would it be taken? ----


def understand(shown: Shown) -> None:
    """Raise whatever is wrong with a command: a name, an option, a key, a value."""
    program, *words = shown.words
    if not words and not shown.whole:
        return
    if program == "torchrun":
        words = words[words.index("understudy") :]
        program, *words = words
    if program == "python" and {"-m", "-c"} & set(words):
        return  # other people's programs: pytest, build, cProfile
    if program == "python":
        _understand_script(ROOT / words[0], words[1:])
    elif program == "make":
        _understand_make(words)
    elif program == "understudy":
        _understand_ours(words, shown.whole)
    else:
        assert (ROOT / program).is_file(), program


def _understand_script(path: Path, words: list[str]) -> None:
    source = path.read_text()
    for word in words:
        assert not word.startswith("--") or f'"{word.split("=")[0]}"' in source, f"{path.name} has no option {word}"


def _understand_make(words: list[str]) -> None:
    text = (ROOT / "Makefile").read_text()
    for word in words:
        if "=" in word:
            name = word.split("=")[0]
            assert re.search(rf"\$\((if )?{name}\b|^export {name}$", text, re.MULTILINE), f"make knows no {name}="
        else:
            assert re.search(rf"^{re.escape(word)}\s*:", text, re.MULTILINE), f"make has no {word}"


def _understand_ours(words: list[str], whole: bool) -> None:
    command, name = _root(), "understudy"
    while getattr(command, "commands", None) is not None:
        if not words:
            assert not whole, f"{name} is a group"
            return
        name, *words = words
        if name.startswith("--"):
            assert not words
            assert any(name in option.opts for option in command.params), f"understudy has no option {name}"
            return
        assert name in command.commands, f"there is no command {name!r}: {sorted(command.commands)}"
        command = command.commands[name]
    if not whole and not words:
        return
    try:
        context = command.make_context(name, list(words))
    except Exception as error:
        if type(error).__name__ == "Exit" or (type(error).__name__ == "MissingParameter" and not whole):
            return
        raise
    _KEYS.get(name, _nothing_left)(context)


def _nothing_left(context: click.Context) -> None:
    given = context.params
    of_data = "model" not in given  # another export has formats of its own
    for key in ("source", "format_") if of_data else ():
        if given.get(key) not in (None, "", "FORMAT"):
            sources.get(given[key])
    for name in given.get("formats") or ():
        sources.get(name)
    assert not context.args, context.args


def _train(context: click.Context) -> None:
    context.args = _with_files_of_pages(context.args)
    if context.params.get("fork"):
        values = run_values(context.args)
        check_keys(values, algo_of(values))
    elif context.params.get("multirun") and is_matrix(context.args):
        _compare(context)
    elif not context.params.get("help_"):
        read_run([_buffer(word) for word in context.args])


def _with_files_of_pages(words: list[str]) -> list[str]:
    """Return the words with a page's configuration file by its whole path; without it where it is the reader's."""
    path, rest = config_words(words)
    file = ROOT / "docs" / "hilserl" / str(path)
    return [f"--config_path={file}", *rest] if path and file.is_file() else rest


def _buffer(word: str) -> str:
    """Return a word with an expert buffer that is there in the place of the page's."""
    return f"expert_data={_pendulum_buffer()}" if word.startswith("expert_data=") else word


@cache
def _pendulum_buffer() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="understudy-documented-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    episode = {
        "observations": np.zeros((4, 3), np.float32),
        "actions": np.zeros((4, 1), np.float32),
        "rewards": np.zeros(4, np.float32),
        "terminals": np.zeros(4, bool),
        "final_observation": np.ones(3, np.float32),
    }
    sources.get("expert_buffer").write(folder / "Pendulum-v1", [episode], "Pendulum-v1", {})
    return folder / "Pendulum-v1"


def _sweep(context: click.Context) -> None:
    if context.params.get("replay"):
        assert len(context.args) == 1
        return
    if not is_matrix(context.args):
        read_sweep(context.args)
        return
    for cell in cells_of(context.args, "sweep"):
        read_sweep(list(cell.words))


def _compare(context: click.Context) -> None:
    if is_pipeline(context.args):
        plan(read_words(context.args))
    elif not context.params.get("help_"):
        for cell in cells_of(context.args, "compare"):
            read_run(list(cell.words))


def _reproduce(context: click.Context) -> None:
    given = context.params
    if given["study"]:
        names = [name for name in given["tasks"].split(",") if name]
        for cell in cells_of_study(study_of(given["study"]), names, context.args):
            read_run(list(cell.words))


def _expert(context: click.Context) -> None:
    if not context.params["run"]:
        read_expert(context.args)


def _submit(context: click.Context) -> None:
    if context.params["what"]:
        words = [word for word in context.args if word != "algo=my_bc"]  # a plug-in of the user's
        read = {"train": read_run, "sweep": read_sweep}[context.params["what"]]
        read(words if words or read is read_run else ["space=bc"])


def _evaluate(context: click.Context) -> None:
    acting = {key for _, kind in algorithms.items() for key in kind.evaluation_parameters}
    for key in flat_values(parse(context.args)):
        resolve_key(key, {"env_name", *EvaluationSpec.model_fields, *PLACES_OF_AN_EVALUATION, *acting})


def _check(context: click.Context) -> None:
    if context.args != ["algo=NAME"]:
        values = run_values(context.args)
        check_keys(values, algo_of(values))


def _record(context: click.Context) -> None:
    if not context.params["help_"]:
        read_words_of_recording(_with_files_of_pages(list(context.args)))


def _learner(context: click.Context) -> None:
    if not context.params.get("replay"):
        words = _with_files_of_pages(list(context.args))
        read_run(words if any(word.startswith(("algo=", "--config")) for word in words) else ["algo=hilserl", *words])


def _cluster(context: click.Context) -> None:
    if context.params["profile"] in list_profiles():
        load_profile(context.params["profile"], context.args)


_KEYS = {
    "train": _train,
    "sweep": _sweep,
    "compare": _compare,
    "reproduce": _reproduce,
    "expert": _expert,
    "submit": _submit,
    "evaluate": _evaluate,
    "check": _check,
    "record": _record,
    "learner": _learner,
    "actor": _learner,
    **dict.fromkeys(("show", "render", "up", "status", "down"), _cluster),
}
