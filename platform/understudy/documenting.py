"""Pages about the algorithms, written from the registry so that they cannot drift from the code.

    python -m understudy.documenting docs/methods

writes one page an algorithm and their index; a test says when they are out of date. What a page says of options,
defaults and evaluation-time settings is the config's own; the text is the module's docstring.
"""

from __future__ import annotations

import argparse
import enum
import inspect
import json
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from understudy.algorithm import Algorithm
from understudy.files import write_atomic
from understudy.registry import algorithms
from understudy.spec.choices import choices_of
from understudy.spec.presets import presets

PUBLISHED = "[Presets](presets.md) set the published protocol of a method."
INDEX, PRESETS = "README.md", "presets.md"
PRESETS_TEXT = """\
`preset=NAME` sets a method's published protocol: its sizes, optimiser and schedule, scaling, the noise that it acts
with, how often and on how many episodes it is evaluated, and which checkpoint counts. What the command line says goes
before it.

    understudy train preset=qc env_name=lift-mh-low_dim
    understudy train preset=robomimic env_name=lift-mh-low_dim training_steps=20000    # shorter than published

A preset is one file, `conf/preset/NAME.yaml` in the package or `DIR/preset/NAME.yaml` with `--config-dir DIR`; its
`about` is what this page says. Each is written from the published code; published numbers are of the published data."""
ABOUT_TITLES = {"source": "Source", "counts": "What counts", "differs": "What differs here"}


def pages() -> dict[str, str]:
    """Return the text of every page by file name; only algorithms that come with understudy have one."""
    kinds = {name: kind for name, kind in algorithms.items() if kind.__module__.startswith("understudy.")}
    methods = {f"{name}.md": method_page(kind) for name, kind in kinds.items()}
    return {INDEX: _index(kinds), PRESETS: presets_page(), **methods}


def presets_page() -> str:
    """Return the page about the published protocols: what each sets, where it is from, and what differs from it."""
    sections = ["# Presets", PRESETS_TEXT]
    for preset in presets():
        about = preset.about
        facts = [f"- **{title}:** {about[key]}" for key, title in ABOUT_TITLES.items() if key in about]
        methods = ", ".join(f"`{name}`" for name in about.get("methods", ()))
        facts += [f"- **For:** {methods}"] if methods else []
        keys = [f"`{key}={_word(value)}`" for key, value in preset.keys.items()]
        lines = [", ".join(keys)]
        for algo, own in preset.by_algo.items():
            lines.append(f"With `algo={algo}`: " + ", ".join(f"`{key}={_word(value)}`" for key, value in own.items()))
        sections += [f"## preset={preset.name}", preset.what + ".", "\n".join(facts), *lines]
    return "\n\n".join(sections) + "\n"


def _word(value: Any) -> str:
    """Return a value as the command line takes it."""
    return json.dumps(value).replace('"', "").replace(" ", "")


def method_page(kind: type[Algorithm]) -> str:
    """Return one algorithm's page: what, papers, command, result, options."""
    module = inspect.getdoc(inspect.getmodule(kind)) or ""
    text = module.split("Shape suffixes:")[0].rstrip()
    own, parts = kind.Config.groups()
    sections = [f"# {kind.name}", inspect.cleandoc(kind.__doc__ or ""), text]
    if kind.example:
        sections += ["## Command", f"    {kind.example}"]
    if kind.expected:
        sections += ["## Result", kind.expected]
    sections += ["## Options of its own", _table(own) if own else "None."]
    changed = {name: field for fields in parts.values() for name, field in fields.items() if _differs(kind, name)}
    if changed:
        sections += ["## Defaults that differ", _table(changed)]
    for title, fields in parts.items():
        others = {name: field for name, field in fields.items() if name not in changed}
        sections += [f"## Options of {title}", _table(others)] if others else []
    if kind.evaluation_parameters:
        names = ", ".join(f"`{name}`" for name in kind.evaluation_parameters)
        sections.append(f"A trained policy takes other values of {names} without training anew.")
    return "\n\n".join(sections) + "\n"


def _differs(kind: type[Algorithm], name: str) -> bool:
    """Return whether a setting has another default here than in the part that it is from."""
    parts = [base for base in kind.Config.__mro__ if issubclass(base, BaseModel) and base is not BaseModel]
    first = next(part for part in reversed(parts) if name in part.model_fields)
    return kind.Config.model_fields[name].default != first.model_fields[name].default


def _index(kinds: dict[str, type[Algorithm]]) -> str:
    rows = [f"| [{name}]({name}.md) | {(kind.__doc__ or '').splitlines()[0]} |" for name, kind in kinds.items()]
    return "\n".join(["# Methods", "", "| algo | what it does |", "| --- | --- |", *rows, "", PUBLISHED, ""])


def _table(fields: dict[str, FieldInfo]) -> str:
    rows: list[str] = []
    for name, field in fields.items():
        default = _shown(field.get_default(call_default_factory=True))
        rows.append(f"| `{name}` | {default} | {_allowed(field)} | {field.description} |")
    return "\n".join(["| option | default | allowed | meaning |", "| --- | --- | --- | --- |", *rows])


def _shown(value: Any) -> str:
    if isinstance(value, enum.Enum):
        value = value.value
    return f"`{value:g}`" if isinstance(value, float) else f"`{json.dumps(value)}`"


def _allowed(field: FieldInfo) -> str:
    """Return a field's choices or bounds."""
    choices = ("true", "false") if field.annotation is bool else choices_of(field)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    signs = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}
    bounds: list[str] = []
    for item in field.metadata:
        for kind, sign in signs.items():
            if isinstance(item, kind):
                bounds.append(f"{sign} {getattr(item, kind.__name__.lower()):g}")
    return " and ".join(bounds)


def main(folder: Path) -> None:
    """Write the pages to `folder` and remove those of algorithms that are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for name, text in wanted.items():
        write_atomic(folder / name, lambda file, text=text: file.write(text.encode()))
    for file in folder.glob("*.md"):
        if file.name not in wanted:
            file.unlink()


if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="python -m understudy.documenting", description=__doc__)
    options.add_argument("folder", type=Path, help="docs/methods: every other .md file there is removed")
    main(options.parse_args().folder)
