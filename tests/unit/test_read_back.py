"""Tiles count as put if the stack shows them as they were sent. The stack is a stand-in."""

import re
from collections.abc import Callable
from copy import copy
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from handlers.errors import ReadBackDiffers
from handlers.render import read_back
from handlers.render.names import StackId
from handlers.render.read_back import delete_tiles, put_and_compare, read_layer, set_path_builder, tiles_by_id
from handlers.render.responses import PathBuilder

STACK, Z = StackId("em", "test", "s_raw"), 7.0
BOUNDS = {"minX": 0.0, "minY": 0.0, "maxX": 9.0, "maxY": 9.0}
CHANGED = "transform 'lens'.dataString: sent '1 0 0 1 0 0', shown '2 0 0 1 0 0'"
LENS = {"id": "lens", "className": "Affine", "dataString": "1 0 0 1 0 0"}


def tile(tile_id: str, x: int = 0, **more: Any) -> dict[str, Any]:
    leaf = {"type": "leaf", "className": "Affine", "dataString": f"1 0 0 1 {x} 0"}
    specs = [{"type": "ref", "refId": "lens"}, leaf]
    return {"tileId": tile_id, "z": Z, "transforms": {"type": "list", "specList": specs}, **BOUNDS, **more}


class Stack:
    """Stand-in for the client and its stack."""

    def __init__(self) -> None:
        self.shown: dict[str, Any] | None = {}
        self.transforms: dict[str, Any] = {"lens": dict(LENS)}
        self.puts: list[tuple[Any, ...]] = []
        self.deleted: list[list[str]] = []
        self.builder: PathBuilder | None = None
        self.other_builder: Callable[[], PathBuilder | None] | None = None

    async def put_tiles(
        self, stack: StackId, z: float, specs: Any, transforms: Any, *, derive: bool, max_tiles: int
    ) -> int:
        self.puts.append((stack, z, [spec["tileId"] for spec in specs], transforms, derive, max_tiles))
        if self.shown is not None:
            self.shown |= {spec["tileId"]: dict(spec) for spec in specs if spec["tileId"] not in self.shown}
        return 3

    async def resolved_tiles(self, stack: StackId, z: float) -> Any:
        assert (stack, z) == (STACK, Z)
        if self.shown is None:
            return None
        return SimpleNamespace(tile_id_to_spec_map=self.shown, transform_id_to_spec_map=self.transforms)

    async def delete_tiles(self, stack: StackId, z: float, tile_ids: list[str]) -> None:
        assert (stack, z) == (STACK, Z)
        self.deleted.append(tile_ids)

    async def put_path_builder(self, stack: StackId, builder: PathBuilder) -> None:
        assert stack == STACK
        self.builder = builder

    async def path_builder(self, stack: StackId) -> PathBuilder | None:
        assert stack == STACK
        return self.other_builder() if self.other_builder else self.builder

    async def put(self, *specs: dict[str, Any]) -> int:
        client: Any = self
        return await put_and_compare(client, STACK, Z, list(specs), {"lens": LENS, "other": {"id": "other"}}, 99)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setattr(read_back, "release", lambda _: None)
    return Stack()


async def test_tiles_that_the_stack_shows_as_they_were_sent_count_as_put(stack: Stack) -> None:
    assert await stack.put(tile("a"), tile("b")) == 3
    assert stack.puts == [(STACK, Z, ["a", "b"], {"lens": LENS}, False, 99)]


@pytest.mark.parametrize("side", ["minX", "minY", "maxX", "maxY"])
async def test_bounds_are_derived_if_any_tile_lacks_one(stack: Stack, side: str) -> None:
    lacking = tile("b")
    del lacking[side]
    await stack.put(tile("a"), lacking)
    assert stack.puts[0][4] is True
    await stack.put(tile("c"), tile("d", **{side: None}))
    assert stack.puts[1][4] is True


@pytest.mark.parametrize(
    ("shown", "difference"),
    [
        ({"b": tile("b", x=1)}, "tile 'b'.transforms.specList[1].dataString: sent '1 0 0 1 0 0', shown '1 0 0 1 1 0'"),
        ({"b": tile("other")}, "tile 'b': not shown"),
    ],
)
async def test_a_tile_that_differs_or_is_missing_is_named(stack: Stack, shown: dict[str, Any], difference: str) -> None:
    stack.shown = shown
    with pytest.raises(ReadBackDiffers) as fault:
        await stack.put(tile("a"), tile("b"))
    assert fault.value.subject == f"{STACK} z 7.0"
    assert fault.value.problem.endswith(f": {difference}")


async def test_a_transform_that_differs_or_is_missing_is_named(stack: Stack) -> None:
    stack.transforms["lens"]["dataString"] = "2 0 0 1 0 0"
    with pytest.raises(ReadBackDiffers, match=re.escape(CHANGED)):
        await stack.put(tile("a"))
    stack.transforms.clear()
    with pytest.raises(ReadBackDiffers, match="transform 'lens': not shown"):
        await stack.put(tile("a"))


async def test_five_differences_are_named_and_the_others_counted(stack: Stack) -> None:
    stack.shown = {name: tile("none") for name in "abcdefg"}
    with pytest.raises(ReadBackDiffers) as fault:
        await stack.put(*map(tile, "abcdefg"))
    assert fault.value.problem.count("not shown") == 5
    assert "2 more" in fault.value.problem


async def test_a_layer_without_tiles_is_a_fault(stack: Stack) -> None:
    stack.shown = None
    client: Any = stack
    with pytest.raises(ReadBackDiffers, match=r"z 7\.0: has no tiles"):
        await read_layer(client, STACK, Z)
    with pytest.raises(ReadBackDiffers, match="has no tiles"):
        await stack.put(tile("a"))


def test_tiles_are_found_by_their_own_ids() -> None:
    found: Any = SimpleNamespace(tile_id_to_spec_map={"x": {"tileId": "a"}, "y": {"z": 1.0}})
    assert tiles_by_id(found) == {"a": {"tileId": "a"}}


async def test_unwanted_tiles_are_deleted_in_one_request_and_none_is_sent_without_tiles(stack: Stack) -> None:
    client: Any = stack
    assert await delete_tiles(client, STACK, Z, {"b", "a"}) == ("a", "b")
    assert await delete_tiles(client, STACK, Z, ()) == ()
    assert stack.deleted == [["a", "b"]]


async def test_a_path_builder_is_read_back(stack: Stack) -> None:
    client: Any = stack
    builder = PathBuilder.model_validate({"rootPath": "/m/", "numberOfLevels": 6, "extension": "tif"})
    await set_path_builder(client, STACK, builder)
    assert stack.builder == builder
    for other in (None, PathBuilder.model_validate({**builder.to_json(), "numberOfLevels": 5})):
        stack.other_builder = partial(copy, other)
        with pytest.raises(ReadBackDiffers, match="was given the path builder"):
            await set_path_builder(client, STACK, builder)
