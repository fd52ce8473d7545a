"""Turn command-line words into flat values: Hydra's grammar, groups and YAML; both spellings.

`--lr=1e-4`, `--lr 1e-4`, `--sparse` and `lr=1e-4` mean the same. Sweep values are Hydra's own:
`lr=interval(1e-5,1e-3)`, `lr=tag(log,interval(...))`, `horizon_length=1,5,10`, `choice(...)`, `range(...)`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from understudy.errors import SpecError, UserError, did_you_mean
from understudy.files import user_path
from understudy.registry import sources
from understudy.spec.keys import shared_fields
from understudy.spec.nested import translated
from understudy.spec.presets import ABOUT, BY_ALGO, check_method
from understudy.spec.words import ALIASES

log = logging.getLogger("understudy")
OTHER = "_other"
"""File of a group for names that it has no file of: OTHER in its values is the name."""
CONF = Path(__file__).parents[1] / "conf"
NO_WANDB = ("--no-wandb", "--no_wandb")
_KEY = re.compile(r"^[A-Za-z_][\w./@-]*$")


def to_overrides(words: Sequence[str]) -> list[str]:
    """Return `key=value` words for any mixture of the spellings above.

    `--no-wandb`, which other tools' commands have, asks for what is so anyway, and is left out.
    """
    overrides: list[str] = []
    waiting: str | None = None
    for word in words:
        if word in NO_WANDB:
            continue
        if word.startswith("--"):
            if waiting is not None:
                overrides.append(f"{waiting}=true")
            waiting = None
            name = word[2:]
            if "=" in name:
                key, value = name.split("=", 1)
                if not _KEY.match(key):
                    raise UserError(f"cannot read {word!r}: write key=value or --key=value")
                overrides.append(f"{key.replace('-', '_')}={value}")
            elif _KEY.match(name):
                waiting = name.replace("-", "_")
            else:
                raise UserError(f"cannot read {word!r}: write key=value or --key=value")
        elif "=" in word and (waiting is None or _KEY.match(word.split("=", 1)[0])):
            if waiting is not None:
                overrides.append(f"{waiting}=true")
                waiting = None
            overrides.append(word)
        elif waiting is not None:
            overrides.append(f"{waiting}={word}")
            waiting = None
        else:
            raise UserError(f"cannot read {word!r}: write key=value or --key=value")
    if waiting is not None:
        overrides.append(f"{waiting}=true")
    return overrides


def parse(words: Sequence[str]) -> list[Override]:
    """Parse words with Hydra's grammar; a value it cannot read is taken as a string."""
    parser = OverridesParser.create()
    parsed: list[Override] = []
    for override in to_overrides(words):
        key, value = override.split("=", 1)
        if value == "None":
            override = f"{key}=null"
        try:
            parsed.append(parser.parse_override(override))
        except HydraException:
            quoted = value.replace("\\", "\\\\").replace("'", "\\'")
            try:
                parsed.append(parser.parse_override(f"{key}='{quoted}'"))
            except HydraException as error:
                raise UserError(f"cannot read {override!r}: {str(error).splitlines()[0]}") from None
    seen: dict[str, str] = {}
    for item in parsed:
        key = _key(item)
        held = seen.setdefault(ALIASES.get(key, key), key)
        if held != key:
            raise SpecError(f"{held}= and {key}= are two names of one key, {ALIASES.get(key, key)}: give one of them")
    return parsed


def _key(override: Override) -> str:
    """Return the key (or the group) of a parsed word; Hydra's own field has no type."""
    return str(cast(Any, override).key_or_group)


def given_keys(words: Sequence[str]) -> list[str]:
    """Return the keys that the words themselves give, and no group that they choose."""
    return [_key(item) for item in parse(words)]


def split_sweeps(overrides: Sequence[Override]) -> tuple[list[Override], dict[str, Sweep]]:
    """Separate plain overrides from those whose value is a sweep."""
    plain = [item for item in overrides if not item.is_sweep_override()]
    sweeps: dict[str, Sweep] = {}
    for item in overrides:
        if item.is_sweep_override():
            value = item.value()
            if not isinstance(value, ChoiceSweep | IntervalSweep | RangeSweep):
                raise UserError(f"{item.input_line}: only choices, range(...) and interval(...) can be swept")
            sweeps[_key(item)] = value
    return plain, sweeps


def listed(key: str, sweep: Sweep) -> list[Any]:
    """Return the values of a list, choice(...) or range(...), in order; UserError for an interval."""
    if isinstance(sweep, ChoiceSweep):
        return [_plain(value) for value in sweep.list]
    if isinstance(sweep, RangeSweep):
        return _of_range(key, sweep)
    assert isinstance(sweep, IntervalSweep)
    raise UserError(f"{key}=interval({sweep.start:g},{sweep.end:g}): give a list of values, like {key}=0,1,2")


MOST_VALUES = 100_000
"""Values that a range(...) may have."""


def _of_range(key: str, sweep: RangeSweep) -> list[Any]:
    start, stop, step = (float(value or 0) for value in (sweep.start, sweep.stop, sweep.step))
    if step and (stop - start) / step > MOST_VALUES:
        raise UserError(
            f"{key}=range({start:g},{stop:g}): at most {MOST_VALUES} values; interval(...) has no such bound"
        )
    return list(sweep.range())


