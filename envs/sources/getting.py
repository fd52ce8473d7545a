"""Say how a dataset that is not here can be had: only ways that work for its name, as commands to type."""

from __future__ import annotations

import difflib
import shlex
from pathlib import Path

from understudy.envs.sources.names import POLICY, SCRIPTED, made_name
from understudy.envs.sources.source import Source, ids_taken_as_names, task_of
from understudy.envs.sources.task import Task
from understudy.envs.store.finding import find_store, list_stores, store_path
from understudy.envs.store.store import MANIFEST, EpisodeStore
from understudy.errors import DatasetError, UnknownName, UserError, nearest
from understudy.files import home, user_path
from understudy.registry import sources

SHOWN = 8
"""Names that a message lists of each kind."""
SAME = 0.8
"""How like an environment's id a name must be to be taken for it, misspelt: most short names are a bit like some id."""


def find_dataset(name: str, data_dir: str | Path) -> EpisodeStore:
    """Open a dataset by name; DatasetError, with the commands that bring or make it, when it is not in `data_dir`."""
    if (store_path(name, data_dir) / MANIFEST).is_file():
        return find_store(name, data_dir)
    try:
        task = task_of(name)
    except UnknownName:
        raise unknown_dataset(name, data_dir, "no dataset") from None
    raise missing_dataset(task, data_dir)


def missing_dataset(task: Task, data_dir: str | Path, also: str = "") -> DatasetError:
    """Return the error of a dataset whose name is known and that is not here; `also` is one more way to get it."""
    name = task.env_name
    published = list(task.source.known_names())
    own = nearest(name, [*_own_names(data_dir), *(published if name not in published else [])])
    hint = f" (did you mean {own!r}?)" if own else ""
    ways = [*ways_to_get(task, data_dir), *([also] if also else [])]
    return DatasetError(f"no dataset {name!r} in {user_path(data_dir)}{hint}; get it with {', or '.join(ways)}")


def unknown_dataset(name: str, data_dir: str | Path, what: str = "unknown environment") -> UnknownName:
    """Return the error of a name that nobody knows: the nearest of one's own datasets and plug-ins, then of the others.

    A name of others is suggested where it is clearly the closer one.
    """
    if said := next((said for _, source in sources.items() if (said := source.advice(name))), ""):
        return UnknownName(f"{what} {name!r}: {said}")
    own = _own_names(data_dir)
    plug_ins = [known for _, source in sources.items() if not _is_ours(source) for known in source.known_names()]
    known = [item for _, source in sources.items() if _is_ours(source) for item in source.known_names()]
    known += [item for item in ids_taken_as_names() if _likeness(name, item) > SAME]
    mine, others = nearest(name, [*own, *plug_ins]), nearest(name, known)
    close = others if _likeness(name, others) > _likeness(name, mine) + 0.1 else mine or others
    hint = f" (did you mean {close!r}?)" if close else ""
    near = difflib.get_close_matches(name, own, n=SHOWN, cutoff=0.0)
    here = f"; in {user_path(data_dir)}: {', '.join(near)}{', ...' * (len(own) > len(near))}" if near else ""
    similar = difflib.get_close_matches(name, [*plug_ins, *known], n=SHOWN, cutoff=0.4)
    names = f"; published names like it: {', '.join(similar)}" if similar else ""
    files = "; `understudy data import SOURCE FILE --name NAME --env_name PUBLISHED` brings a file under another name"
    return UnknownName(f"{what} {name!r}{hint}{here}{names}{'' if close else files}")


def ways_to_get(task: Task, data_dir: str | Path) -> list[str]:
    """Return commands that bring or make a dataset of that name, the nearest at hand first."""
    name, source = task.env_name, task.source
    ways, quoted, file = [], shlex.quote(name), task.found()
    usual = user_path(data_dir).absolute() == (home() / "datasets").absolute()
    end = "`" if usual else f" --data_dir {shlex.quote(str(user_path(data_dir)))}`"
    if file is not None:
        ways.append(f"`understudy data import {source.name} {shlex.quote(str(file))} --name {quoted}{end}")
    if task.downloadable:
        ways.append(f"`understudy data download {quoted}{end}")
    made = _made_by_expert(task)
    if source.simulated and not task.downloadable and made != name == made_name(name, POLICY):
        ways.append(f"`understudy data generate {quoted} --policy MODEL{end}")
    elif made:
        what = "" if made == name else f" (an expert's demonstrations of its task, called {made})"
        ways.append(f"`understudy data generate {quoted}{end}{what}")
    if file is None and not task.downloadable:
        ways += [f"`{command}{end}" for command in task.import_commands()]
    return ways


def _made_by_expert(task: Task) -> str:
    """Return what `understudy data generate NAME` calls its dataset; '' where it has no expert."""
    try:
        return made_name(task.env_name, SCRIPTED) if task.expert() is not None else ""
    except UserError:  # the simulator that would tell is not installed
        return ""


def _own_names(data_dir: str | Path) -> list[str]:
    return [manifest.name for manifest in list_stores(data_dir)]


def _is_ours(source: Source) -> bool:
    return type(source).__module__.startswith("understudy.")


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio() if other else 0.0
