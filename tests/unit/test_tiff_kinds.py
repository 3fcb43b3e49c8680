"""Kinds of image files: the header accepts exactly the files that are decoded pixel for pixel."""

import io
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiffs import COMPRESSORS, Kind, Pixels

from handlers.errors import ImageFault
from handlers.images.decode import read_image, verify_level
from handlers.images.formats import tiff_compression
from handlers.images.header import inspect_image
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps

WIDTH, HEIGHT = 53, 41
LIBTIFFS = sorted(set(COMPRESSORS) - {1})


def noise(depth: Any = np.uint8, width: int = WIDTH, height: int = HEIGHT, seed: int = 3) -> Pixels:
    generator = np.random.default_rng(seed)
    if depth is bool:
        return generator.integers(0, 2, (height, width)).astype(bool)
    return generator.integers(0, np.iinfo(depth).max, (height, width), depth, endpoint=True)


def smooth(width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """Return an image that JPEG compresses well: waves with some noise."""
    y, x = np.mgrid[0:height, 0:width]
    waves = 128 + 60 * np.sin(x / 9) + 40 * np.cos(y / 7) + np.random.default_rng(5).normal(0, 6, (height, width))
    return np.clip(waves, 0, 255).astype(np.uint8)


def decoded(path: Path, pixels: Pixels) -> Pixels:
    return read_image(path, pixels.shape[1], pixels.shape[0], mask=pixels.dtype == bool)[0]


def require_read(path: Path, content: bytes, pixels: Pixels) -> None:
    """Require that a file is accepted and decoded to the pixels, and that its levels are those of a plain file."""
    path.write_bytes(content)
    expected = np.where(pixels, np.uint8(255), np.uint8(0)) if pixels.dtype == bool else pixels
    np.testing.assert_array_equal(decoded(path, pixels), expected)
    if pixels.dtype == bool:
        return
    plain = path.with_name("plain.tif")
    plain.write_bytes(Kind().file(pixels))
    assert level_of(path, pixels) == level_of(plain, pixels)


def level_of(path: Path, pixels: Pixels) -> bytes:
    """Return the pixels of level 1, made from the file by a job."""
    level = path.with_name("level.tif")
    height, width = pixels.shape
    report = make_mipmaps(MipmapJob("t", path, ((1, level),), width, height, convert_to_8bit=False))
    assert report.fault is None
    with Image.open(level) as made:
        return made.tobytes()


def refusal(path: Path, content: bytes, *, mask: bool = False) -> ImageFault:
    path.write_bytes(content)
    with pytest.raises(ImageFault) as caught:
        inspect_image(path, mask=mask)
    return caught.value


kinds = st.builds(
    Kind,
    order=st.sampled_from("<>"),
    big=st.booleans(),
    compression=st.sampled_from(sorted(COMPRESSORS)),
    predictor=st.sampled_from([1, 1, 2]),
    reversed_bits=st.booleans(),
    piece=st.sampled_from([None, None, (16, 16), (64, 16), (32, 48)]),
    rows=st.sampled_from([1, 2, 7, 40, 41, 1000]),
)
HUNDRED_EXAMPLES = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None
)


@HUNDRED_EXAMPLES
@given(kind=kinds, depth=st.sampled_from([np.uint8, np.uint16, bool]))
def test_every_combination_that_the_header_accepts_is_decoded_pixel_for_pixel_and_the_others_are_refused(
    tmp_path: Path, kind: Kind, depth: Any
) -> None:
    pixels = noise(depth)
    assume(depth is not bool or kind.predictor == 1)
    content = kind.file(pixels)
    if kind.predictor == 2 and kind.compression not in tiff_compression.WITH_PREDICTOR:
        assert "Predictor 2" in refusal(tmp_path / "a.tif", content).problem
    else:
        require_read(tmp_path / "a.tif", content, pixels)


