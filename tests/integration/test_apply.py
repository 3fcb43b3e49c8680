"""The apply step: levels of one montage's tiles, in place or in a second stack; all other fields survive."""

import copy
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from standin_control import MIPS, RAW, RESOLUTION_NM, Standin, client_of, lens, tile_spec

from handlers.apply_mipmaps import apply_mipmaps, apply_path_builder
from handlers.errors import ReadBackDiffers, RenderRefused, StackNotLoading
from handlers.generate_tilespecs import ingest_tiles
from handlers.render.client import RenderClient
from handlers.render.closing import close_stack
from handlers.render.levels import Levels, with_levels
from handlers.render.names import StackId
from handlers.render.opening import ensure_loading
from handlers.render.responses import PathBuilder

Z = 1050.0
BUILDER = PathBuilder(root_path="/m", number_of_levels=3, extension="tif")


@pytest.fixture
async def client(service: Standin) -> AsyncIterator[RenderClient]:
    async with client_of(service.url) as client:
        await ensure_loading(client, RAW, RESOLUTION_NM)
        await ensure_loading(client, MIPS, RESOLUTION_NM)
        yield client


def levels(tile_id: str, top: int = 3, *, extension: str = "tif", mask: str | None = None) -> Levels:
    return {
        level: (
            f"file:///m/{level}/raw/{tile_id}.tif.{extension}",
            f"file:///m/{level}{mask}.{extension}" if mask else None,
        )
        for level in range(1, top + 1)
    }


async def tiles(client: RenderClient, stack: StackId) -> dict[str, dict[str, Any]]:
    layer = await client.resolved_tiles(stack, Z)
    return {} if layer is None else layer.tile_id_to_spec_map


def urls(spec: dict[str, Any], key: str = "imageUrl") -> list[str]:
    return [str(entry.get(key, "")).replace("file:///", "file:/") for entry in spec["mipmapLevels"].values()]


async def ingest(client: RenderClient, specs: Iterable[dict[str, Any]], *names: str) -> dict[str, dict[str, Any]]:
    await ingest_tiles(client, RAW, Z, list(specs), {name: lens(name) for name in names})
    return copy.deepcopy(await tiles(client, RAW))


async def test_levels_are_put_on_every_tile_of_the_montage_and_on_no_other(client: RenderClient) -> None:
    before = await ingest(client, [tile_spec("a"), tile_spec("b"), tile_spec("other")])
    report = await apply_mipmaps(client, RAW, RAW, Z, {"a": levels("a"), "b": levels("b")})
    assert (report.tile_count, report.level_count, report.mask_count) == (2, 6, 0)
    after = await tiles(client, RAW)
    assert after["other"] == before["other"]
    assert list(after["a"]["mipmapLevels"]) == ["0", "1", "2", "3"]
    assert urls(after["a"])[1:] == [f"file:/m/{level}/raw/a.tif.tif" for level in (1, 2, 3)]


async def test_applying_changes_only_the_levels_of_a_tile(client: RenderClient) -> None:
    level_0 = {"imageUrl": "file:///raw/a.tif", "imageLoaderType": "IMAGEJ_TIFF_STACK", "imageSliceNumber": 3}
    more = {"meshCellSize": 32.0, "groupId": "g", "labels": ["patched"]}
    unusual = tile_spec("a", x=7, refs=("lens",), mipmapLevels={"0": level_0}, **more)
    before = await ingest(client, [unusual, tile_spec("b", refs=("other",))], "lens", "other")
    await apply_mipmaps(client, RAW, MIPS, Z, {"a": levels("a")})
    after = await tiles(client, MIPS)
    assert set(after) == {"a"}
    assert after["a"]["mipmapLevels"]["0"] == before["a"]["mipmapLevels"]["0"]
    assert {k: v for k, v in after["a"].items() if k != "mipmapLevels"} == {
        k: v for k, v in before["a"].items() if k != "mipmapLevels"
    }
    layer = await client.resolved_tiles(MIPS, Z)
    assert layer is not None
    assert layer.transform_id_to_spec_map == {"lens": lens()}
    assert await tiles(client, RAW) == before


