"""Content of the page of a section. Pure, apart from queries of the journal."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

from daemon.config.settings import LinkSettings
from daemon.journal.tables import quality, rows, verdicts
from daemon.journal.tables.rows import BY_ID, Connection
from daemon.montages.records import Montage
from daemon.montages.states import MontageState
from daemon.montages.verdicts import Decision, MontageVerdict
from daemon.web.pages.montage_view import STEPS, view_of
from daemon.web.pages.section_files import Tiles
from daemon.web.pages.timeline import timeline
from handlers.quality.heatmap_numbers import Number
from handlers.quality.rules import Finding, Rule
from handlers.render.names import StackId
from handlers.text import z_text

MAX_LINES = 200
"""Largest number of lines of the timeline that a page shows; the newest ones are shown."""
MAKES_MIPMAPS = (MontageState.NOTICED, MontageState.SETTLED, MontageState.INGESTED)
WITHOUT_PICTURE = (MontageState.NOTICED, MontageState.SETTLED)
PICTURE_PX = (1_000, 700)
"""Largest width and height of the mosaic on a page, CSS pixels."""
PICTURES_OF_SECTION = 20
"""Number of mosaics that a page loads while a section's tiles are made."""


@dataclass(frozen=True, slots=True)
class History:
    """A montage with all its records in the journal."""

    montage: Montage
    events: list[dict[str, Any]]
    attempts: list[dict[str, Any]]
    made: frozenset[str]
    """Ids of finished tiles while mipmaps are being made; otherwise empty."""
    verdict: MontageVerdict | None
    has_numbers: bool
    """Whether heatmaps can be drawn."""


def look_up(connection: Connection, montage_id: int) -> History | None:
    """Return the history of a montage; None if there is none."""
    montage = rows.find(connection, BY_ID, (montage_id,))
    if montage is None:
        return None
    made = connection.execute("SELECT tile_id FROM tiles WHERE montage_id = ?", (montage_id,))
    return History(
        montage,
        rows.events(connection, montage_id),
        rows.attempts(connection, montage_id),
        frozenset(row[0] for row in made),
        verdicts.verdict_of(connection, montage_id),
        quality.numbers_of(connection, montage_id) is not None,
    )


def section_values(
    found: History, tiles: Tiles | None, waiting_for: str | None, links: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Return the values of the section's template."""
    montage, lines = found.montage, timeline(found.events, found.attempts)
    made_all = (montage.failed_in or montage.state) not in MAKES_MIPMAPS
    return {
        "view": view_of(montage, waiting_for, {montage.id: len(found.made)} if found.made else {}),
        "montage": montage,
        "waiting_for": waiting_for or montage.waiting_for,
        "steps": STEPS,
        "timeline": lines[-MAX_LINES:],
        "earlier": max(0, len(lines) - MAX_LINES),
        "map": raster_map(tiles, found.made, made_all=made_all) if tiles else None,
        "verdict": found.verdict,
        "findings": [FindingLine.of(each) for each in found.verdict.findings] if found.verdict else [],
        "picture": picture_of(found) if (montage.failed_in or montage.state) not in WITHOUT_PICTURE else None,
        "heatmaps": [(str(each), str(each).replace("_", " ")) for each in Number] if found.has_numbers else [],
        "decisions": [str(each) for each in Decision],
        "first_tile": tiles.tile_id(0) if tiles else None,
        "outside_links": links,
    }


# --- quality

_SHARES = (Rule.MAX_SATURATED_SHARE, Rule.MAX_FOCUS_DROP)
_OF_OVERLAP = (Rule.MAX_STAGE_ERROR_SHARE,)
"""Rules whose limit is shown only with a value: its unit depends on the overlap, which is unknown without one."""
_UNITS = {Rule.MIN_STD_DEV: "of 255", Rule.MAX_STAGE_ERROR_SHARE: "px"}
_NONE = "\u2013"


@dataclass(frozen=True, slots=True)
class FindingLine:
    """A finding of a rule, as texts of a page."""

    rule: str
    limit: str
    value: str
    verdict: str
    """"unknown" if the rule has no value."""
    tiles: tuple[str, ...]
    tile_count: int

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """Return the line of a finding."""
        return cls(
            str(finding.rule).replace("_", " "),
            _NONE if finding.value is None and finding.rule in _OF_OVERLAP else with_unit(finding.rule, finding.limit),
            _NONE if finding.value is None else with_unit(finding.rule, finding.value),
            "unknown" if finding.value is None else str(finding.verdict),
            finding.tiles,
            finding.tile_count,
        )


def with_unit(rule: Rule, number: float) -> str:
    """Return a limit or a value of a rule with its unit.

    >>> with_unit(Rule.MAX_SATURATED_SHARE, 0.014), with_unit(Rule.MIN_STD_DEV, 5)
    ('1.4 %', '5 of 255')
    """
    if rule in _SHARES:
        return f"{100 * number:.3g} %"
    return f"{number:.4g} {_UNITS.get(rule, '')}".strip()


# --- the picture


@dataclass(frozen=True, slots=True)
class Picture:
    """The mosaic of a section."""

    version: str
    """Changes with the picture, so that browsers load it again."""
    width: int
    height: int


def picture_of(found: History) -> Picture:
    """Return version and size of the mosaic.

    While tiles are made, the version changes `PICTURES_OF_SECTION` times and not with each tile, since a worker draws
    the mosaic.
    """
    montage = found.montage
    left, top, right, bottom = montage.bounds or (0.0, 0.0, 1.0, 1.0)
    scale = min(PICTURE_PX[0] / max(right - left, 1.0), PICTURE_PX[1] / max(bottom - top, 1.0))
    parts = len(found.made) * PICTURES_OF_SECTION // max(montage.tile_count or 1, 1)
    version = f"{montage.state}-{montage.changed_at:.0f}-{parts}"
    return Picture(version, max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))