@HUNDRED_EXAMPLES
@given(kind=kinds, depth=st.sampled_from([np.uint8, np.uint16]))
def test_tifffile_reads_the_same_pixels(tmp_path: Path, kind: Kind, depth: Any) -> None:
    """tifffile checks the files that these tests write. Without imagecodecs it reads only few compressions."""
    plain = replace(kind, predictor=1, reversed_bits=False, compression={8: 8, 34925: 34925}.get(kind.compression, 1))
    pixels = noise(depth)
    found = tifffile.imread(io.BytesIO(plain.file(pixels)))
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("compression", sorted({*tiff_compression.NAMES, 0, 12345, 65535} - {*COMPRESSORS, 7}))
def test_an_unsupported_compression_is_refused_with_its_name(tmp_path: Path, compression: int) -> None:
    kind = Kind(tags={259: (3, [compression])})
    fault = refusal(tmp_path / "a.tif", kind.file(noise()))
    assert fault.problem == f"is compressed with {tiff_compression.name_of(compression)}, which is not supported"
    assert "save it uncompressed" in fault.hint


def test_common_compressions_are_named(tmp_path: Path) -> None:
    names = {34887: "LERC", 34712: "JPEG 2000", 34661: "JBIG", 50001: "WebP", 50002: "JPEG XL", 4: "CCITT Group 4"}
    for compression, name in names.items():
        assert (
            f"{name} ({compression})"
            in refusal(tmp_path / "a.tif", Kind(tags={259: (3, [compression])}).file(noise())).problem
        )


def test_a_compression_that_pillow_was_built_without_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff_compression, "_is_built_in", lambda name: name != "zstd")
    assert "Zstandard (50000)" in refusal(tmp_path / "a.tif", Kind(compression=50000).file(noise())).problem


SHORT, LONG = 3, 4
DEVIATIONS: dict[str, Kind] = {
    "SampleFormat 4, undefined, is unsigned": Kind(tags={339: (SHORT, [4])}),
    "SampleFormat 0 is no value": Kind(tags={339: (SHORT, [0])}),
    "Orientation 0 is no value": Kind(tags={274: (SHORT, [0])}),
    "Orientation 9 is no value": Kind(tags={274: (SHORT, [9])}),
    "FillOrder 0 is no value": Kind(tags={266: (SHORT, [0])}),
    "PlanarConfiguration 2 of one sample": Kind(tags={284: (SHORT, [2])}),
    "RowsPerStrip left out of one strip": Kind(without=[278]),
    "RowsPerStrip without end": Kind(tags={278: (LONG, [0xFFFFFFFF])}),
    "no byte counts of one strip": Kind(without=[279]),
    "no byte counts of strips": Kind(rows=16, without=[279]),
    "no byte counts of tiles": Kind(piece=(16, 16), without=[325]),
    "no byte counts, big-endian BigTIFF": Kind(order=">", big=True, rows=16, without=[279]),
    "SamplesPerPixel left out": Kind(without=[277]),
    "Compression left out": Kind(without=[259]),
    "signed types of tags": Kind(tags={256: (9, [WIDTH]), 257: (8, [HEIGHT])}),
    "tiles larger than the image": Kind(piece=(256, 128)),
    "a size in 64 bits": Kind(big=True, tags={256: (16, [WIDTH]), 257: (16, [HEIGHT])}),
}


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", DEVIATIONS)
def test_deviations_that_other_readers_accept_are_read(tmp_path: Path, name: str, depth: Any) -> None:
    pixels = noise(depth)
    require_read(tmp_path / "a.tif", DEVIATIONS[name].file(pixels), pixels)


