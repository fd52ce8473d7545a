"""What commands print of runs: their keys, notes, specs and results."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from understudy.cli.output import console, show_mapping, show_table

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from understudy.runs.directory import RunDir
    from understudy.spec.part import Role
    from understudy.spec.run import RunSpec


def show_notes(notes: list[str]) -> None:
    """Print what should be known and keeps nothing from being done."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def show_run(flat: Mapping[str, Any], spec: RunSpec, indent: int = 0) -> None:
    """Print a run's keys as YAML in three groups; `flat` may lack some of them."""
    former = spec.former.model_dump(mode="json")
    groups: dict[Role, str] = {
        "what": f"what is trained (algo {spec.algo})",
        "when": "when it is logged, evaluated and kept",
        "where": "where it runs and what it writes",
    }
    for role, title in groups.items():
        show_mapping({key: flat[key] for key in spec.flat((role,)) if key in flat and key not in former}, title, indent)
    if former:
        title = f"what earlier versions wrote too, and algo {spec.algo} does not take"
        show_mapping({key: flat[key] for key in former}, title, indent)


def show_result(metrics: Mapping[str, float]) -> None:
    """Print an evaluation's means and its interval, with the seeds and episodes behind it."""
    from understudy.runs.results import objective_name
    from understudy.sweeping.format import objective_text

    name = objective_name(metrics)
    if name is None:
        return
    seeds, episodes = int(metrics.get(f"{name}_seeds", 1)), int(metrics.get(f"{name}_episodes", 0))
    counts = f" over {seeds} seed{'s' if seeds > 1 else ''} x {episodes} episodes" if episodes else ""
    if "return" not in metrics:  # nothing was rolled out
        console.print(f"{name} {objective_text(metrics)}")
        return
    acted = f", temperature {metrics['temperature']:g}" if "temperature" in metrics else ""
    means = f"return {metrics['return']:.2f}, length {metrics['length']:.1f}"
    console.print(f"{name} {objective_text(metrics)}{counts}; {means}{acted}")


def show_settings(run: RunDir, spec: RunSpec) -> None:
    """Print the score at each of the evaluation-time settings that the last evaluation was made at."""
    from understudy.runs.directory import read_csv
    from understudy.runs.results import objective_name
    from understudy.sweeping.format import objective_text

    path = run.path / "eval_grid.csv"
    if spec.evaluation.eval_grid is None or not path.is_file():
        return
    settings: dict[str, dict[str, float]] = {}
    for column, value in read_csv(path)[-1].items():
        setting, _, name = column.rpartition("/")
        if setting and isinstance(value, float):
            settings.setdefault(setting, {})[name] = value
    rows = [(setting, objective_text(metrics)) for setting, metrics in settings.items()]
    name = objective_name(next(iter(settings.values()))) or "score"
    show_table(("setting", f"{name} [95 %]"), rows, title="the same policies at each evaluation-time setting")


def show_keys(examples: str, words: list[str], extra: type[BaseModel] | None = None) -> None:
    """Print examples, then every key with its default and meaning."""
    from understudy.spec.keys import algo_of, key_groups
    from understudy.spec.presets import presets

    console.print(f"{examples}\n", markup=False, soft_wrap=True)
    given = dict(word.lstrip("-").split("=", 1) for word in words if "=" in word)
    groups = key_groups(algo_of(given))
    own = {getattr(extra, "title", "a sweep"): extra.model_fields} if extra else {}
    show_table(("preset=", "what it sets"), [(item.name, item.what) for item in presets()], title="published protocols")
    console.print()
    for title, fields in {**own, **groups}.items():
        show_table(("key", "default", "meaning"), key_rows(fields), title=f"keys of {title}")
        console.print()


def key_rows(fields: Mapping[str, FieldInfo]) -> list[tuple[str, str, str]]:
    """Return each key with its default and meaning, for a table."""
    return [(name, _default(field), _meaning(field)) for name, field in fields.items()]


def _meaning(field: FieldInfo) -> str:
    """Return a field's description, and its choices where the description does not have them."""
    from understudy.spec.choices import choices_of

    choices = choices_of(field)
    meaning = field.description or ""
    return meaning if not choices else f"{', '.join(choices)}: {meaning}"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value in (None, ""):
        return "-"
    return ",".join(map(str, cast("tuple[Any, ...]", value))) if isinstance(value, tuple) else str(value)
