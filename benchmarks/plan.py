"""Number of scopes that one server serves: `python -m benchmarks.plan --cores 16 --disk 2000`.

Computes with the last sustained run: CPU of a tile in the daemon, which does not grow with its pixels, and
in the workers, which does. Without options it computes the measured run itself, and prints the difference.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, number

PYRAMID = 1 / 3
"""Pixels of all levels above 0, as a share of those of level 0."""
HEADROOM = 0.8
"""Usable share of cores and disk: the rest is for bursts, for a backlog, and for other programs."""
WORK_16BIT = 1.5
"""CPU of a worker for a 16-bit tile, relative to an 8-bit tile: it reads twice as much and writes the same."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured cost of one tile."""

    daemon_s: float
    """CPU."""
    worker_s_per_megapixel: float
    """CPU, 8 bit."""


@dataclass(frozen=True, slots=True)
class Server:
    cores: float
    disk_mb_s: float
    """Sustained, reading and writing together."""


@dataclass(frozen=True, slots=True)
class Scope:
    """One microscope that images without pause."""

    megapixels: float = 30.3
    """Of a tile."""
    bits: int = 8
    tiles_per_s: float = 18.4 / 6


@dataclass(frozen=True, slots=True)
class Plan:
    """Number of scopes that each resource serves."""

    by_cores: float
    by_disk: float
    by_daemon: float
    """Bound by the one core that the daemon's own process can use."""

    @property
    def scopes(self) -> float:
        return min(self.by_cores, self.by_disk, self.by_daemon)

    @property
    def limit(self) -> str:
        """The resource that is used up first."""
        limits = {"cores": self.by_cores, "disk": self.by_disk, "the daemon's own process": self.by_daemon}
        return min(limits, key=lambda name: limits[name])


def plan(server: Server, scope: Scope, costs: Costs, headroom: float = HEADROOM) -> Plan:
    """Return the plan for scopes of one kind.

    >>> costs = Costs(daemon_s=0.005, worker_s_per_megapixel=0.001)
    >>> round(plan(Server(cores=4, disk_mb_s=1e9), Scope(megapixels=15, tiles_per_s=4), costs).by_cores, 1)
    40.0
    """
    worker_s = costs.worker_s_per_megapixel * scope.megapixels * (WORK_16BIT if scope.bits == 16 else 1.0)
    level0_mb = scope.megapixels * scope.bits / 8
    # Level 0 is written by the scope and read once; levels are written, 8 bit, and read back from the page cache.
    tile_mb = 2 * level0_mb + PYRAMID * scope.megapixels
    return Plan(
        by_cores=headroom * server.cores / (scope.tiles_per_s * (worker_s + costs.daemon_s)),
        by_disk=headroom * server.disk_mb_s / (scope.tiles_per_s * tile_mb),
        by_daemon=headroom / (scope.tiles_per_s * costs.daemon_s),
    )


def costs_of(facts: dict[str, Any]) -> Costs:
    """Return the costs that a sustained run measured."""
    cpu_s = facts["cpu_s_per_tile"]
    return Costs(cpu_s["daemon"], cpu_s["workers"] / facts["megapixels"])


def check(facts: dict[str, Any]) -> str:
    """Compare the measured run with the rate expected from its own costs and its cores."""
    cpu_s = sum(value for name, value in facts["cpu_s_per_tile"].items() if not name.startswith("writing"))
    had = facts["cores"] * (facts["own_share"] + facts["idle_share"])
    expected, measured = had / cpu_s, facts["capacity_tiles_per_s"]
    return (
        f"measured run: {number(measured)} tiles/s on {had:.2f} of {facts['cores']} cores that others left free,"
        f" computed {number(expected)}: {100 * (measured / expected - 1):+.0f} %"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan; exit code 1 without a measured run."""
    parser = argparse.ArgumentParser("python -m benchmarks.plan", description=__doc__)
    parser.add_argument("--cores", type=float, default=2.0)
    parser.add_argument("--disk", type=float, default=1e6, metavar="MB/S", help="reading and writing together")
    parser.add_argument("--megapixels", type=float, default=Scope().megapixels, help="of a tile")
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8)
    parser.add_argument("--tiles-per-s", type=float, default=Scope().tiles_per_s, help="of one scope")
    parser.add_argument("--scopes", type=float, help="say whether so many are served")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    try:
        facts = json.loads((arguments.results / "sustained.json").read_text(encoding="utf-8"))["facts"]
    except FileNotFoundError:
        print("no sustained run was measured: make bench", file=sys.stderr)
        return 1
    server = Server(arguments.cores, arguments.disk)
    scope = Scope(arguments.megapixels, arguments.bits, arguments.tiles_per_s)
    found = plan(server, scope, costs_of(facts))
    print(f"{found.scopes:.1f} scopes, limited by {found.limit}")
    print(f"  cores {found.by_cores:.1f}, disk {found.by_disk:.1f}, the daemon's own process {found.by_daemon:.1f}")
    print(check(facts))
    if arguments.scopes is not None:
        served = arguments.scopes <= found.scopes
        print(f"{arguments.scopes:g} scopes are {'served' if served else 'too many'}")
        return 0 if served else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
