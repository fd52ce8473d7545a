"""A head that somebody else started: jobs only; its start and its end are not ours."""

from __future__ import annotations

from understudy.cluster.job_server import JobServer
from understudy.cluster.jobs import Cluster
from understudy.cluster.profile import Profile
from understudy.cluster.tokens import find_token
from understudy.errors import UserError
from understudy.registry import cluster_kinds


@cluster_kinds.register("address")
class AddressCluster(JobServer, Cluster):
    """An existing head, reached through its job server."""

    def __init__(self, profile: Profile) -> None:
        profile.require(address="the head's job server, like http://HOST:8265")
        self.profile = profile
        super().__init__(profile.address, find_token(profile), python=profile.python)

    def may_be_up(self) -> bool:
        """Return True: it is not ours to know."""
        return True

    def render(self) -> dict[str, str]:
        """Return nothing: there is nothing to make."""
        return {}

    def up(self) -> list[str]:
        """Refuse: it is not ours to start."""
        raise UserError(f"{self.profile.name} is a head that is there already: start it where it runs")

    def status(self) -> list[str]:
        """Return whether the job server answers, and its jobs."""
        going = sum(item.going for item in self.jobs())
        return [f"{self.profile.name}: {self.address} answers, {going} jobs going"]

    def down(self) -> list[str]:
        """Refuse: it is not ours to end."""
        raise UserError(f"{self.profile.name} is a head that understudy did not start: stop it where it runs")
