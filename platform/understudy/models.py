"""Policies as MLflow models: log, register, load back. With understudy.tracking the only importer of mlflow.

A model holds a policy folder (safetensors and JSON) and names this module as its loader (`_load_pyfunc`), so
nothing is pickled, and `mlflow.pyfunc.load_model(uri).predict(observations)` acts as `Policy.act` does.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from understudy import __version__
from understudy.errors import UnknownName, did_you_mean
from understudy.loading import load_policy
from understudy.observations import (
    LANGUAGE,
    ObservationShape,
    as_shape,
    dtype_of,
    named_parts,
    parts_of,
    told_text,
    without_text,
)
from understudy.policy import Policy
from understudy.policy_document import content_hash, read_document
from understudy.registry import algorithms
from understudy.spec.model_names import check_model_name
from understudy.spec.parts import Language
from understudy.tracking.addresses import absolute_address, check_reachable
from understudy.tracking.checkpoints import STEP_TAG, link_points
from understudy.tracking.client import client, tracking_errors, untyped
from understudy.tracking.preparing import ready
from understudy.tracking.shipping import Point
from understudy.tracking.turns import our_turn

__all__ = ["list_models", "load_policy", "log_model", "offer_best", "register", "set_best", "show_model", "tag_version"]

HASH_TAG = "understudy.content_hash"
Judge = Callable[[Mapping[str, str], int | None], tuple[bool, str]]
"""judge(tags of the version that is the best so far, its number or None) -> (whether the new one is better, why)."""
VERSIONS_TAG = "mlflow.modelVersions"
BEST = "best"
"""The alias of the version that is best by the evaluation in its tags."""
MODEL_NAME = "model"
"""Artifact name of a run's model: runs:/<run id>/model."""
_RUNTIME = ("mlflow", "numpy", "safetensors", "torch")
"""What understudy needs to act; it is not named itself, for on the package index the name is another project's."""
_FOR_TEXTS = ("tokenizers",)
_HOLDS_TABLE: Mapping[str, tuple[str, ...]] = {"wordllama": ("wordllama",)}
"""Packages that hold a text encoder's table."""


# ---- the pyfunc: what mlflow calls ----


class PolicyModel:
    """What mlflow.pyfunc wraps: `predict` on observations [B, *O], or their named parts, gives actions [B, H, A].

    A task's text is the part `language`: an array of B texts, or of their vectors.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def predict(
        self, model_input: np.ndarray | Mapping[str, np.ndarray], params: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Return actions; params are temperature, seed and member, as in Policy.act."""
        settings: dict[str, Any] = {"temperature": None, "seed": 0, "member": 0, **(params or {})}
        parts = named_parts(model_input)
        observations = np.asarray(model_input) if parts is None else {key: np.asarray(x) for key, x in parts.items()}
        return self.policy.act(observations, **settings)


def _load_pyfunc(path: str) -> PolicyModel:  # pyright: ignore[reportUnusedFunction]
    """Load the policy folder of a model; mlflow finds this function by name."""
    return PolicyModel(Policy.load(path))


# ---- log and register ----


def log_model(
    run_id: str,
    folder: Path,
    *,
    tracking_uri: str,
    tags: Mapping[str, Any] | None = None,
    step: int = 0,
    points: Sequence[Point] = (),
) -> str:
    """Log a policy folder as the run's model and return its MLflow model id; the same content is logged once.

    `step` is that of its training, `points` are what was measured of it.
    """
    tracking_uri, folder = absolute_address(tracking_uri), Path(folder)
    digest = content_hash(folder)
    check_reachable(tracking_uri)
    with tracking_errors(tracking_uri), tempfile.TemporaryDirectory() as scratch:
        store = client(tracking_uri)
        from mlflow.entities import LoggedModelOutput

        run = store.get_run(run_id)
        for output in run.outputs.model_outputs if run.outputs else []:
            held = store.get_logged_model(output.model_id)
            if held.tags.get(HASH_TAG) == digest and held.status == "READY":
                return held.model_id
        document = read_document(folder)
        logged = store.create_logged_model(
            run.info.experiment_id,
            name=MODEL_NAME,
            source_run_id=run_id,
            tags={HASH_TAG: digest, STEP_TAG: str(step), **{key: str(value) for key, value in (tags or {}).items()}},
            params={"algo": document["algorithm"], "env_name": document["env_name"]},
            model_type=document["algorithm"],
        )
        _save_pyfunc(Path(scratch) / "model", folder, document, run_id, logged)
        store.log_model_artifacts(logged.model_id, str(Path(scratch) / "model"))
        link_points(tracking_uri, run_id, logged.model_id, points)
        store.finalize_logged_model(logged.model_id, "READY")
        store.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=step)])
        return logged.model_id


