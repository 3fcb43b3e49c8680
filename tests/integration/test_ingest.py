"""The ingest step: tiles are put and read back; a section that is replaced is never empty."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from standin_control import RAW, RESOLUTION_NM, Standin, client_of, lens, tile_spec

from handlers.errors import ReadBackDiffers, RenderRefused, RenderUnavailable, StackNotLoading
from handlers.generate_tilespecs import ingest_tiles
from handlers.render.client import RenderClient
from handlers.render.closing import close_stack
from handlers.render.layer_responses import TileBounds
from handlers.render.opening import ensure_loading

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
Z = 1050.0


@pytest.fixture
async def client(service: Standin) -> AsyncIterator[RenderClient]:
    async with client_of(service.url) as client:
        await ensure_loading(client, RAW, RESOLUTION_NM)
        yield client


async def ids(client: RenderClient, z: float = Z) -> list[str]:
    return sorted(tile.tile_id for tile in await client.tile_bounds(RAW, z))


async def test_tiles_are_put_with_their_transforms_and_counted(client: RenderClient) -> None:
    specs = [tile_spec(f"t{n}", refs=("lens",)) for n in range(5)]
    report = await ingest_tiles(client, RAW, Z, specs, {"lens": lens()}, max_tiles=2)
    assert (report.tile_count, report.other_tile_count, report.request_count, report.deleted) == (5, 0, 3, ())
    layer = await client.resolved_tiles(RAW, Z)
    assert layer is not None
    assert layer.transform_id_to_spec_map["lens"]["metaData"] == {"labels": ["lens"]}
    assert layer.tile_id_to_spec_map["t0"]["transforms"] == specs[0]["transforms"]


async def test_ingesting_twice_ends_in_the_same_stack(client: RenderClient) -> None:
    specs = [tile_spec("a"), tile_spec("b")]
    await ingest_tiles(client, RAW, Z, specs)
    before = await client.resolved_tiles(RAW, Z)
    report = await ingest_tiles(client, RAW, Z, specs, unwanted=["a", "b"])
    assert report.deleted == ()
    assert await client.resolved_tiles(RAW, Z) == before


async def test_tiles_of_other_montages_at_the_same_z_are_left_alone(client: RenderClient) -> None:
    await ingest_tiles(client, RAW, Z, [tile_spec("other1"), tile_spec("other2")])
    report = await ingest_tiles(client, RAW, Z, [tile_spec("mine")], unwanted=["mine_old"])
    assert report.other_tile_count == 2
    assert await ids(client) == ["mine", "other1", "other2"]


async def test_unwanted_tiles_are_deleted_after_the_new_ones_are_read_back(
    service: Standin, client: RenderClient
) -> None:
    await ingest_tiles(client, RAW, Z, [tile_spec("a"), tile_spec("b"), tile_spec("c")])
    report = await ingest_tiles(client, RAW, Z, [tile_spec("c"), tile_spec("d")], unwanted=["a", "b", "c"])
    assert report.deleted == ("a", "b")
    assert await ids(client) == ["c", "d"]
    log = await service.requests(part=RAW.path)
    put = max(index for index, line in enumerate(log) if line.startswith("PUT"))
    deletions = [index for index, line in enumerate(log) if line.startswith("DELETE")]
    assert len(deletions) == 2
    assert any("tileBounds" in line for line in log[put : min(deletions)])
    assert "tileBounds" in " ".join(log[max(deletions) :])


async def test_a_montage_that_moved_to_another_z_leaves_no_tile_at_the_former_z(client: RenderClient) -> None:
    await ingest_tiles(client, RAW, 7.0, [tile_spec("a.7.0", 7.0)])
    await ingest_tiles(client, RAW, 8.5, [tile_spec("a.8.5", 8.5)], unwanted=["a.7.0"])
    assert await client.z_values(RAW) == (8.5,)


async def test_a_failed_upload_leaves_the_layer_as_it_was(service: Standin, client: RenderClient) -> None:
    await ingest_tiles(client, RAW, Z, [tile_spec("a"), tile_spec("b")])
    await service.set_fault("^PUT .*resolvedTiles", "status", status=503, times=100)
    with pytest.raises(RenderUnavailable):
        await ingest_tiles(client, RAW, Z, [tile_spec("c")], unwanted=["a", "b"])
    assert await ids(client) == ["a", "b"]
    await service.clear_faults()
    await ingest_tiles(client, RAW, Z, [tile_spec("c")], unwanted=["a", "b"])
    assert await ids(client) == ["c"]


async def test_an_upload_whose_answer_is_cut_off_is_sent_again(service: Standin, client: RenderClient) -> None:
    await service.set_fault("^PUT .*resolvedTiles", "cut", times=1)
    report = await ingest_tiles(client, RAW, Z, [tile_spec("a")])
    assert report.tile_count == 1
    assert await ids(client) == ["a"]


async def test_a_stack_that_another_client_closed_is_reported_as_closed(client: RenderClient) -> None:
    await ingest_tiles(client, RAW, Z, [tile_spec("a")])
    await close_stack(client, RAW)
    with pytest.raises(StackNotLoading):
        await ingest_tiles(client, RAW, Z, [tile_spec("b")])
    await ensure_loading(client, RAW, RESOLUTION_NM)
    await ingest_tiles(client, RAW, Z, [tile_spec("b")])
    assert await ids(client) == ["a", "b"]


async def test_a_tile_missing_after_the_upload_is_named(client: RenderClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another client deletes a tile between the upload and its verification."""
    put_tiles = client.put_tiles

    async def put_and_delete(*args: object, **more: object) -> int:
        count = await put_tiles(*args, **more)  # type: ignore[arg-type]
        await client.delete_tile(RAW, "b")
        return count

    monkeypatch.setattr(client, "put_tiles", put_and_delete)
    with pytest.raises(ReadBackDiffers, match="1 of 2 tiles that were put are missing: b"):
        await ingest_tiles(client, RAW, Z, [tile_spec("a"), tile_spec("b")], unwanted=["a_old"])


