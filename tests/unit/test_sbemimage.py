"""SBEMimage: tile specs of the sample, growing logs, runs that continue each other, invalid lines."""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sections import DATA

from daemon.watching.scan import NameRule, Tree
from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.arrival import check_images, metafile_content
from handlers.acquisition.formats.sbemimage import SbemImage
from handlers.acquisition.formats.sbemimage_log import LogFollower, section_content, section_identity
from handlers.acquisition.formats.sbemimage_run import has_ended, is_imaged
from handlers.acquisition.retakes import is_later_take, is_mirrored
from handlers.acquisition.section_path import file_of, part_of
from handlers.acquisition.tilespec import options_for, tile_specs_for
from handlers.acquisition.z import ZRule, ZRuleKind, z_for
from handlers.errors import MetafileFault, StorageFault

HERE = DATA / "sbemimage"
SAMPLE = HERE / "sbemimage_testdata"
real_data = pytest.mark.skipif(not HERE.is_dir(), reason=f"the sample is not at {HERE}")
READER = SbemImage()


def sections_of(log: Path, follower: LogFollower | None = None) -> list[Path]:
    return [Path(path) for path, _ in (follower or LogFollower()).sections(str(log))]


def read(path: Path) -> Acquisition:
    return READER.parse(metafile_content(path), path)


# ---------------------------------------------------------------------------------------------------------- the sample


def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / "expected_tilespecs.json").read_text())
    return found


def sample_log() -> Path:
    (log,) = (SAMPLE / "meta" / "logs").glob(READER.pattern)
    return log


@real_data
def test_the_sample_has_four_slices_each_closed_by_a_record_with_the_next_number() -> None:
    found = sections_of(sample_log())
    assert [part.number for part in map(part_of, found) if part] == [2, 3, 4, 5]
    assert [len(read(path).tiles) for path in found] == [5, 5, 5, 5]


@real_data
def test_tile_specs_of_the_sample_equal_those_of_embl_except_for_marked_faults() -> None:
    corrected = expected()["right"]
    specs = {}
    for path in sections_of(sample_log()):
        found = read(path)
        directory = READER.image_directory(path)
        assert directory == SAMPLE
        arrival = check_images(found, directory)
        assert not arrival.missing
        assert not arrival.unreadable
        z = found.facts["z_index"]
        assert isinstance(z, int)
        specs |= {spec["tileId"]: spec for spec in tile_specs_for(found, z, directory, options_for(READER))}
    assert specs.keys() == corrected.keys()
    for tile_id, right in corrected.items():
        spec = specs[tile_id]
        for key in ("z", "width", "height", "minIntensity", "maxIntensity"):
            assert spec[key] == right[key], (tile_id, key)
        assert spec["layout"] == {
            "sectionId": right["sectionId"],
            "temca": "3View",
            "camera": "3View",
            "imageRow": right["imageRow"],
            "imageCol": right["imageCol"],
            "stageX": right["stageX_nm"],
            "stageY": right["stageY_nm"],
            "rotation": right["rotation_deg"],
            "pixelsize": right["pixelsize_nm"],
        }
        assert spec["mipmapLevels"]["0"]["imageUrl"] == (SAMPLE / right["image"]).as_uri()
        ((transform),) = spec["transforms"]["specList"]
        numbers = [float(each) for each in transform["dataString"].split()]
        assert numbers == pytest.approx(right["affine_m00_m10_m01_m11_b0_b1"], abs=1e-6)


@real_data
def test_the_affine_of_every_tile_equals_the_four_composed_transforms_of_embl() -> None:
    composed = {spec["tileId"]: spec["tool_composed_affine"] for spec in expected()["runs"]["all_slices"]["tilespecs"]}
    for path in sections_of(sample_log()):
        for spec in tile_specs_for(read(path), 1, SAMPLE, options_for(READER)):
            numbers = [float(each) for each in spec["transforms"]["specList"][0]["dataString"].split()]
            assert numbers == pytest.approx(composed[spec["tileId"]], abs=1e-6)


@real_data
def test_a_pixel_size_that_contradicts_the_positions_is_a_warning() -> None:
    path = sections_of(sample_log())[0]
    texts = [finding.text for finding in READER.check(read(path), path)]
    assert [text for text in texts if "12936 nm apart in x" in text and "2048 pixels of 5 nm" in text]


