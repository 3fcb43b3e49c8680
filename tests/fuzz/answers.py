"""Fuzzer of render-ws's answers: each one must give a record that the handlers can use, or a RenderFault."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from handlers.errors import MAX_TEXT, RenderFault
from handlers.render.http.reading import Reader, read_answer
from handlers.render.http.requests import Request
from handlers.render.layer_responses import RESOLVED_TILES, SECTION_DATA, TILE, TILE_BOUNDS, Z_VALUES, ResolvedTiles
from handlers.render.levels import with_levels
from handlers.render.responses import OBJECT, PATH_BUILDER, STACK_META, PathBuilder, StackMeta, fault_of, plain_text
from handlers.render.tiles import MAX_BYTES, MAX_TILES, differences, referenced, shared_transforms, upload_parts
from handlers.render.z_values import match_z
from tests.acceptance.faults.mutations import damage_metafile
from tests.fuzz.fuzzer import Check, Fuzzer

LENS = {"id": "lens", "type": "leaf", "className": "a.Lens", "dataString": "1 2"}
AFFINE = {"type": "leaf", "className": "mpicbg.trakem2.transform.AffineModel2D", "dataString": "1 0 0 1 5 7"}
SPEC = {
    "tileId": "a.tif.42.0",
    "z": 42.0,
    "width": 64.0,
    "height": 48.0,
    "minIntensity": 0.0,
    "maxIntensity": 255.0,
    "layout": {"sectionId": "42.0", "imageCol": 0, "imageRow": 1, "stageX": 1.5, "rotation": 0.0},
    "mipmapLevels": {"0": {"imageUrl": "file:/d/a.tif", "maskUrl": "file:/d/m.tif"}, "1": {"imageUrl": "file:/m/a"}},
    "transforms": {"type": "list", "specList": [{"type": "ref", "refId": "lens"}, AFFINE]},
    "meshCellSize": 64.0,
}
CHANNELS = {**SPEC, "channels": [{"name": "0", "maxIntensity": 255.0, "mipmapLevels": SPEC["mipmapLevels"]}]}
STACK = {
    "stackId": {"owner": "em", "project": "v1", "stack": "raw"},
    "state": "LOADING",
    "currentVersionNumber": 3,
    "currentVersion": {"stackResolutionX": 4.0, "stackResolutionY": 4.0, "stackResolutionZ": 45.0},
}
BOUNDS = {"tileId": "a.tif.42.0", "z": 42.0, "sectionId": "42.0", "minX": 0.0, "maxX": 64.0}
ANSWERS_OF_RENDER: tuple[Any, ...] = (
    SPEC,
    CHANNELS,
    {"tileIdToSpecMap": {"a": SPEC, "b": CHANNELS}, "transformIdToSpecMap": {"lens": LENS}},
    STACK,
    {"rootPath": "/m/", "numberOfLevels": 3, "extension": "tif"},
    [1.0, 2.0, 3.0, 4.5, 6.0],
    [BOUNDS, BOUNDS, BOUNDS],
    [{"z": 42.0, "sectionId": "42.0", "tileCount": 9}, {"z": 43.0, "tileCount": 9}, {"z": 44.0, "tileCount": 1}],
)
ERRORS = (
    b"<html><head><style>p { color: red }</style></head><body><h1>502 Bad Gateway</h1></body></html>",
    b"stack with owner 'em', project 'v1', and name 'raw' does not exist",
    b"Tiles cannot be saved because the stack state is COMPLETE, it must be in the LOADING state",
    b"Timed out after 30000 ms while waiting for a server",
    b"<script><style>" * 9000,
    b"<" * 9000,
)
READERS: tuple[Reader[Any], ...] = (
    *(OBJECT, STACK_META, PATH_BUILDER, TILE, RESOLVED_TILES, SECTION_DATA, Z_VALUES, TILE_BOUNDS),
)
STATUSES = (302, 400, 401, 404, 413, 429, 500, 502, 503, 504, 599)
REQUEST = Request("GET", "/x", "em/v1/raw", "read an answer")


def draw_answer(rng: random.Random) -> bytes:
    """Return a damaged answer, or a damaged text of an error."""
    if rng.random() < 0.9:
        return damage_metafile(rng, rng.choice(ANSWERS_OF_RENDER))
    text = rng.choice(ERRORS)
    where = rng.randrange(len(text))
    return text[:where] + rng.choice((b"", rng.randbytes(9), text, b"<script>", b"{setting}")) + text[where:]


def use(record: Any) -> None:
    """Use a record as the handlers do. Raises a RenderFault."""
    match record:
        case StackMeta():
            record.resolution_nm  # noqa: B018  a property
        case PathBuilder():
            record.derived_path("file:/d/a.tif", 1)
            json.dumps(record.normalized().to_json())
        case ResolvedTiles():
            for tile_id, spec in record.tile_id_to_spec_map.items():
                _faults_only(
                    lambda tile_id=tile_id, spec=spec: use_spec(tile_id, spec, record.transform_id_to_spec_map)
                )
        case [float(), *_]:
            match_z(record, [1.0, 42.0])
        case _:
            pass


def use_spec(tile_id: str, spec: dict[str, Any], transforms: dict[str, Any]) -> None:
    """Compare a tile spec with the one that was sent, set a level, and make its upload. Raises a RenderFault."""
    list(differences(SPEC, spec))
    referenced(tile_id, spec, transforms)
    edited = with_levels(spec, {1: ("file:/m/1/a.tif", None)})
    upload_parts([edited], shared_transforms([edited], transforms), MAX_TILES, MAX_BYTES)


def _faults_only(action: Callable[[], object]) -> None:
    try:
        action()
    except RenderFault as fault:
        require_readable(fault)


def require_readable(fault: RenderFault) -> None:
    """Raise AssertionError if the text of a fault is too long or not printable."""
    assert str(fault).isprintable(), repr(str(fault))
    assert len(str(fault)) <= 3 * MAX_TEXT, str(fault)


async def check_answer(content: bytes) -> None:
    """Read an answer with every reader. Raises AssertionError, or an exception other than a RenderFault."""
    for reader in READERS:
        try:
            record = await read_answer(reader, content, REQUEST)
        except RenderFault as fault:
            require_readable(fault)
        else:
            _faults_only(partial(use, record))
    text = plain_text(content[:8192])
    for status in STATUSES:
        for kind in ("text/plain", "text/html", "application/json"):
            fault = fault_of("em/v1/raw", "read an answer", status, kind, text)
            assert isinstance(fault, RenderFault)
            require_readable(fault)


@contextmanager
def open_check(_: Path) -> Iterator[Check]:
    """Yield the check of an answer."""
    with asyncio.Runner() as runner:
        yield lambda content: runner.run(check_answer(content))


ANSWERS = Fuzzer("answers", draw_answer, open_check)