# --- the raster


@dataclass(frozen=True, slots=True)
class RasterMap:
    """The raster of a section's tiles, as SVG paths in units of a tile."""

    columns: int
    rows: int
    left: int
    """Column of the leftmost tiles; `top` is the row of the topmost ones."""
    top: int
    first: tuple[int, int]
    """Column and row of an existing tile, since the corners of the raster may be empty."""
    made: str
    open: str
    made_count: int
    total: int


def raster_map(tiles: Tiles, made: Collection[str], *, made_all: bool) -> RasterMap | None:
    """Return the raster of a section; None if the format has no grid."""
    if not tiles.at:
        return None
    left, top = min(column for column, _ in tiles.at), min(row for _, row in tiles.at)
    right, bottom = max(column for column, _ in tiles.at), max(row for _, row in tiles.at)
    done = [made_all or tiles.tile_id(index) in made for index in tiles.at.values()]
    squares = [(column - left, row - top) for column, row in tiles.at]
    return RasterMap(
        columns=right - left + 1,
        rows=bottom - top + 1,
        left=left,
        top=top,
        first=next(iter(tiles.at)),
        made=_squares(square for square, is_made in zip(squares, done, strict=True) if is_made),
        open=_squares(square for square, is_made in zip(squares, done, strict=True) if not is_made),
        made_count=sum(done),
        total=len(done),
    )


def _squares(places: Iterable[tuple[int, int]]) -> str:
    return "".join(f"M{x + 0.05:g} {y + 0.05:g}h.9v.9h-.9z" for x, y in places)


# --- other programs


def render_links(base_url: str, montage: Montage, tile_id: str | None) -> list[tuple[str, str]]:
    """Return the pages of render-ws about a montage's stacks and one of its tiles: title and address."""
    view = base_url.rpartition("/")[0] + "/view"
    found = []
    for name in montage.stacks:
        stack = StackId.parse(name)
        query = {"renderStackOwner": stack.owner, "renderStackProject": stack.project, "renderStack": stack.stack}
        found.append((f"{stack.stack}: stack details", f"{view}/stack-details.html?{urlencode(query)}"))
        if tile_id is not None:
            more = {**query, "tileId": tile_id, "renderScale": "0.1"}
            found.append((f"{stack.stack}: tile with neighbors", f"{view}/tile-with-neighbors.html?{urlencode(more)}"))
    return found


def outside_links(links: LinkSettings, base_url: str, montage: Montage) -> list[tuple[str, str]]:
    """Return the configured addresses of a section in CATMAID and Neuroglancer."""
    if montage.mipmapped_stack is None or montage.z is None:
        return []
    stack = StackId.parse(montage.mipmapped_stack)
    left, top, right, bottom = montage.bounds or (0.0, 0.0, 0.0, 0.0)
    server = base_url.partition("/render-ws")[0]
    values = {
        "owner": stack.owner,
        "project": stack.project,
        "stack": stack.stack,
        "z": z_text(montage.z),
        "x": f"{(left + right) / 2:.0f}",
        "y": f"{(top + bottom) / 2:.0f}",
        "render": base_url,
        "source": f"render://{server}/{stack.owner}/{stack.project}/{stack.stack}",
    }
    given = (("CATMAID", links.catmaid), ("Neuroglancer", links.neuroglancer))
    return [(title, _filled(template, values)) for title, template in given if template]


def _filled(template: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        template = template.replace("{" + name + "}", quote(value, safe=":/,-"))
    return template
