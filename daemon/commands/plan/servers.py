"""Compute the number of servers for a load. Pure."""

import math
from dataclasses import dataclass

from daemon.commands.plan.costs import Costs
from daemon.commands.plan.load import Facility, Load, load_of, worker_memory_mib


@dataclass(frozen=True, slots=True)
class Server:
    """One server."""

    cores: float = 16.0
    disk_mb_s: float = 2000.0
    """Sustained rate of reading and writing together."""
    network_mb_s: float = 1250.0
    """Rate in each direction."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of a server."""

    name: str
    unit: str
    asked: float
    """Need of all microscopes."""
    of_a_server: float
    """Capacity of one server."""
    usable: float
    """Share of the server's capacity that the plan uses."""
    scopes: float
    """Number of microscopes that one server's capacity suffices for; infinite if they do not need it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Servers for a facility. Microscopes are divided among the servers, each with its own daemon and watches."""

    facility: Facility
    load: Load
    resources: tuple[Resource, ...]
    workers_each: int
    """Number of worker processes on a server with its share of the microscopes."""
    memory_each_mib: float
    """Memory of the daemon and its workers on such a server."""

    @property
    def limit(self) -> Resource:
        """The resource that limits the number of microscopes."""
        return min(self.resources, key=lambda each: each.scopes)

    @property
    def scopes_each(self) -> int:
        """Number of microscopes that one server serves; 0 if one microscope exceeds it."""
        return math.floor(self.limit.scopes)

    @property
    def servers(self) -> int | None:
        """Number of servers; None if one microscope exceeds a server."""
        return math.ceil(self.facility.scopes / self.scopes_each) if self.scopes_each else None


def plan(facility: Facility, server: Server, costs: Costs) -> Plan:
    """Return the plan of a facility.

    >>> from daemon.commands.plan.costs import COSTS
    >>> found = plan(Facility(scopes=30), Server(cores=16, disk_mb_s=2000), COSTS)
    >>> found.scopes_each, found.servers, found.limit.name
    (7, 5, 'disk')
    """
    every, one = load_of(facility, facility.scopes, costs), load_of(facility, 1, costs)
    usable = costs.usable.value

    def resource(name: str, unit: str, key: str, has: float) -> Resource:
        asked = getattr(one, key)
        scopes = usable * has / asked if asked else math.inf
        return Resource(name, unit, getattr(every, key), has, usable, scopes)

    resources = (
        resource("cores", "", "cores", server.cores),
        resource("the daemon's own core", "", "daemon_cores", 1.0),
        resource("disk", "MB/s", "disk_mb_s", server.disk_mb_s),
        resource("network in", "MB/s", "network_in_mb_s", server.network_mb_s),
        resource("network out", "MB/s", "network_out_mb_s", server.network_mb_s),
    )
    share = min(facility.scopes, max(1, math.floor(min(each.scopes for each in resources))))
    workers = max(1, math.ceil(load_of(facility, share, costs).workers))
    memory = costs.daemon_memory.value + workers * worker_memory_mib(facility, costs)
    return Plan(facility, every, resources, workers, memory)
