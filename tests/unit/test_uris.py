"""Paths and URIs: quoting, and the path of a mipmap level."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import Fault, SettingsFault
from handlers.place import Bucket, ObjectPlace
from handlers.uris import (
    canonical_extension,
    extracted_path,
    mipmap_path,
    path_to_uri,
    place_uri,
    uri_to_path,
)

names = st.binary(min_size=1, max_size=12).filter(lambda raw: not {b"/", b"\0"} & {raw[i : i + 1] for i in range(12)})
"""File names of any bytes that a file system accepts."""
paths = (
    st.lists(names.filter(lambda raw: raw not in {b".", b".."}), min_size=1, max_size=4)
    .map(lambda parts: Path("/" + "/".join(os.fsdecode(part) for part in parts)))
)  # fmt: skip


@given(paths)
def test_a_path_is_the_same_after_conversion_to_a_uri_and_back(path: Path) -> None:
    assert uri_to_path(path_to_uri(path)) == path


@given(paths)
def test_a_uri_is_plain_ascii_without_blanks_or_fragments(path: Path) -> None:
    uri = path_to_uri(path)
    assert uri.isascii()
    assert not set(uri) & set(' #?"<>\\^`{|}')


@given(st.sets(paths, min_size=2, max_size=5), st.integers(1, 9))
def test_different_images_never_share_a_mipmap_file(images: set[Path], level: int) -> None:
    made = {mipmap_path(Path("/mips"), level, image, "tiff") for image in images}
    assert len(made) == len(images)


def test_the_uri_of_an_ordinary_image_equals_that_of_asap() -> None:
    image = "/acquisitions/temca2/001050/0/20170829130224998_295434_5LC_0064_01_redo_001050_0_88_0.tif"
    assert path_to_uri(image) == f"file://{image}"


def test_a_number_sign_in_a_name_does_not_truncate_the_path() -> None:
    assert path_to_uri("/data/a#1.tif") == "file:///data/a%231.tif"
    assert mipmap_path(Path("/mips"), 1, Path("/data/a#1.tif"), "png") == Path("/mips/1/data/a#1.tif.png")
    with pytest.raises(Fault, match="unquoted"):
        uri_to_path("file:///data/a#1.tif")


def test_a_percent_sign_in_a_name_is_not_taken_for_an_escape() -> None:
    assert path_to_uri("/data/100%25.tif") == "file:///data/100%2525.tif"
    assert uri_to_path("/data/100%25.tif") == Path("/data/100%25.tif")


@pytest.mark.parametrize(
    "uri", ["file:///d/a.tif", "file:/d/a.tif", "file://localhost/d/a.tif", "/d/a.tif", "FILE:/d//a.tif"]
)
def test_all_forms_of_a_file_uri_give_the_same_path(uri: str) -> None:
    assert uri_to_path(uri) == Path("/d/a.tif")


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("s3://bucket/a.tif", "scheme 's3'"),
        ("https://host/a.tif", "scheme 'https'"),
        ("mask://outside-box", "scheme 'mask'"),
        ("file://server/share/a.tif", "host 'server'"),
        ("file:a.tif", "relative"),
        ("a.tif", "neither"),
        ("", "neither"),
        ("file:///d/a%00.tif", "zero byte"),
        ("file:///d/a.tif?x=1", "unquoted"),
    ],
)
def test_a_uri_without_a_local_file_is_refused(uri: str, problem: str) -> None:
    with pytest.raises(Fault, match=problem):
        uri_to_path(uri)


@pytest.mark.parametrize("path", ["a.tif", "", "./a.tif", "~/a.tif"])
def test_a_relative_path_has_no_uri(path: str) -> None:
    with pytest.raises(Fault, match="absolute"):
        path_to_uri(path)


def test_a_path_with_a_zero_byte_has_no_uri() -> None:
    with pytest.raises(Fault, match="zero byte"):
        path_to_uri("/a\0b")


@pytest.mark.parametrize(
    ("fmt", "extension"),
    [
        ("tif", "tif"),
        ("tiff", "tif"),
        ("TIFF", "tif"),
        ("png", "png"),
        ("jpg", "jpg"),
        ("JPEG", "jpg"),
        (".tif", "tif"),
    ],
)
def test_a_format_has_one_extension(fmt: str, extension: str) -> None:
    assert canonical_extension(fmt) == extension


@pytest.mark.parametrize("fmt", ["bmp", "webp", "", "tif.tif", "tiff "])
def test_a_format_that_render_does_not_support_is_refused(fmt: str) -> None:
    with pytest.raises(SettingsFault, match=r"mipmaps\.format"):
        canonical_extension(fmt)


def test_a_level_in_the_format_tiff_has_the_extension_tif() -> None:
    assert mipmap_path(Path("/mips"), 2, Path("/d/a.tif"), "tiff") == Path("/mips/2/d/a.tif.tif")


@pytest.mark.parametrize(
    ("output_dir", "level", "level0"),
    [("mips", 1, "/d/a.tif"), ("/mips", 1, "d/a.tif"), ("/mips", 1, "/d/../../etc/a.tif"), ("/mips", 0, "/d/a.tif")],
)
def test_a_mipmap_outside_of_the_output_directory_is_refused(output_dir: str, level: int, level0: str) -> None:
    with pytest.raises(Fault):
        mipmap_path(Path(output_dir), level, Path(level0), "tif")


def test_repeated_slashes_give_the_same_path() -> None:
    assert path_to_uri("//data///a.tif") == "file:///data/a.tif"
    assert str(uri_to_path("file:////data//a.tif")) == str(uri_to_path("//data//a.tif")) == "/data/a.tif"


def test_the_path_of_a_mipmap_contains_every_letter_of_the_path_of_its_image() -> None:
    assert mipmap_path(Path("/mips"), 1, Path("/X/a.tif"), "tif") == Path("/mips/1/X/a.tif.tif")


def test_the_path_of_an_extracted_image_contains_every_letter_of_the_path_of_its_stack() -> None:
    assert extracted_path(Path("/mips"), Path("/X/a.mrc"), 3) == Path("/mips/0/X/a.mrc/section_00003.tif")


def test_a_file_and_an_object_have_the_uri_of_their_place() -> None:
    assert place_uri(Path("/data/a b.tif")) == "file:///data/a%20b.tif"
    assert place_uri(ObjectPlace(Bucket("s3", "em"), "data/a b.tif")) == "s3://em/data/a%20b.tif"


def test_a_level_of_an_object_is_below_its_bucket_and_key() -> None:
    image = ObjectPlace(Bucket("s3", "raw"), "data/a.tif")
    assert mipmap_path(Path("/mips"), 2, image, "tif") == Path("/mips/2/raw/data/a.tif.tif")
    put = mipmap_path(ObjectPlace(Bucket("gs", "em"), "mips"), 2, Path("/data/a.tif"), "png")
    assert str(put) == "gs://em/mips/2/data/a.tif.png"
    both = mipmap_path(ObjectPlace(Bucket("s3", "em"), "mips"), 2, image, "png")
    assert str(both) == "s3://em/mips/2/raw/data/a.tif.png"


def test_a_level_whose_key_no_store_accepts_is_refused() -> None:
    with pytest.raises(SettingsFault, match="leads to a key that object stores do not accept") as refused:
        mipmap_path(ObjectPlace(Bucket("s3", "em"), "mips"), 1, Path(f"/data/{'long/' * 210}a.tif"), "tif")
    assert refused.value.subject == "mipmaps.output_dir"


def test_characters_allowed_in_uris_are_not_escaped() -> None:
    assert path_to_uri("/a b/!$&'()*+,;=:@-._~.tif") == "file:///a%20b/!$&'()*+,;=:@-._~.tif"


@pytest.mark.parametrize("uri", ["//a\0b", "file:a/b", "file:///a%00b", "file://host/a"])
def test_a_fault_names_a_uri_without_a_local_path(uri: str) -> None:
    with pytest.raises(Fault) as caught:
        uri_to_path(uri)
    assert caught.value.subject == uri
