"""Invariants that must hold when a scenario is idle."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from daemon.montages.records import Montage
from daemon.montages.states import MontageState
from daemon.pipeline.stacks.use import StackPhase
from daemon.pipeline.steps.section import Section, section_from_content
from daemon.simulator.standin.stack_state import section_data
from daemon.simulator.standin.store import Stack, State
from handlers.acquisition.formats.pytemca_parse import parse_metafile
from handlers.errors import Fault
from handlers.images.header import inspect_image
from handlers.mipmaps.plan import level_uris
from handlers.uris import uri_to_path
from tests.simulation.journal import Row, folded_states

if TYPE_CHECKING:
    from tests.simulation.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Broken:
    """A violated invariant."""

    invariant: str
    text: str


def check(scenario: "Scenario") -> list[Broken]:
    """Return the violated invariants of an idle scenario."""
    rows = scenario.rows()
    return [Broken(name, text) for name, violations in _INVARIANTS.items() for text in violations(scenario, rows)]


def is_locked_fault(row: Row) -> bool:
    """Whether a montage failed because its stack was locked: an operator has to replay it."""
    return row.state == "failed" and row.fault is not None and row.fault["kind"] == "StackLocked"


# --- files and montages


def _metafiles(scenario: "Scenario") -> list[Path]:
    return sorted(scenario.acquisition.rglob("_metadata_*.json"))


def _every_metafile_is_finished(scenario: "Scenario", rows: list[Row]) -> Iterator[str]:
    """Every metafile on disk is COMPLETE, FAILED for a reason that is still true, or an IGNORED link to another one."""
    for path in _metafiles(scenario):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        current = [row for row in rows if row.metafile == path and row.state != "superseded"]
        name = path.relative_to(scenario.acquisition)
        if any(row.digest == digest and row.failed_in == "noticed" for row in current):
            # The former content keeps its state until the new content can supersede it.
            current = [row for row in current if row.digest == digest or row.state not in ("complete", "failed")]
        if len(current) != 1:
            yield f"{name} has {len(current)} montages that are not superseded: {'; '.join(map(str, current))}"
        elif current[0].digest not in (digest, None):
            yield f"the digest of {name} is {digest[:6]}, but {current[0]}"
        elif current[0].state == "failed":
            why = _why_untrue(scenario, current[0], path, rows)
            if why:
                yield f"{current[0]}: {why}"
        elif current[0].state == "ignored":
            if not any(other != path and other.samefile(path) for other in _metafiles(scenario)):
                yield f"{current[0]}"
        elif current[0].state != "complete":
            yield f"{current[0]}"


def _why_untrue(scenario: "Scenario", row: Row, path: Path, rows: list[Row]) -> str:
    """Return the reason why the fault of a montage is not true any more; empty if it is true."""
    assert row.fault is not None
    kind, problem = row.fault["kind"], row.fault["problem"]
    try:
        metafile = parse_metafile(path.read_bytes(), str(path))
    except Fault as fault:
        is_true = kind == "MetafileFault" and fault.problem in problem
        return "" if is_true else f"its metafile has another fault: {fault.problem}"
    images = [path.parent / tile.img_path for tile in metafile.tiles]
    if "each tile of a stack belongs to one montage" in problem:
        holders = [other for other in rows if str(other.metafile) in problem and other.metafile != path]
        is_owned = any(
            "applied" in (other.state, other.failed_in)  # also if its stacks could not be closed: its tiles are in them
            or other.state == "complete"
            or (other.state != "superseded" and other.metafile.exists())
            for other in holders
        )
        return "" if is_owned else "no other montage owns its tiles"
    if kind == "ImagesMissing":
        return "" if any(not image.exists() for image in images) else "all images are present"
    if kind == "ImageFault":
        size = metafile.header.camera.width, metafile.header.camera.height
        return "" if any(_is_invalid(image, size) for image in images) else "all images are valid"
    if kind == "StackLocked":
        states = [stack.state for name in scenario.stack_names if (stack := scenario.stack(name))]
        return "" if State.READ_ONLY in states else f"the stacks are {states}"
    return "this check does not know this fault"


def _is_invalid(image: Path, size: tuple[int, int]) -> bool:
    try:
        info = inspect_image(image)
    except (OSError, Fault):
        return True
    return (info.width, info.height) != size


# --- stacks


def _sections(scenario: "Scenario", rows: list[Row]) -> Iterator[tuple[Row, Section]]:
    """Yield COMPLETE montages whose metafile is present, with its content."""
    for row in rows:
        if row.state == "complete" and row.metafile.exists():
            content = row.metafile.read_bytes()
            if hashlib.sha256(content).hexdigest() == row.digest:
                yield row, section_from_content(_montage(row), scenario.settings.watch[0], content)


def _montage(row: Row) -> Montage:
    values: dict[str, Any] = dict.fromkeys(Montage.__dataclass_fields__)
    given = {"id": row.id, "metafile": row.metafile, "z": row.z, "raw_stack": row.raw_stack}
    return Montage(**{**values, **given, "mipmapped_stack": row.mipmapped_stack, "state": MontageState(row.state)})


def _stacks_match_files(scenario: "Scenario", rows: list[Row]) -> Iterator[str]:
    """The tiles of every COMPLETE montage are in its stacks, and match its metafile and its levels."""
    for row, section in _sections(scenario, rows):
        plan = section.watch.mipmap_plan()
        levels = {tile.tile_id: level_uris(tile, plan) for tile in section.level0()}
        for name in {section.raw.stack, section.mipmapped.stack}:
            stack = scenario.stack(name)
            if stack is None:
                yield f"stack {name} does not exist; {row}"
                continue
            by_builder = section.watch.mipmaps.apply == "path_builder"
            is_target = name == section.mipmapped.stack
            if by_builder and is_target and not stack.version.get("mipmapPathBuilder"):
                yield f"stack {name} has no path builder"
            for spec in section.specs:
                wanted = levels[spec["tileId"]] if is_target and not by_builder else {}
                why = _why_not_equal(stack, spec, wanted)
                if why:
                    yield f"stack {name}, tile {spec['tileId']}: {why}; {row}"


def _why_not_equal(stack: Stack, spec: dict[str, Any], levels: Any) -> str:
    tile = stack.tiles.get(spec["tileId"])
    if tile is None:
        return "is missing"
    for key, value in spec.items():
        if key != "mipmapLevels" and _plain(tile.get(key)) != _plain(value):
            return f"{key}: expected {value}, found {tile.get(key)}"
    found = {level: urls["imageUrl"] for level, urls in tile["mipmapLevels"].items()}
    wanted = {"0": spec["mipmapLevels"]["0"]["imageUrl"]}
    wanted |= {str(level): image_url for level, (image_url, _) in levels.items()}
    return "" if found == wanted else f"levels: expected {wanted}, found {found}"


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _no_stack_has_obsolete_tiles(scenario: "Scenario", rows: list[Row]) -> Iterator[str]:
    """No tile of a stack belongs only to montages that a COMPLETE montage supersedes."""
    by_id = {row.id: row for row in rows}
    kept = {tile_id for row in rows if _successor(row, by_id).state != "complete" for tile_id in row.tile_ids}
    kept |= {tile_id for row in rows if row.state == "complete" for tile_id in row.tile_ids}
    for name in scenario.stack_names:
        stack = scenario.stack(name)
        for tile_id in sorted(set(stack.tiles if stack else ()) - kept):
            yield f"stack {name} contains {tile_id}, which belongs only to superseded montages"


def _successor(row: Row, by_id: dict[int, Row]) -> Row:
    """Return the last successor of a montage. Tiles stay until it is COMPLETE, so that no layer is ever empty."""
    seen: set[int] = set()
    while row.state == "superseded" and row.superseded_by in by_id and row.id not in seen:
        seen.add(row.id)  # montages whose contents replaced each other in turn name each other
        row = by_id[row.superseded_by]
    return row


def _stacks_are_closed(scenario: "Scenario", rows: list[Row]) -> Iterator[str]:
    """Every stack of a COMPLETE montage is COMPLETE or READ_ONLY, and its section data count the tiles of that z.

    A z without such a montage is not compared: another program may have deleted tiles there.
    """
    for name in scenario.stack_names:
        stack = scenario.stack(name)
        layers = {row.z for row in rows if row.state == "complete" and name in _names(row)}
        if stack is None or not layers:
            continue
        if stack.state not in (State.COMPLETE, State.READ_ONLY):
            yield f"stack {name} is {stack.state}, with {len(stack.tiles)} tiles"
        elif _counts(stack.section_data or [], layers) != _counts(section_data(stack.tiles.values()), layers):
            yield f"stack {name} is {stack.state}, and its section data do not count its tiles"


def _names(row: Row) -> set[str]:
    return {name.rpartition("/")[2] for name in (row.raw_stack, row.mipmapped_stack) if name}


def _counts(data: list[dict[str, Any]], layers: set[float | None]) -> dict[tuple[Any, Any], int]:
    return {(each.get("sectionId"), each["z"]): each["tileCount"] for each in data if each["z"] in layers}


def _levels_match_images(scenario: "Scenario", rows: list[Row]) -> Iterator[str]:
    """The level files of every COMPLETE montage have the grey values of its images."""
    for row, section in _sections(scenario, rows):
        for tile in section.level0():
            grey = _grey(tile.image)
            for level, (image_url, _) in level_uris(tile, section.watch.mipmap_plan()).items():
                path = uri_to_path(image_url)
                if not path.exists():
                    yield f"level {level} of {tile.tile_id} is missing; {row}"
                elif grey is not None and _grey(path) != grey:
                    yield f"level {level} of {tile.tile_id}: expected grey {grey}, found {_grey(path)}; {row}"


def stale_montages(scenario: "Scenario") -> list[Row]:
    """Return COMPLETE montages whose levels differ from their images."""
    rows = scenario.rows()
    return [row for row in rows if row.state == "complete" and any(_levels_match_images(scenario, [row]))]


def _grey(path: Path) -> int | None:
    """Return the grey value of an image; None if it is missing, -1 if it cannot be read."""
    try:
        with Image.open(path) as image:
            low, high = image.getextrema()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, SyntaxError):
        return -1
    return int(low) if low == high else -1


# --- the daemon and the journal


def _events_fold_to_states(scenario: "Scenario", rows: list[Row]) -> Iterator[str]:
    """The events of each montage fold to its state, and no attempt is open."""
    folded = folded_states(scenario.reading)
    open_ones = scenario.reading.execute("SELECT montage_id, step FROM attempts WHERE ended_at IS NULL").fetchall()
    for row in rows:
        if folded.get(row.id) != row.state:
            yield f"{row}, but its events lead to {folded.get(row.id)}"
    if open_ones:
        yield f"attempts are open: {open_ones}"


def _no_work_is_left(scenario: "Scenario", _: list[Row]) -> Iterator[str]:
    """No step, ticket, use of a stack, probe, request or undelivered sighting is left."""
    daemon = scenario.daemon
    assert daemon is not None
    pipeline, keeper = daemon._pipeline, daemon._keeper
    if pipeline.under_way or len(pipeline._queue):
        yield f"{pipeline.under_way} steps are running, {len(pipeline._queue)} tickets are queued"
    for stack, use in keeper._uses.items():
        if use.holders or use.phase in (StackPhase.HELD, StackPhase.CLOSING):
            yield f"stack {stack} is {use}"
    if keeper._blocked:
        yield f"stacks are blocked: {list(map(str, keeper._blocked))}"
    if not daemon._gate.is_closed_circuit:
        yield f"the circuit is {daemon._gate._circuit}"
    if any(daemon._disks._halts.values()):
        yield "mipmaps are still being made"
    if daemon._client._http._turns._value != daemon._client._http._connections:
        yield "requests are running"
    for root in daemon._watcher.health():
        if root.undelivered or root.reasons:
            yield f"the watch has {root.undelivered} undelivered sightings; {root.reasons}"


def _no_temporary_file_is_left(scenario: "Scenario", _: list[Row]) -> Iterator[str]:
    """No temporary file is left in the directory of the mipmaps."""
    for path in sorted(scenario.mipmaps.rglob("*.tmp")):
        yield f"{path.relative_to(scenario.mipmaps)} is left"


_INVARIANTS: dict[str, Callable[["Scenario", list[Row]], Iterator[str]]] = {
    "every metafile is finished": _every_metafile_is_finished,
    "stacks match files": _stacks_match_files,
    "no stack has obsolete tiles": _no_stack_has_obsolete_tiles,
    "stacks are closed": _stacks_are_closed,
    "levels match images": _levels_match_images,
    "events fold to states": _events_fold_to_states,
    "no work is left": _no_work_is_left,
    "no temporary file is left": _no_temporary_file_is_left,
}
