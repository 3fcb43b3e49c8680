"""A montage settles when its images are complete and do not change; with real files and virtual time."""

import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.config.mipmap_settings import MipmapSettings
from daemon.config.render_settings import RenderSettings
from daemon.config.watch_settings import TilespecSettings, WatchSettings, ZSettings
from daemon.montages.records import Settled
from daemon.pipeline.settling.settle import NotYet, Settler
from daemon.simulator.section import plan_section
from daemon.simulator.temca import write_section
from daemon.simulator.writers import write_in_format
from handlers.acquisition import arrival
from handlers.errors import Evidence, Fault, ImageFault, ImagesMissing, MetafileFault, ZFault
from handlers.identity import FileIdentity

RENDER = RenderSettings(url="http://render:8080/render-ws/v1", owner="em", project="v1")
SETTLE_S = 2.0
ARRIVAL_TIMEOUT_S = 600.0
HOUR = timedelta(hours=1)
FAT_EPOCH = datetime(1980, 1, 1, tzinfo=UTC)


class Settling:
    """One metafile with its images, checked as the pipeline does, in virtual time."""

    def __init__(self, place: Path, tiles: int = 4) -> None:
        self.now = 1_000.0
        self.section = write_section(plan_section(tiles=tiles, size=(64, 48)), place, pixels="noise")
        self.images = sorted(self.section.directory.glob("*.tif"))
        self.settler = Settler(lambda: self.now, lambda: self.now)
        self.watch = WatchSettings(
            name="w",
            directory=place,
            settle_s=SETTLE_S,
            arrival_timeout_s=ARRIVAL_TIMEOUT_S,
            z=ZSettings(rule="grid"),
            mipmaps=MipmapSettings(output_dir=place.parent / "mipmaps"),
        )
        path = self.section.metafile
        self.montage: Any = SimpleNamespace(
            id=1, metafile=path, identity=FileIdentity.of(path.stat()), changed_at=self.now, findings=()
        )
        self.reasons: list[str] = []

    async def attempt(self) -> Settled | NotYet:
        """Make one attempt to settle."""
        awaited = await self.settler.check(self.montage, self.watch)
        if awaited is None:
            read = await self.settler.read(self.montage)
            assert read is not None
            awaited = await self.settler.examine(self.montage, self.watch, read.content, read.digest, RENDER)
        assert isinstance(awaited, Settled | NotYet)
        return awaited

    async def run(self, until_s: float, before_each: Callable[[float], None] = lambda _: None) -> float | None:
        """Return the seconds until the montage settled, or None. `before_each` is called before each attempt."""
        started = self.now
        while self.now - started <= until_s:
            before_each(self.now - started)
            found = await self.attempt()
            if isinstance(found, Settled):
                return self.now - started
            self.reasons.append(found.reason)
            self.now += found.retry_in_s
        return None

    def touch_metafile(self) -> None:
        """Give the metafile the newest change time, as at the microscope."""
        self.section.metafile.touch()


def touched(path: Path, moment: datetime | float) -> None:
    seconds = moment.timestamp() if isinstance(moment, datetime) else moment
    os.utime(path, (seconds, seconds))


async def test_images_written_before_their_metafile_are_checked_once(tmp_path):
    settling = Settling(tmp_path)
    settling.touch_metafile()
    assert await settling.run(60) == SETTLE_S
    assert settling.reasons == ["the metafile is new or still changing"]


async def test_images_beyond_the_largest_image_are_refused_before_any_is_read(tmp_path, monkeypatch):
    settling = Settling(tmp_path)
    settling.settler = Settler(lambda: settling.now, lambda: settling.now, largest_image_px=64 * 48 - 1)
    monkeypatch.setattr(arrival, "ImageDirectory", None)
    with pytest.raises(ImageFault, match=r"64x48 pixels, .* up to 0\.003071 megapixels") as found:
        await settling.run(60)
    assert found.value.subject in map(str, settling.images)
    assert "largest_image_megapixels" in found.value.hint


