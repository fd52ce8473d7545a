"""What the command line does, from Python: `import understudy`, then `understudy.train(algo="bc", env_name=...)`.

Keys are those of the command line. A text is read as the command line reads it, so `lr="interval(1e-5,1e-3)"` is a
search space and `env_name="A,B"` two tasks; keys with dots are given in a dict: `train(**{"model.lr": 1e-4})`.
What went wrong is an `UnderstudyError` with the one line that the command line would print.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from understudy.errors import UnderstudyError, UserError, did_you_mean
from understudy.files import typed

if TYPE_CHECKING:
    import pandas as pd  # pyright: ignore[reportMissingTypeStubs]

    from understudy.policy import Policy


@dataclass(frozen=True)
class _Evaluated:
    """A folder with evaluation episodes and a policy."""

    path: Path

    @property
    def episodes(self) -> pd.DataFrame:
        """A row for each evaluation episode; of a sweep those of all trials."""
        from understudy.runs.episodes import load_episodes

        rows: Any = load_episodes(self.path)
        return rows.to_pandas()

    def policy(self, device: str = "cpu") -> Policy:
        """Return the trained policy: of a run all seeds, of a sweep the chosen seed of its best configuration."""
        from understudy.loading import load_policy

        return load_policy(self.path, device=device)


class Run(_Evaluated):
    """A run directory: one configuration across its seeds."""

    @property
    def keys(self) -> dict[str, Any]:
        """Every key of the run, with its value."""
        from understudy.runs.directory import RunDir

        return RunDir(self.path).spec().flat()

    @property
    def status(self) -> str:
        """`running`, `interrupted`, `failed` or `finished`."""
        from understudy.runs.directory import RunDir

        return str(RunDir(self.path).state().get("status", "running"))

    @property
    def updates(self) -> pd.DataFrame:
        """Losses and metrics of training: a row for each logged step of each seed, and of an online run's phases."""
        return self._frame("train", "offline_agent", "online_agent")

    @property
    def evaluations(self) -> pd.DataFrame:
        """Means over episodes: a row for each evaluation of each seed."""
        return self._frame("eval")

    @property
    def training_episodes(self) -> pd.DataFrame:
        """Episodes that an online method trained in: a row for each, by the step at which it ended."""
        return self._frame("env")

    def _frame(self, *names: str) -> pd.DataFrame:
        import pandas as pd  # pyright: ignore[reportMissingTypeStubs]

        from understudy.runs.directory import RunDir

        seeds = RunDir(self.path).spec().all_seeds
        folders = {seed: self.path if len(seeds) == 1 else self.path / f"sd{seed:03d}" for seed in seeds}
        files = [(seed, folder / f"{name}.csv") for seed, folder in folders.items() for name in names]
        frames: list[Any] = [cast(Any, pd.read_csv(file)).assign(seed=seed) for seed, file in files if file.is_file()]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"step": [], "seed": []})


class Sweep(_Evaluated):
    """A sweep's folder: configurations across seeds, and the best of them."""

    @property
    def trials(self) -> pd.DataFrame:
        """The sweep's table: a row for each configuration."""
        import pandas as pd  # pyright: ignore[reportMissingTypeStubs]

        return pd.read_csv(_existing(self.path / "summary.csv"))

    @property
    def best(self) -> dict[str, Any]:
        """The chosen configuration: trial, parameters, what it was ranked by and confirmed at, the registered model."""
        from understudy.files import read_object

        return read_object(_existing(self.path / "best.json"))


@dataclass(frozen=True)
class Comparison:
    """A matrix's folder: methods x tasks x seeds, compared."""

    path: Path

    @property
    def table(self) -> pd.DataFrame:
        """A row for each method on each task."""
        import pandas as pd  # pyright: ignore[reportMissingTypeStubs]

        return pd.read_csv(_existing(self.path / "comparison.csv"))

    @property
    def differences(self) -> dict[str, Any]:
        """The whole comparison: results, paired differences with intervals, measures over tasks."""
        from understudy.files import read_object

        return read_object(_existing(self.path / "comparison.json"))


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gave."""

    metrics: dict[str, float]
    """Means over seeds and episodes; `<name>_low` and `<name>_high` are the ends of a 95 % interval."""


def train(*, quiet: bool = False, **keys: Any) -> Run:
    """Train one configuration on one or several seeds, as `understudy train` does; `quiet` prints nothing."""
    from understudy.cli.train import read_run, start_training

    with _printing(quiet):
        made = start_training(read_run(words_of(keys)))
    if made is None:
        raise UserError(
            "this process helps the run of another one (torchrun): use the command line, `understudy train`"
        )
    return Run(made.path)


def sweep(*, quiet: bool = False, **keys: Any) -> Sweep | Comparison:
    """Sweep as `understudy sweep` does; with several methods or tasks, each pair by a sweep of its own."""
    from understudy.cli.compare import start_matrix
    from understudy.cli.sweep import read_sweep, start_sweep
    from understudy.matrix.cells import is_matrix

    words = words_of(keys)
    with _printing(quiet):
        matrix = start_matrix(words, "sweep") if is_matrix(words) else None
        return Comparison(matrix.path) if matrix else Sweep(start_sweep(read_sweep(words)).folder)


def compare(*, quiet: bool = False, **keys: Any) -> Comparison:
    """Train methods x tasks x seeds and compare them, as `understudy compare` does."""
    from understudy.cli.compare import start_matrix

    with _printing(quiet):
        matrix = start_matrix(words_of(keys), "compare")
    assert matrix is not None  # as without --cfg
    return Comparison(matrix.path)


@overload
def evaluate(model: str | Path | Run | Sweep, *, quiet: bool = False, **keys: Any) -> Evaluation: ...
@overload
def evaluate(model: Any, env: Any, action_dim: int | None = None, **keys: Any) -> Played: ...
def evaluate(
    model: Any, env: Any = None, action_dim: int | None = None, *, quiet: bool = False, **keys: Any
) -> Evaluation | Played:
    """Evaluate a run, a sweep's best, or a model, as `understudy evaluate` does.

    With `env`, an environment: play `num_eval_episodes` of an agent's or a policy's there and return (means, episodes,
    videos of the first `num_video_episodes`); `action_dim`, which other tools ask for, is only checked.
    """
    if env is not None:
        return _play(model, env, action_dim, **_of_playing(keys, env))
    from understudy.cli.evaluate import evaluate_model

    source = model.path if isinstance(model, Run | Sweep) else model
    tracking_uri = str(keys.pop("tracking_uri", ""))
    with _printing(quiet):
        return Evaluation(dict(evaluate_model(str(source), words_of(keys), tracking_uri=tracking_uri)))


Played = tuple[dict[str, float], list[dict[str, Any]], list[Any]]
"""Means over episodes, the episodes' columns, videos."""