@real_data
def test_the_sample_has_stack_run_thickness_and_depth_and_no_mail_address() -> None:
    found = read(sections_of(sample_log())[0])
    assert found.facts["specimen_id"] == "sbemimage_testdata"
    assert found.facts["session_id"] == "2020-06-0210021236"
    assert (found.thickness_nm, found.depth_nm, found.pixel_size_nm) == (50.0, 1080.0, (5.0, 5.0))
    assert "example.org" not in repr(found)


@real_data
def test_the_sample_written_line_by_line_gives_each_slice_once_when_it_is_closed(tmp_path: Path) -> None:
    log = tmp_path / "meta" / "logs" / sample_log().name
    log.parent.mkdir(parents=True)
    follower, found, closed_after = LogFollower(), [], []
    content = sample_log().read_bytes()
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        for piece in (line[:7], line[7:]):
            with log.open("ab") as file:
                file.write(piece)
            new = sections_of(log, follower)
            found += new
            closed_after += [number] * len(new)
    assert closed_after == [record["line"] for record in expected()["slice_complete"]]
    whole = {section_identity(Path(path)) for path in sections_of(sample_log())}
    assert {section_identity(path) for path in found} == whole


# ----------------------------------------------------------------------------------------------- logs of single lines

SESSION = {
    "timestamp": 1591084932, "eht": 1.5, "beam_current": 320, "wd_stig_xy_default": [0.0062, -0.014, 1.094],
    "slice_thickness": 50, "grids": ["0000", "0001"], "grid_origins": [[75.8, 3.3], [0, 0]],
    "rotation_angles": [0.0, 90.0], "pixel_sizes": [10.0, 10.0], "email_addresses: ": ["o'neill@example.org", ""],
}  # fmt: skip


def session(**changes: Any) -> str:
    return f"SESSION: {SESSION | changes}\r\n"


def tile(number: int, slice_: int, *, grid: int = 0, **changes: Any) -> str:
    values = {
        "tileid": f"{grid:04d}.{number:04d}.{slice_:05d}",
        "timestamp": 1591084958 + slice_ * 100 + number,
        "filename": f"tiles/g{grid:04d}/t{number:04d}/stack_g{grid:04d}_t{number:04d}_s{slice_:05d}.tif",
        "tile_width": 200, "tile_height": 100, "wd_stig_xy": [0.00625, -0.014, 1.094],
        "glob_x": number % 3 * 1800 - 500, "glob_y": number // 3 * 900, "glob_z": slice_ * 50, "slice_counter": slice_,
    }  # fmt: skip
    return f"TILE: {values | changes}\r\n"


def complete(slice_: int) -> str:
    return f"SLICE COMPLETE: {{'timestamp': {1591084984 + slice_ * 100}, 'completed_slice': {slice_ + 1}}}\r\n"


class Stack:
    """Directory of a stack, with its logs."""

    def __init__(self, base: Path) -> None:
        self.logs = base / "meta" / "logs"
        self.logs.mkdir(parents=True)
        self.follower = LogFollower()

    def log(self, run: int) -> Path:
        return self.logs / f"metadata_2020-06-{run:02d}10021236.txt"

    def write(self, run: int, *lines: str) -> list[Path]:
        """Append lines to the log of a run; return the sections that these lines close."""
        with self.log(run).open("a", newline="") as file:
            file.write("".join(lines))
        return sections_of(self.log(run), self.follower)


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path / "stack")


def ids(path: Path) -> list[str]:
    return [tile.name for tile in read(path).tiles]


def test_a_slice_is_closed_by_its_record_or_by_a_tile_of_another_slice(stack: Stack) -> None:
    assert stack.write(1, session(), tile(0, 2), tile(1, 2)) == []
    (first,) = stack.write(1, tile(0, 3))
    assert ids(first) == ["0000.0000.00002", "0000.0001.00002"]
    (second,) = stack.write(1, complete(3))
    assert ids(second) == ["0000.0000.00003"]
    assert stack.write(1, complete(3)) == []


def test_a_line_without_its_end_is_not_read(stack: Stack) -> None:
    assert stack.write(1, session(), tile(0, 2), complete(2)[:-1]) == []
    assert len(stack.write(1, "\n")) == 1