async def test_images_written_after_their_metafile_settle_when_they_do_not_change_any_more(tmp_path):
    settling = Settling(tmp_path)
    last = settling.images[-1]
    content = last.read_bytes()
    last.unlink()

    def arrive(after_s: float) -> None:
        if after_s > 20 and not last.exists():
            last.write_bytes(content)

    settled_s = await settling.run(600, arrive)
    assert settled_s is not None
    found_s = 20 * 9 / 8 + SETTLE_S
    assert settled_s <= found_s + SETTLE_S, settling.reasons


async def test_images_written_after_their_metafile_count_as_changing_for_a_whole_settle_time(
    tmp_path,
):
    settling = Settling(tmp_path)
    content = settling.images[-1].read_bytes()
    settling.touch_metafile()
    settling.images[-1].write_bytes(content)
    assert await settling.attempt() == NotYet("the metafile is new or still changing", SETTLE_S)
    settling.now += SETTLE_S
    assert await settling.attempt() == NotYet("images are new or still changing", SETTLE_S)
    settling.now += SETTLE_S / 4  # for example because it is noticed again
    assert await settling.attempt() == NotYet("images are new or still changing", pytest.approx(SETTLE_S * 3 / 4))
    settling.now += SETTLE_S * 3 / 4
    assert isinstance(await settling.attempt(), Settled)


async def test_images_that_arrive_one_by_one_settle_soon(tmp_path):
    settling = Settling(tmp_path)
    content = {path: path.read_bytes() for path in settling.images}
    for path in settling.images:
        path.unlink()

    def arrive(after_s: float) -> None:
        for number, path in enumerate(settling.images):
            if after_s > 3 * number and not path.exists():
                path.write_bytes(content[path])

    settled_s = await settling.run(600, arrive)
    assert settled_s is not None
    assert settled_s <= 20, settling.reasons


async def test_a_growing_image_settles_when_it_is_complete_and_does_not_change_any_more(tmp_path):
    settling = Settling(tmp_path)
    last = settling.images[-1]
    content = last.read_bytes()

    def grow(after_s: float) -> None:
        last.write_bytes(content[: int(len(content) * min(1.0, 0.3 + after_s / 40))])

    def grow_until_whole(after_s: float) -> None:
        if len(last.read_bytes()) < len(content) or after_s == 0:
            grow(after_s)

    settled_s = await settling.run(600, grow_until_whole)
    assert settled_s is not None
    assert 28 <= settled_s <= 40, settling.reasons


async def test_a_montage_that_waits_for_a_corrupt_image_gives_the_reason(tmp_path):
    settling = Settling(tmp_path)
    last = settling.images[-1]
    last.write_bytes(bytes(last.stat().st_size))
    with pytest.raises(Fault, match="begins with 00000000, no image"):
        await settling.run(600)
    waiting = [reason for reason in settling.reasons if last.name in reason]
    assert len(waiting) > 2
    assert all(f"{last.name} begins with 00000000, no image" in reason for reason in waiting)


async def test_an_image_that_is_written_with_an_unchanged_mtime_counts_as_changing(tmp_path):
    settling = Settling(tmp_path)
    settling.touch_metafile()
    last = settling.images[-1]
    times = last.stat()

    def write(after_s: float) -> None:
        if after_s <= 20:
            with last.open("r+b") as file:
                file.seek(-8, os.SEEK_END)
                file.write(b"abcdefgh")
            os.utime(last, ns=(times.st_atime_ns, times.st_mtime_ns - 3_600 * 10**9))

    settled_s = await settling.run(600, write)
    assert settled_s is not None
    assert 20 <= settled_s <= 30, settling.reasons
    assert "images are new or still changing" in settling.reasons


PLACEHOLDERS = {
    "1970": 0.0,
    "just after 1970": 1.0,
    "-1": -1.0,
    "1601": -11_644_473_600.0,
    "FAT": FAT_EPOCH,
    "FAT, UTC+14": FAT_EPOCH - 14 * HOUR,
    "FAT, UTC-12": FAT_EPOCH + 12 * HOUR,
    "FAT, two seconds on": FAT_EPOCH + timedelta(seconds=2),
}


