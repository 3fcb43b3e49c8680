"""Sections of other microscopes on their page, in `temwatch quality`, in mosaics and in heatmaps."""

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from daemon.commands.import_file import import_into_stack
from daemon.commands.quality import Form, quality
from daemon.config.settings import JournalSettings
from daemon.montages.records import Montage
from daemon.montages.states import MontageState
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.pictures import Pictures
from daemon.pipeline.replay.selection import Selection
from daemon.simulator.standin.server import serve_standin
from daemon.web.pages.handlers import Pages
from daemon.web.routes import make_app
from handlers.acquisition.formats.sbemimage_log import LogFollower
from handlers.errors import SettingsFault
from handlers.quality.heatmap_numbers import Number
from tests.integration.inprocess import Bench, bench
from tests.integration.paged import HTML
from tests.integration.test_pictures import picture_at
from tests.ready_facts import READY

Grey = npt.NDArray[np.uint8]
SIDE = (600, 400)
WIDTH, HEIGHT = 200, 100


def tissue() -> Grey:
    """Return smooth noise, so that pixels which were resampled differ little."""
    coarse = np.random.default_rng(7).integers(40, 216, (SIDE[1] // 20, SIDE[0] // 20), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(SIDE, Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Plan:
    """A tile: grid, number, translation in pixels, image."""

    grid: int
    number: int
    position: tuple[int, int]
    image: Grey


def three_grids(field: Grey) -> list[Plan]:
    """Return four tiles of a grid, one of a grid rotated by 90 degrees, and one of a grid with twice the pixel size."""
    plain = [
        Plan(0, number, (x, y), field[y : y + HEIGHT, x : x + WIDTH])
        for number, (x, y) in enumerate([(0, 0), (180, 0), (0, 80), (180, 80)])
    ]
    rotated = np.rot90(field[200:400, 250:350])  # a tile at 200, 250, rotated about its centre
    doubled = np.asarray(Image.fromarray(field[200:300, :200]).resize((100, 50), Image.Resampling.BOX))
    return [*plain, Plan(1, 0, (200, 250), rotated), Plan(2, 0, (0, 200), doubled)]


def write_log(base: Path, plans: Iterable[Plan]) -> Path:
    """Write a slice of SBEMimage; return the path of its section."""
    log = base / "meta" / "logs" / "metadata_2020-06-0210021236.txt"
    log.parent.mkdir(parents=True)
    session = {"grids": ["0000", "0001", "0002"], "pixel_sizes": [10.0, 10.0, 20.0], "slice_thickness": 50}
    lines = [f"SESSION: {session | {'rotation_angles': [0.0, 90.0, 0.0]}}"]
    for seconds, plan in enumerate(plans):
        name = f"tiles/g{plan.grid:04d}/t{plan.number:04d}/o'neill_g{plan.grid:04d}_t{plan.number:04d}_s00002.tif"
        (base / name).parent.mkdir(parents=True)
        Image.fromarray(np.ascontiguousarray(plan.image)).save(base / name)
        tile = {"tileid": f"{plan.grid:04d}.{plan.number:04d}.00002", "slice_counter": 2, "filename": name}
        tile |= {"timestamp": 1591084958 + 7 * seconds, "wd_stig_xy": [0.00625, -0.014, 1.094]}
        tile |= {"tile_width": plan.image.shape[1], "tile_height": plan.image.shape[0]}
        tile |= {"glob_x": plan.position[0] * 10, "glob_y": plan.position[1] * 10, "glob_z": 100}
        lines.append(f"TILE: {tile}")
    lines.append("SLICE COMPLETE: {'timestamp': 1591085000, 'completed_slice': 3}")
    log.write_text("".join(f"{line}\r\n" for line in lines), newline="")
    ((section, _),) = LogFollower().sections(str(log))
    return Path(section)


def write_table(region: Path, field: Grey) -> Path:
    """Write a region of MultiSEM, two beams with a thumbnail each; return its table."""
    lines = []
    for beam, x in ((1, 0), (2, 180)):
        name = f"001_000001_{beam:03d}_2022-04-27T2317111235567.png"
        (region / "000001").mkdir(parents=True, exist_ok=True)
        Image.fromarray(field[:HEIGHT, x : x + WIDTH]).save(region / "000001" / name)
        Image.new("L", (50, 25)).save(region / "000001" / f"thumbnail_{name}")
        lines.append(f"000001\\{name}\t{2014641 + x}.000\t915550.000\t0\r\n")
    table = region / "full_image_coordinates.txt"
    table.write_text("".join(lines), newline="")
    return table


def halved(pixels: Grey) -> npt.NDArray[np.float64]:
    """Return the means of blocks of two by two pixels."""
    height, width = pixels.shape
    return pixels.reshape(height // 2, 2, width // 2, 2).mean((1, 3))


@asynccontextmanager
async def pages_of(running: Bench) -> AsyncIterator["TestClient[Any, Any]"]:
    async def facts() -> Any:
        return READY

    work = running.assembly
    pages = Pages(work.settings, work.journal, facts, work.client)
    pictures = Pictures(work.settings, work.journal, lambda: work.pool)
    app = make_app(work.journal, Metrics(), facts, http=lambda: work.settings().http, pages=pages, pictures=pictures)
    async with TestClient(TestServer(app)) as client:
        yield client


async def page_of(client: "TestClient[Any, Any]", montage: Montage) -> str:
    """Return the page of a section. Its pictures are drawn at the lowest priority, so tests load few."""
    async with client.get(f"/montages/{montage.id}", headers=HTML) as answer:
        text = await answer.text()
        assert answer.status == 200, text
    for number in Number:
        assert f"/api/montages/{montage.id}/heatmap/{number}.png" in text
    return text


async def lines_of(running: Bench, pictures: Path | None = None) -> list[str]:
    """Return the lines that `temwatch quality` prints about all montages."""
    lines: list[str] = []
    journal = JournalSettings(path=running.root / "journal.sqlite")
    settings = running.assembly.settings().model_copy(update={"journal": journal})
    assert await quality(settings, Selection(state="all"), lines.append, Form.TABLE, pictures) == 0, lines
    return lines


async def test_the_grids_of_a_slice_are_shown_rotated_and_scaled_at_their_positions(tmp_path: Path) -> None:
    watch = {"format": "sbemimage", "z": {"rule": "header"}, "qc": {"measure_stage_error": True}}
    watch["mipmaps"] = {"output_dir": str(tmp_path / "mipmaps"), "levels": 3}
    field = tissue()
    async with bench(tmp_path, of_format=watch) as running, pages_of(running) as client:
        section = write_log(tmp_path / "acquisition" / "stack", three_grids(field))
        await running.notice(section)
        montage = await running.reaches(section, MontageState.COMPLETE, timeout_s=120)
        assert montage.bounds == (0.0, 0.0, 380.0, 400.0)

        text = await page_of(client, montage)
        assert "6 of 6 tiles have mipmaps" in text
        assert re.search(r'<img class="picture"[^>]*width="665" height="700"', text)
        mosaic = await picture_at(client, f"/api/montages/{montage.id}/mosaic.png")
        assert mosaic.shape[:2] == (200, 190)  # of level 1
        for rows, columns in (((0, 90), (0, 190)), ((101, 199), (126, 174)), ((102, 148), (2, 98))):
            seen = mosaic[slice(*rows), slice(*columns), 0].astype(int)
            assert np.abs(seen - halved(field)[slice(*rows), slice(*columns)]).mean() < 3, (rows, columns)

        async with client.get(f"/montages/{montage.id}/at?column=5&row=0", headers=HTML) as answer:
            tile = await answer.text()
        assert "0002" in tile
        assert "working distance" in tile.lower()
        async with client.get(f"/api/montages/{montage.id}/tiles") as answer:
            numbers = (await answer.json())["numbers"]
        assert numbers["raster_col"] == [0, 1, 0, 1, 3, 5]
        assert numbers["interval"] == [None, 7, 7, 7, 7, 7]
        assert "1 montage with quality numbers, 0 without; 0 failed" in await lines_of(running)
        await check_growing_and_moved_log(client, running, montage, mosaic)


async def check_growing_and_moved_log(
    client: "TestClient[Any, Any]", running: Bench, montage: Montage, mosaic: Grey
) -> None:
    """Draw the mosaic again after its log has grown, and request it after the log was moved."""
    mosaic_png, log = f"/api/montages/{montage.id}/mosaic.png", montage.metafile.parent

    def delete_pictures() -> None:
        for kept in (running.root / "pictures").iterdir():
            kept.unlink()

    with log.open("a") as file:
        file.write("TILE: {'slice_counter': 3, 'tileid': '0000.0000.00003'}\n")
    delete_pictures()
    assert (await picture_at(client, mosaic_png) == mosaic).all()
    log.rename(log.with_name("elsewhere.txt"))
    assert (await picture_at(client, mosaic_png) == mosaic).all()  # kept
    delete_pictures()
    async with client.get(mosaic_png) as answer:
        assert answer.status == 503
        assert "was moved, renamed or deleted" in await answer.text()
    async with client.get(f"/montages/{montage.id}", headers=HTML) as answer:
        text = await answer.text()
    assert answer.status == 200
    assert "slice_00002@" in text


async def test_a_region_of_multisem_without_a_lattice_is_shown_in_the_order_of_its_table(tmp_path: Path) -> None:
    watch = {"format": "multisem", "pixel_size_nm": 8.0, "z": {"rule": "header"}}
    field = tissue()
    async with bench(tmp_path, of_format=watch) as running, pages_of(running) as client:
        region = tmp_path / "acquisition" / "wafer_53" / "scan_003" / "wafer_53_scan_003_20220501_08-46-34" / "012_"
        table = write_table(region, field)
        await running.notice(table)
        montage = await running.reaches(table, MontageState.COMPLETE, timeout_s=120)
        assert (montage.z, montage.tile_count, montage.findings) == (3.0, 2, ())
        await page_of(client, montage)
        mosaic = await picture_at(client, f"/api/montages/{montage.id}/mosaic.png")
        assert mosaic.shape[:2] == (50, 190)  # of level 1
        assert np.abs(mosaic[..., 0] - halved(field[:100, :380])).max() <= 0.5
        assert "1 montage with quality numbers, 0 without; 0 failed" in await lines_of(running, tmp_path / "drawn")
        drawn = {path.name.partition("montage1_")[2] for path in (tmp_path / "drawn").iterdir()}
        assert drawn == {"saturation.png", "mosaic.png"}


@pytest.mark.parametrize("name", ["000001\\a.bmp", "mFOV_0001\\sfov_001.bmp"])
async def test_a_bmp_of_multisem_is_read_without_a_change(tmp_path: Path, name: str) -> None:
    watch = {"format": "multisem", "pixel_size_nm": 8.0, "z": {"rule": "fixed", "z": 4}}
    async with bench(tmp_path, of_format=watch) as running:
        region = tmp_path / "acquisition" / "region"
        image = region / name.replace("\\", "/")
        image.parent.mkdir(parents=True)
        Image.fromarray(tissue()[:HEIGHT, :WIDTH]).save(image)
        table = region / "full_image_coordinates.txt"
        table.write_text(f"{name}\t1.000\t2.000\t0\r\n", newline="")
        await running.notice(table)
        montage = await running.reaches(table, MontageState.COMPLETE, timeout_s=120)
        assert montage.tile_count == 1
        (level,) = (tmp_path / "mipmaps" / "1").rglob("*.tif")
        expected = tissue()[:HEIGHT, :WIDTH].reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean(axis=(1, 3))
        with Image.open(level) as made:
            assert np.abs(np.asarray(made).astype(int) - expected).max() <= 1


async def test_the_import_of_a_log_imports_its_only_section_and_refuses_several_with_their_names(
    tmp_path: Path,
) -> None:
    section = write_log(tmp_path / "stack", three_grids(tissue()))
    async with serve_standin() as url:

        async def imported(file: Path) -> str:
            where = {"url": url, "owner": "em", "project": "test", "stack": "alone"}
            return await import_into_stack(file, "sbemimage", z=7.0, close=True, **where)

        for file in (section.parent, section):
            assert await imported(file) == "em/test/alone: 6 tiles are at z 7; the stack is COMPLETE"
        with section.parent.open("a") as log:
            log.write("TILE: {'slice_counter': 3, 'tileid': '0000.0000.00003'}\nSLICE COMPLETE: {}\n")
        with pytest.raises(SettingsFault, match=r"contains 2 sections: slice_00002@\d+, slice_00003@\d+") as caught:
            await imported(section.parent)
        assert caught.value.hint == f"name one, as in {section}"
