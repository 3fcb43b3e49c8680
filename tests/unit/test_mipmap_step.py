"""The mipmap step with stand-ins for workers, disks and render-ws, which record their calls."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.pipeline.gates.output_disks import Halt
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.steps import mipmap_step
from daemon.pipeline.steps.mipmap_step import MipmapStep, Stopped
from daemon.pipeline.steps.render_image_cache import RenderImageCache
from handlers.container import Containers
from handlers.errors import LoginRefused, StorageFault, StoreFault
from handlers.mipmaps.report import FaultReport, MadeLevel, MipmapReport

RAW, MIPS = "the raw stack", "the mipmapped stack"
OUTPUT, IMAGES = Path("/mips"), Path("/data/section")


def report(tile_id: str, *, replaced: bool = False, fault: Any = None, **values: Any) -> MipmapReport:
    made = (MadeLevel(1, OUTPUT / f"{tile_id}.tif", 4, 4, "L", 100, replaced=replaced),)
    return MipmapReport(tile_id, () if fault else made, fault=FaultReport.of(fault) if fault else None, **values)


class Bench:
    """The step with two tiles to make, and the calls that it makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *reports: MipmapReport) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.reports, self.made, self.present = reports, set[str](), False
        self.halt = Halt()
        reduction = SimpleNamespace(method="block_reduce")
        self.reduction = reduction
        plan = SimpleNamespace(served_by=lambda *arguments: self._note("served by", *arguments, returns=served))
        served = SimpleNamespace(reduction=reduction)
        self.watch = SimpleNamespace(mipmap_plan=lambda: plan, mipmaps=SimpleNamespace(output_dir=OUTPUT), settle_s=1.0)
        self.section: Any = SimpleNamespace(
            watch=self.watch,
            raw=RAW,
            mipmapped=MIPS,
            image_directory=IMAGES,
            specs=[1, 2],
            montage=SimpleNamespace(id=7, metafile=Path("/data/m.json")),
        )
        client: Any = SimpleNamespace(
            address="the address", access="the access", empty_image_cache=self._async("empty the cache")
        )
        journal: Any = SimpleNamespace(tiles_made=self._tiles_made, record_tiles=self._async("record"))
        disks: Any = SimpleNamespace(
            require=self._async("require"),
            halt_of=self._working,
            suspect=lambda *arguments: self._note("suspect", *arguments),
        )
        self.step = MipmapStep(
            journal=journal,
            client=client,
            keeper=SimpleNamespace(holding=self._holding),  # type: ignore[arg-type]
            disks=disks,
            pool="the pool",  # type: ignore[arg-type]
            metrics=Metrics(),
            image_cache=RenderImageCache(client, lambda: True),
            containers=Containers(),
            in_flight=1,
        )
        monkeypatch.setattr(mipmap_step, "_jobs", self._jobs)
        monkeypatch.setattr(mipmap_step, "image_evidence", lambda jobs: f"evidence of {jobs}")
        monkeypatch.setattr(mipmap_step, "add_evidence", self._add_evidence)
        changing: Any = SimpleNamespace(
            forget=lambda *arguments: self._note("forget", *arguments),
            fault_or_changing=lambda montage_id, watch, fault: fault,
        )
        self.step.changing_images = changing
        monkeypatch.setattr(mipmap_step, "_is_any_level_present", lambda jobs: self.present and jobs == ["a", "b"])
        monkeypatch.setattr(mipmap_step, "access_timeout", self._access_timeout)
        monkeypatch.setattr(mipmap_step, "make_all", self._make_all)

    def calls_of(self, name: str) -> list[tuple[Any, ...]]:
        """Return the arguments of all calls with this name."""
        return [call[1:] for call in self.calls if call[0] == name]

    def _note(self, *call: Any, returns: Any = None) -> Any:
        self.calls.append(call)
        return returns

    def _jobs(self, section: Any, plan: Any, made: Any, containers: Any) -> list[str]:
        assert isinstance(containers, Containers)
        self._note("jobs without", *sorted(made))
        return ["a", "b"]

    async def _add_evidence(self, fault: Any, before: str) -> Any:
        assert before == "evidence of ['a', 'b']"  # collected before the images are read
        return fault

    def _async(self, name: str) -> Any:
        async def call(*values: Any) -> None:
            self._note(name, *values)

        return call

    async def _tiles_made(self, montage_id: int) -> frozenset[str]:
        assert montage_id == 7
        return frozenset(self.made)

    @contextlib.asynccontextmanager
    async def _holding(self, stack: str) -> AsyncIterator[None]:
        self._note("hold", stack)
        yield
        self._note("release", stack)

    @contextlib.asynccontextmanager
    async def _access_timeout(self, path: Path, accesses: int = 1) -> AsyncIterator[None]:
        self._note("accesses", path, accesses)
        yield

    @contextlib.contextmanager
    def _working(self, directory: Path) -> Iterator[Halt]:
        assert directory == OUTPUT
        yield self.halt

    async def _make_all(self, pool: Any, jobs: Any, record: Any, *, slots: Any, stop: Halt) -> None:
        assert (pool, jobs, stop) == ("the pool", ["a", "b"], self.halt)
        async with slots:
            assert slots.locked()  # one tile at a time, of all montages
        self._note("make")
        for each in self.reports:
            await record([each])
            self.made |= {each.tile_id} if each.fault is None else set()


