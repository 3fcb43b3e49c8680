"""The text in the file of a level about its making, and the identity and digest of the image in a job's report."""

import math
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from PIL import Image

from handlers.container import Container
from handlers.identity import FileIdentity
from handlers.images import level0 as level0_module
from handlers.images.encode import Encoding
from handlers.images.formats.png_filters import compiled_filters
from handlers.images.provenance import level0_digest, pixels_match, provenance, read_provenance, recipe_of, with_pixels
from handlers.images.reduction import MASK, METHODS, Reduction
from handlers.mipmaps.buffers import LevelBuffers
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.reductions import mean_kernel

WIDTH, HEIGHT = 96, 64
ENCODINGS = [
    Encoding("tif"),
    Encoding("tif", compression="lzw"),
    Encoding("tif", compression="deflate"),
    Encoding("tif", compression="packbits"),
    Encoding("png"),
    Encoding("png", compression="0"),
    Encoding("png", compression="9"),
    Encoding("jpg"),
]


def noise(depth: Any = np.uint8, seed: int = 1) -> Any:
    return np.random.default_rng(seed).integers(0, np.iinfo(depth).max, (HEIGHT, WIDTH), depth)


def job_of(level0: Path, **changes: Any) -> MipmapJob:
    encoding = changes.get("encoding", Encoding("tif"))
    place = level0.parent / "levels"
    outputs = tuple((level, place / str(level) / f"{level0.name}.{encoding.extension}") for level in (1, 2))
    job = MipmapJob("t", level0, outputs, WIDTH, HEIGHT, root=Container.of(level0.parent), force=False)
    return replace(job, **changes)


@pytest.fixture
def level0(tmp_path: Path) -> Path:
    path = tmp_path / "a.tif"
    Image.fromarray(noise()).save(path)
    return path


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_levels_of_every_format_have_a_text_and_the_same_pixels_again(level0: Path, encoding: Encoding) -> None:
    job = job_of(level0, encoding=encoding)
    made = make_mipmaps(job)
    assert made.fault is None
    digest = xxhash.xxh3_128(level0.read_bytes()).digest()
    for level, path in job.outputs:
        text = read_provenance(path)
        assert text is not None
        assert level0_digest(text) == digest
        assert f"level={level} method=block_reduce function=mean bits=8" in text
    again = make_mipmaps(job)
    assert (again.made, [kept.level for kept in again.kept]) == ((), [1, 2])
    first = [path.read_bytes() for _, path in job.outputs]
    assert make_mipmaps(replace(job, force=True)).fault is None
    assert [path.read_bytes() for _, path in job.outputs] == first