@pytest.mark.parametrize("moment", PLACEHOLDERS.values(), ids=PLACEHOLDERS)
async def test_an_image_with_a_placeholder_time_is_incomplete(tmp_path, moment):
    settling = Settling(tmp_path)
    last = settling.images[-1]
    touched(last, moment)
    settling.touch_metafile()
    assert await settling.run(ARRIVAL_TIMEOUT_S / 2) is None
    assert any("placeholder" in reason for reason in settling.reasons)
    touched(last, 1_700_000_000)
    assert await settling.run(70) is not None, settling.reasons


async def test_a_placeholder_time_that_stays_fails_the_montage_with_a_hint(tmp_path):
    settling = Settling(tmp_path)
    for image in settling.images:
        touched(image, FAT_EPOCH)
    settling.touch_metafile()
    with pytest.raises(Fault, match="touch") as caught:
        await settling.run(2 * ARRIVAL_TIMEOUT_S)
    assert settling.now >= 1_000 + ARRIVAL_TIMEOUT_S
    assert isinstance(caught.value, ImagesMissing)
    assert settling.images[0].name in str(caught.value)
    assert "1980-01-01" in str(caught.value)
    assert caught.value.evidence is not None
    assert caught.value.evidence.path == settling.images[0]
    touched(settling.images[0], 1_700_000_000)
    assert caught.value.evidence.has_changed(type(caught.value.evidence).of(settling.images[0]))


async def test_an_unreadable_image_with_a_placeholder_time_is_incomplete_and_not_broken(tmp_path):
    settling = Settling(tmp_path)
    last = settling.images[-1]
    content = last.read_bytes()
    last.write_bytes(bytes(len(content)))
    touched(last, FAT_EPOCH)
    settling.touch_metafile()
    assert await settling.run(ARRIVAL_TIMEOUT_S - 60) is None
    last.write_bytes(content)
    assert await settling.run(60 + 2 * SETTLE_S) is not None, settling.reasons


async def test_a_broken_image_that_does_not_change_fails_after_30_settle_times(tmp_path):
    settling = Settling(tmp_path)
    settling.images[-1].write_bytes(settling.images[-1].read_bytes()[:-100])
    settling.touch_metafile()
    with pytest.raises(ImageFault, match="is truncated"):
        await settling.run(ARRIVAL_TIMEOUT_S)
    assert settling.now < 1_000 + 30 * SETTLE_S + 20


async def test_an_image_time_in_1981_is_no_placeholder(tmp_path):
    settling = Settling(tmp_path)
    for image in settling.images:
        touched(image, datetime(1981, 5, 6, tzinfo=UTC))
    settling.touch_metafile()
    assert await settling.run(60) == SETTLE_S


async def test_the_recorded_facts_are_those_of_the_metafile(tmp_path):
    settling = Settling(tmp_path)
    settling.watch = settling.watch.model_copy(update={"tilespecs": TilespecSettings(maximum_intensity=65535)})
    settling.touch_metafile()
    assert isinstance(await settling.attempt(), NotYet)
    settling.now += SETTLE_S
    settled = await settling.attempt()
    assert isinstance(settled, Settled)
    content = settling.section.metafile.read_bytes()
    grid = float(json.loads(content)[0]["metadata"]["grid"])
    names = [tile["img_path"].removesuffix(".tif") for tile in json.loads(content)[1]["data"]]
    assert settled.digest == hashlib.sha256(content).hexdigest()
    assert settled.z == grid
    assert settled.tile_ids == tuple(f"{name}.{grid}" for name in names)
    assert {settled.raw_stack, settled.mipmapped_stack} == {"em/v1/20314_2L_raw"}
    (warning,) = settled.findings
    assert "displays only 65535 white" in warning