@pytest.mark.parametrize(
    "other",
    [tile_spec("b", 7.0, layout={"sectionId": "1050.0"}), tile_spec("b", layout={"sectionId": "other"})],
    ids=["z", "section"],
)
async def test_a_tile_at_another_z_or_section_after_the_upload_is_named(
    client: RenderClient, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    """Another client, or render-ws itself, puts a tile at another z or into another section."""
    listed = {tile.tile_id: tile for tile in await put_and_listed(client, [tile_spec("a"), tile_spec("b")])}
    listed["b"] = next(tile for tile in await put_and_listed(client, [other]) if tile.tile_id == "b")

    async def tile_bounds(*_: object) -> tuple[TileBounds, ...]:
        return tuple(listed.values())

    monkeypatch.setattr(client, "tile_bounds", tile_bounds)
    with pytest.raises(ReadBackDiffers, match="has tiles at another z or in another section than was put: b"):
        await ingest_tiles(client, RAW, Z, [tile_spec("a"), tile_spec("b")])


async def put_and_listed(client: RenderClient, specs: list[dict[str, Any]]) -> tuple[TileBounds, ...]:
    await client.put_tiles(RAW, specs[0]["z"], specs)
    return await client.tile_bounds(RAW, specs[0]["z"])


async def test_a_tile_id_that_could_not_be_deleted_is_refused_before_any_upload(
    service: Standin, client: RenderClient
) -> None:
    for specs, unwanted in (([tile_spec("a/b")], []), ([tile_spec("a")], ["b/c"])):
        with pytest.raises(RenderRefused):
            await ingest_tiles(client, RAW, Z, specs, unwanted=unwanted)
    assert await service.requests("PUT", "resolvedTiles") == []


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("name", ["001050", "001050_options", "reference"])
async def test_the_tiles_of_a_real_section_are_put_and_read_back(client: RenderClient, name: str) -> None:
    specs = json.loads((DATA / f"asap_tilespecs_{name}.json").read_text())
    z = specs[0]["z"]
    report = await ingest_tiles(client, RAW, z, specs)
    assert (report.tile_count, report.other_tile_count) == (len(specs), 0)
    assert await ids(client, z) == sorted(spec["tileId"] for spec in specs)