async def test_each_verified_tile_is_recorded_with_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: Any = SimpleNamespace(to_bytes=lambda: b"numbers")
    bench = Bench(monkeypatch, report("a", measured=measured), report("b"))
    await bench.step.make(bench.section)
    assert bench.calls_of("record") == [(7, {"a": None}, {"a": b"numbers"}), (7, {"b": None}, {})]
    assert bench.calls_of("served by") == [("the address", RAW, "the access")]
    assert bench.calls_of("accesses") == [(IMAGES, 2)]
    assert bench.calls_of("require") == [(bench.watch.mipmaps,)]
    assert bench.calls_of("forget") == [(7,)]
    assert bench.calls_of("hold") == bench.calls_of("empty the cache") == []


async def test_a_resumed_step_makes_the_other_tiles_and_empties_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, report("a"), report("b"))
    bench.made = {"recorded before"}
    await bench.step.make(bench.section)
    assert bench.calls_of("jobs without") == [("recorded before",)]
    assert len(bench.calls_of("empty the cache")) == 1


async def test_a_stack_that_is_updated_in_place_is_held_open_while_tiles_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, report("a"), report("b"))
    bench.section.mipmapped = RAW
    await bench.step.make(bench.section)
    names = [name for name, *_ in bench.calls]
    assert names.index("hold") < names.index("make") < names.index("release")
    assert bench.calls_of("hold") == [(RAW,)]


@pytest.mark.parametrize(("method", "present"), [("render", True), ("render", False), ("block_reduce", True)])
async def test_the_cache_is_emptied_before_render_ws_serves_pixels_if_any_level_exists(
    monkeypatch: pytest.MonkeyPatch, method: str, present: bool
) -> None:
    bench = Bench(monkeypatch, report("a"), report("b"))
    bench.reduction.method, bench.present = method, present
    await bench.step.make(bench.section)
    names = [name for name, *_ in bench.calls if name in ("empty the cache", "make")]
    assert names == (["empty the cache", "make"] if method == "render" and present else ["make"])


async def test_the_cache_is_emptied_once_after_all_tiles_if_any_file_was_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, report("a", replaced=True), report("b"))
    await bench.step.make(bench.section)
    names = [name for name, *_ in bench.calls if name in ("make", "record", "empty the cache")]
    assert names == ["make", "record", "record", "empty the cache"]
    bench.reports, bench.made = (report("a"), report("b")), set()
    await bench.step.make(bench.section)
    assert len(bench.calls_of("empty the cache")) == 1


async def test_a_store_that_fails_is_suspected(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = StoreFault("s3://em", "refused the connection")
    bench = Bench(monkeypatch, report("a"), report("b", fault=refused))
    with pytest.raises(StoreFault, match="refused the connection"):
        await bench.step.make(bench.section)
    ((directory, suspected),) = bench.calls_of("suspect")
    assert directory == OUTPUT
    assert isinstance(suspected, StoreFault)
    assert suspected.problem == refused.problem
    assert not bench.halt.is_set()


async def test_a_refused_login_halts_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, report("a", fault=LoginRefused("render", "refused the login")))
    with pytest.raises(LoginRefused):
        await bench.step.make(bench.section)
    assert bench.halt.is_set()


FAULT = StorageFault("/mips", "has too little space")


@pytest.mark.parametrize(("fault", "kind"), [(None, Stopped), (FAULT, StorageFault)])
async def test_a_step_that_is_halted_before_its_last_tile_raises_the_reason(
    monkeypatch: pytest.MonkeyPatch, fault: StorageFault | None, kind: type[Exception]
) -> None:
    bench = Bench(monkeypatch, report("a"))
    bench.halt.set()
    bench.halt.fault = fault
    with pytest.raises(kind):
        await bench.step.make(bench.section)
    bench.made = {"z"}  # recorded by an earlier attempt
    bench.reports = (report("a"), report("b"))
    await bench.step.make(bench.section)  # a halt after the last tile does not matter


@pytest.mark.parametrize("later", [(1, 2), None], ids=["another directory", "no access"])
async def test_levels_are_not_recorded_after_another_directory_took_the_place_of_theirs(
    monkeypatch: pytest.MonkeyPatch, later: tuple[int, int] | None
) -> None:
    """The mount may come back with levels of a former content."""
    identities = iter([(1, 1), later])
    monkeypatch.setattr(mipmap_step, "directory_identity", lambda directory: next(identities))
    bench = Bench(monkeypatch, report("a"))
    with pytest.raises(StorageFault, match="mounted, unmounted or replaced"):
        await bench.step.make(bench.section)
    assert bench.halt.is_set()
    assert bench.calls_of("record") == []
