"""What is said of a policy beside its weights, as JSON: its method, settings, normaliser, what it was trained on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.algorithm import Algorithm
from understudy.errors import CheckpointError, UnknownName
from understudy.files import parse_json
from understudy.normaliser import Normaliser
from understudy.registry import algorithms

if TYPE_CHECKING:
    from understudy.spec.run import RunSpec

POLICY_FILE = "policy.json"
"""The document in a policy's folder, and how it is laid out."""
FORMAT_VERSION = 1


def policy_document(
    spec: RunSpec, algorithm: Algorithm, normaliser: Normaliser, environment: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the JSON-able description that a checkpoint holds beside its weights; paths and addresses stay out.

    `environment` is what the dataset said about its environment, so that a policy can be evaluated without its data.
    """
    return {
        **description(algorithm, normaliser),
        "env_name": spec.env_name,
        "environment": dict(environment or {}),
        "spec": spec.shared(),
    }


def method_of(document: Mapping[str, Any], where: str) -> type[Algorithm]:
    """Return a policy's algorithm; UnknownName that says which package it is in, where it is a plug-in's."""
    try:
        return algorithms.get(document["algorithm"])
    except UnknownName as error:
        module, package = document.get("module", ""), document.get("package", "")
        if not module:
            raise
        install = f"install {package}, or " if package else ""
        raise UnknownName(
            f"{where}: its method {document['algorithm']!r} is of {module}, which is not loaded here: {install}set"
            f" UNDERSTUDY_PLUGINS={module.rpartition('.')[0] or module} where Python finds it"
        ) from error


def _of_plug_in(algorithm: Algorithm) -> dict[str, str]:
    """Return the module of a method that is not this package's, and the distribution that has it with its version."""
    module = type(algorithm).__module__
    if module.startswith("understudy."):
        return {}
    names = importlib.metadata.packages_distributions().get(module.partition(".")[0], [])
    package = f"{names[0]}=={importlib.metadata.version(names[0])}" if names else ""
    return {"module": module, **({"package": package} if package else {})}


def read_document(folder: Path) -> dict[str, Any]:
    """Return the content of a policy folder's policy.json; CheckpointError in one line when there is none to read."""
    path = folder / POLICY_FILE
    try:
        document = parse_json(path.read_bytes())
        version = document["format_version"]
        missing = {"algorithm", "config", "observation_shape", "action_dim", "normaliser", "members"} - set(document)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is no policy folder: it has no {POLICY_FILE}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format version {version}; this understudy reads {FORMAT_VERSION}")
    if missing:
        raise CheckpointError(f"{path} is damaged: it has no {', '.join(sorted(missing))}")
    return {"env_name": "", "spec": {}, **document}


def content_hash(folder: Path) -> str:
    """Return 32 hex digits over what a policy folder holds: the same weights and settings give the same hash."""
    document = json.dumps(read_document(folder), sort_keys=True)
    return hashlib.blake2b(document.encode(), digest_size=16).hexdigest()


def description(algorithm: Algorithm, normaliser: Normaliser) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "algorithm": algorithm.name,
        **_of_plug_in(algorithm),
        "config": algorithm.config.shared(),
        "observation_shape": algorithm.observation_shape,
        "action_dim": algorithm.action_dim,
        "normaliser": normaliser.to_dict(),
    }
