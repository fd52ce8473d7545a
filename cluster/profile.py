"""Cluster profiles: where jobs run, as validated YAML. Must not import ray: `understudy cluster list` is quick.

Shipped profiles stand in profiles/, the user's own in $UNDERSTUDY_HOME/clusters/*.yaml, any other by its path; each may
start from another with `extends: NAME`. A profile holds names of secrets, never their values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from understudy.errors import SpecError, UnknownName, UserError, did_you_mean
from understudy.files import home, user_path
from understudy.registry import cluster_kinds
from understudy.secrecy import holds_secret, is_secret
from understudy.spec.choices import OneOf
from understudy.spec.keys import validate

SHIPPED = Path(__file__).parent / "profiles"
NAME = r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?"
"""What clusters, groups and jobs may be called: names that Kubernetes, Slurm and file systems all take."""

Name = Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
Memory = Annotated[str, StringConstraints(pattern=r"^([1-9]\d*(Mi|Gi))?$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$")]
Word = Annotated[str, StringConstraints(pattern=r"^[\w.:/@+=,~-]*$")]
"""Text that a shell, a YAML file and a command line take as it is."""


class Section(BaseModel):
    """A piece of a profile: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Nodes(Section):
    """The head, or a group of equal worker nodes."""

    count: int = Field(default=1, ge=0, description="nodes that are always there")
    max: int | None = Field(default=None, ge=0, description="nodes that autoscaling may grow to; default count")
    cpus: int = Field(default=0, ge=0, description="CPUs of each; 0: as many as the machine has")
    gpus: int = Field(default=0, ge=0, description="GPUs of each")
    gpu_type: Word = Field(default="", description="kind of GPU, in the cloud's or Slurm's words (nvidia-l4, a100)")
    memory: Memory = Field(default="", description="memory of each, like 16Gi")
    machine: Word = Field(default="", description="instance type (AWS, GCP)")
    machine_image: Word = Field(default="", description="AMI or source image; default the cloud launcher's own")
    image: Word = Field(default="", description="container image; default the profile's")
    disk_gb: int = Field(default=100, ge=10, description="boot disk (AWS, GCP)")
    spot: bool = Field(default=False, description="take preemptible machines (AWS, GCP)")
    hosts: tuple[Word, ...] = Field(default=(), description="addresses of these nodes (onprem)")
    node_selector: dict[str, str] = Field(default={}, description="labels of the Kubernetes nodes that may hold them")

    @model_validator(mode="after")
    def _grows(self) -> Nodes:
        if self.max is not None and self.max < self.count:
            raise ValueError(f"max={self.max} is less than count={self.count}")
        return self

    @property
    def most(self) -> int:
        """The number of nodes that there can be."""
        return self.count if self.max is None else self.max


class Storage(Section):
    """The folder that every node sees under one path: datasets, runs, job files."""

    path: Word = Field(default="", description="where it is mounted, on every node alike")
    nfs: Word = Field(default="", description="server:/export that clouds and Kubernetes mount there")
    claim: Word = Field(default="", description="PersistentVolumeClaim that Kubernetes mounts there")
    uri: Word = Field(
        default="", description="fsspec URI (s3://, gs://): datasets come from it, finished runs go to it"
    )

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if value and not Path(value).is_absolute():
            raise ValueError("must be an absolute path: it is the same on every node")
        return str(Path(value)) if value else ""

    @field_validator("nfs")
    @classmethod
    def _export(cls, value: str) -> str:
        if value and not re.match(r"^[^:/]+:/", value):
            raise ValueError("must be server:/export")
        return value


class Ssh(Section):
    """How `ray up` logs in."""

    user: Word = Field(default="ubuntu", description="login name")
    key: Word = Field(default="", description="private key file; default the cloud launcher's own, or ssh's")


class Cloud(Section):
    """Where a cloud's machines are."""

    region: Word = Field(default="", description="region")
    zone: Word = Field(default="", description="availability zone (AWS: one or more, by commas)")
    project: Word = Field(default="", description="GCP project id")