async def test_bounds_are_kept_and_not_derived_again(client: RenderClient, service: Standin) -> None:
    """Bounds in a stack may be more exact than those that the server derives."""
    spec = tile_spec("a", minX=0.25, minY=0.0, maxX=100.5, maxY=80.0)
    await client.put_tiles(RAW, Z, [spec], derive=False)
    await apply_mipmaps(client, RAW, MIPS, Z, {"a": levels("a")})
    after = await tiles(client, MIPS)
    assert (after["a"]["minX"], after["a"]["maxX"]) == (0.25, 100.5)
    assert not any("deriveData" in line for line in await service.requests("PUT", MIPS.path))


async def test_fewer_levels_in_another_format_replace_all_old_levels(client: RenderClient) -> None:
    await ingest(client, [tile_spec("a")])
    await apply_mipmaps(client, RAW, RAW, Z, {"a": levels("a", 6)})
    await apply_mipmaps(client, RAW, RAW, Z, {"a": levels("a", 2, extension="png")})
    after = await tiles(client, RAW)
    assert urls(after["a"])[1:] == ["file:/m/1/raw/a.tif.png", "file:/m/2/raw/a.tif.png"]


async def test_a_mask_stays_on_level_0_and_gets_its_own_levels(client: RenderClient) -> None:
    level_0 = {"imageUrl": "file:///raw/a.tif", "maskUrl": "file:///masks/m.tif"}
    await ingest(client, [tile_spec("a", mipmapLevels={"0": level_0})])
    report = await apply_mipmaps(client, RAW, MIPS, Z, {"a": levels("a", 2, mask="/masks/m.tif")})
    assert report.mask_count == 2
    after = await tiles(client, MIPS)
    expected = ["file:/masks/m.tif", "file:/m/1/masks/m.tif.tif", "file:/m/2/masks/m.tif.tif"]
    assert urls(after["a"], "maskUrl") == expected


async def test_a_mask_that_would_be_lost_above_level_0_is_refused(client: RenderClient) -> None:
    level_0 = {"imageUrl": "file:///raw/a.tif", "maskUrl": "file:///masks/m.tif"}
    before = await ingest(client, [tile_spec("a", mipmapLevels={"0": level_0})])
    with pytest.raises(RenderRefused, match=r"'a'.*mask"):
        await apply_mipmaps(client, RAW, RAW, Z, {"a": levels("a")})
    assert await tiles(client, RAW) == before


async def test_tiles_that_the_source_stack_lacks_are_named_and_nothing_is_put(
    client: RenderClient, service: Standin
) -> None:
    await ingest(client, [tile_spec("a")])
    with pytest.raises(ReadBackDiffers, match="1 of 2 tiles of the montage are missing: b"):
        await apply_mipmaps(client, RAW, MIPS, Z, {"a": levels("a"), "b": levels("b")})
    with pytest.raises(ReadBackDiffers, match="has no tiles"):
        await apply_mipmaps(client, RAW, MIPS, 3.0, {"a": levels("a")})
    with pytest.raises(RenderRefused, match="no tiles"):
        await apply_mipmaps(client, RAW, MIPS, Z, {})
    assert await service.requests("PUT", f"{MIPS.path}/z") == []


async def test_unwanted_tiles_are_deleted_from_the_second_stack_too(client: RenderClient) -> None:
    await ingest(client, [tile_spec("a"), tile_spec("b")])
    await apply_mipmaps(client, RAW, MIPS, Z, {"a": levels("a"), "b": levels("b")})
    report = await apply_mipmaps(client, RAW, MIPS, Z, {"b": levels("b")}, unwanted=["a", "b"])
    assert report.deleted == ("a",)
    assert set(await tiles(client, MIPS)) == {"b"}


async def test_a_closed_target_is_reported_as_closed(client: RenderClient) -> None:
    await ingest(client, [tile_spec("a")])
    await close_stack(client, RAW)
    with pytest.raises(StackNotLoading):
        await apply_mipmaps(client, RAW, RAW, Z, {"a": levels("a")})
    await apply_mipmaps(client, RAW, MIPS, Z, {"a": levels("a")})


