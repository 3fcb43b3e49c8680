"""Tiles that a late upload of a former content has overwritten: which montages are compared, and which are reset."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.montages.states import Event, IllegalTransition
from daemon.pipeline.changes.late_uploads import HINT, MAX_RESETS, LateUploads
from handlers.errors import MetafileFault, ReadBackDiffers, RenderUnavailable
from handlers.render.names import StackId

STACK = StackId("em", "test", "s_raw")
MONTAGE: Any = SimpleNamespace(id=1, z=1.0, metafile=Path("/data/_metadata_1_.json"), stacks=(str(STACK),))
RESET: Any = object()


def spec(tile_id: str = "a", x: int = 5, url: str = "file:/data/a.tif", **levels: Any) -> dict[str, Any]:
    transform = {"type": "leaf", "className": "Affine", "dataString": f"1 0 0 1 {x} 0"}
    transforms = {"type": "list", "specList": [transform]}
    return {"tileId": tile_id, "z": 1.0, "mipmapLevels": {"0": {"imageUrl": url}, **levels}, "transforms": transforms}


class Bench:
    """The comparison with stand-ins for the journal and for a stack."""

    def __init__(self, *shown: dict[str, Any]) -> None:
        self.shown: list[dict[str, Any]] | None = list(shown)
        self.is_in_doubt = True
        self.unwanted = frozenset({"former"})
        self.section: Any = SimpleNamespace(specs=(spec(),), z=1.0)
        self.requests = 0
        self.is_superseded = False
        self.recorded: list[Any] = []

    def late_uploads(self) -> LateUploads:
        async def record(montage_id: int, event: Event, **detail: Any) -> Any:
            if self.is_superseded:
                raise IllegalTransition("superseded")
            self.recorded.append((montage_id, event, detail))
            return RESET

        async def may_be_overwritten(montage_id: int) -> bool:
            assert montage_id == 1
            return self.is_in_doubt

        async def unwanted_tile_ids(montage: Any, stack: str) -> frozenset[str]:
            assert (montage, stack) == (MONTAGE, str(STACK))
            return self.unwanted

        async def resolved_tiles(stack: StackId, z: float) -> Any:
            assert (stack, z) == (STACK, 1.0)
            self.requests += 1
            if self.shown is None:
                return None
            return SimpleNamespace(tile_id_to_spec_map={str(index): each for index, each in enumerate(self.shown)})

        async def section(montage: Any) -> Any:
            assert montage is MONTAGE
            if isinstance(self.section, Exception):
                raise self.section
            return self.section

        journal: Any = SimpleNamespace(
            may_be_overwritten=may_be_overwritten, unwanted_tile_ids=unwanted_tile_ids, record=record
        )
        client: Any = SimpleNamespace(resolved_tiles=resolved_tiles)
        return LateUploads(journal, client, section)

    async def fault(self) -> Any:
        return await self.late_uploads().fault_of(MONTAGE, STACK)


async def test_a_montage_that_no_late_upload_can_overwrite_causes_no_request() -> None:
    bench = Bench()
    bench.is_in_doubt = False
    assert await bench.fault() is None
    assert bench.requests == 0


async def test_levels_bounds_and_tiles_of_other_montages_are_no_difference() -> None:
    shown = {**spec(**{"1": {"imageUrl": "file:/mips/1/a.tif"}}), "minX": 5.0, "meshCellSize": 64.0}
    bench = Bench(shown, spec("of another"))
    assert await bench.fault() is None
    assert bench.requests == 1


@pytest.mark.parametrize(
    ("shown", "difference"),
    [
        ([spec(x=6)], "tile 'a'.transforms.specList[0].dataString: sent '1 0 0 1 5 0', shown '1 0 0 1 6 0'"),
        ([spec(url="file:/former/a.tif")], "tile 'a'.mipmapLevels.0.imageUrl"),
        ([], "tile 'a' is missing"),
        (None, "tile 'a' is missing"),
        ([spec(), spec("former")], "tile 'former' is of a former content"),
    ],
)
async def test_a_difference_caused_by_a_former_content_is_named(
    shown: list[dict[str, Any]] | None, difference: str
) -> None:
    bench = Bench()
    bench.shown = shown
    fault = await bench.fault()
    assert isinstance(fault, ReadBackDiffers)
    assert (fault.subject, fault.hint) == (f"{STACK} z 1.0", HINT)
    assert fault.problem.startswith("has other tiles than _metadata_1_.json: ")
    assert difference in fault.problem


async def test_a_montage_whose_metafile_is_gone_or_without_a_watch_is_not_compared() -> None:
    bench = Bench(spec(x=6))
    bench.section = MetafileFault("m", "was moved")
    assert await bench.fault() is None
    bench.section = None
    assert await bench.fault() is None
    assert bench.requests == 0


async def test_a_fault_of_render_ws_during_the_comparison_is_raised() -> None:
    bench = Bench(spec())
    bench.section = RenderUnavailable("render", "refused")
    with pytest.raises(RenderUnavailable):
        await bench.fault()


async def test_a_complete_montage_with_a_difference_is_reset_with_the_reason() -> None:
    bench = Bench(spec(x=6))
    assert await bench.late_uploads().reset_if_overwritten(MONTAGE) is RESET
    ((montage_id, event, detail),) = bench.recorded
    assert (montage_id, event) == (1, Event.TILES_LOST)
    assert detail["because"].startswith(f"{STACK} z 1.0: has other tiles than _metadata_1_.json: tile 'a'.transforms")


async def test_a_complete_montage_without_a_difference_or_superseded_meanwhile_is_not_reset() -> None:
    bench = Bench(spec())
    assert await bench.late_uploads().reset_if_overwritten(MONTAGE) is None
    bench = Bench(spec(x=6))
    bench.is_superseded = True
    assert await bench.late_uploads().reset_if_overwritten(MONTAGE) is None
    assert bench.recorded == []


async def test_a_complete_montage_is_reset_a_limited_number_of_times() -> None:
    bench = Bench(spec(x=6))
    late = bench.late_uploads()
    found = [await late.reset_if_overwritten(MONTAGE) for _ in range(MAX_RESETS + 2)]
    assert found == [RESET] * MAX_RESETS + [None, None]
    assert bench.requests == MAX_RESETS