class Kubernetes(Section):
    """How a KubeRay cluster is placed."""

    namespace: Name = Field(default="default", description="namespace")
    context: Word = Field(default="", description="kubectl context; default the current one")
    service_account: Word = Field(default="", description="service account of the pods")
    pull_secret: Word = Field(default="", description="secret that the image is pulled with")
    ray_version: Word = Field(default="", description="Ray in the image; default the one installed here")
    retries: int = Field(
        default=3, ge=0, description="times that a job whose cluster was lost gets a new one, and goes on"
    )


class Slurm(Section):
    """What sbatch is asked for."""

    partition: Word = Field(default="", description="partition")
    account: Word = Field(default="", description="account")
    qos: Word = Field(default="", description="quality of service")
    time: Annotated[str, StringConstraints(pattern=r"^[\d:-]*$")] = Field(
        default="", description="limit, like 1-00:00:00"
    )
    start: Literal["symmetric-run", "head-worker"] = Field(
        default="symmetric-run", description="one `ray symmetric-run` (whole nodes), or a head and workers by hand"
    )
    options: tuple[Word, ...] = Field(default=(), description="more sbatch options, like --constraint=a100")


class Profile(Section):
    """One place where jobs run."""

    name: Name
    kind: Annotated[str, OneOf(cluster_kinds.names)] = Field(description="what kind of cluster this is")
    description: str = Field(default="", description="one line for `understudy cluster list`")
    address: Word = Field(default="", description="job server, like http://127.0.0.1:8265")
    image: Word = Field(default="", description="container image with understudy's packages; none: no containers")
    python: Word = Field(default="python", description="the interpreter on the nodes")
    head: Nodes = Field(default_factory=Nodes, description="the head node")
    workers: dict[Name, Nodes] = Field(default={}, description="groups of worker nodes, by name")
    storage: Storage = Field(default_factory=Storage, description="shared storage")
    mlflow_uri: Word = Field(default="", description="tracking server that the nodes reach")
    environment: dict[Variable, str] = Field(default={}, description="variables of every job; nothing secret")
    secrets: tuple[Variable, ...] = Field(default=(), description="names of variables whose values the environment has")
    authentication: Literal["token", "none"] = Field(default="token", description="what the head asks of its clients")
    token_path: Word = Field(
        default="", description="file with the head's token; default $RAY_AUTH_TOKEN_PATH and such"
    )
    setup_commands: tuple[str, ...] = Field(default=(), description="shell lines before Ray starts on a node")
    metrics: bool = Field(default=True, description="Prometheus and Grafana beside a local head, where installed")
    idle_minutes: int = Field(default=10, ge=1, description="idle minutes before an autoscaled node goes")
    ssh: Ssh = Field(default_factory=Ssh, description="how `ray up` logs in")
    cloud: Cloud = Field(default_factory=Cloud, description="where a cloud's machines are")
    kubernetes: Kubernetes = Field(default_factory=Kubernetes, description="how a KubeRay cluster is placed")
    slurm: Slurm = Field(default_factory=Slurm, description="what sbatch is asked for")

    @field_validator("address")
    @classmethod
    def _http(cls, value: str) -> str:
        if value and not re.match(r"^https?://[^/@]+/?$", value):
            raise ValueError("must be http://HOST:PORT, the head's job server (port 8265, not Ray's own 6379 or 10001)")
        return value.rstrip("/")

    def require(self, **missing: str) -> None:
        """Raise UserError unless every dotted key (written with __) has a value; the text says what belongs there."""
        for key, meaning in missing.items():
            value: Any = self
            for part in key.split("__"):
                value = getattr(value, part)
            if not value:
                dotted = key.replace("__", ".")
                raise UserError(f"profile {self.name} needs {dotted} ({meaning}): write it there, or give {dotted}=...")

    @property
    def state(self) -> Path:
        """Folder of this machine's notes on the cluster: token, processes, submitted jobs."""
        return home() / "clusters" / self.name


def list_profiles() -> dict[str, Path]:
    """Return the files of every profile by name, the user's own over the shipped ones."""
    files = [*SHIPPED.glob("*.yaml"), *(home() / "clusters").glob("*.yaml")]
    return {path.stem: path for path in sorted(files, key=lambda path: path.parent != SHIPPED)}


