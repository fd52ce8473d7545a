"""The part of KubeRay's RayCluster and RayJob that our manifests use, as a JSON schema; unknown fields are refused.

Written from KubeRay's API reference (fields, types, required ones, enumerations): no package index holds the CRDs
themselves. Pod templates and core objects are checked with the schemas of Kubernetes, from the package
kubernetes-validate.
"""

from __future__ import annotations

from typing import Any

import jsonschema
import kubernetes_validate

KUBERNETES = "1.31"
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
LABEL_NAME = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """Return the schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEMPLATE = {"type": "object", "required": ["spec"]}
RAY_CLUSTER_SPEC = closed(
    ("headGroupSpec",),
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=closed(("mode",), mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=closed(
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        resources={"type": "object"},
        image={"type": "string"},
    ),
    suspend={"type": "boolean"},
    headServiceAnnotations=TEXTS,
    headGroupSpec=closed(
        ("rayStartParams", "template"),
        rayStartParams=TEXTS,
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        template=TEMPLATE,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": closed(
            ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
            groupName=LABEL_NAME,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas={"type": "integer", "minimum": 1},
            numOfHosts={"type": "integer", "minimum": 1},
            rayStartParams=TEXTS,
            template=TEMPLATE,
        ),
    },
)
RAY_JOB_SPEC = closed(
    ("entrypoint",),
    entrypoint={"type": "string"},
    runtimeEnvYAML={"type": "string"},
    jobId={"type": "string"},
    metadata=TEXTS,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    backoffLimit=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    suspend={"type": "boolean"},
    clusterSelector=TEXTS,
    rayClusterSpec=RAY_CLUSTER_SPEC,
)
SPECS = {"RayCluster": RAY_CLUSTER_SPEC, "RayJob": RAY_JOB_SPEC}


def check_manifest(manifest: dict[str, Any]) -> None:
    """Raise unless the manifest is whole: a RayCluster, a RayJob, or an object of Kubernetes' own."""
    if manifest["kind"] not in SPECS:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    metadata = closed(("name", "namespace"), name=LABEL_NAME, namespace=LABEL_NAME, labels=TEXTS, annotations=TEXTS)
    jsonschema.validate(
        manifest,
        closed(
            ("apiVersion", "kind", "metadata", "spec"),
            apiVersion={"const": "ray.io/v1"},
            kind={"const": manifest["kind"]},
            metadata=metadata,
            spec=SPECS[manifest["kind"]],
        ),
    )
    for template in pod_templates(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **template["metadata"]}}
        kubernetes_validate.validate({**pod, "spec": template["spec"]}, KUBERNETES, strict=True)
        containers = [*template["spec"]["containers"], *template["spec"].get("initContainers", [])]
        mounted = {item["name"] for container in containers for item in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}


def pod_templates(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pod templates of a RayCluster or a RayJob, the head's first."""
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
