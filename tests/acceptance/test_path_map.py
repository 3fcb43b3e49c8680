"""render-ws finds the data at other paths: every step converts paths in both directions."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daemon.simulator.delivery import Written
from daemon.simulator.temca import write_section
from handlers.images.reduction import level_size
from tests.acceptance.conftest import section_plan
from tests.acceptance.elsewhere import Elsewhere, assert_render_finds, derived_urls, urls_of
from tests.acceptance.rig import OWNER, PROJECT, REAL_URL, Rig, Standins, fetch, temwatch

Z = 1050.0
LEVELS = 2


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Elsewhere]:
    """A rig with few levels and a mask beside the images, whose stand-in finds the data at other paths."""
    rig = Elsewhere(tmp_path, {"watch.mipmaps.levels": LEVELS})
    rig.settings["watch.tilespecs.mask"] = str(rig.acquisition / "mask.png")
    Image.new("L", (128, 128), 255).save(rig.acquisition / "mask.png")
    try:
        yield rig
    finally:
        rig.close()


def run(rig: Elsewhere, *arguments: object) -> Any:
    done = temwatch(*map(str, arguments), "--config", str(rig.config()))
    assert "Traceback" not in done.stderr, done.stderr
    return done


def complete(rig: Elsewhere, write: Callable[..., Written]) -> Written:
    rig.start_standin()
    rig.start()
    section = write(specimen_id="s")
    rig.wait_until("complete", section.metafile)
    return section


def assert_tiles_are_served(rig: Elsewhere, stack: str, section: Written) -> None:
    """Assert that render-ws serves the pixels of each image, and finds all files of each tile."""
    tiles = rig.tiles(stack, Z)
    assert len(tiles) == len(section.images) == 4
    for tile_id in tiles:
        # 501: all files are there, and the stand-in renders no tiles.
        assert "renders no tiles" in str(fetch(f"{rig.stack_url(stack)}/tile/{tile_id}/png-image"))
    assert_render_finds(rig, urls_of(tiles).values())


def test_the_daemon_names_files_as_render_ws_finds_them(rig: Elsewhere, write) -> None:
    section = complete(rig, write)
    for stack, highest in (("s_raw", 0), ("s_mips", LEVELS)):
        assert_tiles_are_served(rig, stack, section)
        levels = {(level, key) for _, level, key in urls_of(rig.tiles(stack, Z))}
        assert levels == {(level, key) for level in range(highest + 1) for key in ("imageUrl", "maskUrl")}
    done = run(rig, "import", section.metafile, "--format", "pytemca", "--stack", "imported", "--z", Z)
    assert done.returncode == 0, done.stderr
    assert_render_finds(rig, urls_of(rig.tiles("imported", Z)).values())
    made = {path.relative_to(rig.mipmaps).parts[1:] for path in rig.mipmaps.glob("[12]/**/*.tif.tif")}
    assert made == {(*Path(f"{image}.tif").parts[1:],) for image in section.images}  # below the path on this machine


def test_a_path_builder_derives_the_files_that_render_finds(rig: Elsewhere, write) -> None:
    there = rig.root / "render-side"  # a path builder needs URLs without escapes
    rig.entries = ((rig.acquisition, there / "raw"), (rig.mipmaps, there / "levels"))
    rig.settings["watch.mipmaps.apply"] = "path_builder"
    section = complete(rig, write)
    tiles = rig.tiles("s_mips", Z)
    assert {level for _, level, _ in urls_of(tiles)} == {0}
    assert_render_finds(rig, derived_urls(rig, "s_mips", tiles))
    report = json.loads(run(rig, "verify", "--json").stdout)
    assert (report["differences"], report["not_judged"]) == ([], [])
    assert rig.daemon.stop() == 0
    for file in rig.root.glob("daemon.sqlite*"):
        file.unlink()
    assert "1 complete" in run(rig, "journal", "rebuild").stdout
    assert len(derived_urls(rig, "s_mips", tiles)) == len(section.images) * LEVELS * 2


@pytest.mark.slow
def test_verify_replay_rebuild_and_picture_follow_the_map(rig: Elsewhere, write, tmp_path: Path) -> None:
    section = complete(rig, write)
    # One tile names a level by its path on this machine, as before there was a map.
    layer = fetch(f"{rig.stack_url('s_mips')}/z/{Z}/resolvedTiles")
    first = min(layer["tileIdToSpecMap"])
    levels = layer["tileIdToSpecMap"][first]["mipmapLevels"]
    levels["1"]["imageUrl"] = f"file://{rig.mipmaps}/1{section.images[0]}.tif"
    fetch(f"{rig.stack_url('s_mips')}/state/LOADING", method="PUT")
    fetch(f"{rig.stack_url('s_mips')}/z/{Z}/resolvedTiles", method="PUT", body=layer)
    fetch(f"{rig.stack_url('s_mips')}/state/COMPLETE", method="PUT")
    gone = next(iter(rig.mipmaps.rglob("*.tif.tif")))
    gone.unlink()
    found = json.loads(run(rig, "verify", "--json").stdout)["differences"]
    assert sorted(each["kind"] for each in found) == ["level_missing", "url_differs"]
    assert [each["tile"] for each in found if each["kind"] == "url_differs"] == [first]
    assert run(rig, "replay", section.metafile).returncode == 0
    rig.wait_until("complete", section.metafile)
    assert json.loads(run(rig, "verify", "--json").stdout)["differences"] == []
    assert gone.exists()
    assert_tiles_are_served(rig, "s_mips", section)

    picture = tmp_path / "picture.png"
    assert run(rig, "picture", "s_mips", "1050", "-o", picture).returncode == 0
    with Image.open(picture) as image:
        assert np.asarray(image).std() > 5
    assert rig.daemon.stop() == 0
    for file in rig.root.glob("daemon.sqlite*"):
        file.unlink()
    assert "1 complete" in run(rig, "journal", "rebuild").stdout


def test_levels_can_be_made_from_the_pixels_that_render_ws_serves(rig: Elsewhere, write) -> None:
    rig.settings["watch.mipmaps.method"] = "render"
    section = complete(rig, write)
    assert_tiles_are_served(rig, "s_mips", section)


def test_the_import_commands_map_paths_in_both_directions(rig: Elsewhere, write, tmp_path: Path) -> None:
    rig.start_standin()
    section = write(specimen_id="s")
    host, _, port = rig.render_url.removeprefix("http://").partition("/")[0].partition(":")
    render: dict[str, Any] = {"host": host, "port": int(port), "owner": OWNER, "project": PROJECT}
    flags = ["--render.path_map", *(f"{local}={there}" for local, there in rig.entries)]
    path_map = [{"local": str(local), "render": str(there)} for local, there in rig.entries]
    mips = str(rig.mipmaps)
    steps = {
        "generate_EM_tilespecs_from_metafile": {
            "metafile": str(section.metafile),
            "stack": "raw",
            "maskUrl": rig.settings["watch.tilespecs.mask"],
        },
        "generate_mipmaps": {"input_stack": "raw", "output_dir": mips, "levels": LEVELS, "pool_size": 1},
        "apply_mipmaps_to_render": {
            "input_stack": "raw",
            "output_stack": "mips",
            "mipmap_dir": mips,
            "levels": LEVELS,
            "close_stack": True,
        },
    }
    for name, values in steps.items():
        file, is_last = tmp_path / f"{name}.json", name.startswith("apply")
        given = render if is_last else {**render, "path_map": path_map}
        file.write_text(json.dumps({"render": given, "z": Z, **values}))
        done = temwatch(name, "--input_json", str(file), *(flags if is_last else ()))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["tile_count"] == 4
    assert_tiles_are_served(rig, "raw", section)
    assert_tiles_are_served(rig, "mips", section)
    assert len(urls_of(rig.tiles("mips", Z))) == 4 * (LEVELS + 1) * 2
    with Image.open(next(rig.mipmaps.glob(f"2/**/{section.images[0].name}.tif"))) as level:
        assert level.size == level_size(128, 128, 2)

    file.write_text(json.dumps({"render": render, "z": Z, **steps["generate_mipmaps"]}))
    done = temwatch("generate_mipmaps", "--input_json", str(file))
    assert done.returncode == 1
    assert str(rig.entries[0][1]) in done.stderr  # without the map no image is found


def test_check_config_shows_each_url_as_render_ws_will_see_it(rig: Elsewhere) -> None:
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    lines = [
        line.split(maxsplit=2)[1:] for line in run(rig, "check-config").stdout.splitlines() if line.startswith("  URL ")
    ]
    raw, levels = (str(there).replace(" ", "%20") for _, there in rig.entries)
    assert lines == [
        ["image", f"file://{raw}/IMAGE.tif"],
        ["mask", f"file://{raw}/mask.png"],
        ["level", f"1    file://{levels}/1{rig.acquisition}/IMAGE.tif.tif"],
        ["level", f"mask file://{levels}/1{rig.acquisition}/mask.png.tif"],
    ]


class Windows(Rig):
    """A rig whose render-ws runs on Windows: the images are on a drive there, the levels on a share."""

    def config_text(self) -> str:
        entries = ((self.acquisition, "S:/em/raw data"), (self.mipmaps, r"\\nas\em\levels"))
        mapped = [f"[[render.path_map]]\nlocal = '{local}'\nrender = '{there}'\n" for local, there in entries]
        return "\n".join([super().config_text(), *mapped])


def test_a_drive_and_a_share_of_windows_are_named_and_found_again(tmp_path: Path, standins: Standins) -> None:
    """The stand-in only stores the URLs; this test compares them with files, by the map in reverse."""
    if REAL_URL:
        pytest.skip(f"{REAL_URL} may refuse paths of Windows")
    rig = Windows(tmp_path, {"watch.mipmaps.levels": LEVELS}, standins=standins)
    try:
        rig.start_standin()
        rig.start()
        section = write_section(section_plan(specimen_id="s"), rig.acquisition, pixels="noise")
        rig.wait_until("complete", section.metafile)
        below = section.directory.relative_to(rig.acquisition)
        urls = urls_of(rig.tiles("s_mips", Z))
        levels = {
            level: url for (_, level, _), url in urls.items() if Path(url).name.startswith(section.images[0].name)
        }
        assert levels[0] == f"file:///S:/em/raw%20data/{below}/{section.images[0].name}"
        for level in range(1, LEVELS + 1):
            assert levels[level] == f"file:////nas/em/levels/{level}{section.images[0]}.tif"
            assert (rig.mipmaps / f"{level}{section.images[0]}.tif").exists()
        assert json.loads(run(rig, "verify", "--json").stdout)["differences"] == []
        (rig.mipmaps / f"2{section.images[0]}.tif").unlink()
        (lost,) = json.loads(run(rig, "verify", "--json").stdout)["differences"]
        assert lost["kind"] == "level_missing"
        assert run(rig, "replay", section.metafile).returncode == 0
        rig.wait_until("complete", section.metafile)
        assert rig.daemon.stop() == 0
        for file in rig.root.glob("daemon.sqlite*"):
            file.unlink()
        assert "1 complete" in run(rig, "journal", "rebuild").stdout
    finally:
        rig.close()