def test_an_interrupted_slice_is_continued_in_the_next_log_as_one_section(stack: Stack) -> None:
    stack.write(1, session(), tile(0, 1), complete(1), tile(0, 2), tile(1, 2))
    assert stack.write(2, session()) == []
    assert stack.write(2, tile(2, 2)) == []
    (section,) = stack.write(2, complete(2))
    assert file_of(section) == stack.log(2)
    assert ids(section) == ["0000.0000.00002", "0000.0001.00002", "0000.0002.00002"]


def test_an_earlier_log_can_arrive_after_the_log_that_continues_it(stack: Stack) -> None:
    (section,) = stack.write(2, session(), tile(2, 2), complete(2))
    alone = section_identity(section)
    (again,) = stack.write(1, session(), tile(0, 2), tile(1, 2))
    assert again == section
    assert section_identity(again) != alone
    assert len(ids(again)) == 3


def test_the_last_slice_of_a_run_is_closed_by_a_later_run_with_another_slice(stack: Stack) -> None:
    assert stack.write(1, session(), tile(0, 2), tile(1, 2)) == []
    (section,) = stack.write(2, session(), tile(0, 3))
    assert file_of(section) == stack.log(1)
    assert len(ids(section)) == 2
    assert stack.write(2, tile(1, 3)) == []


def test_a_slice_that_a_later_run_images_again_is_a_later_take_of_it(stack: Stack) -> None:
    (first,) = stack.write(1, session(), tile(0, 2), complete(2))
    (second,) = stack.write(2, session(), tile(0, 2), complete(2))
    assert is_later_take(second, first)
    assert not is_later_take(first, second)


def test_the_latest_record_of_a_tile_that_is_listed_twice_is_used(stack: Stack) -> None:
    late = tile(0, 2, glob_x=9, timestamp=1591090000)
    (section,) = stack.write(1, session(), late, tile(0, 2, glob_x=7), complete(2))
    (found,) = read(section).tiles
    assert found.stage_x == 9


def test_a_log_that_is_replaced_is_read_from_its_beginning(stack: Stack) -> None:
    stack.write(1, session(), tile(0, 2), complete(2))
    stack.log(1).unlink()
    (section,) = stack.write(1, session(eht=3.0), tile(1, 2), complete(2))
    assert ids(section) == ["0000.0001.00002"]


def test_links_pipes_and_directories_with_the_name_of_a_log_are_ignored(stack: Stack) -> None:
    for number, make in ((0, os.mkfifo), (2, Path.mkdir), (3, lambda path: path.symlink_to(stack.log(1)))):
        make(stack.log(number))
    (section,) = stack.write(1, session(), tile(0, 2), complete(2))
    assert ids(section) == ["0000.0000.00002"]
    assert [stack.follower.sections(str(stack.log(number))) for number in (0, 2, 3)] == [[], [], []]


def test_a_time_beyond_the_range_of_the_journal_is_limited(stack: Stack) -> None:
    (section,) = stack.write(1, session(), tile(0, 2, timestamp=99_999_999_999), complete(2))
    identity = section_identity(section)
    assert identity is not None
    assert 0 < identity.mtime_ns < 1 << 63


def test_a_section_that_is_not_closed_or_begins_elsewhere_is_missing(stack: Stack) -> None:
    (section,) = stack.write(1, session(), tile(0, 2), complete(2), tile(0, 3))
    part = part_of(section)
    assert part is not None
    open_at = stack.log(1).read_bytes().rindex(b"TILE:")
    open_one = part._replace(number=3, offset=open_at)
    for other in (part._replace(offset=part.offset + 1), part._replace(number=7), open_one):
        with pytest.raises(StorageFault) as caught:
            metafile_content(other.path)
        assert isinstance(caught.value.__cause__, FileNotFoundError)
        assert section_identity(other.path) is None


def test_the_identity_of_a_section_does_not_change_while_its_log_grows(stack: Stack) -> None:
    (section,) = stack.write(1, session(), tile(0, 2), complete(2))
    before = section_identity(section)
    stack.write(1, *(line for number in range(3, 9) for line in (tile(0, number), complete(number))))
    os.utime(stack.log(1), (1, 1))
    assert section_identity(section) == before


def test_reading_a_section_of_a_long_log_does_not_read_the_whole_log(stack: Stack) -> None:
    stack.write(1, session())
    for first in range(0, 2000, 100):
        lines = (f"{tile(0, number)}{complete(number)}" for number in range(first, first + 100))
        found = stack.write(1, *lines)
    before = _bytes_read()
    section_content(found[0])
    assert _bytes_read() - before < stack.log(1).stat().st_size / 3


