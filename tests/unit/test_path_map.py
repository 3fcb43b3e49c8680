"""The path map: conversion in both directions, the longest match, and different names for different files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import Fault, SettingsFault
from handlers.mipmaps.plan import MipmapPlan
from handlers.path_map import PathMap, RenderPath, parse_render_path
from handlers.render.responses import PathBuilder
from handlers.render.tiles import canonical_url
from handlers.uris import path_to_uri
from tests.unit.test_uris import paths

NAMES = st.sampled_from(["a", "B", "b c", "a%20b", "é", "x.tif"])
"""Few names, so that entries are often equal or below each other."""
LOCALS = st.lists(NAMES, max_size=4).map(lambda names: Path("/" + "/".join(names)))
POSIX = LOCALS.map(str)
DRIVES = st.builds("{}:\\{}".format, st.sampled_from("ZzY"), st.lists(NAMES, max_size=3).map("\\".join))
SHARES = st.builds("//nas/em/{}".format, st.lists(NAMES, max_size=3).map("/".join))
RENDERS = st.one_of(POSIX, DRIVES, SHARES)


@st.composite
def maps(draw: st.DrawFn) -> PathMap:
    locals_ = draw(st.lists(LOCALS, min_size=1, max_size=4, unique=True))
    renders = st.lists(
        RENDERS, min_size=len(locals_), max_size=len(locals_), unique_by=lambda text: parse_render_path(text).key
    )
    return PathMap.of(zip(locals_, draw(renders), strict=True))


@given(maps(), LOCALS)
def test_a_path_is_refused_or_the_same_after_conversion_to_a_url_and_back(mapped: PathMap, path: Path) -> None:
    try:
        url = mapped.to_url(path)
    except Fault:
        return
    assert mapped.to_path(url) == path
    assert url == mapped.render_path_of(path).url


@given(maps(), RENDERS)
def test_a_url_is_refused_or_the_same_after_conversion_to_a_path_and_back(mapped: PathMap, text: str) -> None:
    try:
        path = mapped.to_path(parse_render_path(text).url)
    except Fault:
        return
    place = parse_render_path(text)
    as_posix = RenderPath("", tuple(name for name in f"{place.anchor}/{'/'.join(place.parts)}".split("/") if name))
    # A drive or share without an entry can also be a plain path of render-ws.
    assert mapped.render_path_of(path).key in (place.key, as_posix.key)


@given(maps(), st.lists(LOCALS, min_size=2, max_size=6, unique=True))
def test_two_files_never_share_a_url(mapped: PathMap, files: list[Path]) -> None:
    urls = []
    for path in files:
        try:
            urls.append(mapped.to_url(path).lower())
        except Fault:
            continue
    assert len(urls) == len(set(urls))


@given(paths)
def test_without_entries_both_sides_see_the_same_paths(path: Path) -> None:
    assert PathMap().to_url(path) == path_to_uri(path)
    assert PathMap().to_path(path_to_uri(path)) == path
    assert PathMap().root_path(path) == f"{path}/"


@given(paths)
def test_any_path_below_an_entry_is_the_same_after_conversion_and_back(path: Path) -> None:
    mapped = PathMap.of([(Path("/here"), "/there/em")])
    below = Path(f"/here{path}")
    assert mapped.to_url(below) == path_to_uri(f"/there/em{path}")
    assert mapped.to_path(mapped.to_url(below)) == below


NESTED = PathMap.of(
    [
        (Path("/data"), "/storage"),
        (Path("/data/temca2"), "/fast/temca2"),
        (Path("/data/temca2/win"), "Z:\\em"),
        (Path("/mnt/nas"), "\\\\nas\\EM\\v1"),
    ]
)


@pytest.mark.parametrize(
    ("local", "url"),
    [
        ("/data/a.tif", "file:///storage/a.tif"),
        ("/data/temca22/a.tif", "file:///storage/temca22/a.tif"),
        ("/data/temca2/a.tif", "file:///fast/temca2/a.tif"),
        ("/data/temca2", "file:///fast/temca2"),
        ("/data/temca2/win/t 1/a.tif", "file:///Z:/em/t%201/a.tif"),
        ("/mnt/nas/a.tif", "file:////nas/EM/v1/a.tif"),
        ("/elsewhere/a.tif", "file:///elsewhere/a.tif"),
    ],
)
def test_the_longest_match_counts_in_both_directions(local: str, url: str) -> None:
    assert NESTED.to_url(local) == url
    assert NESTED.to_path(url) == Path(local)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("file:/storage/a.tif", "/data/a.tif"),
        ("file://localhost/storage//b/./a.tif", "/data/b/a.tif"),
        ("/storage/100%25.tif", "/data/100%25.tif"),
        ("FILE:///z:/EM/T1/a.tif", "/data/temca2/win/T1/a.tif"),
        ("Z:\\em\\a.tif", "/data/temca2/win/a.tif"),
        ("z:/em/a.tif", "/data/temca2/win/a.tif"),
        ("file:///Z:%5Cem%5Ca.tif", "/data/temca2/win/a.tif"),
        ("file://NAS/em/V1/a%20b.tif", "/mnt/nas/a b.tif"),
        ("//nas/EM/v1/a.tif", "/mnt/nas/a.tif"),
        ("\\\\nas\\EM\\v1\\b\\a.tif", "/mnt/nas/b/a.tif"),
    ],
)
def test_every_spelling_of_a_path_of_render_ws_is_understood(url: str, local: str) -> None:
    assert NESTED.to_path(url) == Path(local)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/storage/a.tif", "maps to /storage/a.tif of render-ws, which maps back to /data/a.tif of this"),
        ("/data/temca2/win/a:b.tif", "'a:b.tif', which Windows does not allow"),
        ("/data/temca2/win/a\\b.tif", "which Windows does not allow"),
        ("/mnt/nas/dir./a.tif", "has the name 'dir.', which Windows does not allow"),
        ("/data/../etc/a.tif", "contains '..'"),
        ("data/a.tif", "is not an absolute path"),
        ("/data/a\0.tif", "zero byte"),
    ],
)
def test_a_path_that_names_another_file_in_render_ws_is_refused(path: str, problem: str) -> None:
    with pytest.raises(Fault) as refused:
        NESTED.to_url(path)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("file:///data/a.tif", "maps to /data/a.tif of this machine, which maps back to /storage/a.tif of"),
        (
            "file:///storage/temca2/a.tif",
            "maps to /data/temca2/a.tif of this machine, which maps back to /fast/temca2/a.tif",
        ),
        ("file:///storage/../etc/a.tif", "/data/../etc"),
        ("file://other/share/a.tif", "names the host 'other'"),
        ("s3://bucket/a.tif", "scheme 's3'"),
        ("file:///storage/a#1.tif", "unquoted"),
    ],
)
def test_a_url_of_another_file_is_refused(url: str, problem: str) -> None:
    with pytest.raises(Fault) as refused:
        NESTED.to_path(url)
    assert problem in str(refused.value)


def test_an_entry_can_be_a_single_file() -> None:
    mapped = PathMap.of([(Path("/data"), "/r"), (Path("/data/mask.png"), "/masks/m.png")])
    assert mapped.to_url("/data/a.tif") == "file:///r/a.tif"
    assert mapped.to_url("/data/mask.png") == "file:///masks/m.png"
    assert mapped.to_path("file:///masks/m.png") == Path("/data/mask.png")


def test_a_root_can_be_mapped_on_either_side() -> None:
    to_root, from_root = PathMap.of([(Path("/mnt/nas"), "/")]), PathMap.of([(Path("/"), "Z:\\")])
    assert to_root.to_url("/mnt/nas/a.tif") == "file:///a.tif"
    assert to_root.to_path("file:///a.tif") == Path("/mnt/nas/a.tif")
    assert from_root.to_url("/a.tif") == "file:///Z:/a.tif"
    assert from_root.to_path("file:/Z:/a.tif") == Path("/a.tif")


def test_the_root_of_a_path_builder_is_a_path_of_render_ws() -> None:
    assert NESTED.root_path(Path("/data/mips")) == "/storage/mips/"
    assert NESTED.root_path(Path("/mnt/nas")) == "//nas/EM/v1/"
    assert NESTED.derived(Path("/data/a.tif")) == Path("/storage/a.tif")
    assert NESTED.derived(Path("/mnt/nas/a.tif")) == Path("/nas/EM/v1/a.tif")
    with pytest.raises(SettingsFault, match="is on a drive"):
        NESTED.derived(Path("/data/temca2/win/a.tif"))


PLAIN_PATHS = st.lists(st.sampled_from(["a", "B", "x.tif"]), min_size=1, max_size=4).map(
    lambda names: Path("/" + "/".join(names))
)
"""Paths that a URL contains without escapes."""


@given(maps(), PLAIN_PATHS)
def test_levels_have_the_paths_that_a_path_builder_derives(mapped: PathMap, level0: Path) -> None:
    plan = MipmapPlan(Path("/mips/v 1"), path_map=mapped, is_derived=True)
    try:
        builder = PathBuilder.model_validate(plan.path_builder())
        url, made = mapped.to_url(level0), mapped.to_url(plan.path(3, level0))
    except Fault:
        return
    is_root = url.endswith("/")  # of a share or drive, which is no image
    if not is_root and not {":", "%"} & set(url.removeprefix("file:")) and ":" not in builder.root_path:
        assert canonical_url(builder.derived_path(url, 3)) == canonical_url(made)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/", RenderPath("", ())),
        ("/data//temca2/", RenderPath("", ("data", "temca2"))),
        ("Z:", RenderPath("Z:", ())),
        ("//nas/em/", RenderPath("//nas/em", ())),
    ],
)
def test_a_path_of_an_entry_is_parsed(text: str, expected: RenderPath) -> None:
    assert parse_render_path(text) == expected


@pytest.mark.parametrize(
    "text", ["", "data", "file:///data", "http://nas/data", "\\\\nas", "Z:data", "/a/../b", "Z:\\a:b"]
)
def test_an_invalid_path_of_an_entry_is_refused(text: str) -> None:
    with pytest.raises(SettingsFault) as refused:
        parse_render_path(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("pairs", [[("/a", "/r"), ("/a/", "/s")], [("/a", "Z:\\r"), ("/b", "z:/R/")]])
def test_a_path_in_two_entries_is_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(SettingsFault, match="stands in two entries"):
        PathMap.of([(Path(local), render) for local, render in pairs])