def _of_playing(keys: dict[str, Any], env: Any) -> dict[str, Any]:
    """Return the arguments of _play; UserError for another one, and for an environment's name."""
    if not callable(getattr(env, "step", None)):
        raise UserError(f"env={env!r:.60}: an environment is needed, like gymnasium.make(...) or MyEnv()")
    keys = {{"eval_episodes": "num_eval_episodes", "eval_seed": "seed"}.get(key, key): keys[key] for key in keys}
    taken = ("num_eval_episodes", "num_video_episodes", "video_frame_skip", "seed")
    for key in keys:
        if key not in taken:
            raise UserError(f"evaluate(model, env) takes no {key!r}{did_you_mean(key, taken)}")
    return keys


def _play(
    model: Any,
    env: Any,
    action_dim: int | None,
    num_eval_episodes: int = 50,
    num_video_episodes: int = 0,
    video_frame_skip: int = 3,
    seed: int = 1_000_000,
) -> Played:
    from understudy.loading import load_policy
    from understudy.policy import Policy
    from understudy.registry import loops

    found: Any = model.policy() if isinstance(model, Run | Sweep) else getattr(model, "policy", model)
    policy = found if isinstance(found, Policy) else load_policy(found)
    if action_dim not in (None, policy.algorithm.action_dim):
        raise UserError(f"action_dim={action_dim}: the policy has {policy.algorithm.action_dim} action dims")
    play = loops.get(policy.algorithm.loop).play
    return play(policy, env, num_eval_episodes, seed=seed, filmed=num_video_episodes, frame_skip=video_frame_skip)


def list_runs(
    save_dir: str | Path = "", tracking_uri: str = "", project: str | None = None, limit: int = 1000
) -> pd.DataFrame:
    """Return the newest runs that MLflow holds as a frame: a row for each, with `metrics.*`, `params.*`, `tags.*`."""
    import pandas as pd  # pyright: ignore[reportMissingTypeStubs]

    from understudy.cli.runs import existing_address
    from understudy.tracking import list_runs as listed

    found = listed(existing_address(tracking_uri, os.fspath(save_dir)), project, limit)
    rows: list[dict[str, Any]] = []
    for run in found:
        nested = {f"{group}.{key}": run[group][key] for group in ("metrics", "params", "tags") for key in run[group]}
        rows.append({**{key: value for key, value in run.items() if not isinstance(value, dict)}, **nested})
    return pd.DataFrame(rows)


def words_of(keys: Mapping[str, Any]) -> list[str]:
    """Return what one would type for these keys; UserError for a value that has no such form."""
    return [f"{key}={_typed(key, value)}" for key, value in keys.items()]


def _typed(key: str, given: Any, inside: bool = False) -> str:
    value: Any = given
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        return _quoted(value) if inside else value
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a number of numpy's or torch's
        value = value.item()
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple | range):
        items = cast("Sequence[Any]", value)
        return "[" + ",".join(_typed(key, item, inside=True) for item in items) + "]"
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return "{" + ",".join(f"{name}:{_typed(key, item, inside=True)}" for name, item in pairs.items()) + "}"
    raise UserError(f"{key}: a {type(value).__name__} is no value of a key; give a number, a text, a list or a dict")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise UserError(
            f"{file.parent} has no {file.name} yet: `understudy resume {typed(file.parent)}` goes on with it"
        )
    return file


@contextmanager
def _printing(quiet: bool) -> Generator[None]:
    """Have commands print, or not; what ends a command in a failure is an error here."""
    import typer

    from understudy.cli.output import console

    before, console.quiet = console.quiet, quiet or console.quiet
    try:
        yield
    except typer.Exit as error:
        raise UnderstudyError(f"not all of it was done (exit {error.exit_code}): see what was printed") from error
    finally:
        console.quiet = before