def _save_pyfunc(path: Path, folder: Path, document: dict[str, Any], run_id: str, logged: Any) -> None:
    """Write the MLflow model folder `path` around the policy folder."""
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    kind = algorithms.get(document["algorithm"])
    config = kind.Config.recorded(document["config"])
    shape = as_shape(document["observation_shape"])
    inputs: list[Any] = [TensorSpec(*item) for item in _inputs(shape, config.language)]
    width = document["action_dim"] if kind.acts else 1
    actions = TensorSpec(np.dtype(np.float32), (-1, config.chunks.chunk_length, width))
    params = [
        ParamSpec("temperature", "double", config.acting_temperature),
        ParamSpec("seed", "long", 0),
        ParamSpec("member", "long", 0),
    ]
    model = Model(
        artifact_path=logged.artifact_location,
        model_uuid=logged.model_id,
        run_id=run_id,
        model_id=logged.model_id,
        metadata={
            "understudy": __version__,
            "env_name": document["env_name"],
            "seeds": [member["seed"] for member in document["members"]],
        },
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*An input example")  # the signature is complete without one
        untyped(mlflow.pyfunc).save_model(
            str(path),
            loader_module=__name__,
            data_path=str(folder),
            mlflow_model=model,
            signature=ModelSignature(Schema(inputs), Schema([actions]), ParamSchema(params)),
            # named, because inferring them loads the model in a new process
            pip_requirements=requirements(config.language.language_encoder),
        )


def _inputs(shape: ObservationShape, language: Language) -> list[tuple[np.dtype[Any], tuple[int, ...], str | None]]:
    """Return type, shape and name of a signature's inputs; a task's text is one, where none is set."""
    asks = told_text(shape) and language.eval_language is None
    seen = without_text(shape)
    # A single array goes without a name: mlflow hands a named one over as a dict.
    named = asks or isinstance(seen, dict)
    inputs: list[tuple[np.dtype[Any], tuple[int, ...], str | None]] = [
        (np.dtype(dtype_of(name)), (-1, *part), name if named else None) for name, part in parts_of(seen).items()
    ]
    return [*inputs, (np.dtype(str), (-1,), LANGUAGE)] if asks else inputs


def requirements(text_encoder: str | None = None) -> list[str]:
    """Return what a process needs to load a model beside understudy, pinned to the versions here (no +cpu suffix).

    With a text encoder (`language_encoder`), what splits texts and the package that holds the table, too.
    """
    names = _RUNTIME if text_encoder is None else (*_RUNTIME, *_FOR_TEXTS, *_HOLDS_TABLE.get(text_encoder, ()))
    found = {name: importlib.metadata.version(name) for name in names if name in _RUNTIME or find_spec(name)}
    return [f"{name}=={version.split('+')[0]}" for name, version in found.items()]


def register(
    run_id: str,
    folder: Path,
    name: str,
    *,
    tracking_uri: str,
    alias: str | None = "best",
    tags: Mapping[str, Any] | None = None,
    step: int = 0,
) -> int:
    """Make a policy folder a version of the registered model `name`, point the alias at it, return the version.

    Content that is a version already is not registered again, so a resumed sweep may call this as often as it likes.
    """
    check_model_name(name)
    tracking_uri = absolute_address(tracking_uri)
    digest = content_hash(Path(folder))
    check_reachable(tracking_uri)
    with tracking_errors(tracking_uri):
        found = client(tracking_uri).search_model_versions(f"name = '{name}' and tag.`{HASH_TAG}` = '{digest}'")
        version = min((int(item.version) for item in found if item.status == "READY"), default=None)
        if version is None:
            model_id = log_model(run_id, folder, tracking_uri=tracking_uri, tags=tags, step=step)
            texts = {HASH_TAG: digest, **{key: str(value) for key, value in (tags or {}).items()}}
            version = _create_version(tracking_uri, name, run_id, model_id, texts)
        if alias:
            client(tracking_uri).set_registered_model_alias(name, alias, str(version))
    return version


def _create_version(tracking_uri: str, name: str, run_id: str, model_id: str, tags: dict[str, str]) -> int:
    from mlflow.exceptions import MlflowException

    store = client(tracking_uri)
    try:
        store.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    logged = store.get_logged_model(model_id)
    made = store.create_model_version(name, logged.artifact_location, run_id=run_id, tags=tags, model_id=model_id)
    # As mlflow's own register_model does: the model's page then links to its versions.
    versions = [*json.loads(logged.tags.get(VERSIONS_TAG, "[]")), {"name": name, "version": made.version}]
    store.set_logged_model_tags(model_id, {VERSIONS_TAG: json.dumps(versions)})
    return int(made.version)


def tag_version(tracking_uri: str, name: str, version: int, tags: Mapping[str, Any]) -> None:
    """Set tags of a registered version."""
    with tracking_errors(tracking_uri), our_turn(tracking_uri):
        for key, value in tags.items():
            client(absolute_address(tracking_uri)).set_model_version_tag(name, str(version), key, str(value))


def set_best(tracking_uri: str, name: str, version: int) -> None:
    """Point the alias `best` at a version, whatever it reached; UnknownName for one that is not there."""
    held = [item["version"] for item in show_model(tracking_uri, name)["versions"]]
    if version not in held:
        raise UnknownName(f"model {name!r} has no version {version}{did_you_mean(str(version), map(str, held))}")
    with tracking_errors(tracking_uri):
        client(absolute_address(tracking_uri)).set_registered_model_alias(name, BEST, str(version))


def offer_best(tracking_uri: str, name: str, version: int, judge: Judge) -> tuple[bool, str]:
    """Point the alias `best` at a version if `judge` says so; return (whether it is there, why)."""
    with tracking_errors(tracking_uri), our_turn(tracking_uri):
        store = untyped(client(absolute_address(tracking_uri)))
        number = store.get_registered_model(name).aliases.get(BEST)
        if number is not None and int(number) == version:
            return True, "it was before"
        if number is None:
            better, why = judge({}, None)
        else:
            better, why = judge(store.get_model_version(name, number).tags, int(number))
        if better:
            store.set_registered_model_alias(name, BEST, str(version))
    return better, why


# ---- look ----


def list_models(tracking_uri: str) -> list[dict[str, Any]]:
    """Return the registered models: name, newest version, aliases {alias: version}, updated (unix seconds).

    The alias `latest`, the newest, is MLflow's own: nobody sets it.
    """
    tracking_uri = absolute_address(tracking_uri)
    ready(tracking_uri)
    with tracking_errors(tracking_uri):
        rows: list[dict[str, Any]] = []
        store = untyped(client(tracking_uri))
        for model in store.search_registered_models(max_results=1000):
            versions = store.search_model_versions(f"name = '{model.name}'")
            numbers = [int(item.version) for item in versions]
            newest = {"latest": max(numbers)} if numbers else {}
            rows.append(
                {
                    "name": model.name,
                    "versions": len(versions),
                    "newest": newest.get("latest"),
                    "aliases": {alias: int(version) for alias, version in model.aliases.items()} | newest,
                    "updated": (model.last_updated_timestamp or 0) / 1000,
                }
            )
        return rows


def show_model(tracking_uri: str, name: str) -> dict[str, Any]:
    """Return one registered model with its versions, newest first; UnknownName with the nearest name for another."""
    rows = {row["name"]: row for row in list_models(tracking_uri)}
    if name not in rows:
        raise UnknownName(f"unknown model {name!r}{did_you_mean(name, rows)}")
    tracking_uri = absolute_address(tracking_uri)
    with tracking_errors(tracking_uri):
        found = untyped(client(tracking_uri)).search_model_versions(f"name = '{name}'")
        versions: list[dict[str, Any]] = [
            {
                "version": int(item.version),
                "uri": f"models:/{name}/{item.version}",
                "run_id": item.run_id,
                "created": item.creation_timestamp / 1000,
                "status": item.status,
                "aliases": [alias for alias, number in rows[name]["aliases"].items() if number == int(item.version)],
                "tags": dict(item.tags),
            }
            for item in found
        ]
    return {**rows[name], "versions": sorted(versions, key=lambda item: -item["version"])}
