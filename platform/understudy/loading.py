"""Find the policy behind an address or a path. Paths need no mlflow; addresses ask one store, never a global one."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from understudy.errors import UnknownName, UserError, did_you_mean
from understudy.files import typed, user_path
from understudy.policy import Policy
from understudy.policy_document import POLICY_FILE
from understudy.tracking.addresses import absolute_address, sqlite_path
from understudy.tracking.preparing import ready

FINAL_MODEL = "final_model.pt"
_VERSION = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+|latest))")
_RUN = re.compile(r"runs:/(?P<run_id>\w+)/(?P<name>.+)")
_MODEL_ID = re.compile(r"models:/(?P<model_id>m-\w+)")


def load_policy(source: str | Path, tracking_uri: str | None = None, device: torch.device | str = "cpu") -> Policy:
    """Return the policy at a model address or a path.

    `source` is models:/name@alias, models:/name/3, runs:/<run id>/model, a policy folder, an MLflow model folder, a
    run directory (all of its seeds), a sweep's folder (its best policy), or a .pt file. `tracking_uri` is for the first
    three; default as in RunSpec.
    """
    text = str(source)
    if re.match(r"(models|runs):/", text):
        return _from_store(text, tracking_uri, device)
    path = user_path(source)
    if not path.exists():
        raise UserError(
            f"no policy at {text!r}: give models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID/model,"
            " a run directory, a policy folder or a .pt file"
        )
    if path.is_file():
        return Policy.from_checkpoint(path, device=device)
    if (path / POLICY_FILE).is_file():
        return Policy.load(path, device)
    inside = sorted(path.glob(f"data/*/{POLICY_FILE}")) if (path / "MLmodel").is_file() else []
    if inside:
        return Policy.load(inside[0].parent, device)
    if (path / "sweep.json").is_file():
        return _best_of_sweep(path, device)
    models = [path / FINAL_MODEL] if (path / FINAL_MODEL).is_file() else sorted(path.glob(f"sd*/{FINAL_MODEL}"))
    if not models:
        kept = sorted(path.rglob("checkpoint_*.pt"), key=lambda file: int(file.stem.split("_")[1]))
        hint = f"; it kept {kept[-1]}" if kept else ""
        raise UserError(f"{path} holds no {FINAL_MODEL}, {POLICY_FILE} or MLmodel: has the run finished?{hint}")
    return Policy.from_checkpoint(*models, device=device)


def with_settings(policy: Policy, words: Sequence[str]) -> Policy:
    """Return the policy with the evaluation-time settings of key=value words (flow_steps=5, n_action_steps=8).

    UserError for a key that would need training, SpecError for a value out of bounds.
    """
    from understudy.spec.compose import flat_values, parse
    from understudy.spec.keys import validate

    given = flat_values(parse(words))
    config = policy.algorithm.config
    if all(key in policy.algorithm.evaluation_parameters for key in given):
        validate(type(config), {**config.model_dump(), **given})
    return policy.with_config(**given)


def _best_of_sweep(sweep: Path, device: torch.device | str) -> Policy:
    """Return the policy that a sweep found to be its best; UserError, with its trials, before it has found one."""
    if (sweep / "best" / POLICY_FILE).is_file():
        return Policy.load(sweep / "best", device)
    done = [trial for trial in sorted(sweep.glob("trials/*")) if any(trial.rglob(FINAL_MODEL))]
    hint = f"; a trial that has finished: {done[0]}" if done else ""
    raise UserError(
        f"{sweep} is a sweep that has no best policy yet: `understudy resume {typed(sweep)}` goes on with it{hint}"
    )


def _from_store(uri: str, tracking_uri: str | None, device: torch.device | str) -> Policy:
    from understudy.tracking.artifacts import download
    from understudy.tracking.client import tracking_errors

    if tracking_uri is None:
        from understudy.spec.placement import Placement

        tracking_uri = Placement().tracking()
    tracking_uri = _reachable(uri, tracking_uri)
    with tracking_errors(tracking_uri), tempfile.TemporaryDirectory() as scratch:
        return load_policy(download(tracking_uri, _location(uri, tracking_uri), Path(scratch)), device=device)


def run_of(uri: str, tracking_uri: str) -> str:
    """Return the id of the MLflow run that a model is of: at models:/NAME@ALIAS, models:/NAME/3, runs:/RUN_ID/NAME."""
    from understudy.tracking.client import client, tracking_errors

    if match := _RUN.fullmatch(uri):
        return match["run_id"]
    tracking_uri = _reachable(uri, tracking_uri)
    with tracking_errors(tracking_uri):
        store: Any = client(tracking_uri)
        if match := _MODEL_ID.fullmatch(uri):
            return store.get_logged_model(match["model_id"]).source_run_id
        if match := _VERSION.fullmatch(uri):
            return _version(store, match["name"], match["alias"], match["version"]).run_id
    raise _unknown(uri)


def _reachable(uri: str, tracking_uri: str) -> str:
    """Return the store's address, absolute, or raise what keeps it from being asked for a model."""
    tracking_uri = absolute_address(tracking_uri)
    path = sqlite_path(tracking_uri)
    if path is not None and not path.is_file():  # asking mlflow would make an empty one
        raise UserError(f"{uri}: there is no tracking store {path}; give the tracking_uri it was registered in")
    ready(tracking_uri)
    return tracking_uri