def test_following_a_growing_log_does_not_read_more_and_more(stack: Stack) -> None:
    stack.write(1, session())
    costs = []
    for first in range(0, 3000, 100):
        before = _bytes_read()
        for number in range(first, first + 100):
            assert len(stack.write(1, tile(0, number), tile(1, number), complete(number))) == 1
        costs.append(_bytes_read() - before)
    assert max(costs[-5:]) < 3 * max(costs[:5])


def _bytes_read() -> int:
    """Return the number of bytes that this process has read."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


def test_grids_of_another_pixel_size_are_scaled_to_that_of_the_first(stack: Stack) -> None:
    (section,) = stack.write(
        1, session(pixel_sizes=[10.0, 20.0], rotation_angles=[0.0, 0.0]), tile(0, 2), tile(0, 2, grid=1), complete(2)
    )
    one, two = tile_specs_for(read(section), 2, Path("/data"), options_for(READER))
    assert two["transforms"]["specList"][0]["dataString"].startswith("2.0000000000 0.0000000000 0.0000000000 2.0")
    assert one["transforms"]["specList"][0]["dataString"].startswith("1.0000000000 0.0000000000 0.0000000000 1.0")


def test_a_pixel_size_that_changes_within_a_slice_is_refused(stack: Stack) -> None:
    stack.write(1, session(), tile(0, 2))
    (section,) = stack.write(2, session(pixel_sizes=[12.0, 10.0]), tile(1, 2), complete(2))
    with pytest.raises(MetafileFault, match="grid 0000 changes its pixel size"):
        read(section)


def in_array(tile_: int, region: int, *, array: int = 3, **changes: Any) -> str:
    """Return the line of a tile in array mode, in which every region is a grid and all regions have the same slice."""
    name = f"tiles/a{array:04d}/r{region:04d}/t{tile_:04d}/stack_a{array:04d}_r{region:04d}_t{tile_:04d}.ome.tif"
    return tile(tile_, 2, grid=region, filename=name, **changes)


ARRAY = {"grids": [f"{grid:04d}" for grid in range(9)], "pixel_sizes": [10.0] * 9, "rotation_angles": [0.0] * 9}


def test_a_slice_of_an_array_is_a_section_for_each_region(stack: Stack) -> None:
    lines = [in_array(number, region) for region in (7, 8) for number in (0, 1)]
    assert len(stack.write(1, session(**ARRAY), *lines[:3])) == 1
    (second,) = stack.write(1, lines[3], complete(1))
    (first,) = sections_of(stack.log(1))[:1]
    assert first.name.startswith("slice_00002_a0003_r0007@")
    assert [part.region for part in (part_of(first), part_of(second)) if part] == [(3, 7), (3, 8)]
    for section, region in ((first, 7), (second, 8)):
        found = read(section)
        assert (found.facts["z_index"], found.facts["roi_index"], found.facts["array_index"]) == (region, region, 3)
        assert [tile.name for tile in found.tiles] == [f"a3.r{region}.000{region}.000{n}.00002" for n in (0, 1)]
    assert not is_later_take(second, first)


def test_a_region_that_is_imaged_again_is_a_later_take(stack: Stack) -> None:
    (first,) = stack.write(1, session(**ARRAY), in_array(0, 7), complete(2))
    (again,) = stack.write(2, session(**ARRAY), in_array(0, 7, timestamp=1591099999), complete(2))
    assert is_later_take(again, first)
    assert section_identity(again) != section_identity(first)


def test_an_interrupted_region_is_continued_in_the_next_log(stack: Stack) -> None:
    stack.write(1, session(**ARRAY), in_array(0, 7))
    (section,) = stack.write(2, session(**ARRAY), in_array(1, 7), in_array(0, 8))
    assert [tile.name[:5] for tile in read(section).tiles] == ["a3.r7", "a3.r7"]


def test_regions_are_read_from_paths_with_backslashes(stack: Stack) -> None:
    line = in_array(0, 7).replace("/", "\\\\")
    (section,) = stack.write(1, session(**ARRAY), line, complete(1))
    assert read(section).facts["roi_index"] == 7


def config(*, active: object = ((0, 1), (0,)), grids: object = (1, 1), interval: object = (1, 1)) -> str:
    """Return a part of a run's configuration, with a list that is not closed, as in real ones."""
    values = {"grid_active": grids, "active_tiles": active, "acq_interval": interval, "acq_interval_offset": (0, 0)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    return "\r\n".join(["[sem]", "active_tiles = [[9]]", "[grids]", "origin = [[1, 2]", *lines, "[ov]", "x = 1", ""])


def end(stack: Stack, run: int, text: str = "*** END OF LOG ***\r\n", **of_config: object) -> None:
    """Write the files that SBEMimage writes beside a log when a run ends."""
    suffix = stack.log(run).name.removeprefix("metadata_")
    (stack.logs / f"log_{suffix}").write_text(f"Stack paused.\r\n{text}")
    (stack.logs / f"config_{suffix}").write_text(config(**of_config))


def test_the_end_of_a_run_closes_a_slice_with_all_active_tiles(stack: Stack) -> None:
    lines = tile(0, 2), tile(1, 2), tile(0, 2, grid=1)
    assert stack.write(1, session(), *lines[:2]) == []
    end(stack, 1, "")
    assert not stack.follower.is_due(str(stack.log(1)))
    end(stack, 1)
    assert stack.follower.is_due(str(stack.log(1)))
    assert sections_of(stack.log(1), stack.follower) == []  # a tile is not listed
    (section,) = stack.write(1, lines[2])
    assert len(ids(section)) == 3
    assert not stack.follower.is_due(str(stack.log(1)))
    assert sections_of(stack.log(1), stack.follower) == []


def test_a_watch_finds_the_last_slice_when_its_run_ends_although_the_log_is_unchanged(stack: Stack) -> None:
    stack.write(1, session(), tile(0, 2), tile(1, 2), tile(0, 2, grid=1))
    tree = Tree(str(stack.logs), NameRule(READER.pattern), follow=LogFollower)
    assert tree.scan_some((), (str(stack.logs),)) == []
    end(stack, 1)
    (found,) = tree.scan_some((str(stack.logs),), ())
    assert Path(found.path).name.startswith("slice_00002@")
    assert tree.scan_some((str(stack.logs),), ()) == []


def test_a_slice_that_continues_after_the_end_of_its_run_belongs_to_the_next_log(stack: Stack) -> None:
    end(stack, 1, active=[[0]])
    (alone,) = stack.write(1, session(), tile(0, 2))
    (both,) = stack.write(2, session(), tile(1, 2), complete(2))
    assert is_later_take(both, alone)
    assert len(ids(both)) == 2
    assert section_identity(alone) is None


def test_a_run_that_begins_by_closing_a_slice_closes_the_slice_of_the_earlier_log(stack: Stack) -> None:
    assert stack.write(1, session(), tile(0, 2)) == []
    (section,) = stack.write(2, session(), complete(2))
    assert file_of(section) == stack.log(1)
    (again,) = stack.write(2, tile(1, 2), complete(2))
    assert ids(again) == ["0000.0001.00002"]  # imaged again, not continued


@pytest.mark.parametrize(
    ("of_config", "slice_", "is_complete"),
    [
        ({"active": [[0], []]}, 2, True),
        ({"active": [[0, 1], []]}, 2, False),
        ({"active": [[0], [0]], "grids": [1, 0]}, 2, True),
        ({"active": [[0], [0]], "interval": [1, 3]}, 2, True),
        ({"active": [[0], [0]], "interval": [1, 2]}, 2, False),
        ({"active": [[], []]}, 2, False),
        ({"active": "[[0]]"}, 2, False),
        ({"active": [0, None, [True]]}, 2, False),
        ({"active": [[0]], "grids": None, "interval": {}}, 2, True),
        ({"active": [[0]], "interval": [0]}, 2, False),
    ],
)
def test_active_tiles_are_those_of_active_grids_that_are_due(
    stack: Stack, of_config: dict[str, object], slice_: int, is_complete: bool
) -> None:
    end(stack, 1, **of_config)
    assert is_imaged(stack.log(1), (slice_, None), tile(0, slice_).encode()) is is_complete


def test_a_region_is_complete_when_its_own_grid_is(stack: Stack) -> None:
    end(stack, 1, active=[[0], [0, 1]], grids=[1, 1])
    assert is_imaged(stack.log(1), (2, (3, 0)), tile(0, 2).encode())
    assert not is_imaged(stack.log(1), (2, (3, 1)), tile(0, 2, grid=1).encode())


@given(content=st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
def test_any_content_of_the_files_of_a_run_leaves_its_slice_open(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "metadata_1.txt"
        log.with_name("config_1.txt").write_bytes(b"[grids]\n" + content)
        log.with_name("log_1.txt").write_bytes(content)
        assert not is_imaged(log, (2, None), b"")
        assert has_ended(log) is (b"*** END OF LOG ***" in content)


def test_pipes_and_links_beside_a_log_are_ignored(stack: Stack) -> None:
    end(stack, 2, active=[[0]])
    for kind, make in (("log_", os.mkfifo), ("config_", lambda path: path.symlink_to(stack.logs / "config_2.txt"))):
        make(stack.logs / (kind + stack.log(1).name.removeprefix("metadata_")))
    assert not has_ended(stack.log(1))
    assert not is_imaged(stack.log(1), (2, None), tile(0, 2).encode())


@real_data
def test_the_run_of_the_sample_has_ended_with_every_active_tile() -> None:
    section = sections_of(sample_log())[-1]
    part = part_of(section)
    assert part is not None
    assert has_ended(part.file)
    assert is_imaged(part.file, part.key, section_content(section))


@pytest.mark.parametrize(
    ("rule", "z"),
    [
        (ZRule(ZRuleKind.HEADER), 12.0),
        (ZRule(ZRuleKind.HEADER, 1000), 1012.0),
        (ZRule(ZRuleKind.DEPTH), 12.0),
        (ZRule(ZRuleKind.DEPTH, 1000, spacing_nm=25.0), 1024.0),
    ],
)
def test_z_is_the_slice_or_follows_from_the_depth_and_an_offset(stack: Stack, rule: ZRule, z: float) -> None:
    (section,) = stack.write(1, session(), tile(0, 12), complete(12))
    assert z_for(read(section), section, rule) == z


def test_a_mirror_has_the_same_sections_under_another_path(tmp_path: Path) -> None:
    lines = session(), tile(0, 2), complete(2)
    (one,), (two,) = (Stack(tmp_path / drive / "stack").write(1, *lines) for drive in ("d", "z"))
    (other,) = Stack(tmp_path / "y" / "stack").write(2, *lines)
    assert is_mirrored(one, two)
    assert section_identity(one) == section_identity(two)
    assert not is_mirrored(one, one)
    assert not is_mirrored(one, other)
    assert not is_later_take(two, one)


def test_backslashes_apostrophes_none_and_numbers_of_numpy_are_read(stack: Stack) -> None:
    line = tile(0, 2, filename="tiles\\g0000\\t0000\\a'b.tif", comment=None)
    line = line.replace("'glob_x': -500", "'glob_x': np.float64(5.0)")
    (section,) = stack.write(1, session(), line, complete(2))
    (found,) = read(section).tiles
    assert (found.img_path, found.stage_x) == ("tiles/g0000/t0000/a'b.tif", 5.0)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (tile(0, 2, filename="../../a.tif"), "leads out of"),
        (tile(0, 2, filename="/etc/passwd"), "is absolute"),
        (tile(0, 2, glob_x=float("inf")).replace("inf", "1e999"), "glob_x should be a number"),
        (tile(0, 2, glob_y="7"), "glob_y should be a number"),
        (tile(0, 2, tile_width=0), "tile_width should be a number from 1"),
        (tile(0, 2, tileid="0000.0000"), "tileid should be grid.tile.slice"),
        (tile(0, 2, tileid="0009.0000.00002"), "grid 0009 is not among"),
        (tile(0, 2, tileid="0000.0000.00003"), "slice_counter is 2, but tileid"),
        ("TILE: {'slice_counter': 2, __import__('os').abort()}\r\n", "should be values in braces"),
        ("TILE: {'slice_counter': 2, 'a': " + "(" * 5000 + "\r\n", "should be values in braces"),
        ("TILE: {'slice_counter': 2, 'a': '" + "x" * 70_000 + "'}\r\n", "should have at most"),
    ],
)
def test_an_invalid_line_is_named(stack: Stack, line: str, problem: str) -> None:
    (section,) = stack.write(1, session(), line, complete(2))
    with pytest.raises(MetafileFault, match=re.escape(problem)):
        read(section)