async def test_tiles_that_another_client_overwrites_after_the_upload_are_a_fault(
    client: RenderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client writes the same tile between the upload and its verification."""
    await ingest(client, [tile_spec("a", refs=("lens",)), tile_spec("b")], "lens")
    put_tiles = client.put_tiles
    other = tile_spec("a", mipmapLevels={"0": {"imageUrl": "file:///raw/a.tif"}, "1": {"imageUrl": "file:///x.tif"}})

    async def put_and_overwrite(*args: Any, **more: Any) -> int:
        count = await put_tiles(*args, **more)
        await put_tiles(RAW, Z, [other])
        return count

    monkeypatch.setattr(client, "put_tiles", put_and_overwrite)
    with pytest.raises(ReadBackDiffers) as caught:
        await apply_mipmaps(client, RAW, RAW, Z, {"a": levels("a", 2), "b": levels("b", 2)})
    assert "tile 'a'.mipmapLevels.1.imageUrl" in str(caught.value)
    assert "tile 'a'.mipmapLevels.2" in str(caught.value)
    assert "tile 'a'.transforms.specList" in str(caught.value)
    assert "tile 'b'" not in str(caught.value)


async def test_a_shared_transform_that_another_client_overwrites_after_the_upload_is_a_fault(
    client: RenderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client replaces the lens correction between the upload and its verification."""
    await ingest(client, [tile_spec("a", refs=("lens",))], "lens")
    put_tiles = client.put_tiles

    async def put_and_overwrite(*args: Any, **more: Any) -> int:
        count = await put_tiles(*args, **more)
        await put_tiles(
            RAW, Z, [tile_spec("b", refs=("lens",))], {"lens": {**lens("lens"), "dataString": "1 0 0 1 7 7"}}
        )
        return count

    monkeypatch.setattr(client, "put_tiles", put_and_overwrite)
    with pytest.raises(ReadBackDiffers, match=r"transform 'lens'\.dataString"):
        await apply_mipmaps(client, RAW, RAW, Z, {"a": levels("a")})


@pytest.mark.parametrize("url", ["/m/1/a.tif", "file:///m/a b.tif", "m/a.tif", ""])
async def test_a_level_whose_url_is_not_a_uri_is_refused(client: RenderClient, url: str) -> None:
    with pytest.raises(RenderRefused, match="not a URI"):
        await apply_mipmaps(client, RAW, RAW, Z, {"a": {1: (url, None)}})


@pytest.mark.parametrize("given", [{}, {0: ("file:///m/a.tif", None)}])
async def test_levels_that_do_not_start_at_1_are_refused(client: RenderClient, given: Levels) -> None:
    with pytest.raises(RenderRefused, match="levels"):
        await apply_mipmaps(client, RAW, RAW, Z, {"a": given})


def channel(name: str, image: str) -> dict[str, Any]:
    return {"name": name, "minIntensity": 0, "maxIntensity": 255, "mipmapLevels": {"0": {"imageUrl": image}}}


def test_the_levels_of_a_tile_with_one_channel_are_put_into_the_channel() -> None:
    spec = tile_spec("a", channels=[channel("em", "file:/raw/a.tif")])
    edited = with_levels(spec, levels("a", 1))
    assert edited["mipmapLevels"] == spec["mipmapLevels"]
    assert edited["channels"][0]["mipmapLevels"] == {
        "0": {"imageUrl": "file:/raw/a.tif"},
        "1": {"imageUrl": "file:///m/1/raw/a.tif.tif"},
    }
    assert edited["channels"][0]["name"] == "em"


@pytest.mark.parametrize(
    "channels",
    [
        [channel("a", "file:///raw/a.tif"), channel("b", "file:///raw/b.tif")],
        [channel("a", "file:///raw/another.tif")],
    ],
)
def test_ambiguous_channels_are_refused(channels: list[dict[str, Any]]) -> None:
    with pytest.raises(RenderRefused, match="channel"):
        with_levels(tile_spec("a", channels=channels), levels("a"))


def test_a_tile_without_an_image_at_level_0_is_refused() -> None:
    with pytest.raises(RenderRefused, match="level 0"):
        with_levels(tile_spec("a", mipmapLevels={"1": {"imageUrl": "file:///x.tif"}}), levels("a"))


# -- by path builder -------------------------------------------------------------------------------------------------


async def test_a_path_builder_is_set_and_the_tiles_stay_as_they_are(client: RenderClient, service: Standin) -> None:
    before = await ingest(client, [tile_spec("a")])
    report = await apply_path_builder(client, RAW, RAW, Z, {"a": levels("a")}, BUILDER)
    assert (report.tile_count, report.level_count, report.request_count) == (1, 3, 0)
    assert await client.path_builder(RAW) == BUILDER.normalized()
    assert await tiles(client, RAW) == before
    assert len(await service.requests("PUT", "resolvedTiles")) == 1


async def test_a_second_stack_gets_the_path_builder_and_the_tiles(client: RenderClient) -> None:
    before = await ingest(client, [tile_spec("a", refs=("lens",)), tile_spec("b")], "lens")
    await apply_path_builder(client, RAW, MIPS, Z, {"a": levels("a")}, BUILDER)
    assert await tiles(client, MIPS) == {"a": before["a"]}
    assert await client.path_builder(MIPS) == BUILDER.normalized()
    assert await client.path_builder(RAW) is None


async def test_the_level_count_of_a_path_builder_is_only_raised(client: RenderClient) -> None:
    await ingest(client, [tile_spec("a")])
    for count, expected in ((3, 3), (6, 6), (2, 6)):
        builder = BUILDER.model_copy(update={"number_of_levels": count})
        await apply_path_builder(client, RAW, RAW, Z, {"a": levels("a", count)}, builder)
        shown = await client.path_builder(RAW)
        assert shown is not None
        assert shown.number_of_levels == expected


@pytest.mark.parametrize("other", [{"root_path": "/elsewhere"}, {"extension": "png"}])
async def test_another_path_builder_of_the_stack_is_not_replaced(client: RenderClient, other: dict[str, str]) -> None:
    await ingest(client, [tile_spec("a")])
    existing = BUILDER.model_copy(update=other).normalized()
    await client.put_path_builder(RAW, existing)
    with pytest.raises(RenderRefused, match="path builder"):
        await apply_path_builder(client, RAW, RAW, Z, {"a": levels("a")}, BUILDER)
    assert await client.path_builder(RAW) == existing


async def test_a_path_builder_that_derives_other_paths_than_the_made_files_is_refused(client: RenderClient) -> None:
    escaped = {"0": {"imageUrl": "file:///raw/a%20b.tif"}}
    await ingest(client, [tile_spec("a"), tile_spec("b", mipmapLevels=escaped)])
    with pytest.raises(RenderRefused, match="derives"):
        await apply_path_builder(client, RAW, RAW, Z, {"a": levels("a", extension="png")}, BUILDER)
    made = {1: ("file:///m/1/raw/a%20b.tif.tif", None)}
    with pytest.raises(RenderRefused, match="derives"):
        await apply_path_builder(client, RAW, RAW, Z, {"b": made}, BUILDER)
    with pytest.raises(RenderRefused, match="ends at level 3"):
        await apply_path_builder(client, RAW, RAW, Z, {"a": levels("a", 4)}, BUILDER)
    assert await client.path_builder(RAW) is None


async def test_a_path_builder_needs_the_levels_of_masks_too(client: RenderClient) -> None:
    level_0 = {"imageUrl": "file:///raw/a.tif", "maskUrl": "file:///masks/m.tif"}
    await ingest(client, [tile_spec("a", mipmapLevels={"0": level_0})])
    with pytest.raises(RenderRefused, match="derives"):
        await apply_path_builder(client, RAW, RAW, Z, {"a": levels("a")}, BUILDER)
    await apply_path_builder(client, RAW, RAW, Z, {"a": levels("a", mask="/masks/m.tif")}, BUILDER)


async def test_tiles_whose_own_levels_override_the_builder_are_reported(client: RenderClient) -> None:
    await ingest(client, [tile_spec("a"), tile_spec("b")])
    await apply_mipmaps(client, RAW, RAW, Z, {"a": levels("a")})
    report = await apply_path_builder(client, RAW, RAW, Z, {"a": levels("a"), "b": levels("b")}, BUILDER)
    assert report.tiles_with_own_levels == ("a",)
