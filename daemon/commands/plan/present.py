"""Format a plan as text and as JSON. Pure."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from daemon.commands.plan.costs import Costs
from daemon.commands.plan.measured import MeasuredRun
from daemon.commands.plan.servers import Plan, Resource
from handlers.text import counted

PLACES = {"disk": "on the server's disk", "mount": "on a file server", "object": "in an object store"}
MAX_SHOWN = 10_000
"""Largest number of microscopes that is shown for a resource; more are shown as "any number"."""
_HEAD = ("", "needed", "of a server", "microscopes of a server")


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield lines with the load, a table of resources, and the number of servers."""
    facility, load = plan.facility, plan.load
    yield (
        f"{counted(facility.scopes, 'microscope')}, {figure(load.tiles_per_s)} tiles/s of"
        f" {facility.width}x{facility.height}, {facility.depth} bit, {PLACES[facility.raw]}:"
        f" {figure(load.level0_mb_s)} MB/s"
    )
    yield (
        f"{counted(facility.levels, 'level')}, {facility.format}, {facility.level_depth} bit, {PLACES[facility.store]}:"
        f" {figure(load.levels_mb_s)} MB/s, {figure(load.level_files_per_s)} files/s"
    )
    yield ""
    yield from _table([_HEAD, *map(_row, plan.resources)])
    yield ""
    yield (
        f"a day: {figure(load.terabytes_per_day)} TB, {figure(load.level_files_per_day / 1e6)} million files of levels;"
        f" disk: {figure(load.disk_read_mb_s)} MB/s read, {figure(load.disk_write_mb_s)} MB/s written"
    )
    yield from _server_lines(plan)


def _server_lines(plan: Plan) -> Iterator[str]:
    if plan.servers is None:
        share = 1 / plan.limit.scopes
        yield f"no plan: one microscope needs {figure(share)} times the usable part of a server ({plan.limit.name})"
        return
    usable = figure(100 * plan.resources[0].usable)
    yield (
        f"{counted(plan.servers, 'server')}: one serves {counted(plan.scopes_each, 'microscope')}, limited by"
        f" {plan.limit.name} (the plan uses {usable} % of each resource)"
    )
    busy = counted(plan.workers_each, "worker process", "worker processes")
    yield f"on each: {busy} busy, {figure(plan.memory_each_mib)} MiB of memory"


def _row(resource: Resource) -> tuple[str, ...]:
    unit = f" {resource.unit}" if resource.unit else ""
    scopes = "any number" if resource.scopes > MAX_SHOWN else f"{resource.scopes:,.1f}"
    return resource.name, f"{figure(resource.asked)}{unit}", f"{figure(resource.of_a_server)}{unit}", scopes


def run_line(run: MeasuredRun, costs: Costs) -> str:
    """Return a line that compares the computed rate with that of the measured run."""
    expected = run.expected_tiles_per_s(costs)
    return (
        f"measured run: {figure(run.tiles_per_s)} tiles/s on {figure(run.cores)} cores that other programs left free,"
        f" computed {figure(expected)}: {100 * (run.tiles_per_s / expected - 1):+.0f} %"
    )


def constant_lines(costs: Costs) -> Iterator[str]:
    """Yield a table of every constant with its source."""
    rows = [
        (one["name"], f"{one['value']:g} {one['unit']}".strip(), one["meaning"], one["source"])
        for one in costs.listed()
    ]
    yield from _table([("constant", "value", "meaning", "source"), *rows])


def as_json(plan: Plan, costs: Costs, run: MeasuredRun | None) -> dict[str, Any]:
    """Return the plan with all rates and constants. null means no limit, or no plan."""
    load, facility = plan.load, plan.facility
    rates = {key: round(value, 6) for key, value in asdict(load).items()}
    found: dict[str, Any] = {
        "facility": asdict(facility),
        "load": {**rates, "terabytes_per_day": round(load.terabytes_per_day, 6)},
        "resources": [_resource(each) for each in plan.resources],
        "servers": plan.servers,
        "scopes_each": plan.scopes_each,
        "limit": plan.limit.name,
        "workers_each": plan.workers_each,
        "memory_each_mib": round(plan.memory_each_mib, 1),
        "constants": costs.listed(),
    }
    if run is not None:
        expected = run.expected_tiles_per_s(costs)
        found["measured"] = {**asdict(run), "expected_tiles_per_s": round(expected, 3)}
    return found


def _resource(resource: Resource) -> dict[str, Any]:
    scopes = None if math.isinf(resource.scopes) else round(resource.scopes, 3)
    return {**asdict(resource), "asked": round(resource.asked, 6), "scopes": scopes}


def figure(value: float) -> str:
    """Return a number with three digits, or with all digits before the point.

    >>> figure(0.05234), figure(557.4), figure(12345.6), figure(16.0), figure(0)
    ('0.0523', '557', '12,346', '16', '0')
    """
    if not value:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