REFUSED: dict[str, tuple[Kind, str]] = {
    "signed": (Kind(tags={339: (SHORT, [2])}), "signed integers"),
    "floating": (Kind(tags={339: (SHORT, [3])}), "floating point"),
    "complex": (Kind(tags={339: (SHORT, [6])}), "complex numbers"),
    "of unknown kind": (Kind(tags={339: (SHORT, [7])}), "unknown kind"),
    "white is zero": (Kind(tags={262: (SHORT, [0])}), "WhiteIsZero"),
    "palette": (Kind(tags={262: (SHORT, [3])}), "palette"),
    "YCbCr": (Kind(tags={262: (SHORT, [6])}), "PhotometricInterpretation 6"),
    "two samples": (Kind(tags={277: (SHORT, [2])}), "2 samples"),
    "no photometric": (Kind(without=[262]), "PhotometricInterpretation"),
    "no width": (Kind(without=[256]), "ImageWidth"),
    "no strips": (Kind(without=[273]), "StripOffsets"),
    "compressed, no byte counts": (Kind(compression=8, without=[279]), "StripByteCounts"),
    "strips of no height": (Kind(rows=16, without=[278]), "RowsPerStrip"),
    "strips too short": (Kind(rows=16, tags={279: (LONG, [16 * WIDTH * 2, 10, 9 * WIDTH * 2])}), "bytes of pixels"),
    "counts too few": (Kind(rows=16, tags={279: (LONG, [16 * WIDTH])}), "1 lengths"),
    "a count of zero": (Kind(rows=16, compression=8, tags={279: (LONG, [100, 0, 100])}), "not written to its end"),
    "floating predictor": (Kind(compression=8, tags={317: (SHORT, [3])}), "Predictor 3"),
    "predictor, uncompressed": (Kind(tags={317: (SHORT, [2])}), "Predictor 2"),
    "predictor with PackBits": (Kind(compression=32773, tags={317: (SHORT, [2])}), "Predictor 2"),
    "tiles without end": (Kind(piece=(16, 16), tags={322: (LONG, [60000]), 323: (LONG, [60000])}), "60000x60000"),
    "tiles of no size": (Kind(piece=(16, 16), tags={322: (LONG, [0])}), "without a size"),
    "compression of the type UNDEFINED": (Kind(tags={259: (7, [1])}), "tag 259 of type 7"),
    "below zero": (Kind(tags={256: (9, [-1])}), "below zero"),
    "overlap": (Kind(rows=1, compression=8, tags={273: (LONG, [8] * 41), 279: (LONG, [900] * 41)}), "overlap"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_headers_are_refused_with_a_reason(tmp_path: Path, name: str) -> None:
    kind, problem = REFUSED[name]
    assert problem in refusal(tmp_path / "a.tif", kind.file(noise(np.uint16))).problem


tag_values = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 32, 41, 53, 64, 255, 32773, 34887, 50000, 65535])


@HUNDRED_EXAMPLES
@given(
    kind=kinds,
    changed=st.dictionaries(
        st.sampled_from([256, 257, 258, 259, 262, 266, 274, 277, 278, 284, 317, 322, 323, 338, 339]),
        tag_values,
        max_size=3,
    ),
    without=st.sets(st.sampled_from([258, 259, 262, 266, 277, 278, 279, 317, 322, 325]), max_size=2),
    depth=st.sampled_from([np.uint8, np.uint16]),
)
def test_every_accepted_header_of_uncompressed_pixels_is_decoded(
    tmp_path: Path, kind: Kind, changed: dict[int, int], without: set[int], depth: Any
) -> None:
    path = tmp_path / "a.tif"
    kind = replace(kind, tags={tag: (SHORT, [value]) for tag, value in changed.items()}, without=without)
    path.write_bytes(kind.file(noise(depth)))
    try:
        info = inspect_image(path)
    except ImageFault:
        return
    if 259 not in without and changed.get(259, kind.compression) != 1:
        with suppress(ImageFault):  # the data have another compression or size than the header states
            read_image(path, info.width, info.height)
        return
    pixels, again = read_image(path, info.width, info.height)
    assert (pixels.shape, pixels.itemsize * 8) == ((again.height, again.width), again.bits)


