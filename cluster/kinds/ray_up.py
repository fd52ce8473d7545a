"""Clusters by Ray's own launcher: your machines over ssh, EC2, Compute Engine.

The token is copied to every node as a file (Ray's file_mounts); the YAML holds its path. Values of secrets are in the
nodes' own environment (an instance profile, a service account, setup_commands that read a vault): Ray's launcher has no
way to hand them over that would not show them on a command line, so the job's driver says which are missing.
"""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from understudy.cluster.job_server import SAVE_SECONDS, JobServer
from understudy.cluster.jobs import Cluster
from understudy.cluster.profile import Nodes, Profile
from understudy.cluster.tokens import find_token, make_token, own_path
from understudy.cluster.tools import RAY, call, need
from understudy.errors import UserError
from understudy.registry import cluster_kinds
from understudy.runs.ray_start import NO_IDLE_WORKERS
from understudy.runs.stop import STOP_WAIT

FILE = "cluster.yaml"
TOKEN = "~/.understudy-token"
PACKAGES = {"aws": "boto3", "gcp": "googleapiclient"}
START = "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.understudy-token "
"""Variables before each `ray start`: a head without a token would let everyone use its job server."""


@cluster_kinds.register("gcp")
@cluster_kinds.register("aws")
@cluster_kinds.register("onprem")
class RayUpCluster(JobServer, Cluster):
    """A cluster that `ray up` makes, reached through the job server that `ray dashboard` forwards."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.file = profile.state / FILE
        address = profile.address or "http://127.0.0.1:8265"
        hint = f"`ray dashboard {self.file}` forwards it to this machine once `understudy cluster up` is done"
        super().__init__(address, find_token(profile), python=profile.python, start_hint=hint)

    def may_be_up(self) -> bool:
        """Return whether `up` was called here."""
        return self.file.is_file()

    def render(self) -> dict[str, str]:
        """Return the launcher's YAML."""
        self.profile.require(storage__path="the folder that all nodes share")
        return {FILE: yaml.safe_dump(self.config(), sort_keys=False, width=120)}

    def config(self) -> dict[str, Any]:
        """Return the launcher's configuration."""
        profile = self.profile
        nodes = PROVIDERS[profile.kind](profile)
        config: dict[str, Any] = {
            "cluster_name": profile.name,
            **nodes,
            "idle_timeout_minutes": profile.idle_minutes,
            "auth": _auth(profile),
            "initialization_commands": _mount(profile),
            "setup_commands": list(profile.setup_commands),
            "head_start_ray_commands": _start(profile, head=True),
            "worker_start_ray_commands": _start(profile, head=False),
        }
        if profile.image:
            config["docker"] = _docker(profile)
        if profile.authentication == "token":
            config["file_mounts"] = {TOKEN: profile.token_path or str(own_path(profile))}
        return config

    def up(self) -> list[str]:
        """Make the token, write the YAML, run `ray up`."""
        self._need()
        if self.profile.authentication == "token" and not self.profile.token_path:
            make_token(own_path(self.profile))
        self._write()
        call([*RAY, "up", "--yes", "--no-config-cache", str(self.file)])
        return [
            f"{self.profile.name} is up; its files: {self.profile.state}",
            f"in a terminal of its own: ray dashboard {self.file}",
            f"then: understudy submit sweep ... --profile {self.profile.name}",
        ]

    def status(self) -> list[str]:
        """Return what `ray status` says on the head."""
        self._need()
        self._write()
        return call([*RAY, "exec", str(self.file), f"{START}ray status"]).strip().splitlines()

    def down(self) -> list[str]:
        """Run `ray down`."""
        self._need()
        self._write()
        call([*RAY, "down", "--yes", str(self.file)])
        return [f"{self.profile.name} is down"]

    def _need(self) -> None:
        for tool in ("ssh", "rsync"):
            need(tool, "`ray up` needs it")
        package = PACKAGES.get(self.profile.kind)
        if package:
            try:
                __import__(package)
            except ImportError:
                raise UserError(
                    f"`ray up` needs {package} for {self.profile.kind}: pip install {_pip(package)}"
                ) from None

    def _write(self) -> None:
        text = self.render()[FILE]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(text, encoding="utf-8")


def _pip(package: str) -> str:
    return "google-api-python-client google-cloud-compute" if package == "googleapiclient" else package


def _auth(profile: Profile) -> dict[str, str]:
    return {"ssh_user": profile.ssh.user, **({"ssh_private_key": profile.ssh.key} if profile.ssh.key else {})}


def _mount(profile: Profile) -> list[str]:
    """Return the commands that mount the shared folder on a node, outside its container."""
    path = shlex.quote(profile.storage.path)
    if profile.kind != "onprem":
        profile.require(
            storage__nfs="server:/export that all machines mount at storage.path, like an EFS or a Filestore"
        )
    if not profile.storage.nfs:
        return []
    return [
        f"sudo mkdir -p {path}",
        f"mountpoint -q {path} || sudo mount -t nfs -o nfsvers=4.1,hard {shlex.quote(profile.storage.nfs)} {path}",
    ]


