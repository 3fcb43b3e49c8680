"""The reader of each format passes the conformance suite of readers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader_suite import Sample, check_acquisition, damaged, read_any
from sections import NAME, section

from handlers.acquisition.formats.readers import READERS
from handlers.errors import Fault, MetafilePartial


def pytemca() -> Sample:
    content = json.dumps(section(width=2, height=2)).encode()
    return Sample(content, Path("/data/000042/0") / NAME, 3, {0: "20180601120100000_17797_1R_151_000042_0_1_0"})


def multisem() -> Sample:
    region = Path("/data/wafer_53/imaging/msem/scan_003/wafer_53_scan_003_20220501_08-46-34/012_")
    names = [f"000001\\012_000001_{beam:03d}_2022-05-01T0618013636729.png" for beam in (1, 2, 3)]
    lines = [f"{name}\t{2014641.659 + beam * 57.9}\t-{915550.903}\t0\r\n" for beam, name in enumerate(names)]
    path = region / "full_image_coordinates.txt"
    return Sample("".join(lines).encode(), path, 3, {2: "012_000001_003_20220501_061801"})


def sbemimage() -> Sample:
    session = {"grids": ["0000"], "pixel_sizes": [10.0], "rotation_angles": [5.5], "slice_thickness": 50}
    lines = [f"SESSION: {session}"]
    for number in (0, 1, 3):
        tile = {"tileid": f"0000.{number:04d}.00012", "slice_counter": 12, "timestamp": 1591084958}
        tile |= {"filename": f"tiles/g0000/t{number:04d}/stack_g0000_t{number:04d}_s00012.tif"}
        tile |= {"tile_width": 2048, "tile_height": 1536, "wd_stig_xy": [0.006, -0.01, 1.09]}
        tile |= {"glob_x": number % 3 * 18000, "glob_y": -number // 3 * 9000, "glob_z": 600}
        lines.append(f"TILE: {tile}")
    path = Path("/data/stack/meta/logs/metadata_2020-06-0210021236.txt/slice_00012@99")
    return Sample("".join(f"{line}\r\n" for line in lines).encode(), path, 3, {2: "0000.0003.00012"})


def serialem() -> Sample:
    lines = ["PixelSpacing = 16.76", "ImageSize = 2048 2048", "Montage = 1", "[T = SerialEM: a microscope]", ""]
    for number in (0, 1, 2):
        lines += [
            f"[Image = run_{number:04d}.tif]",
            f"PieceCoordinates = {1842 * (number // 2)} {1842 * (number % 2)} 3",
        ]
        lines += ["StagePosition = 31.8 -28.8", "NavigatorLabel = 12", "UncroppedSize = -2048 -2048"]
        lines += [f"AlignedPieceCoordsVS = {1842 * (number // 2) + 3} 37 3", "XedgeDxyVS = 50.5 43.5 0.02", ""]
    content = "".join(f"{line}\r\n" for line in [*lines, "[MontSection = 3]"]).encode()
    return Sample(content, Path("/data/block/run.idoc/montage@00003"), 3, {2: "run_0002"})


SAMPLES: dict[str, Callable[[], Sample]] = {
    "pytemca": pytemca,
    "multisem": multisem,
    "sbemimage": sbemimage,
    "serialem": serialem,
}
formats = pytest.mark.parametrize("name", SAMPLES)


def test_every_format_has_a_sample() -> None:
    assert SAMPLES.keys() == READERS.keys()
    assert all(name == reader.format for name, reader in READERS.items())


@formats
def test_a_valid_file_is_read_completely(name: str) -> None:
    sample, reader = SAMPLES[name](), READERS[name]
    found = reader.parse(sample.content, sample.path)
    check_acquisition(reader, found, sample.path)
    assert len(found.tiles) == sample.tiles
    assert {index: found.tiles[index].name for index in sample.names} == sample.names
    assert found == reader.parse(sample.content, sample.path)
    assert all(fact in reader.fields for fact in found.facts)


@formats
def test_the_image_directory_contains_the_metafile(name: str) -> None:
    sample, reader = SAMPLES[name](), READERS[name]
    assert sample.path.is_relative_to(reader.image_directory(sample.path))


@formats
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\n\n"], ids=["empty", "zero bytes", "blank lines"])
def test_an_empty_file_is_partial(name: str, content: bytes) -> None:
    with pytest.raises(MetafilePartial):
        READERS[name].parse(content, SAMPLES[name]().path)


@formats
def test_a_file_truncated_at_any_byte_is_refused_or_has_fewer_tiles(name: str) -> None:
    sample, reader = SAMPLES[name](), READERS[name]
    for length in range(0, len(sample.content.rstrip()) - 1, max(1, len(sample.content) // 200)):
        try:
            found = reader.parse(sample.content[:length], sample.path)
        except Fault:
            continue
        assert len(found.tiles) < sample.tiles


@formats
@given(data=st.data())
def test_a_damaged_file_gives_a_valid_acquisition_or_a_fault(name: str, data: st.DataObject) -> None:
    sample = SAMPLES[name]()
    read_any(READERS[name], data.draw(damaged(sample.content)), sample.path)


@formats
@given(content=st.binary(max_size=300))
def test_any_bytes_give_a_fault(name: str, content: bytes) -> None:
    assert read_any(READERS[name], content, SAMPLES[name]().path) is None
