"""Which class runs which kind of profile. Imported when a command runs, never for --help."""

from __future__ import annotations

from collections.abc import Callable

from understudy.cluster.address import AddressCluster
from understudy.cluster.jobs import Cluster
from understudy.cluster.kuberay import KubeRayCluster
from understudy.cluster.local import LocalCluster
from understudy.cluster.profile import Profile
from understudy.cluster.ray_up import RayUpCluster
from understudy.cluster.slurm import SlurmCluster

KINDS: dict[str, Callable[[Profile], Cluster]] = {
    "local": LocalCluster,
    "address": AddressCluster,
    "onprem": RayUpCluster,
    "aws": RayUpCluster,
    "gcp": RayUpCluster,
    "kuberay": KubeRayCluster,
    "slurm": SlurmCluster,
}


def open_cluster(profile: Profile) -> Cluster:
    """Return the cluster that a profile describes; nothing is asked of it yet."""
    return KINDS[profile.kind](profile)
