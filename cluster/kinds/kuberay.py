"""Kubernetes with the KubeRay operator: a RayCluster to keep, a RayJob for each job, secrets by reference.

A job's code is sent as ConfigMaps, so exactly this code runs with no image build and no registry. The token
is the operator's (authOptions, KubeRay 1.5.1 or newer); values of secrets go to `kubectl` on its standard input.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from understudy.cluster import code_parts
from understudy.cluster.code import pack
from understudy.cluster.code_parts import CODE, CODE_ZIP
from understudy.cluster.job import LABEL, Job, known_job
from understudy.cluster.jobs import Cluster, JobState, pick
from understudy.cluster.profile import Nodes
from understudy.cluster.tools import call, check_secrets, need, stream
from understudy.errors import UserError
from understudy.registry import cluster_kinds

API = "ray.io/v1"
OWNER = {"app.kubernetes.io/managed-by": "understudy"}
STATUS = {"SUCCEEDED": "FINISHED", "STOPPED": "STOPPED", "FAILED": "FAILED", "RUNNING": "RUNNING"}
GPU = "nvidia.com/gpu"


@cluster_kinds.register("kuberay")
class KubeRayCluster(Cluster):
    """The manifests of one profile, and kubectl."""

    # ---- manifests ----

    def render(self) -> dict[str, str]:
        """Return the RayCluster, and the RayJob as `submit` would apply it."""
        example = Job(
            id="example", kind="sweep", folder=f"{self.profile.storage.path}/runs/example", spec={}, code="0" * 16
        )
        return {"raycluster.yaml": _yaml(self.ray_cluster()), "rayjob.yaml": _yaml(self.ray_job(example))}

    def ray_cluster(self) -> dict[str, Any]:
        """Return the cluster of `understudy cluster up`."""
        return {
            "apiVersion": API,
            "kind": "RayCluster",
            "metadata": self._named(self.profile.name),
            "spec": self.spec(),
        }

    def ray_job(self, job: Job) -> dict[str, Any]:
        """Return a job with a cluster of its own; where the cluster is lost, it gets another and goes on."""
        environment = {"working_dir": f"file://{CODE}/{CODE_ZIP}", "env_vars": job.variables}
        spec = {
            "entrypoint": shlex.join(job.command(self.profile.python)),
            "runtimeEnvYAML": yaml.safe_dump(environment, sort_keys=False),
            "jobId": job.id,
            "metadata": {LABEL: job.id},
            "submissionMode": "K8sJobMode",
            "backoffLimit": self.profile.kubernetes.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": self.spec(job),
        }
        return {"apiVersion": API, "kind": "RayJob", "metadata": self._named(job.id), "spec": spec}

    def spec(self, job: Job | None = None) -> dict[str, Any]:
        """Return a RayClusterSpec; with a job, its code is mounted on every node."""
        profile = self.profile
        profile.require(image="a container image with understudy's packages; see the Dockerfile")
        groups = [
            {
                "groupName": name,
                "replicas": nodes.count,
                "minReplicas": nodes.count,
                "maxReplicas": max(nodes.most, 1),
                "rayStartParams": {},
                "template": self._pod(nodes, job, f"ray-worker-{name}"),
            }
            for name, nodes in profile.workers.items()
        ]
        return {
            "rayVersion": profile.kubernetes.ray_version or version("ray"),
            **({"authOptions": {"mode": "token"}} if profile.authentication == "token" else {}),
            "enableInTreeAutoscaling": any(nodes.most > nodes.count for nodes in profile.workers.values()),
            "autoscalerOptions": {"idleTimeoutSeconds": profile.idle_minutes * 60},
            "headGroupSpec": {
                # The head holds the driver and Ray's own services, no trials.
                "rayStartParams": {"dashboard-host": "0.0.0.0", **({"num-cpus": "0"} if profile.workers else {})},
                "template": self._pod(profile.head, job, "ray-head"),
            },
            "workerGroupSpecs": groups,
        }

    def _pod(self, nodes: Nodes, job: Job | None, name: str) -> dict[str, Any]:
        profile = self.profile
        amounts = {"cpu": str(nodes.cpus or 1), "memory": nodes.memory or "4Gi"}
        if nodes.gpus:
            amounts[GPU] = str(nodes.gpus)
        mounts, volumes = self._volumes(job)
        container: dict[str, Any] = {
            "name": name,
            "image": nodes.image or profile.image,
            "env": [*_plain(profile.environment), *self._secret_variables()],
            "resources": {"requests": amounts, "limits": amounts},
            "volumeMounts": mounts,
        }
        if name == "ray-head":
            ports = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
            container["ports"] = [{"name": key, "containerPort": port} for key, port in ports.items()]
        spec: dict[str, Any] = {"containers": [container], "volumes": volumes}
        if job is not None:
            spec["initContainers"] = [code_parts.joining(container["image"], amounts)]
        kubernetes = profile.kubernetes
        if kubernetes.service_account:
            spec["serviceAccountName"] = kubernetes.service_account
        if kubernetes.pull_secret:
            spec["imagePullSecrets"] = [{"name": kubernetes.pull_secret}]
        if nodes.node_selector:
            spec["nodeSelector"] = dict(nodes.node_selector)
        if nodes.gpus:
            spec["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
        return {"metadata": {"labels": dict(OWNER)}, "spec": spec}

    def _volumes(self, job: Job | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return (mounts, volumes): shared memory, the shared folder, the job's code."""
        storage = self.profile.storage
        self.profile.require(storage__path="the folder that all nodes share")
        mounts: list[dict[str, Any]] = [{"name": "shm", "mountPath": "/dev/shm"}]
        volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
        mounts.append({"name": "storage", "mountPath": storage.path})
        if storage.nfs:
            server, path = storage.nfs.split(":", 1)
            volumes.append({"name": "storage", "nfs": {"server": server, "path": path}})
        else:
            self.profile.require(storage__claim="a PersistentVolumeClaim, or storage.nfs")
            volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": storage.claim}})
        if job is not None:
            mounts.append({"name": "code", "mountPath": CODE, "readOnly": True})
            volumes += code_parts.volumes(job.id)
        return mounts, volumes

    def _secret_variables(self) -> list[dict[str, Any]]:
        name = self._secret_name
        return [
            {"name": key, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}} for key in self.profile.secrets
        ]

    @property
    def _secret_name(self) -> str:
        return f"{self.profile.name}-secrets"

    def _named(self, name: str) -> dict[str, Any]:
        return {"name": name, "namespace": self.profile.kubernetes.namespace, "labels": dict(OWNER)}

    def secret(self) -> dict[str, Any]:
        """Return the Secret with the values of the environment here; it is piped, never written."""
        check_secrets(self.profile.secrets)
        values = {key: os.environ[key] for key in self.profile.secrets}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": self._named(self._secret_name), "stringData": values}

    def code_maps(self, job: Job, code: Path) -> list[dict[str, Any]]:
        """Return the ConfigMaps with the parts of the job's code; UserError when it is too large for them."""
        job.write(code)
        with tempfile.TemporaryDirectory() as scratch:
            content = pack(code, Path(scratch) / CODE_ZIP).read_bytes()
        return [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": self._named(name), "binaryData": {key: value}}
            for name, key, value in code_parts.split(job.id, content)
        ]

    # ---- kubectl ----

    def _kubectl(self, *words: str) -> list[str]:
        need("kubectl", f"profile {self.profile.name} is on Kubernetes")
        kubernetes = self.profile.kubernetes
        context = [f"--context={kubernetes.context}"] if kubernetes.context else []
        return ["kubectl", *context, f"--namespace={kubernetes.namespace}", *words]

    def _apply(self, *manifests: dict[str, Any]) -> None:
        text = "\n---\n".join(json.dumps(item) for item in manifests)
        # On the server's side: a client's apply would repeat every object in an annotation, secrets and all.
        call(self._kubectl("apply", "--server-side", "--field-manager=understudy", "--filename=-"), stdin=text)

    def up(self) -> list[str]:
        """Apply the RayCluster and the Secret."""
        manifests = [self.secret()] if self.profile.secrets else []
        self._apply(*manifests, self.ray_cluster())
        return [f"{self.profile.name} is being made: `understudy cluster status {self.profile.name}` follows it"]

    def status(self) -> list[str]:
        """Return the cluster and its pods, as kubectl shows them."""
        cluster = call(self._kubectl("get", "raycluster", self.profile.name, "--ignore-not-found"))
        pods = call(self._kubectl("get", "pods", f"--selector=ray.io/cluster={self.profile.name}"))
        return [*cluster.splitlines(), *pods.splitlines()] or [f"{self.profile.name} is down"]

    def down(self) -> list[str]:
        """Delete the RayCluster."""
        call(self._kubectl("delete", "raycluster", self.profile.name, "--ignore-not-found"))
        return [f"{self.profile.name} is down"]

    def submit(self, job: Job, code: Path) -> dict[str, str]:
        """Apply the job's ConfigMaps and RayJob."""
        if any(item.id == job.id for item in self.jobs()):
            raise UserError(f"there is a job {job.id} already: give another --name, or resume that one")
        secret = [self.secret()] if self.profile.secrets else []
        self._apply(*secret, *self.code_maps(job, code), self._described(job))
        return {"watch": shlex.join([*self._kubectl("get", "rayjob", job.id), "--watch"])}

    def _described(self, job: Job) -> dict[str, Any]:
        """Return the RayJob with the job's whole description in an annotation."""
        manifest = self.ray_job(job)
        manifest["metadata"]["annotations"] = {LABEL: job.model_dump_json()}
        return manifest

    def jobs(self) -> list[JobState]:
        """Return the RayJobs that understudy made, oldest first."""
        selector = ",".join(f"{key}={value}" for key, value in OWNER.items())
        text = call(self._kubectl("get", "rayjobs", f"--selector={selector}", "--output=json"))
        return sorted((_state(item) for item in json.loads(text)["items"]), key=lambda item: item.started)

    def find(self, job_id: str) -> JobState:
        """Return one job; UnknownName with the nearest id."""
        return pick({item.id: item for item in self.jobs()}, job_id, self.profile.name)

    def logs(self, job_id: str, follow: bool) -> Iterator[str]:
        """Yield what the submitter pod shows of the driver's output."""
        self.find(job_id)
        words = ("logs", f"job/{job_id}", *(("--follow", "--pod-running-timeout=30m") if follow else ()))
        yield from stream(self._kubectl(*words))
        while follow and self.find(job_id).going:
            time.sleep(2.0)

    def stop(self, job_id: str) -> str:
        """Suspend the RayJob: its cluster goes, its description stays."""
        state = self.find(job_id)
        if not state.going:
            return f"{job_id} has ended already ({state.status.lower()})"
        call(self._kubectl("patch", "rayjob", job_id, "--type=merge", '--patch={"spec":{"suspend":true}}'))
        return f"{job_id} is suspended; `understudy jobs resume {job_id}` goes on with it"


def _state(item: dict[str, Any]) -> JobState:
    status = item.get("status", {})
    deployment = status.get("jobDeploymentStatus", "")
    name = STATUS.get(status.get("jobStatus", ""), "PENDING")
    if deployment == "Failed":
        name = "FAILED"
    if deployment in ("Suspended", "Suspending"):
        name = "STOPPED"
    return JobState(
        id=item["metadata"]["name"],
        status=name,
        started=_seconds(status.get("startTime") or item["metadata"].get("creationTimestamp")),
        ended=_seconds(status.get("endTime")),
        message=status.get("message", ""),
        job=known_job(item["metadata"].get("annotations", {}).get(LABEL)),
    )


def _seconds(moment: str | None) -> float:
    return datetime.fromisoformat(re.sub(r"Z$", "+00:00", moment)).timestamp() if moment else 0.0


def _plain(environment: dict[str, str]) -> list[dict[str, Any]]:
    return [{"name": key, "value": value} for key, value in environment.items()]


def _yaml(manifest: dict[str, Any]) -> str:
    return yaml.dump(manifest, Dumper=_NoAliases, sort_keys=False, width=120)


class _NoAliases(yaml.SafeDumper):
    """Write YAML without anchors and aliases, for the people who read these files."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