def load_profile(name: str, overrides: Sequence[str] = ()) -> Profile:
    """Return the profile called `name` (or at that path, or at that http:// address) with `key.key=value` changes."""
    if re.match(r"^https?://", name):
        data: dict[str, Any] = {"name": "address", "kind": "address", "address": name}
    else:
        data = _read(name, ())
    for word in overrides:
        _change(data, word)
    for what, text in _texts(data, ""):
        if holds_secret(text):
            raise SpecError(f"{what} holds a password: put the variable that has it into secrets")
    _check_secrets(data)
    kind = data.get("kind")
    model = cluster_kinds.get(kind).profile_type if kind in cluster_kinds.names() else Profile
    _check_keys(model, data, "")
    return validate(model, data)


def _read(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    """Return the profile's data, what it extends merged in."""
    path, known = user_path(name), list_profiles()
    if path.suffix not in (".yaml", ".yml") and "/" not in name:
        if name not in known:
            raise UnknownName(f"unknown profile {name!r}{did_you_mean(name, known)}; or give a YAML file's path")
        path = known[name]
    if str(path) in seen:
        raise SpecError(f"{path}: extends itself ({' -> '.join(Path(item).stem for item in (*seen, str(path)))})")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the profile {path} ({error.strerror or error})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise SpecError(f"{path}{where}: not readable YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(data, dict):
        raise SpecError(f"{path}: must hold keys and values, like `kind: local`")
    base = data.pop("extends", None)
    if base is not None:
        # A file of the user's may go by the name of the one that it extends.
        parent = (
            str(SHIPPED / f"{base}.yaml") if base == path.stem and (SHIPPED / f"{base}.yaml") != path else str(base)
        )
        data = _merged(_read(parent, (*seen, str(path))), data)
    return {**data, "name": data.get("name", path.stem) if base is None else path.stem}


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` laid over it: mappings key by key, all else as a whole."""
    both = {key for key in changes if isinstance(base.get(key), dict) and isinstance(changes[key], dict)}
    return {**base, **changes, **{key: _merged(base[key], changes[key]) for key in both}}


def _change(data: dict[str, Any], word: str) -> None:
    """Set one dotted key; the value is read as YAML."""
    key, separator, text = word.removeprefix("--").partition("=")
    if not separator or not key:
        raise UserError(f"cannot read {word!r}: write key=value, like workers.gpu.max=8")
    place = data
    *parents, last = key.split(".")
    for part in parents:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise SpecError(f"{key}: {part} holds no keys")
    try:
        place[last] = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        place[last] = text


def _check_keys(model: type[BaseModel], data: Any, prefix: str) -> None:
    """Raise SpecError for the first unknown key, with the nearest one."""
    if not isinstance(data, Mapping):
        return
    for key, value in data.items():
        field = model.model_fields.get(str(key))
        if field is None:
            raise SpecError(f"unknown key {prefix}{key}{did_you_mean(str(key), model.model_fields)}")
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            _check_keys(kind, value, f"{prefix}{key}.")
        elif get_origin(kind) is dict and isinstance(value, Mapping):
            inner = get_args(kind)[1]
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                for name, item in value.items():
                    _check_keys(inner, item, f"{prefix}{key}.{name}.")


def _check_secrets(data: dict[str, Any]) -> None:
    """Raise SpecError where a value is written that only the environment may have; the value is not repeated."""
    secrets = data.get("secrets", [])
    if not isinstance(secrets, list | tuple) or not all(isinstance(item, str) and "=" not in item for item in secrets):
        raise SpecError("secrets must be a list of variable names; their values come from the environment")
    environment = data.get("environment")
    for key in environment if isinstance(environment, dict) else ():
        if is_secret(str(key)):
            raise SpecError(f"environment.{key} is a secret: list its name in secrets, and set it in the environment")


def _texts(data: Any, prefix: str) -> list[tuple[str, str]]:
    """Return every text in the data with its dotted key."""
    if isinstance(data, dict):
        return [
            item for key, value in data.items() for item in _texts(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(data, list | tuple):
        return [item for value in data for item in _texts(value, prefix)]
    return [(prefix, data)] if isinstance(data, str) else []