# ------------------------------------------------------------------------------------------------- data that end early


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("piece", [None, (32, 32)])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", LIBTIFFS)
def test_a_strip_or_tile_whose_data_end_early_is_refused(
    tmp_path: Path, compression: int, depth: Any, piece: tuple[int, int] | None, share: float
) -> None:
    pixels = noise(depth)
    kind = Kind(compression=compression, piece=piece, rows=20)
    pieces = [kind._piece(part) for part in kind._parts(pixels)]
    pieces[1] = pieces[1][: max(1, int(len(pieces[1]) * share))]
    path = tmp_path / "a.tif"
    path.write_bytes(kind.file_of(pieces, pixels))
    with pytest.raises(ImageFault, match="data are broken or end too early") as caught:
        decoded(path, pixels)
    assert tiff_compression.name_of(compression) in caught.value.problem


def jpeg(pixels: Pixels, **options: Any) -> bytes:
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "JPEG", **options)
    return made.getvalue()


JPEGS = {
    "baseline": {},
    "coarse": {"quality": 5},
    "fine": {"quality": 100},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "restarts of rows": {"restart_marker_rows": 1},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 2},
}


def by_pillow(content: bytes) -> Pixels:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_a_complete_jpeg_has_the_pixels_that_pillow_decodes(tmp_path: Path, options: dict[str, Any]) -> None:
    for size in ((53, 41), (8, 8), (1, 1), (64, 33)):
        pixels = smooth(*size)
        content = jpeg(pixels, **options)
        path = tmp_path / "a.jpg"
        for trailing in (b"", bytes(700), b"\xff\xff", content):
            path.write_bytes(content + trailing)
            np.testing.assert_array_equal(decoded(path, pixels), by_pillow(content))


