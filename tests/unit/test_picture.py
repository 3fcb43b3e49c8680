"""The picture of a section: tiles placed by their transforms, from the files in their tile specs."""

import io
import json
import math
import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
from PIL import Image

from daemon.commands.picture import draw
from daemon.config.load import load_settings
from daemon.config.settings import Settings
from daemon.pipeline.replay.lookup import NotSelectable
from daemon.simulator import picture
from daemon.simulator.picture import resolved_tiles_at
from daemon.simulator.section import plan_section
from daemon.simulator.temca import write_section
from handlers.errors import Fault, ImageFault, RenderUnavailable, SettingsFault
from handlers.picture import STRIPES, STRIPES_OPACITY, MosaicJob, compose_section, draw_mosaic, save_picture
from handlers.uris import path_to_uri, uri_to_path
from tests.settings_text import UNREACHABLE, settings_text

AFFINE = "mpicbg.trakem2.transform.AffineModel2D"


def leaf(data: str, model: str = AFFINE, **more: str) -> dict[str, str]:
    return {"type": "leaf", "className": model, "dataString": data, **more}


class Stack:
    """Resolved tiles that a test adds, with images in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.tiles: dict[str, dict[str, Any]] = {}
        self.shared: dict[str, dict[str, str]] = {}

    def file(self, name: str, image: Any) -> str:
        path = self._directory / name
        Image.fromarray(np.asarray(image)).save(path)
        return path_to_uri(path)

    def add(self, tile_id: str, image: Any, *transforms: dict[str, str], **more: Any) -> dict[str, Any]:
        """Add a tile with `image` as its level 0; return its mipmap levels, to which a test can add others."""
        height, width = np.asarray(image).shape
        levels: dict[str, Any] = {"0": {"imageUrl": self.file(f"{tile_id}.tif", image)}}
        self.tiles[tile_id] = {
            "tileId": tile_id,
            "width": width,
            "height": height,
            "mipmapLevels": levels,
            "transforms": {"type": "list", "specList": list(transforms)},
            **more,
        }
        return levels

    @property
    def resolved(self) -> dict[str, Any]:
        return {"transformIdToSpecMap": self.shared, "tileIdToSpecMap": self.tiles}


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path)


def grey(width: int, height: int, value: int) -> Any:
    return np.full((height, width), value, np.uint8)


def test_tiles_are_placed_by_their_translations(stack: Stack) -> None:
    stack.add("a", grey(3, 2, 10), leaf("1 0 0 1 -5 100"))
    stack.add("b", grey(3, 2, 20), leaf("1.0 0.0 0.0 1.0 -3.0 101.0"))
    assert compose_section(stack.resolved, level=0, background=1).tolist() == [
        [10, 10, 10, 1, 1],
        [10, 10, 20, 20, 20],
        [1, 1, 20, 20, 20],
    ]


def test_own_and_shared_transforms_are_applied_in_order(stack: Stack) -> None:
    stack.shared["move"] = leaf("2 0", "mpicbg.trakem2.transform.TranslationModel2D", id="move")
    stack.shared["lens"] = leaf("5 1 2 3", "lenscorrection.NonLinearTransform", id="lens")
    stack.add("a", grey(2, 1, 10), leaf("1 0 0 1 0 0"))
    refs = ({"type": "ref", "refId": "lens"}, {"type": "ref", "refId": "move"})
    stack.add("b", grey(1, 1, 20), *refs, leaf("1 0 0 1 1 0"))
    assert compose_section(stack.resolved, level=0).tolist() == [[10, 10, 0, 20]]


def test_a_tile_rotated_by_90_degrees_is_drawn_rotated(stack: Stack) -> None:
    stack.add("a", np.asarray([[10, 20, 30]], np.uint8), leaf("0 1 -1 0 1 0"))
    assert compose_section(stack.resolved, level=0).tolist() == [[10], [20], [30]]


def test_a_slightly_rotated_tile_is_surrounded_by_the_background(stack: Stack) -> None:
    cos, sin = np.cos(0.1), np.sin(0.1)
    stack.add("a", grey(100, 100, 200), leaf(f"{cos} {sin} {-sin} {cos} 0 0"))
    composed = compose_section(stack.resolved, level=0, background=7)
    assert composed.shape == (110, 110)
    assert composed[55, 55] == 200
    assert composed[0, 0] == composed[-1, -1] == 7
    assert set(np.unique(composed).tolist()) == {7, 200}


def test_the_level_is_the_first_at_which_the_picture_fits(stack: Stack) -> None:
    levels = stack.add("a", grey(64, 48, 100), leaf("1 0 0 1 0 0"))
    levels["1"] = {"imageUrl": stack.file("1.png", grey(32, 24, 101))}
    levels["2"] = {"imageUrl": stack.file("2.png", grey(16, 12, 102))}
    assert compose_section(stack.resolved, max_px=64).shape == (48, 64)
    assert compose_section(stack.resolved, max_px=63).tolist() == grey(32, 24, 101).tolist()
    assert compose_section(stack.resolved, max_px=16).tolist() == grey(16, 12, 102).tolist()


def test_a_missing_level_is_reduced_from_the_next_finer_level(stack: Stack) -> None:
    levels = stack.add("a", grey(10, 6, 0), leaf("1 0 0 1 0 0"))
    fine = np.asarray([[10, 20, 90, 90, 5], [30, 40, 90, 90, 5], [7, 7, 7, 7, 5]], np.uint8)
    levels["1"] = {"imageUrl": stack.file("1.png", fine)}
    assert compose_section(stack.resolved, level=2).tolist() == [[25, 90]]


def test_masked_pixels_show_the_tile_below(stack: Stack) -> None:
    stack.add("a", grey(2, 2, 10), leaf("1 0 0 1 0 0"))
    levels = stack.add("b", grey(2, 2, 20), leaf("1 0 0 1 0 0"))
    levels["0"]["maskUrl"] = stack.file("mask.png", np.asarray([[255, 0], [255, 255]], np.uint8))
    assert compose_section(stack.resolved, level=0).tolist() == [[20, 10], [20, 20]]


def test_deep_images_are_shown_in_the_tiles_intensity_range(stack: Stack) -> None:
    deep = np.asarray([[500, 1000, 3000, 5000, 6000]], np.uint16)
    stack.add("a", deep, leaf("1 0 0 1 0 0"), minIntensity=1000, maxIntensity=5000)
    assert compose_section(stack.resolved, level=0).tolist() == [[0, 0, 128, 255, 255]]


def test_a_missing_file_is_named(stack: Stack, tmp_path: Path) -> None:
    levels = stack.add("a", grey(4, 4, 1), leaf("1 0 0 1 0 0"))
    levels["1"] = {"imageUrl": path_to_uri(tmp_path / "not there.tif")}
    with pytest.raises(ImageFault, match=r"not there\.tif.*tile a"):
        compose_section(stack.resolved, level=1)


def test_a_file_of_another_size_is_refused(stack: Stack) -> None:
    levels = stack.add("a", grey(5, 5, 1), leaf("1 0 0 1 0 0"))
    levels["1"] = {"imageUrl": stack.file("1.png", grey(3, 3, 1))}
    with pytest.raises(ImageFault, match=r"tile a, level 1: should have 2x2 pixels, has 3x3"):
        compose_section(stack.resolved, level=1)


def test_a_section_without_tiles_is_refused() -> None:
    with pytest.raises(Fault, match="no tiles"):
        compose_section({"transformIdToSpecMap": {}, "tileIdToSpecMap": {}})


@pytest.mark.parametrize("angle_deg", [180.0, 185.0])
def test_a_composed_section_shows_the_tissue_without_seams(tmp_path: Path, angle_deg: float) -> None:
    plan = plan_section(tiles=5, size=(160, 128), overlap=0.1, angle_deg=angle_deg)
    written = write_section(plan, tmp_path)
    composed = compose_section(resolved_tiles_at(str(written.metafile)), level=0)
    left, top = min(tile.left_px for tile in plan.tiles), min(tile.top_px for tile in plan.tiles)
    tissue = plan.tissue.window(left, top, composed.shape[1], composed.shape[0])
    covered = composed > 0
    # The difference is the noise of the camera, 5 grey values. A tile that is one pixel off gives several times that.
    assert covered.mean() > 0.7
    assert (composed - tissue)[covered].std() == pytest.approx(5, rel=0.1)


def test_a_picture_with_fewer_grey_values_is_smaller(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(128, 20, (100, 100)).astype(np.uint8)
    save_picture(noise, tmp_path / "new" / "full.png")
    save_picture(noise, tmp_path / "new" / "few.png", greys=16)
    with Image.open(tmp_path / "new" / "full.png") as full, Image.open(tmp_path / "new" / "few.png") as few:
        assert np.asarray(full).tolist() == noise.tolist()
        assert set(np.asarray(few).ravel().tolist()) <= set(range(0, 256, 17))
    assert (tmp_path / "new/few.png").stat().st_size < (tmp_path / "new/full.png").stat().st_size
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_a_picture_may_have_the_longest_name_that_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 251}.png"
    save_picture(np.zeros((4, 4), np.uint8), path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def settings_for(tmp_path: Path, url: str) -> Settings:
    (tmp_path / "config.toml").write_text(settings_text(url=url))
    return load_settings(tmp_path / "config.toml")


@pytest.mark.parametrize(
    ("stack", "z", "output", "subject"),
    [
        ("mips", 1050.0, "pipe", "--output"),
        ("mips", math.nan, "a.png", "z nan"),
        ("a/b", 1050.0, "a.png", "stack 'a/b'"),
        ("a b", 1050.0, "a.png", "stack 'a b'"),
    ],
)
async def test_invalid_arguments_of_a_picture_are_refused_before_any_request(
    tmp_path: Path, stack: str, z: float, output: str, subject: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    settings = settings_for(tmp_path, UNREACHABLE)
    with pytest.raises(NotSelectable) as refused:
        await draw(settings, stack, z, tmp_path / output, 100)
    assert refused.value.subject == subject
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


async def test_a_stack_of_the_embedded_stand_in_cannot_be_drawn(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "embedded")
    with pytest.raises(SettingsFault, match="the embedded stand-in runs inside the daemon"):
        await draw(settings, "mips", 1050.0, tmp_path / "a.png", 100)


@pytest.fixture
def served() -> Iterator[tuple[str, dict[str, bytes]]]:
    """URL of a server, and its answers: path -> body."""
    bodies: dict[str, bytes] = {}

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in bodies else 404)
            self.end_headers()
            self.wfile.write(bodies.get(self.path, b"nothing is here"))

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_command_makes_the_picture_of_a_stack(
    stack: Stack, tmp_path: Path, served: tuple[str, dict[str, bytes]]
) -> None:
    url, bodies = served
    stack.add("a", grey(8, 8, 77), leaf("1 0 0 1 0 0"))
    bodies["/z/5/resolvedTiles"] = json.dumps(stack.resolved).encode()
    assert picture.main([f"{url}/z/5/resolvedTiles", str(tmp_path / "a.png"), "--max-px", "4"]) == 0
    with Image.open(tmp_path / "a.png") as image:
        assert (image.size, image.getpixel((3, 3))) == ((4, 4), 77)
    with pytest.raises(RenderUnavailable, match="404") as refused:
        resolved_tiles_at(f"{url}/z/6/resolvedTiles")
    assert isinstance(refused.value.__cause__, HTTPError)
    assert refused.value.__cause__.closed


def test_the_command_reports_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.json").write_text("[1]")
    (tmp_path / "cut.json").write_text("[1")
    for source, problem in (("nothing.json", "cannot be read"), ("text.json", "no resolved"), ("cut.json", "not JSON")):
        assert picture.main([str(tmp_path / source), str(tmp_path / "a.png")]) == 1
        assert problem in capsys.readouterr().err


def mosaic_of(stack: Stack) -> Any:
    """Return grey value and opacity of each pixel of the mosaic, (height, width, 2)."""
    for spec in stack.tiles.values():
        for urls in spec["mipmapLevels"].values():
            urls["imageUrl"] = uri_to_path(urls["imageUrl"])
    with Image.open(io.BytesIO(draw_mosaic(MosaicJob("mosaic", stack.resolved, 2000)))) as picture:
        assert picture.mode == "LA"
        return np.asarray(picture)


def test_a_mosaic_is_transparent_between_its_tiles(stack: Stack) -> None:
    stack.add("a", grey(2, 1, 10), leaf("1 0 0 1 0 0"))
    stack.add("b", grey(2, 1, 0), leaf("1 0 0 1 1 1"))
    mosaic = mosaic_of(stack)
    assert mosaic[..., 1].tolist() == [[255, 255, 0], [0, 255, 255]]
    assert mosaic[..., 0][mosaic[..., 1] == 255].tolist() == [10, 10, 0, 0]  # black tissue is opaque, too


def test_a_tile_without_its_image_has_translucent_stripes(stack: Stack, tmp_path: Path) -> None:
    stack.add("a", grey(8, 8, 10), leaf("1 0 0 1 0 0"))
    (tmp_path / "a.tif").unlink()
    mosaic = mosaic_of(stack)
    assert set(np.unique(mosaic[..., 0]).tolist()) == set(STRIPES)
    assert (mosaic[..., 1] == STRIPES_OPACITY).all()
