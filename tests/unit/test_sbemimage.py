"""SBEMimage: tile specs of the sample, logs that grow, runs that continue one another, lines that cannot be read."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from sections import DATA

from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.arrival import check_images, metafile_content
from handlers.acquisition.parts import file_of, is_later_take, part_of
from handlers.acquisition.sbemimage import SbemImage
from handlers.acquisition.sbemimage_log import LogFollower, section_content, section_identity
from handlers.acquisition.tilespec import options_for, tile_specs_for
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
def test_the_sample_has_four_slices_closed_by_records_of_the_next_number() -> None:
    found = sections_of(sample_log())
    assert [part.number for part in map(part_of, found) if part] == [2, 3, 4, 5]
    assert [len(read(path).tiles) for path in found] == [5, 5, 5, 5]


@real_data
def test_tile_specs_of_the_sample_equal_those_of_embl_its_marked_faults_aside() -> None:
    want = expected()["right"]
    specs = {}
    for path in sections_of(sample_log()):
        found = read(path)
        directory = READER.image_directory(path)
        assert directory == SAMPLE
        assert check_images(found, directory).whole
        z = found.facts["z_index"]
        assert isinstance(z, int)
        specs |= {spec["tileId"]: spec for spec in tile_specs_for(found, z, directory, options_for(READER))}
    assert specs.keys() == want.keys()
    for tile_id, right in want.items():
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
def test_the_affine_of_every_tile_is_what_the_four_transforms_of_embl_compose_to() -> None:
    theirs = {spec["tileId"]: spec["tool_composed_affine"] for spec in expected()["runs"]["all_slices"]["tilespecs"]}
    for path in sections_of(sample_log()):
        for spec in tile_specs_for(read(path), 1, SAMPLE, options_for(READER)):
            numbers = [float(each) for each in spec["transforms"]["specList"][0]["dataString"].split()]
            assert numbers == pytest.approx(theirs[spec["tileId"]], abs=1e-6)


@real_data
def test_the_sample_is_warned_of_for_a_pixel_size_that_contradicts_its_positions() -> None:
    path = sections_of(sample_log())[0]
    texts = [finding.text for finding in READER.check(read(path), path)]
    assert [text for text in texts if "12936 nm apart in x" in text and "2048 pixels of 5 nm" in text]


@real_data
def test_the_sample_names_stack_run_thickness_and_depth_and_no_mail_address() -> None:
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


# ------------------------------------------------------------------------------------------------------------- by hand

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
    """A stack's directory with its logs."""

    def __init__(self, base: Path) -> None:
        self.logs = base / "meta" / "logs"
        self.logs.mkdir(parents=True)
        self.follower = LogFollower()

    def log(self, run: int) -> Path:
        return self.logs / f"metadata_2020-06-{run:02d}10021236.txt"

    def write(self, run: int, *lines: str) -> list[Path]:
        """Append to the log of a run; return the sections that follow."""
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


def test_the_log_before_may_arrive_after_the_one_that_continues_it(stack: Stack) -> None:
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


def test_a_tile_that_is_listed_twice_counts_as_its_latest_record(stack: Stack) -> None:
    late = tile(0, 2, glob_x=9, timestamp=1591090000)
    (section,) = stack.write(1, session(), late, tile(0, 2, glob_x=7), complete(2))
    (found,) = read(section).tiles
    assert found.stage_x == 9


def test_a_log_that_is_replaced_is_read_from_its_beginning(stack: Stack) -> None:
    stack.write(1, session(), tile(0, 2), complete(2))
    stack.log(1).unlink()
    (section,) = stack.write(1, session(eht=3.0), tile(1, 2), complete(2))
    assert ids(section) == ["0000.0001.00002"]


def test_links_pipes_and_directories_with_the_name_of_a_log_are_no_logs(stack: Stack) -> None:
    for number, make in ((0, os.mkfifo), (2, Path.mkdir), (3, lambda path: path.symlink_to(stack.log(1)))):
        make(stack.log(number))
    (section,) = stack.write(1, session(), tile(0, 2), complete(2))
    assert ids(section) == ["0000.0000.00002"]
    assert [stack.follower.sections(str(stack.log(number))) for number in (0, 2, 3)] == [[], [], []]


def test_a_time_beyond_what_the_journal_holds_is_cut(stack: Stack) -> None:
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


def test_reading_a_section_of_a_long_log_reads_its_lines_alone(stack: Stack) -> None:
    stack.write(1, session())
    for first in range(0, 2000, 100):
        lines = (f"{tile(0, number)}{complete(number)}" for number in range(first, first + 100))
        found = stack.write(1, *lines)
    before = _bytes_read()
    section_content(found[0])
    assert _bytes_read() - before < 4 << 20


def test_following_a_log_reads_each_byte_a_bounded_number_of_times(stack: Stack) -> None:
    stack.write(1, session())
    costs = []
    for first in range(0, 3000, 100):
        before = _bytes_read()
        for number in range(first, first + 100):
            assert len(stack.write(1, tile(0, number), tile(1, number), complete(number))) == 1
        costs.append(_bytes_read() - before)
    assert max(costs[-5:]) < 3 * max(costs[:5])


def _bytes_read() -> int:
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


def test_grids_of_another_pixel_size_are_enlarged_to_that_of_the_first(stack: Stack) -> None:
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


def test_regions_of_an_array_are_named_by_array_and_region(stack: Stack) -> None:
    name = "tiles/a0003/r0007/t0000/stack_a0003_r0007_t0000.ome.tif"
    (section,) = stack.write(1, session(), tile(0, 2, filename=name), complete(1))
    found = read(section)
    assert found.facts["z_index"] == found.facts["roi_index"] == 7
    assert found.tiles[0].name == "a3.r7.0000.0000.00002"


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
