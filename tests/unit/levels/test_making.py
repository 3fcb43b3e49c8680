"""Levels have the pixels, formats and paths that the job and the plan state."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.container import Container
from handlers.errors import ImageFault, SettingsFault
from handlers.images import level0 as level0_module
from handlers.images.decode import verify_level
from handlers.images.encode import Encoding
from handlers.images.header import inspect_image, open_descriptor
from handlers.images.level0 import FileLevel0
from handlers.images.reduction import MASK, METHODS, Reduction
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.plan import Level0, MipmapPlan, absent_levels, level_uris
from handlers.mipmaps.tile_jobs import mask_job, tile_job
from handlers.uris import uri_to_path
from tests.integration.descriptors import descriptors_of
from tests.unit.levels.files import HEIGHT, WIDTH, fault_of, grey_tags, job_for, leftovers, save, texture, tiff
from tests.unit.sections import DATA


class TestMakingLevels:
    def test_each_level_has_the_expected_pixels_and_file(self, tmp_path: Path, output_dir: Path) -> None:
        pixels = np.array(
            [[0, 4, 100, 100, 7], [8, 4, 100, 104, 7], [1, 1, 255, 255, 7], [1, 2, 255, 253, 7]], np.uint8
        )
        job = job_for(save(tmp_path / "a.tif", pixels), output_dir, width=5, height=4)
        report = make_mipmaps(job)
        assert report.fault is None
        assert [(made.level, made.width, made.height, made.mode) for made in report.made] == [
            (1, 2, 2, "L"),
            (2, 1, 1, "L"),
        ]
        with Image.open(output_dir / "1" / "a.tif.tif") as level1, Image.open(output_dir / "2" / "a.tif.tif") as level2:
            assert np.asarray(level1).tolist() == [[4, 101], [1, 255]]
            assert np.asarray(level2).tolist() == [[90]]
        assert [made.bytes for made in report.made] == [path.stat().st_size for _, path in job.outputs]
        assert not leftovers(output_dir)

    def test_tiff_levels_are_uncompressed_and_in_one_strip(self, level0: Path, output_dir: Path) -> None:
        make_mipmaps(job_for(level0, output_dir))
        with Image.open(output_dir / "1" / "image.tif.tif") as image:
            tags = image.tag_v2  # type: ignore[attr-defined]
            assert (tags[259], tags[262], tags.get(277, 1), tags[258]) == (1, 1, 1, (8,))
            assert (len(tags[273]), tags[278], tags[279]) == (1, HEIGHT // 2, (WIDTH // 2 * (HEIGHT // 2),))

    @pytest.mark.parametrize("extension", ["tif", "png"])
    @pytest.mark.parametrize(("convert", "depth", "mode"), [(True, np.uint8, "L"), (False, np.uint16, "I;16")])
    def test_16_bit_images_are_converted_to_8_bit_only_on_request(
        self, tmp_path: Path, output_dir: Path, convert: bool, depth: Any, mode: str, extension: str
    ) -> None:
        file = save(tmp_path / "a.tif", np.full((HEIGHT, WIDTH), 25700, np.uint16))
        report = make_mipmaps(job_for(file, output_dir, convert_to_8bit=convert, extension=extension))
        assert [made.mode for made in report.made] == [mode, mode]
        pixels = verify_level(report.made[0].path, WIDTH // 2, HEIGHT // 2, mode)
        assert pixels.dtype == depth
        assert (pixels == (100 if convert else 25700)).all()

    @pytest.mark.parametrize("convert", [True, False])
    def test_8_bit_images_are_not_converted(self, tmp_path: Path, output_dir: Path, convert: bool) -> None:
        file = save(tmp_path / "a.tif", np.full((HEIGHT, WIDTH), 200, np.uint8))
        report = make_mipmaps(job_for(file, output_dir, convert_to_8bit=convert, intensity_range=(1000, 2000)))
        assert (verify_level(report.made[1].path, WIDTH // 4, HEIGHT // 4, "L") == 200).all()

    def test_16_bit_values_are_scaled_from_the_configured_range(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / "a.tif", np.full((HEIGHT, WIDTH), 1200, np.uint16))
        report = make_mipmaps(job_for(file, output_dir, intensity_range=(1000, 1510)))
        assert (verify_level(report.made[0].path, WIDTH // 2, HEIGHT // 2, "L") == 100).all()

    @pytest.mark.parametrize("depth", [np.uint8, np.uint16])
    @pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
    def test_tiffs_of_either_byte_order_and_size_are_read(
        self, tmp_path: Path, output_dir: Path, depth: Any, order: str, big: bool
    ) -> None:
        pixels = texture(depth)
        content = pixels.astype(np.dtype(depth).newbyteorder(order)).tobytes()
        bits = np.iinfo(depth).bits
        file = tmp_path / "a.tif"
        file.write_bytes(tiff(content, *grey_tags(WIDTH, HEIGHT, bits), order=order, big=big))
        assert inspect_image(file).bits == bits
        report = make_mipmaps(job_for(file, output_dir, convert_to_8bit=False))
        assert report.fault is None
        found = verify_level(report.made[0].path, WIDTH // 2, HEIGHT // 2, "L" if bits == 8 else "I;16")
        exact = pixels[:12, :20].reshape(6, 2, 10, 2).mean(axis=(1, 3))
        assert np.abs(found - exact).max() < 1

    @pytest.mark.parametrize(
        "options", [{"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"tiffinfo": {278: 2}}]
    )
    def test_compressed_tiffs_and_tiffs_of_several_strips_are_read(
        self, level0: Path, output_dir: Path, options: dict[str, Any]
    ) -> None:
        make_mipmaps(job_for(level0, output_dir / "plain"))
        other = save(level0.parent / "other.tif", texture(), **options)
        assert make_mipmaps(job_for(other, output_dir / "other")).fault is None
        plain, packed = (output_dir / "plain/1/image.tif.tif"), (output_dir / "other/1/other.tif.tif")
        with Image.open(plain) as one, Image.open(packed) as two:
            np.testing.assert_array_equal(np.asarray(one), np.asarray(two))

    @pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.dat"])
    def test_the_format_of_level_0_is_read_from_its_content_and_not_from_its_name(
        self, tmp_path: Path, output_dir: Path, name: str
    ) -> None:
        file = save(tmp_path / name, texture(), format="PNG")
        assert inspect_image(file).format == "png"
        assert make_mipmaps(job_for(file, output_dir)).fault is None

    def test_jpeg_levels_have_8_bits(self, level0: Path, output_dir: Path) -> None:
        report = make_mipmaps(job_for(level0, output_dir, extension="jpg"))
        assert [made.mode for made in report.made] == ["L", "L"]
        assert inspect_image(report.made[0].path).format == "jpg"

    def test_the_first_page_of_a_tiff_is_used_with_a_note(self, tmp_path: Path, output_dir: Path) -> None:
        first, second = (Image.fromarray(np.full((HEIGHT, WIDTH), grey, np.uint8)) for grey in (10, 200))
        file = save(tmp_path / "a.tif", first, save_all=True, append_images=[second])
        report = make_mipmaps(job_for(file, output_dir))
        assert (verify_level(report.made[0].path, WIDTH // 2, HEIGHT // 2, "L") == 10).all()
        assert len(report.notes) == 1
        assert "first" in report.notes[0]

    @pytest.mark.parametrize(
        ("depth", "maximum", "bits"),
        [(np.uint16, 255, "16 bits"), (np.uint8, 65535, "8 bits"), (np.uint8, 255, None), (np.uint16, 4095, None)],
    )
    def test_an_intensity_range_that_contradicts_the_bits_of_the_image_is_noted(
        self, tmp_path: Path, output_dir: Path, depth: Any, maximum: int, bits: str | None
    ) -> None:
        tile = Level0("t", save(tmp_path / "a.tif", texture(depth)), None, WIDTH, HEIGHT, maximum)
        report = make_mipmaps(tile_job(tile, MipmapPlan(output_dir, levels=1)))
        assert report.fault is None
        assert len(report.notes) == (bits is not None)
        assert bits is None or f"has {bits}, but the maximum intensity" in report.notes[0]

    def test_a_repeated_job_replaces_its_files(self, level0: Path, output_dir: Path) -> None:
        job = job_for(level0, output_dir)
        make_mipmaps(job)
        save(level0, np.full((HEIGHT, WIDTH), 77, np.uint8))
        assert make_mipmaps(job).fault is None
        assert (verify_level(job.outputs[1][1], WIDTH // 4, HEIGHT // 4, "L") == 77).all()

    def test_names_may_be_long_and_have_blanks_and_umlauts(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / ("ü #?%41 " + "x" * 230 + ".tif"), texture())
        assert make_mipmaps(job_for(file, output_dir)).fault is None
        assert not leftovers(output_dir)

    def test_a_real_tile_with_odd_sizes_gets_levels_of_the_sizes_that_render_expects(self, output_dir: Path) -> None:
        file = DATA / "fafb_tile_col0066_row0102_cam3.png"
        if not file.exists():
            pytest.skip(f"{file} is not there")
        report = make_mipmaps(job_for(file, output_dir, levels=6, width=2760, height=2330))
        assert [(made.width, made.height) for made in report.made] == [
            *((1380, 1165), (690, 582), (345, 291), (172, 145), (86, 72), (43, 36)),
        ]


class TestMasks:
    @pytest.mark.parametrize("mode", ["L", "1"])
    @pytest.mark.parametrize("extension", ["png", "tif"])
    def test_a_mask_keeps_its_two_values_and_gets_the_sizes_of_its_image(
        self, tmp_path: Path, output_dir: Path, mode: str, extension: str
    ) -> None:
        pixels = np.full((HEIGHT, WIDTH), 255, np.uint8)
        pixels[4, 4] = 0
        file = save(tmp_path / f"mask.{extension}", Image.fromarray(pixels).convert(mode))
        report = make_mipmaps(job_for(file, output_dir, reduction=MASK, is_mask=True))
        assert report.fault is None
        expected = np.full((6, 10), 255, np.uint8)
        expected[2, 2] = 0
        np.testing.assert_array_equal(verify_level(report.made[0].path, 10, 6, "L"), expected)

    def test_the_real_mask_stays_binary(self, output_dir: Path) -> None:
        file = DATA / "fafb_mask_cam_3.png"
        if not file.exists():
            pytest.skip(f"{file} is not there")
        report = make_mipmaps(
            job_for(file, output_dir, levels=6, width=2760, height=2330, reduction=MASK, is_mask=True)
        )
        assert report.fault is None
        assert len(report.made) == 6
        for made in report.made:
            pixels = verify_level(made.path, 2760 >> made.level, 2330 >> made.level, "L")
            assert set(np.unique(pixels)) == {0, 255}

    def test_a_mask_of_16_bits_is_refused(self, tmp_path: Path, output_dir: Path) -> None:
        fault = fault_of(
            job_for(save(tmp_path / "m.tif", texture(np.uint16)), output_dir, reduction=MASK, is_mask=True)
        )
        assert isinstance(fault, ImageFault)
        assert "mask with 16 bits" in str(fault)

    def test_a_mask_is_not_written_in_a_lossy_format(self, level0: Path, output_dir: Path) -> None:
        fault = fault_of(job_for(level0, output_dir, reduction=MASK, is_mask=True, extension="jpg"))
        assert isinstance(fault, SettingsFault)


class TestFormats:
    @pytest.mark.parametrize("depth", [np.uint8, np.uint16])
    @pytest.mark.parametrize(
        ("encoding", "tag"),
        [
            (Encoding("tif", compression="none"), 1),
            (Encoding("tif", compression="lzw"), 5),
            (Encoding("tiff", compression="deflate"), 8),
            (Encoding("tiff", compression="zip"), 8),
            (Encoding("tiff", compression="packbits"), 32773),
        ],
    )
    def test_a_compressed_tiff_is_compressed_and_has_the_same_pixels(
        self, tmp_path: Path, output_dir: Path, depth: Any, encoding: Encoding, tag: int
    ) -> None:
        file = save(tmp_path / "a.tif", texture(depth, 200, 100))
        job = job_for(file, output_dir, encoding=encoding, convert_to_8bit=False, width=200, height=100)
        assert make_mipmaps(job).fault is None
        with Image.open(job.outputs[0][1]) as found:
            assert found.tag_v2[259] == tag  # type: ignore[attr-defined]
            packed = np.asarray(found)
        plain = make_mipmaps(replace(job, encoding=Encoding("tif"))).made[0]
        np.testing.assert_array_equal(packed, verify_level(plain.path, 100, 50, plain.mode))

    @pytest.mark.parametrize("quality", [40, 95])
    def test_a_lower_quality_makes_a_smaller_jpeg(self, level0: Path, output_dir: Path, quality: int) -> None:
        job = job_for(level0, output_dir, encoding=Encoding("jpeg", quality=quality))
        best = replace(job, encoding=Encoding("jpg", quality=100))
        assert make_mipmaps(job).made[0].bytes < make_mipmaps(best).made[0].bytes

    def test_a_higher_compression_makes_a_smaller_png(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / "a.tif", np.full((HEIGHT, WIDTH), 7, np.uint8))
        sizes = [
            make_mipmaps(job_for(file, output_dir, encoding=Encoding("png", compression=level))).made[0].bytes
            for level in (0, 9)
        ]
        assert sizes[0] > sizes[1]

    @pytest.mark.parametrize(
        ("options", "key"),
        [
            ({"format": "bmp"}, "mipmaps.format"),
            ({"format": "webp"}, "mipmaps.format"),
            ({"format": "tif", "quality": 90}, "mipmaps.quality"),
            ({"format": "jpg", "quality": 0}, "mipmaps.quality"),
            ({"format": "jpg", "quality": 101}, "mipmaps.quality"),
            ({"format": "jpg", "compression": "lzw"}, "mipmaps.compression"),
            ({"format": "tif", "compression": "zstd"}, "mipmaps.compression"),
            ({"format": "tif", "compression": 6}, "mipmaps.compression"),
            ({"format": "png", "compression": 10}, "mipmaps.compression"),
            ({"format": "png", "compression": "lzw"}, "mipmaps.compression"),
        ],
    )
    def test_an_invalid_format_or_option_is_refused(self, options: dict[str, Any], key: str) -> None:
        with pytest.raises(SettingsFault) as refusal:
            Encoding(**options)
        assert refusal.value.subject == key

    @pytest.mark.parametrize(
        ("name", "extension"), [("TIFF", "tif"), ("tif", "tif"), ("JPEG", "jpg"), ("jpg", "jpg"), ("PNG", "png")]
    )
    def test_all_names_of_a_format_give_the_same_extension(self, name: str, extension: str) -> None:
        assert Encoding(name).extension == extension


class TestPathsOfThePlan:
    """The plan gives the same paths to the writer and to the stack."""

    @pytest.mark.parametrize("name", ["tiff", "TIF", "jpeg", "png"])
    def test_the_stack_names_exactly_the_files_that_are_written(
        self, level0: Path, output_dir: Path, name: str
    ) -> None:
        mask = save(level0.parent / "mask #1.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
        tile = Level0("t", level0, mask, WIDTH, HEIGHT)
        plan = MipmapPlan(output_dir, levels=2, encoding=Encoding(name))
        for job in (tile_job(tile, plan), mask_job(tile, plan)):
            assert make_mipmaps(job).fault is None
        for level, (image_uri, mask_uri) in level_uris(tile, plan).items():
            assert mask_uri is not None
            sizes = {
                (found.width, found.height) for found in map(inspect_image, map(uri_to_path, (image_uri, mask_uri)))
            }
            assert sizes == {(WIDTH >> level, HEIGHT >> level)}
        assert absent_levels([tile], plan) == []

    def test_masks_beside_jpeg_are_png_and_stay_binary(self, level0: Path, output_dir: Path) -> None:
        mask = save(level0.parent / "mask.png", np.where(texture() < 200, 255, 0).astype(np.uint8))
        job = mask_job(Level0("t", level0, mask, WIDTH, HEIGHT), MipmapPlan(output_dir, 2, encoding=Encoding("jpg")))
        report = make_mipmaps(job)
        assert report.made[0].path.name == "mask.png.png"
        assert set(np.unique(verify_level(report.made[0].path, WIDTH // 2, HEIGHT // 2, "L"))) == {0, 255}

    def test_files_with_a_hash_in_their_names_do_not_share_a_level(self, level0: Path, output_dir: Path) -> None:
        plan = MipmapPlan(output_dir, levels=1)
        names = [save(level0.parent / name, texture()) for name in ("a#1.tif", "a#2.tif", "a%231.tif", "a?1.tif")]
        paths = [make_mipmaps(tile_job(Level0("t", name, None, WIDTH, HEIGHT), plan)).made[0].path for name in names]
        assert len(set(paths)) == 4


def reads_of_level0(
    level0: Path, output_dir: Path, pixels: Any, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[str]:
    """Save level 0 and make three levels of it; return the names of the methods that read its pixels."""
    calls: list[str] = []

    def counted(name: str) -> Any:
        method = getattr(FileLevel0, name)

        def read(*arguments: Any) -> Any:
            calls.append(name)
            return method(*arguments)

        return read

    for name in ("pixels", "stream"):
        monkeypatch.setattr(FileLevel0, name, counted(name))
    save(level0, pixels, **options)
    assert len(make_mipmaps(job_for(level0, output_dir, levels=3)).made) == 3
    return calls


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"format": "PNG"}, {"format": "JPEG"}], ids=str)
def test_level_0_is_read_once_for_all_levels(
    level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    pixels = np.full((HEIGHT, WIDTH), 200, np.uint8)
    assert len(reads_of_level0(level0, output_dir, pixels, monkeypatch, **options)) == 1


def test_level_0_is_read_once_more_for_all_levels_whose_mean_is_corrected(
    level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.full((HEIGHT, WIDTH), 100, np.uint8)
    pixels[::2, ::2] = 101
    assert reads_of_level0(level0, output_dir, pixels, monkeypatch) == ["stream", "pixels"]


def test_an_invalid_image_has_a_fault_in_its_report_and_the_others_have_none(level0: Path, output_dir: Path) -> None:
    bad = level0.parent / "bad.tif"
    bad.write_bytes(b"II*\0")
    files = [level0, bad, save(level0.parent / "c.tif", texture())]
    reports = [make_mipmaps(job_for(file, output_dir, tile_id=file.name)) for file in files]
    assert [(report.tile_id, report.fault is None) for report in reports] == [
        *(("image.tif", True), ("bad.tif", False), ("c.tif", True)),
    ]


@pytest.mark.parametrize(
    "reduction", [Reduction(method, name) for method in ("block_reduce", "PIL") for name in METHODS[method]], ids=str
)
def test_8_bit_images_are_not_darkened_by_conversion_with_any_method(
    tmp_path: Path, output_dir: Path, reduction: Reduction
) -> None:
    file = save(tmp_path / "a.tif", np.full((HEIGHT, WIDTH), 200, np.uint8))
    report = make_mipmaps(job_for(file, output_dir, reduction=reduction, convert_to_8bit=True))
    assert (verify_level(report.made[1].path, WIDTH // 4, HEIGHT // 4, "L") == 200).all()


@pytest.mark.parametrize("order", [(3, 1), (2, 3, 1), (1, 3)])
def test_levels_may_be_requested_in_any_order(level0: Path, output_dir: Path, order: tuple[int, ...]) -> None:
    outputs = tuple((level, output_dir / f"{level}.tif") for level in order)
    report = make_mipmaps(job_for(level0, output_dir, outputs=outputs))
    assert {(made.level, made.width) for made in report.made} == {(level, WIDTH >> level) for level in order}
    assert all(inspect_image(path).width == WIDTH >> level for level, path in outputs)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}], ids=["streamed", "decoded"])
def test_level_0_is_opened_twice_to_read_it_and_to_check_that_it_is_unchanged(
    level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Each opening costs a request to a distant file server."""
    save(level0, texture(), **options)
    opened: list[Path] = []

    def counted(path: Path, root: Container | None = None) -> Any:
        opened.append(path)
        return open_descriptor(path, root)

    for name in ("open_content", "open_descriptor"):
        monkeypatch.setattr(level0_module, name, counted)
    assert make_mipmaps(job_for(level0, output_dir)).fault is None
    assert opened == [level0] * 2


@pytest.mark.parametrize("problem", [None, "size", "disk", "kept", "decoded"])
def test_level_0_does_not_stay_open(level0: Path, output_dir: Path, problem: str | None) -> None:
    job = job_for(level0, output_dir, width=WIDTH + (problem == "size"))
    if problem == "disk":
        output_dir.write_bytes(b"")
    if problem == "kept":
        make_mipmaps(job)
    if problem == "decoded":
        save(level0, texture(), compression="tiff_lzw")
    report = make_mipmaps(replace(job, force=problem != "kept"))
    assert bool(report.fault) == (problem in ("size", "disk"))
    assert len(report.kept) == (len(job.outputs) if problem == "kept" else 0)
    assert descriptors_of(level0) == []