def flat_values(overrides: Sequence[Override], config_dir: str | None = None) -> dict[str, Any]:
    """Compose groups and YAML of `conf/` (and of the user's `config_dir`) with the overrides; return flat keys.

    A group is a folder of YAML files there (`experiment=quickstart`, `bridgedata=lift_carrot_100`). Keys that are
    no group are passed through as given, so that `build_run` can check their names against the algorithm's own.
    """
    groups = groups_in(config_dir)
    values: dict[str, Any] = {}
    chosen: list[str] = []
    others: dict[str, str] = {}
    for item in overrides:
        key = _key(item)
        if key in groups:
            option = str(item.value())
            if option not in groups[key] and OTHER in groups[key]:
                others[key] = option
                option = OTHER
            if option not in groups[key]:
                raise SpecError(f"unknown {key} {option!r}{did_you_mean(option, groups[key])}")
            chosen.append(f"+{key}={option}")
        elif item.is_delete():
            raise UserError(f"{item.input_line}: a key cannot be deleted; leave it out")
        elif isinstance(item.value(), bool | int | float) and key in _texts():
            values[key] = str(item.input_line).split("=", 1)[1]  # run_group=007 names a group
        else:
            values[key] = item.value()
    composed: dict[str, Any] = {}
    try:
        chosen.sort(key=lambda word: word.startswith("+preset="))  # over those that other groups bring
        search = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir else []
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            config = compose(config_name="run", overrides=[*search, *chosen])
            _check_variables(OmegaConf.to_container(config, resolve=False))
            composed = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
            composed |= {key: value.replace("OTHER", option) for option in others.values()
                         for key, value in composed.items() if isinstance(value, str)}  # fmt: skip
    except (HydraException, OmegaConfBaseException) as error:
        raise SpecError(str(error).splitlines()[0]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}: " if mark else ""
        raise SpecError(f"{where}not readable YAML ({error.problem})") from None
    given, left_out = translated({key: _plain(value) for key, value in values.items()})
    about: dict[str, Any] = composed.pop(ABOUT, {})
    preset, _ = translated(composed)
    if left_out:
        log.warning("note: keys that ask for nothing here are left out: %s", ", ".join(left_out))
    named = next((word.partition("=")[2] for word in chosen if word.startswith("+preset=")), "")
    return _with_environment({**_of_method(preset, given, named, about), **given})


def _of_method(
    preset: dict[str, Any], given: Mapping[str, Any], named: str, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the keys of chosen groups, with those that are for the chosen method alone (`by_algo`).

    SpecError where a preset is `named` that is for other methods.
    """
    by_algo: dict[str, dict[str, Any]] = preset.pop(BY_ALGO, {})
    algo = str(next((value for key, value in given.items() if ALIASES.get(key, key) == "algo"), preset.get("algo", "")))
    if named:
        check_method(named, about, algo)
    return {**preset, **by_algo.get(algo, {})}


_VARIABLE = re.compile(r"\$\{\s*oc\.env\s*:\s*([^},]*)")


def _check_variables(value: Any) -> None:
    """Refuse variables of the environment in YAML: what they hold, secrets too, would be written into every run."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            _check_variables(item)
    elif isinstance(value, str) and (found := _VARIABLE.search(value)):
        raise SpecError(
            f"${{oc.env:{found[1]}}}: variables of the environment are not read from YAML: every run's files would keep"
            " what they hold; give the value as KEY=VALUE, and secrets in the variable that the key's help names"
        )


def _with_environment(values: dict[str, Any]) -> dict[str, Any]:
    """Add the environment that an expert buffer was recorded in, where the words name no other."""
    if values.get("expert_data") and not any(ALIASES.get(key, key) == "env_name" for key in values):
        values["env_name"] = environment_of(str(values["expert_data"]))
    return values


def environment_of(expert_data: str) -> str:
    """Return the environment that an expert buffer was recorded in; DatasetError where that cannot be told."""
    return sources.get("expert_buffer").environment_in(user_path(expert_data).absolute())


TEXT: tuple[Any, ...] = (str, str | None)


def _texts() -> set[str]:
    """Return the keys whose value is a text, even where it looks like a number."""
    texts = {key for key, field in shared_fields().items() if field.annotation in TEXT}
    return texts | {word for word, key in ALIASES.items() if key in texts}


def groups_in(config_dir: str | None) -> dict[str, list[str]]:
    """Return the names of Hydra's groups and of each its options: ours, and those of the user's folder."""
    groups: dict[str, list[str]] = {}
    for root in [CONF, *([Path(config_dir)] if config_dir else [])]:
        if not root.is_dir():
            raise UserError(f"--config-dir {root}: no such folder")
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            groups.setdefault(folder.name, []).extend(file.stem for file in sorted(folder.glob("*.yaml")))
    return groups


def _plain(value: Any) -> Any:
    """Turn Hydra's quoted strings and nested containers into plain Python values."""
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    if hasattr(value, "text") and hasattr(value, "quote"):
        return value.text
    return value
