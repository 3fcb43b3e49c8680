"""Compare every method, format and bit depth with its reference, in one table.

The references share no code with the code under test: scikit-image's `block_reduce` with numpy's and scipy's functions,
Pillow's `resize`, and means in float64. `pytest -s` prints the table, which is also written to a file.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter
from skimage.measure import block_reduce

from handlers.images.encode import Encoding
from handlers.images.reduction import Reduction
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps

LEVELS = 6
SIZES = {"even": (256, 192), "odd": (257, 211)}
"""(width, height); the odd height stays odd at levels 1 and 5."""
DEPTHS: dict[str, tuple[Any, bool]] = {"8": (np.uint8, True), "16": (np.uint16, False), "16 to 8": (np.uint16, True)}
"""Bits in the table -> (level 0, whether it is converted)."""
ENCODINGS = [
    Encoding("tif"),
    Encoding("tiff", compression="lzw"),
    Encoding("tif", compression="deflate"),
    Encoding("tif", compression="packbits"),
    Encoding("png"),
    Encoding("png", compression=0),
    Encoding("png", compression=9),
    Encoding("jpeg"),
    Encoding("jpg", quality=50),
]
JPEG_TOLERANCE = {None: (20, 1.5), 50: (90, 4.0)}
"""Quality -> (largest, mean) error that JPEG may add to the images below, in grey values."""

FloatImage = npt.NDArray[np.float64]
Reference = Callable[[npt.NDArray[Any], int], FloatImage]


def whole_blocks(image: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    height, width = (size // side * side for size in image.shape)
    return image[:height, :width]


def by_skimage(function: Callable[..., Any]) -> Reference:
    """Return the level that `block_reduce` makes from level 0, as whole numbers."""

    def reference(image: npt.NDArray[Any], level: int) -> FloatImage:
        side = 2**level
        reduced = block_reduce(whole_blocks(image, side).astype(np.float64), (side, side), function)
        return np.asarray(np.rint(reduced), np.float64)

    return reference


def exact_mean(image: npt.NDArray[Any], level: int) -> FloatImage:
    side = 2**level
    whole = whole_blocks(image, side).astype(np.float64)
    blocks = whole.reshape(whole.shape[0] // side, side, whole.shape[1] // side, side)
    return np.asarray(blocks.mean(axis=(1, 3)))


def scipy_mode(blocks: npt.NDArray[Any], axis: tuple[int, ...]) -> npt.NDArray[Any]:
    from scipy import stats  # takes a second, and only this test needs it

    return np.asarray(stats.mode(blocks.reshape(*blocks.shape[:2], -1), axis=-1).mode)


def by_pillow(name: str) -> Reference:
    """Return the level that Pillow resizes from the whole blocks of level 0: 8 bits as they are, 16 bits as floats."""

    def reference(image: npt.NDArray[Any], level: int) -> FloatImage:
        height, width = (size >> level for size in image.shape)
        source = Image.fromarray(image if image.dtype == np.uint8 else image.astype(np.float32))
        box = (0, 0, width << level, height << level)
        resized = np.asarray(source.resize((width, height), Image.Resampling[name], box=box), np.float64)
        return np.asarray(np.clip(np.rint(resized), 0, np.iinfo(image.dtype).max))

    return reference


REFERENCES: dict[Reduction, Reference] = {
    Reduction("block_reduce", "mean"): exact_mean,
    Reduction("block_reduce", "median"): by_skimage(np.median),
    Reduction("block_reduce", "min"): by_skimage(np.min),
    Reduction("block_reduce", "max"): by_skimage(np.max),
    Reduction("block_reduce", "mode"): by_skimage(scipy_mode),
    **{
        Reduction("PIL", name): by_pillow(name)
        for name in ("NEAREST", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")
    },
}
"""The method "render" differs only in the source of level 0; tests/integration compares it with "block_reduce"."""


def picture(depth: Any, width: int, height: int) -> npt.NDArray[Any]:
    """Return a smooth image with noise. Its values cover the whole range, with unequal frequencies."""
    generator = np.random.default_rng(23)
    rough = Image.fromarray(generator.integers(0, 256, (height, width), np.uint8))
    smooth = np.asarray(rough.filter(ImageFilter.GaussianBlur(6)), np.float64)
    smooth = (smooth - smooth.mean()) / smooth.std() * 0.25 + 0.5
    noisy = smooth + generator.normal(0, 0.04, (height, width))
    return np.asarray((np.clip(noisy, 0, 1) * np.iinfo(depth).max).astype(depth))


def to_8bit(exact: FloatImage) -> FloatImage:
    """Map the full 16-bit range to 0 to 255, not rounded."""
    return exact * 255 / 65535


@dataclass(frozen=True)
class Row:
    """Largest errors of all levels of one case."""

    method: str
    form: str
    depth: str
    size: str
    largest: float
    bias: float
    """Mean error of the level whose mean error is largest in absolute value."""
    allowed: str

    def __str__(self) -> str:
        case = f"{self.method:<22}{self.form:<14}{self.depth:<9}{self.size:<6}"
        return f"{case}{self.largest:>9.4f}{self.bias:>+10.4f}  {self.allowed}"


HEAD = f"{'method':<22}{'format':<14}{'bits':<9}{'sizes':<6}{'largest':>9}{'mean':>10}  allowed\n"


def cases() -> Iterator[tuple[Reduction, Encoding, str, str]]:
    """Return every case; JPEG has no 16 bits."""
    for reduction in REFERENCES:
        for encoding in ENCODINGS:
            for depth, (_, converted) in DEPTHS.items():
                if encoding.lossless or depth == "8" or converted:
                    yield from ((reduction, encoding, depth, size) for size in SIZES)


@pytest.mark.slow
def test_every_level_equals_its_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands of small files, all removed at the end
    expected = {
        (reduction, depth, size): expected_levels(reduction, depth, size)
        for reduction in REFERENCES
        for depth in DEPTHS
        for size in SIZES
    }
    images = {}
    for depth, (kind, _) in DEPTHS.items():
        for size, (width, height) in SIZES.items():
            images[depth, size] = tmp_path / f"{kind.__name__} {size}.tif"
            Image.fromarray(picture(kind, width, height)).save(images[depth, size])
    rows = [
        row_of(*case, images[case[2], case[3]], expected[case[0], case[2], case[3]], tmp_path / "mipmaps")
        for case in cases()
    ]
    table = HEAD + "\n".join(map(str, rows)) + "\n"
    (tmp_path / "conformance.txt").write_text(table)
    print(f"\n{table}")  # noqa: T201  the table is a result of this test
    assert len(rows) == len(REFERENCES) * (7 * 3 * 2 + 2 * 2 * 2)


def expected_levels(reduction: Reduction, depth: str, size: str) -> dict[int, FloatImage]:
    """Return the reference of each level: exact for the mean, otherwise as whole numbers."""
    kind, converted = DEPTHS[depth]
    image, reference = picture(kind, *SIZES[size]), REFERENCES[reduction]
    levels = {level: reference(image, level) for level in range(1, LEVELS + 1)}
    if kind is np.uint8 or not converted:
        return levels
    scaled = {level: to_8bit(exact) for level, exact in levels.items()}
    return scaled if reference is exact_mean else {level: np.rint(exact) for level, exact in scaled.items()}


def row_of(
    reduction: Reduction,
    encoding: Encoding,
    depth: str,
    size: str,
    image: Path,
    expected: dict[int, FloatImage],
    output_dir: Path,
) -> Row:
    """Make the levels of the case, read them with Pillow alone, and assert that their errors are within the limits."""
    outputs = tuple((level, output_dir / f"{level}.{encoding.extension}") for level in range(1, LEVELS + 1))
    job = MipmapJob("a", image, outputs, *SIZES[size], reduction, encoding, convert_to_8bit=DEPTHS[depth][1])
    report = make_mipmaps(job)
    assert report.fault is None
    largest, worst_bias = 0.0, 0.0
    is_mean = REFERENCES[reduction] is exact_mean
    limit, bias_limit = (1.0, 0.1) if is_mean else (0.0, 0.0)
    if not encoding.lossless:
        jpeg_limit, jpeg_bias_limit = JPEG_TOLERANCE[encoding.quality]
        limit, bias_limit = limit + jpeg_limit, bias_limit + jpeg_bias_limit
    for level, path in outputs:
        with Image.open(path) as opened:
            assert opened.mode == ("I;16" if depth == "16" else "L")
            found = np.asarray(opened).astype(np.float64)
        error = found - expected[level]
        bias = float(error.mean())
        assert np.abs(error).max() <= limit, (reduction, encoding, depth, size, level)
        assert abs(bias) <= bias_limit + 1e-9, (reduction, encoding, depth, size, level)
        largest = max(largest, float(np.abs(error).max()))
        worst_bias = max(worst_bias, bias, key=abs)
    option = encoding.quality or encoding.compression
    form = encoding.extension if option is None else f"{encoding.extension} {option}"
    method = f"{reduction.method} {reduction.function}"
    return Row(method, form, depth, size, largest, worst_bias, f"{limit:g}, {bias_limit:g}")
