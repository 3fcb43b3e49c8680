"""Unsupported, invalid and corrupted images give a fault that names the file."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from handlers.container import Container
from handlers.errors import (
    Fault,
    ImageFault,
    ImagesMissing,
    MetafileFault,
    SettingsFault,
    StorageFault,
    Waiting,
    WorkerFault,
)
from handlers.images.header import inspect_image
from handlers.images.level0 import FileLevel0
from handlers.images.reduction import METHODS, Reduction
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.report import FaultReport
from tests.unit.levels.files import HEIGHT, WIDTH, fault_of, grey_tags, job_for, leftovers, save, texture, tiff


class TestRefusedImages:
    @pytest.mark.parametrize(
        ("mode", "problem"),
        [
            ("RGB", "colours"),
            ("RGBA", "colours"),
            ("LA", "colours"),
            ("CMYK", "colours"),
            ("P", "palette"),
            ("F", "floating point"),
            ("I", "signed integers"),
            ("1", "one bit"),
        ],
    )
    def test_images_that_are_not_grey_with_8_or_16_bits_are_refused_with_a_reason(
        self, tmp_path: Path, output_dir: Path, mode: str, problem: str
    ) -> None:
        fault = fault_of(job_for(save(tmp_path / "a.tif", Image.new(mode, (WIDTH, HEIGHT))), output_dir))
        assert isinstance(fault, ImageFault)
        assert problem in str(fault)
        assert fault.subject.endswith("a.tif")
        assert fault.waiting_helps is Waiting.NEVER

    @pytest.mark.parametrize(("mode", "problem"), [("RGB", "colours"), ("P", "palette"), ("1", "one bit")])
    def test_a_png_is_refused_for_the_same_reasons(
        self, tmp_path: Path, output_dir: Path, mode: str, problem: str
    ) -> None:
        assert problem in str(fault_of(job_for(save(tmp_path / "a.png", Image.new(mode, (WIDTH, HEIGHT))), output_dir)))

    @pytest.mark.parametrize(
        ("tags", "problem"),
        [
            (grey_tags(WIDTH, HEIGHT, photometric=0), "WhiteIsZero"),
            ([*grey_tags(WIDTH, HEIGHT), (339, 3, 2)], "signed integers"),
            ([*grey_tags(WIDTH, HEIGHT), (274, 3, 3)], "rotated"),
            (grey_tags(WIDTH, HEIGHT, bits=12), "12 bits"),
            (grey_tags(0, HEIGHT), "invalid size"),
            (grey_tags(70000, HEIGHT), "invalid size"),
            (grey_tags(WIDTH, HEIGHT + 1), "bytes of pixels"),
            ([*grey_tags(WIDTH, HEIGHT), (273, 4, 0)], "not written to its end"),
            ([*grey_tags(WIDTH, HEIGHT), (279, 4, 1 << 30)], "truncated"),
        ],
    )
    def test_an_unsupported_header_is_refused_with_a_reason(
        self, tmp_path: Path, tags: list[tuple[int, int, int]], problem: str
    ) -> None:
        file = tmp_path / "a.tif"
        file.write_bytes(tiff(texture().tobytes(), *tags))
        with pytest.raises(ImageFault, match=problem):
            inspect_image(file)

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "is empty"),
            (b"\0" * 5000, "no image"),
            (b"{}", "no image"),
            (b"%PDF-1.4 and so on", "no image"),
            (b"II*\0", "truncated"),
            (b"II*\0\x08\0\0\0", "truncated"),
            (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "0 entries"),
            (b"MM\0*\xff\xff\xff\xff", "truncated"),
            (b"\x89PNG\r\n\x1a\n", "truncated"),
            (b"\xff\xd8\xff\xe0 and no more", "truncated"),
        ],
    )
    def test_a_file_that_is_not_an_image_is_refused(
        self, tmp_path: Path, output_dir: Path, content: bytes, problem: str
    ) -> None:
        file = tmp_path / "a.tif"
        file.write_bytes(content)
        fault = fault_of(job_for(file, output_dir))
        assert isinstance(fault, ImageFault)
        assert problem in str(fault)

    @pytest.mark.parametrize("form", ["TIFF", "PNG", "JPEG"])
    def test_a_truncated_file_is_refused_without_decoding(self, tmp_path: Path, form: str) -> None:
        file = save(tmp_path / "a", texture(), format=form)
        whole = file.read_bytes()
        inspect_image(file)
        for length in range(len(whole)):
            file.write_bytes(whole[:length])
            with pytest.raises(ImageFault):
                inspect_image(file)

    @pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate", "tiff_lzw"])
    def test_a_tiff_without_its_last_byte_is_truncated(
        self, tmp_path: Path, output_dir: Path, compression: str | None
    ) -> None:
        file = save(tmp_path / "a.tif", texture(), compression=compression)
        os.truncate(file, file.stat().st_size - 1)
        assert "truncated" in str(fault_of(job_for(file, output_dir)))

    def test_a_png_with_corrupted_pixels_is_refused(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / "a.png", texture())
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
        assert isinstance(fault_of(job_for(file, output_dir)), ImageFault)

    def test_an_unexpected_size_is_refused(self, level0: Path, output_dir: Path) -> None:
        fault = fault_of(job_for(level0, output_dir, width=WIDTH + 1))
        assert "should have 22x13 pixels, has 21x13" in str(fault)
        assert isinstance(fault, ImageFault)

    def test_a_decompression_bomb_is_refused_without_decoding_it(
        self, tmp_path: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
        pixels = zlib.compress(bytes(1000))
        chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
        content = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
        file = tmp_path / "a.png"
        file.write_bytes(content)
        monkeypatch.setattr(FileLevel0, "pixels", None)
        assert "60000x60000" in str(fault_of(job_for(file, output_dir)))

    @pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate"])
    def test_an_image_larger_than_the_limit_of_pillow_neither_warns_nor_fails(
        self, tmp_path: Path, output_dir: Path, compression: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        width, height = 16, 768
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", width * height // 3)  # Pillow refuses twice as many
        file = save(tmp_path / "a.tif", texture(np.uint8, width, height), compression=compression)
        assert make_mipmaps(job_for(file, output_dir, width=width, height=height)).fault is None

    def test_a_strip_of_65536_pixels_is_read(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / "a.tif", texture(np.uint8, 65536, 4))
        report = make_mipmaps(job_for(file, output_dir, width=65536, height=4))
        assert [(made.width, made.height) for made in report.made] == [(32768, 2), (16384, 1)]

    def test_a_jpeg_level_of_16_bits_is_refused_without_decoding_the_image(
        self, tmp_path: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FileLevel0, "pixels", None)
        monkeypatch.setattr(FileLevel0, "stream", None)
        file = save(tmp_path / "a.tif", texture(np.uint16))
        fault = fault_of(job_for(file, output_dir, extension="jpg", convert_to_8bit=False))
        assert isinstance(fault, SettingsFault)
        assert "16 bits" in str(fault)

    @pytest.mark.parametrize(
        ("changes", "key"),
        [
            ({"reduction": Reduction("render")}, "mipmaps.method"),
            ({"outputs": ((0, Path("/none/x")),)}, "mipmaps.levels"),
            ({"outputs": ((1, Path("/none/x")), (1, Path("/none/y")))}, "mipmaps.levels"),
            ({"intensity_range": (300, 200)}, "mipmaps.range_16bit"),
        ],
    )
    def test_an_invalid_job_is_refused(self, level0: Path, output_dir: Path, changes: dict[str, Any], key: str) -> None:
        fault = fault_of(job_for(level0, output_dir, **changes))
        assert isinstance(fault, SettingsFault)
        assert fault.subject == key

    def test_a_level_without_pixels_is_refused(self, level0: Path, output_dir: Path) -> None:
        assert "level 4 is empty" in str(fault_of(job_for(level0, output_dir, levels=4)))

    def test_a_level_never_replaces_its_level_0(self, level0: Path) -> None:
        report = make_mipmaps(MipmapJob("t", level0, ((1, level0),), WIDTH, HEIGHT))
        assert report.fault is not None
        assert inspect_image(level0).width == WIDTH


@pytest.mark.parametrize(
    "reduction", [Reduction(method, name) for method in ("block_reduce", "PIL") for name in METHODS[method]], ids=str
)
@pytest.mark.parametrize("mode", ["RGB", "LA", "P"])
def test_colours_are_refused_by_every_method(tmp_path: Path, output_dir: Path, reduction: Reduction, mode: str) -> None:
    file = save(tmp_path / "a.png", Image.new(mode, (WIDTH, HEIGHT)))
    fault = fault_of(job_for(file, output_dir, reduction=reduction))
    assert isinstance(fault, ImageFault)
    assert "not grey values" in str(fault)


@pytest.mark.parametrize("kind", [ImageFault, StorageFault, ImagesMissing, WorkerFault, SettingsFault, MetafileFault])
def test_a_fault_survives_pickling(kind: type[Fault]) -> None:
    fault = FaultReport.of(kind("s", "p", "h")).to_fault()
    assert type(fault) is kind
    assert fault.args == ("s", "p", "h")


def test_a_fault_of_an_unknown_class_is_pickled_as_its_base_class() -> None:
    class Special(ImageFault):
        pass

    assert type(FaultReport.of(Special("s", "p")).to_fault()) is ImageFault


@pytest.mark.parametrize("form", ["TIFF", "PNG", "JPEG"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=120, deadline=None)
@given(data=st.data())
def test_a_corrupted_file_never_raises_and_leaves_no_temporary_files(
    tmp_path: Path, form: str, data: st.DataObject
) -> None:
    pixels = texture(np.uint8 if form == "JPEG" else data.draw(st.sampled_from([np.uint8, np.uint16])))
    options = {"compression": data.draw(st.sampled_from([None, "tiff_lzw"]))} if form == "TIFF" else {}
    content = bytearray(save(tmp_path / "a", pixels, format=form, **options).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.one_of(st.integers(0, min(300, len(content) - 1)), st.integers(0, len(content) - 1)))
        content[where] = data.draw(st.integers(0, 255))
    (tmp_path / "a").write_bytes(content)
    report = make_mipmaps(job_for(tmp_path / "a", tmp_path / "mipmaps", root=Container.of(tmp_path)))
    assert report.fault is None or report.fault.kind in ("ImageFault", "ImagesMissing")
    assert not leftovers(tmp_path)