def _docker(profile: Profile) -> dict[str, Any]:
    """Return the container's settings: the shared folder at its path; Ray itself adds GPUs and shared memory."""
    path = profile.storage.path
    options = [f"--volume={path}:{path}", "--ulimit=nofile=65536:65536"]
    options += [f"--env={key}={value}" for key, value in profile.environment.items()]
    docker: dict[str, Any] = {"image": profile.image, "container_name": "understudy", "run_options": options}
    return {**docker, "pull_before_run": True}


def _start(profile: Profile, *, head: bool) -> list[str]:
    """Return the commands that start Ray on a node; what an earlier start left there is ended first."""
    token = profile.authentication == "token"
    prefix = START if token else "RAY_AUTH_MODE=disabled "
    if head:
        command = "ray start --head --port=6379 --dashboard-host=127.0.0.1 --dashboard-port=8265"
        command += " --autoscaling-config=~/ray_bootstrap_config.yaml"
    else:
        command = "ray start --address=$RAY_HEAD_IP:6379"
    idle = " ".join(f"{key}={value}" for key, value in NO_IDLE_WORKERS.items())
    return [
        *([f"chmod 600 {TOKEN}"] if token else []),
        "ray stop",
        f"ulimit -n 65536; {STOP_WAIT}={SAVE_SECONDS} {idle} {prefix}{command} --disable-usage-stats",
    ]


def _on_premises(profile: Profile) -> dict[str, Any]:
    """Return the provider of machines that are there: their addresses; Ray finds out what each has."""
    if len(profile.head.hosts) != 1:
        raise UserError(f"profile {profile.name} needs head.hosts (one address): give head.hosts=[10.0.0.1]")
    workers = [host for group in profile.workers.values() for host in group.hosts]
    provider = {"type": "local", "head_ip": profile.head.hosts[0], "worker_ips": workers}
    return {"min_workers": len(workers), "max_workers": len(workers), "provider": provider}


def _types(profile: Profile, describe: Any) -> dict[str, Any]:
    """Return the node types: the head, and one for each group."""
    types: dict[str, Any] = {}
    for name, nodes in {"head": profile.head, **profile.workers}.items():
        if not nodes.machine:
            place = "head" if name == "head" else f"workers.{name}"
            raise UserError(f"profile {profile.name} needs {place}.machine (an instance type)")
        held = {key: value for key, value in (("CPU", nodes.cpus), ("GPU", nodes.gpus)) if value}
        counts = {} if name == "head" else {"min_workers": nodes.count, "max_workers": nodes.most}
        types[name] = {"resources": held, "node_config": describe(profile, nodes), **counts}
    total = sum(nodes.most for nodes in profile.workers.values())
    return {"max_workers": total, "head_node_type": "head", "available_node_types": types}


def _aws(profile: Profile) -> dict[str, Any]:
    profile.require(cloud__region="an AWS region")
    provider = {"type": "aws", "region": profile.cloud.region, "cache_stopped_nodes": False}
    if profile.cloud.zone:
        provider["availability_zone"] = profile.cloud.zone
    return {"provider": provider, **_types(profile, _ec2)}


def _ec2(profile: Profile, nodes: Nodes) -> dict[str, Any]:
    disk = {"VolumeSize": nodes.disk_gb, "VolumeType": "gp3"}
    config: dict[str, Any] = {
        "InstanceType": nodes.machine,
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}],
    }
    if nodes.machine_image:
        config["ImageId"] = nodes.machine_image
    if nodes.spot:
        config["InstanceMarketOptions"] = {"MarketType": "spot"}
    return config


def _gcp(profile: Profile) -> dict[str, Any]:
    profile.require(cloud__project="a GCP project id", cloud__region="a region", cloud__zone="a zone")
    cloud = profile.cloud
    provider = {"type": "gcp", "region": cloud.region, "availability_zone": cloud.zone, "project_id": cloud.project}
    return {"provider": provider, **_types(profile, _compute_engine)}


def _compute_engine(profile: Profile, nodes: Nodes) -> dict[str, Any]:
    image = nodes.machine_image or "projects/deeplearning-platform-release/global/images/family/common-cpu-debian-11"
    parameters = {"diskSizeGb": nodes.disk_gb, "sourceImage": image}
    config: dict[str, Any] = {
        "machineType": nodes.machine,
        "disks": [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": parameters}],
    }
    scheduling: dict[str, Any] = {"preemptible": True} if nodes.spot else {}
    if nodes.gpus:
        if not nodes.gpu_type:
            raise UserError(f"profile {profile.name} needs gpu_type (like nvidia-l4) for its groups with gpus")
        config["guestAccelerators"] = [{"acceleratorType": nodes.gpu_type, "acceleratorCount": nodes.gpus}]
        scheduling["onHostMaintenance"] = "TERMINATE"
    if scheduling:
        config["scheduling"] = [scheduling]
    return config


PROVIDERS = {"onprem": _on_premises, "aws": _aws, "gcp": _gcp}
