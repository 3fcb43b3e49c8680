"""The workers of a pool at one moment, for readiness, metrics and pages."""

from collections.abc import Iterator
from dataclasses import dataclass, field

WORKERLESS_S = 300.0
"""Time without workers after which a cluster is not ready: a batch system needs minutes to start workers."""


@dataclass(frozen=True, slots=True)
class Member:
    """A worker process."""

    host: str
    threads: int = 1
    """Number of tiles that the worker can make at once."""
    tiles: int = 0
    """Number of tiles that the worker makes now."""
    problem: str = ""
    """Why the worker gets no tiles, or no tiles of some watches; empty if it gets all."""
    is_usable: bool = True
    """Whether the worker gets any tiles."""


@dataclass(frozen=True, slots=True)
class HostCrew:
    """The workers of a host."""

    host: str
    workers: int
    """Number of workers that get tiles."""
    refused: int
    """Number of workers that get no tiles."""
    threads: int
    tiles: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Crew:
    """The workers of a pool."""

    members: tuple[Member, ...] = ()
    tiles: int = 0
    """Number of tiles that are not done: given to workers, or waiting for one."""
    scheduler: str = ""
    """Address of the scheduler; empty without one."""
    fault: str = ""
    """Why the scheduler cannot be used now; empty if it can be used."""
    without_worker_s: float = 0.0
    """Time for which tiles have waited without a usable worker."""
    notes: tuple[str, ...] = field(default=())
    """Warnings that do not stop the work."""

    def hosts(self) -> tuple[HostCrew, ...]:
        """Return the workers of each host, in the order of the hosts' names.

        >>> Crew((Member("b", 2, 1), Member("a", 2, 0, "sees no /data", is_usable=False), Member("b", 2))).hosts()[1]
        HostCrew(host='b', workers=2, refused=0, threads=4, tiles=1, problems=())
        """
        return tuple(_host(host, self) for host in sorted({member.host for member in self.members}))

    def reasons(self) -> Iterator[str]:
        """Yield why no tile can be made now."""
        if self.fault:
            yield f"the dask scheduler cannot be used: {self.fault}; {self._waiting()}"
        elif self.tiles and self.members and not any(member.is_usable for member in self.members):
            first = next(f"{host.host}: {host.problems[0]}" for host in self.hosts())
            yield f"no worker of the dask scheduler {self.scheduler} can make tiles, as on {first}"
        elif self.without_worker_s > WORKERLESS_S:
            minutes = self.without_worker_s / 60
            yield f"the dask scheduler {self.scheduler} has had no worker for {minutes:.0f} min; {self._waiting()}"

    def warnings(self) -> Iterator[str]:
        """Yield the problems of single hosts, and the notes."""
        for host in self.hosts():
            for problem in host.problems:
                which = "get no tiles" if not host.workers else "do not get all tiles"
                yield f"workers on {host.host} {which}: {problem}"
        yield from self.notes

    def _waiting(self) -> str:
        return f"tiles waiting: {self.tiles}"


NOBODY = Crew()
"""No workers."""


def _host(host: str, crew: Crew) -> HostCrew:
    here = [member for member in crew.members if member.host == host]
    usable = [member for member in here if member.is_usable]
    return HostCrew(
        host,
        len(usable),
        len(here) - len(usable),
        sum(member.threads for member in usable),
        sum(member.tiles for member in here),
        tuple(dict.fromkeys(member.problem for member in here if member.problem)),
    )