async def test_a_truncated_metafile_fails_after_30_settle_times_and_not_before(tmp_path):
    settling = Settling(tmp_path)
    content = settling.section.metafile.read_bytes()
    settling.section.metafile.write_bytes(content[:-10])
    incomplete_timeout_s = 30 * SETTLE_S
    with pytest.raises(MetafileFault, match=r"has not changed for 6\d s"):
        await settling.run(10 * incomplete_timeout_s)
    assert incomplete_timeout_s <= settling.now - 1_000 <= incomplete_timeout_s * 9 / 8
    assert "the metafile is incomplete" in settling.reasons[-1]
    settling.section.metafile.write_bytes(content)
    assert await settling.run(60) is not None


async def test_a_montage_that_the_microscope_has_not_finished_fails_after_the_arrival_timeout_and_not_before(tmp_path):
    settling = Settling(tmp_path)
    plan = plan_section(tiles=3, size=(64, 48))
    section = write_in_format("serialem", plan, tmp_path / "serialem", pixels="noise")
    idoc, content = section.metafile.parent, section.metafile.parent.read_bytes()
    idoc.write_bytes(content.partition(b"[MontSection")[0])
    settling.watch = WatchSettings(
        name="w",
        directory=tmp_path,
        format="serialem",
        settle_s=SETTLE_S,
        arrival_timeout_s=ARRIVAL_TIMEOUT_S,
        z=ZSettings(rule="header"),
        mipmaps=MipmapSettings(output_dir=tmp_path.parent / "mipmaps"),
    )
    settling.montage.metafile = section.metafile
    with pytest.raises(MetafileFault, match=r"has no line \[MontSection = 0\].* has not changed for 6\d\d s"):
        await settling.run(10 * ARRIVAL_TIMEOUT_S)
    assert ARRIVAL_TIMEOUT_S <= settling.now - 1_000 <= ARRIVAL_TIMEOUT_S * 9 / 8
    idoc.write_bytes(content)
    assert await settling.run(60) is not None


async def test_a_z_missing_in_the_table_is_looked_up_again_when_the_table_changes(tmp_path):
    settling = Settling(tmp_path)
    table = tmp_path / "z.csv"
    table.write_text("grid,z\n999999,1\n", encoding="utf-8")
    settling.watch = settling.watch.model_copy(update={"z": ZSettings(rule="table", table=table)})
    with pytest.raises(ZFault) as caught:
        await settling.run(60)
    assert caught.value.evidence == Evidence.of(table)


async def test_a_montage_whose_z_is_not_in_its_name_waits_for_no_other_file(tmp_path):
    settling = Settling(tmp_path)
    settling.watch = settling.watch.model_copy(update={"z": ZSettings(rule="name", name_pattern="nowhere(?P<z>x)")})
    with pytest.raises(ZFault) as caught:
        await settling.run(60)
    assert caught.value.evidence is None


async def test_many_missing_images_are_counted_and_some_are_named(tmp_path):
    settling = Settling(tmp_path, tiles=12)
    for image in settling.images:
        image.unlink()
    with pytest.raises(ImagesMissing, match=r"12 of 12 images did not arrive within .*; and 2 more") as caught:
        await settling.run(2 * ARRIVAL_TIMEOUT_S)
    assert caught.value.subject == str(settling.section.metafile)


async def test_a_single_missing_image_is_named_with_the_number_of_all_while_it_is_awaited_and_after(tmp_path):
    settling = Settling(tmp_path, tiles=4)
    settling.images[2].unlink()
    with pytest.raises(ImagesMissing) as caught:
        await settling.run(2 * ARRIVAL_TIMEOUT_S)
    first = next(reason for reason in settling.reasons if "image" in reason)
    assert first.startswith(f"1 of 4 images missing or incomplete: {settling.images[2].name} ")
    assert caught.value.problem.startswith(
        f"1 of 4 images did not arrive within {ARRIVAL_TIMEOUT_S:g} s: {settling.images[2].name} "
    )


async def test_forgetting_an_unknown_montage_does_nothing(tmp_path):
    Settling(tmp_path).settler.forget(7)