@pytest.mark.parametrize("end", [b"", b"\xff\xd9", b"\xff\xd9" + bytes(3000)], ids=["no end", "end", "end and more"])
@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_a_jpeg_truncated_anywhere_in_its_data_is_refused(tmp_path: Path, options: dict[str, Any], end: bytes) -> None:
    pixels = smooth(160, 120)
    content = jpeg(pixels, **options)
    begin = content.index(b"\xff\xda") + 10
    path = tmp_path / "a.jpg"
    for length in range(begin, len(content) - 2 - 40, max(1, (len(content) - begin) // 60)):
        path.write_bytes(content[:length] + end)
        with pytest.raises(ImageFault, match=r"truncated|lacks a part|header"):
            decoded(path, pixels)


@pytest.mark.parametrize("options", [{}, {"quality": 95}, {"optimize": True}, {"progressive": True}], ids=str)
def test_a_jpeg_with_any_byte_missing_at_its_end_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = smooth(64, 48)
    content = jpeg(pixels, **options)
    path = tmp_path / "a.jpg"
    for cut in range(1, 60):
        path.write_bytes(content[: -2 - cut] + b"\xff\xd9")
        with pytest.raises(ImageFault):
            decoded(path, pixels)


def test_a_jpeg_padded_with_zeros_is_refused_by_its_header(tmp_path: Path) -> None:
    """A copy that sets the length first leaves such a file, and so does a file system after a power failure."""
    content = jpeg(smooth(160, 120), exif=Image.Exif())
    half = content[: len(content) // 2]
    assert "truncated" in refusal(tmp_path / "a.jpg", half + bytes(len(content) - len(half))).problem
    thumbnail = b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content  # has its own end marker
    assert "truncated" in refusal(tmp_path / "b.jpg", half[:2] + thumbnail + half[2:] + bytes(100)).problem


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"], ids=["no end", "end"])
def test_a_jpeg_without_some_of_its_restart_intervals_is_refused(tmp_path: Path, end: bytes) -> None:
    pixels = smooth(160, 120)
    content = jpeg(pixels, restart_marker_rows=1)
    path = tmp_path / "a.jpg"
    for number in range(3):
        at = content.index(bytes([0xFF, 0xD0 + number]))
        following = content.index(bytes([0xFF, 0xD0 + number + 1]))
        path.write_bytes(content[:at] + end)  # truncated exactly between two intervals
        with pytest.raises(ImageFault, match="truncated"):
            decoded(path, pixels)
        path.write_bytes(content[:at] + content[following:])  # without one of the intervals
        with pytest.raises(ImageFault, match="lacks a part"):
            decoded(path, pixels)


def changed_frame(content: bytes, marker: int | None = None, **fields: int) -> bytes:
    at = content.index(b"\xff\xc0")
    frame = bytearray(content[at : at + 10])
    if marker is not None:
        frame[1] = marker
    for name, place in (("bits", 4), ("height", 6), ("width", 8), ("components", 9)):
        if name in fields:
            frame[place] = fields[name]
            if name in ("height", "width"):
                frame[place - 1] = 0
    return content[:at] + bytes(frame) + content[at + 10 :]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (changed_frame(jpeg(smooth()), 0xC3), "lossless JPEG"),
        (changed_frame(jpeg(smooth()), 0xC9), "arithmetic-coded"),
        (changed_frame(jpeg(smooth()), 0xC5), "hierarchical"),
        (changed_frame(jpeg(smooth()), bits=12), "12 bits"),
        (changed_frame(jpeg(smooth()), height=0), "invalid size"),
        (jpeg(np.dstack([smooth()] * 3)), "3 components"),
        (jpeg(smooth())[:-2], "truncated"),
        (jpeg(smooth())[:30], "truncated"),
        (b"\xff\xd8\xff\xd9", "without a frame"),
        (b"\xff\xd8\xff\xe0\0\0", "broken JPEG header"),
    ],
)
def test_a_jpeg_of_another_kind_is_refused_by_its_header(tmp_path: Path, content: bytes, problem: str) -> None:
    assert problem in refusal(tmp_path / "a.jpg", content).problem


class TestJpegInTiff:
    def pieces(self, pixels: Pixels, kind: Kind, **options: Any) -> list[bytes]:
        return [jpeg(np.ascontiguousarray(part), **options) for part in kind._parts(pixels)]

    def expected(self, kind: Kind, pieces: list[bytes], pixels: Pixels) -> Pixels:
        """Return the image that is composed of the pieces, each decoded by Pillow."""
        height, width = pixels.shape
        across, down = kind.piece or (width, kind.rows)
        whole = np.zeros((height + down, width + across), np.uint8)
        for index, piece in enumerate(pieces):
            row, column = divmod(index, -(-width // across))
            part = by_pillow(piece)
            whole[row * down : row * down + part.shape[0], column * across : column * across + part.shape[1]] = part
        return whole[:height, :width]

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("reversed_bits", [False, True])
    @pytest.mark.parametrize("piece", [None, (32, 16)])
    def test_a_jpeg_compressed_tiff_is_read(
        self, tmp_path: Path, piece: tuple[int, int] | None, reversed_bits: bool, order: str
    ) -> None:
        pixels = smooth()
        kind = Kind(order=order, compression=7, piece=piece, rows=16, reversed_bits=reversed_bits)
        pieces = self.pieces(pixels, kind)
        require_read(tmp_path / "a.tif", kind.file_of(pieces, pixels), self.expected(kind, pieces, pixels))

    def test_shared_jpeg_tables_apply_to_every_strip(self, tmp_path: Path) -> None:
        pixels = smooth(200, 300)
        path = tmp_path / "a.tif"
        Image.fromarray(pixels).save(path, compression="jpeg", tiffinfo={278: 64})
        with Image.open(path) as image:
            assert 347 in image.tag_v2  # type: ignore[attr-defined]
            expected = np.asarray(image)
        np.testing.assert_array_equal(decoded(path, pixels), expected)

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
    def test_a_strip_that_ends_early_is_refused(self, tmp_path: Path, share: float) -> None:
        pixels = smooth(160, 120)
        kind = Kind(compression=7, rows=64)
        pieces = self.pieces(pixels, kind)
        cut = pieces[1][: int(len(pieces[1]) * share)]
        without_end = kind.file_of([pieces[0], cut], pixels)
        assert "the end of its JPEG data is missing" in refusal(tmp_path / "a.tif", without_end).problem
        (tmp_path / "a.tif").write_bytes(kind.file_of([pieces[0], cut + b"\xff\xd9"], pixels))
        with pytest.raises(ImageFault, match=r"end before its last row|JPEG header"):
            decoded(tmp_path / "a.tif", pixels)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda piece: changed_frame(piece, 0xC3), "lossless JPEG"),
            (lambda piece: changed_frame(piece, width=40), "40x41 pixels for 53x41"),
            (lambda piece: changed_frame(piece, height=40), "53x40 pixels for 53x41"),
            (lambda piece: piece[2:], "without a start marker"),
            (lambda piece: b"\xff\xd8\xff\xd9", "without a frame"),
        ],
    )
    def test_an_unsupported_jpeg_in_a_tiff_is_refused_by_its_header(
        self, tmp_path: Path, change: Any, problem: str
    ) -> None:
        pixels, kind = smooth(), Kind(compression=7)
        (piece,) = self.pieces(pixels, kind)
        assert problem in refusal(tmp_path / "a.tif", kind.file_of([change(piece)], pixels)).problem

    def test_16_bits_are_refused(self, tmp_path: Path) -> None:
        kind = Kind(compression=7)
        content = kind.file_of([jpeg(smooth())], smooth().astype(np.uint16))
        assert "16 bits" in refusal(tmp_path / "a.tif", content).problem