MASK_JOB = {"reduction": MASK, "is_mask": True}
CHANGES: list[dict[str, Any]] = [
    {"reduction": Reduction("block_reduce", "median")},
    {"reduction": Reduction("PIL", "BOX")},
    MASK_JOB,
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_level_made_with_other_settings_is_made_again(level0: Path, change: dict[str, Any]) -> None:
    job = job_of(level0)
    make_mipmaps(job)
    changed = replace(job, **change)
    assert len(make_mipmaps(changed).made) == 2
    assert len(make_mipmaps(changed).kept) == 2
    assert len(make_mipmaps(job).made) == 2


def test_a_level_with_another_range_depth_or_quality_is_made_again(tmp_path: Path) -> None:
    level0 = tmp_path / "a.tif"
    Image.fromarray(noise(np.uint16)).save(level0)
    job = job_of(level0, intensity_range=(100, 40_000))
    make_mipmaps(job)
    assert len(make_mipmaps(job).kept) == 2
    assert len(make_mipmaps(replace(job, intensity_range=(100, 50_000))).made) == 2
    assert len(make_mipmaps(replace(job, convert_to_8bit=False)).made) == 2
    jpg = job_of(level0, encoding=Encoding("jpg", quality=90))
    make_mipmaps(jpg)
    assert len(make_mipmaps(jpg).kept) == 2
    assert len(make_mipmaps(replace(jpg, encoding=Encoding("jpg", quality=91))).made) == 2


def test_the_longest_text_fits_into_a_file() -> None:
    longest = max((Reduction(method, function) for method in METHODS for function in METHODS[method]), key=_length)
    how = recipe_of(10, longest, 16, scaled_from=(65_534, 65_535), quality=100, is_mask=True)
    text = with_pixels(provenance(bytes(16), how), noise())
    assert text.encode() in bytes(Encoding("tif").page(noise(), text).content)


@pytest.mark.parametrize("encoding", [each for each in ENCODINGS if each.extension != "jpg"], ids=str)
@pytest.mark.parametrize("function", ["mean", "median"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16], ids=["8", "16"])
def test_a_level_has_a_digest_of_its_own_pixels(tmp_path: Path, encoding: Encoding, function: str, depth: Any) -> None:
    level0 = tmp_path / "a.tif"
    Image.fromarray(noise(depth)).save(level0)
    job = job_of(level0, encoding=encoding, convert_to_8bit=False, reduction=Reduction("block_reduce", function))
    assert make_mipmaps(job).fault is None
    for _, path in job.outputs:
        pixels, text = np.asarray(Image.open(path)), read_provenance(path)
        assert text is not None
        assert "pixels=" in text
        assert pixels_match(text, pixels)
        other = pixels.copy()
        other[-1, -1] ^= 1
        assert not pixels_match(text, other)


def test_a_level_with_a_changed_byte_is_made_again(level0: Path) -> None:
    job = job_of(level0)
    make_mipmaps(job)
    (_, first), _ = job.outputs
    before = first.read_bytes()
    first.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert [made.level for made in make_mipmaps(job).made] == [1]
    assert first.read_bytes() == before


def test_a_text_without_a_pixel_digest_matches_any_pixels() -> None:
    for text in (None, "", "of another program", provenance(bytes(16), "level=1")):
        assert pixels_match(text, noise())
    assert with_pixels("", noise()) == ""


def _length(reduction: Reduction) -> int:
    return len(reduction.method + reduction.function)


@pytest.mark.parametrize("content", [b"", b"II*\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"plain text"])
def test_a_file_that_is_not_an_image_has_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert read_provenance(tmp_path / "a") is None


@pytest.mark.parametrize("text", [None, "", "a photograph", "temwatch 2 xxh128=00 level=1", "temwatch 1 xxh128=zz "])
def test_a_text_of_another_program_has_no_digest(text: str | None) -> None:
    assert level0_digest(text) is None


# --- identity and digest of the image in the report of a job

WRITERS: dict[str, Callable[[Path], object]] = {
    "plain": lambda path: Image.fromarray(noise()).save(path, "TIFF"),
    "16 bits": lambda path: Image.fromarray(noise(np.uint16)).save(path, "TIFF"),
    "many strips": lambda path: Image.fromarray(noise()).save(path, "TIFF", strip_size=WIDTH * 3),
    "trailing bytes": lambda path: (
        Image.fromarray(noise()).save(path, "TIFF"),
        path.write_bytes(path.read_bytes() + b"trailing bytes" * 100_000),
    ),
    "lzw": lambda path: Image.fromarray(noise()).save(path, "TIFF", compression="tiff_lzw"),
    "png": lambda path: Image.fromarray(noise()).save(path, "PNG"),
    "jpg": lambda path: Image.fromarray(noise()).save(path, "JPEG"),
    "two grey values": lambda path: Image.fromarray(np.tile(np.uint8([100, 101]), (HEIGHT, WIDTH // 2))).save(
        path, "TIFF"
    ),
}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("function", ["mean", "median"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_the_report_has_the_identity_and_digest_of_the_image_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], object], function: str, compiled: bool
) -> None:
    if not compiled:
        monkeypatch.setattr(mean_kernel.CompiledMeans, "can_do", lambda _: False)
        monkeypatch.setattr("handlers.mipmaps.buffers._idle", [])
    level0 = tmp_path / "a.tif"
    write(level0)
    report = make_mipmaps(job_of(level0, reduction=Reduction("block_reduce", function)))
    assert report.fault is None
    assert report.level0 is not None
    assert report.level0.digest == xxhash.xxh3_128(level0.read_bytes()).digest()
    assert report.level0.identity == FileIdentity.of(level0.stat())


def test_the_report_of_a_mask_or_of_kept_levels_has_the_digest_of_the_image(tmp_path: Path) -> None:
    mask = tmp_path / "m.png"
    Image.fromarray(noise()).convert("1").save(mask)
    for _ in range(2):
        report = make_mipmaps(job_of(mask, **MASK_JOB))
        assert report.level0 is not None
        assert report.level0.digest == xxhash.xxh3_128(mask.read_bytes()).digest()
    assert report.made == ()


# --- an image that changes while it is read


def rewritten_with_its_old_time(path: Path) -> None:
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(2_000)
        file.write(b"other")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replaced_with_its_old_time(path: Path) -> None:
    times = path.stat()
    other = path.with_name("other")
    Image.fromarray(noise(seed=2)).save(other, "TIFF")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def truncated(path: Path) -> None:
    os.truncate(path, 3_000)


def overwritten(path: Path) -> None:
    path.write_bytes(b"no image any more" * 1_000)


FILL = "handlers.mipmaps.buffers.LevelBuffers.fill_from_file"
READERS: list[tuple[str, dict[str, str]]] = [
    ("handlers.images.level0.read_header", {"format": "TIFF"}),
    (FILL, {"format": "TIFF"}),
    (FILL, {"compression": "tiff_lzw"}),
    (FILL if compiled_filters() else "handlers.images.level0.read_hashed", {"format": "PNG"}),
    ("handlers.images.level0.read_hashed", {"format": "JPEG"}),
]
"""Function that reads an image -> options with which Pillow saves such an image."""


@pytest.mark.parametrize("change", [rewritten_with_its_old_time, replaced_with_its_old_time, truncated, overwritten])
@pytest.mark.parametrize("distant", [True, False], ids=["distant", "near"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(("reader", "saved"), READERS, ids=str)
def test_an_image_that_changes_while_it_is_read_makes_no_level_and_is_retried(
    level0: Path,
    monkeypatch: pytest.MonkeyPatch,
    reader: str,
    saved: dict[str, str],
    before: bool,
    distant: bool,
    change: Callable[[Path], object],
) -> None:
    monkeypatch.setattr(level0_module, "DISTANT_S", 0.0 if distant else math.inf)
    module, _, name = reader.rpartition(".")
    Image.fromarray(noise()).save(level0, **saved)
    owner: Any = LevelBuffers if module.endswith("LevelBuffers") else level0_module
    read = getattr(owner, name)

    def changing(*arguments: Any, **named: Any) -> Any:
        if before:
            change(level0)
        result = read(*arguments, **named)
        if not before:
            change(level0)
        return result

    monkeypatch.setattr(owner, name, changing)
    report = make_mipmaps(job_of(level0))
    assert report.fault is not None
    assert report.fault.kind == "ImageChanging", report.fault
    assert "changed while it was read" in report.fault.problem
    assert (report.made, report.level0) == ((), None)
    assert not list((level0.parent / "levels").rglob("*.tif"))


@pytest.mark.parametrize("distant", [True, False], ids=["distant", "near"])
def test_the_former_levels_of_an_image_that_changes_are_kept(
    level0: Path, monkeypatch: pytest.MonkeyPatch, distant: bool
) -> None:
    monkeypatch.setattr(level0_module, "DISTANT_S", 0.0 if distant else math.inf)
    assert make_mipmaps(job_of(level0)).fault is None
    levels = {path: path.read_bytes() for path in (level0.parent / "levels").rglob("*") if path.is_file()}
    fill = LevelBuffers.fill_from_file

    def changing(*arguments: Any) -> Any:
        result = fill(*arguments)
        rewritten_with_its_old_time(level0)
        return result

    monkeypatch.setattr(LevelBuffers, "fill_from_file", changing)
    report = make_mipmaps(job_of(level0, force=True))
    assert report.fault is not None
    assert report.fault.kind == "ImageChanging"
    assert {path: path.read_bytes() for path in (level0.parent / "levels").rglob("*") if path.is_file()} == levels


def test_a_distant_image_is_compared_even_if_no_thread_can_be_started(
    level0: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(level0_module, "DISTANT_S", 0.0)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    compared: list[object] = []
    monkeypatch.setattr(level0_module, "require_same_file", lambda *files: compared.append(files))
    assert make_mipmaps(job_of(level0)).fault is None
    assert len(compared) == 1


def test_an_image_that_vanishes_while_it_is_read_is_missing(level0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (level0.parent / "neighbour").touch()
    fill = LevelBuffers.fill_from_file

    def vanishing(*arguments: Any) -> Any:
        level0.unlink()
        return fill(*arguments)

    monkeypatch.setattr(LevelBuffers, "fill_from_file", vanishing)
    report = make_mipmaps(job_of(level0))
    assert report.fault is not None
    assert report.fault.kind == "ImagesMissing"