def _unknown(uri: str) -> UserError:
    return UserError(f"{uri!r} is none of models:/NAME@ALIAS, models:/NAME/VERSION and runs:/RUN_ID/model")


def _location(uri: str, tracking_uri: str) -> str:
    """Return the artifact address of a models:/ or runs:/ address.

    mlflow would resolve aliases in its process-wide registry, whatever store is asked for: so it is done here.
    """
    from understudy.tracking.artifacts import artifact_names
    from understudy.tracking.client import client

    store: Any = client(tracking_uri)
    if match := _MODEL_ID.fullmatch(uri):
        return store.get_logged_model(match["model_id"]).artifact_location
    if match := _VERSION.fullmatch(uri):
        version = _version(store, match["name"], match["alias"], match["version"])
        if version.model_id:
            return store.get_logged_model(version.model_id).artifact_location
        return store.get_model_version_download_uri(version.name, version.version)
    if match := _RUN.fullmatch(uri):
        run = store.get_run(match["run_id"])
        outputs: list[Any] = run.outputs.model_outputs if run.outputs else []
        models = [store.get_logged_model(output.model_id) for output in outputs]
        named = [model for model in models if model.name == match["name"]]
        if named:
            return max(named, key=lambda model: model.creation_timestamp).artifact_location
        held = artifact_names(tracking_uri, run)
        if match["name"].split("/")[0] not in held:
            names = {*held, *(model.name for model in models)}
            raise UnknownName(
                f"{uri}: the run has no {match['name']!r}{did_you_mean(match['name'], names)};"
                f" `understudy models register {match['run_id']}` makes a model of a finished run"
            )
        return f"{run.info.artifact_uri}/{match['name']}"
    raise _unknown(uri)


def _version(store: Any, name: str, alias: str | None, number: str | None) -> Any:
    """Return a model version; UnknownName with the nearest name, alias or version."""
    models = {model.name: model for model in store.search_registered_models(max_results=1000)}
    if name not in models:
        raise UnknownName(f"unknown model {name!r}{did_you_mean(name, models)}")
    if alias == "latest" or number == "latest":  # MLflow keeps the word for itself, and resolves it in addresses only
        found = store.search_model_versions(f"name = '{name}'")
        if not found:
            raise UnknownName(f"model {name!r} has no version")
        return max(found, key=lambda item: int(item.version))
    if alias:
        if alias not in models[name].aliases:
            raise UnknownName(f"model {name!r} has no alias {alias!r}{did_you_mean(alias, models[name].aliases)}")
        return store.get_model_version_by_alias(name, alias)
    versions = {str(item.version): item for item in store.search_model_versions(f"name = '{name}'")}
    if number not in versions:
        raise UnknownName(f"model {name!r} has no version {number}{did_you_mean(str(number), versions)}")
    return versions[number]