@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
def test_a_png_whose_data_end_early_or_have_a_gap_is_refused(tmp_path: Path, share: float) -> None:
    pixels = noise(np.uint8, 200, 150)
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG")
    content = made.getvalue()
    at = 60 + int((len(content) - 90) * share)
    path = tmp_path / "a.png"
    for damaged in (content[:at] + content[-12:], content[: at - 20] + bytes(20) + content[at:]):
        path.write_bytes(damaged)
        with pytest.raises(ImageFault):
            decoded(path, pixels)


def test_masks_of_one_bit_are_read_with_either_meaning_of_zero(tmp_path: Path) -> None:
    pixels = noise(bool)
    require_read(tmp_path / "a.tif", Kind().file(pixels), pixels)
    for compression in (1, 8):
        kind = Kind(compression=compression, tags={262: (SHORT, [0])})
        require_read(tmp_path / "a.tif", kind.file(~pixels), pixels)


def test_a_mask_compressed_with_ccitt_is_refused_since_damage_cannot_be_detected(tmp_path: Path) -> None:
    Image.fromarray(noise(bool)).save(tmp_path / "m.tif", compression="group4")
    with pytest.raises(ImageFault, match="CCITT Group 4"):
        inspect_image(tmp_path / "m.tif", mask=True)


def test_the_first_of_duplicate_tags_is_used(tmp_path: Path) -> None:
    pixels = noise()
    content = bytearray(Kind().file(pixels))
    at = content.index(b"\x0a\x01\x03\x00")  # FillOrder, which has no effect with 1
    content[at : at + 12] = b"\x03\x01\x03\x00\x01\x00\x00\x00\x01\x00\x00\x00"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        require_read(tmp_path / "a.tif", bytes(content), pixels)


def test_levels_of_decoded_images_equal_the_exact_means(tmp_path: Path) -> None:
    pixels = noise(np.uint16)
    (tmp_path / "a.tif").write_bytes(Kind(order=">", big=True, reversed_bits=True, piece=(16, 16)).file(pixels))
    level_of(tmp_path / "a.tif", pixels)
    made = verify_level(tmp_path / "level.tif", WIDTH // 2, HEIGHT // 2, "I;16")
    exact = pixels[: HEIGHT // 2 * 2, : WIDTH // 2 * 2].reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean(axis=(1, 3))
    assert np.abs(made - exact).max() <= 0.5
