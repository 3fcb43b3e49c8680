"""The three steps for scripts and notebooks, without `await`.

The functions accept paths and stacks as text, and z as a number, several numbers or a range. They show a progress bar,
raise a single fault, and stop within a second of Ctrl-C or the notebook's stop button.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from handlers.acquisition.tilespec import TileSpecOptions
from handlers.apply_mipmaps import LayersReport, apply_mipmaps_to_stack
from handlers.errors import Fault, SettingsFault
from handlers.generate_mipmaps import MipmapsReport, generate_mipmaps
from handlers.generate_tilespecs import RESOLUTION_Z_NM, TilespecsReport, generate_tilespecs
from handlers.images.largest_image import LIMIT_NAME
from handlers.mipmaps.plan import MipmapPlan
from handlers.place import ObjectPlace, Place, is_object_address, parse_object
from handlers.progress import Progress, progress_bar
from handlers.render.client import RenderClient
from handlers.render.names import StackId, ZRange
from handlers.render.sessions import PartialResolution
from handlers.workers.opening import open_executor

T = TypeVar("T")

AnyPath = str | os.PathLike[str]
AnyStack = str | StackId
"""A stack, or its full name as in "em/v1/raw"."""
AnyZ = float | Iterable[float] | ZRange
"""A z, several z, or a range. A `range` or `ZRange` takes the layers that exist; a listed z must exist."""
_STOP_S = 0.2
"""Time for a cancelled step to end. Then it is cancelled again; after the same time the caller stops waiting for it."""


def generate_tilespecs_sync(
    render_url: str,
    metafile: AnyPath,
    stack: AnyStack,
    z: float,
    *,
    image_directory: AnyPath | None = None,
    options: TileSpecOptions | None = None,
    shared_transform: bool = False,
    resolution_z_nm: float = RESOLUTION_Z_NM,
    resolution_nm: PartialResolution = (None, None, None),
    overwrite_layer: bool = False,
    close: bool = False,
) -> TilespecsReport:
    """Call `generate_tilespecs`, which describes the parameters, with the render-ws at this URL.

    Raises
    ------
    Fault
        As `generate_tilespecs`; SettingsFault for an invalid argument.
    """
    path, target, number = _path("metafile", metafile), _stack("stack", stack), _number("z", z)
    images = None if image_directory is None else _path("image_directory", image_directory)

    async def work() -> TilespecsReport:
        async with _client(render_url) as client:
            return await generate_tilespecs(
                client,
                path,
                target,
                number,
                image_directory=images,
                options=options,
                shared_transform=shared_transform,
                resolution_z_nm=resolution_z_nm,
                resolution_nm=resolution_nm,
                overwrite_layer=overwrite_layer,
                close=close,
            )

    return run_sync(work)


def generate_mipmaps_sync(
    render_url: str,
    stack: AnyStack,
    zs: AnyZ,
    plan: MipmapPlan | AnyPath,
    *,
    workers: int = 1,
    clear_image_cache: bool = True,
    source_roots: Collection[AnyPath] = (),
    largest_image_megapixels: float = 270,
    progress: Progress | bool = True,
) -> MipmapsReport:
    """Call `generate_mipmaps`, which describes the parameters, with worker processes that end with the call.

    Parameters
    ----------
    plan : a plan, or an output directory for the default levels.
    workers : number of processes.
    largest_image_megapixels : larger images are refused; the processes get memory for images of this size.
    progress : whether to show a bar; or a function, called with the number of tiles done and of tiles known so far.

    Raises
    ------
    Fault
        As `generate_mipmaps`; SettingsFault for an invalid argument.
    """
    source, layers, planned = _stack("stack", stack), _zs(zs), _plan(plan)
    roots = [_path("source_roots", root) for root in source_roots]

    async def work() -> MipmapsReport:
        async with _client(render_url) as client:
            return await generate_mipmaps(
                client,
                source,
                layers,
                planned,
                pool,
                in_flight=2 * workers,
                progress=on_progress,
                clear_image_cache=clear_image_cache,
                source_roots=roots,
            )

    largest_px = round(_number(LIMIT_NAME, largest_image_megapixels) * 1e6)
    opening = open_executor("processes", workers, largest_image_px=largest_px)
    with _shown(progress, "tiles") as on_progress, opening as pool:
        try:
            return run_sync(work)
        except BaseException:
            pool.drain_s = 0.0  # workers may be killed: a level is renamed into place only when it is complete
            raise


def apply_mipmaps_to_stack_sync(
    render_url: str,
    source: AnyStack,
    target: AnyStack,
    zs: AnyZ,
    plan: MipmapPlan | AnyPath,
    *,
    resolution_nm: PartialResolution = (None, None, None),
    overwrite_layers: bool = False,
    close: bool = False,
    at_once: int = 1,
    progress: Progress | bool = True,
) -> LayersReport:
    """Call `apply_mipmaps_to_stack`, which describes the parameters, with the render-ws at this URL.

    Parameters
    ----------
    plan : a plan, or the directory of the mipmaps for the default levels.
    progress : whether to show a bar; or a function, called with the number of layers done and of all layers.

    Raises
    ------
    Fault
        As `apply_mipmaps_to_stack`; SettingsFault for an invalid argument.
    """
    read, written, layers, planned = _stack("source", source), _stack("target", target), _zs(zs), _plan(plan)

    async def work() -> LayersReport:
        async with _client(render_url) as client:
            return await apply_mipmaps_to_stack(
                client,
                read,
                written,
                layers,
                planned,
                resolution_nm=resolution_nm,
                overwrite_layers=overwrite_layers,
                close=close,
                at_once=at_once,
                progress=on_progress,
            )

    with _shown(progress, "layers") as on_progress:
        return run_sync(work)


# --- arguments


def _client(render_url: str) -> RenderClient:
    return RenderClient(render_url, setting="render_url")


def _path(name: str, value: AnyPath) -> Path:
    try:
        return Path(value).expanduser().absolute()
    except (TypeError, RuntimeError):
        raise SettingsFault(name, f"expected a path, found {value!r}") from None


def _stack(name: str, value: AnyStack) -> StackId:
    if isinstance(value, StackId):
        return value
    if not isinstance(value, str):
        raise SettingsFault(name, f'expected a StackId or a name such as "em/v1/raw", found {value!r}')
    return StackId.parse(value)


def _plan(value: MipmapPlan | AnyPath) -> MipmapPlan:
    if isinstance(value, MipmapPlan):
        return replace(value, output_dir=_place("plan.output_dir", value.output_dir))
    return MipmapPlan(_place("plan", value))


def _place(name: str, value: AnyPath | ObjectPlace) -> Place:
    if isinstance(value, ObjectPlace):
        return value
    if isinstance(value, str) and is_object_address(value):
        try:
            return parse_object(value)
        except ValueError as error:
            raise SettingsFault(name, str(error)) from None
    return _path(name, value)


def _number(name: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise SettingsFault(name, f"expected a number, found {value!r}") from None


def _zs(value: AnyZ) -> tuple[float, ...] | ZRange:
    """Return the layers as `generate_mipmaps` and `apply_mipmaps_to_stack` take them.

    >>> _zs(1050), _zs([1050, 1051.5]), _zs(range(1050, 1061))
    ((1050.0,), (1050.0, 1051.5), ZRange(first=1050, last=1060))
    """
    if isinstance(value, ZRange):
        return value
    if isinstance(value, range) and value.step == 1 and value:
        return ZRange(value[0], value[-1])
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    zs = tuple(_number("zs", z) for z in (value if several else [value]))  # type: ignore[union-attr]
    if not zs:
        raise SettingsFault("zs", "expected a number, several numbers or a range, found no number")
    return zs


@contextlib.contextmanager
def _shown(progress: Progress | bool, unit: str) -> Iterator[Progress]:
    if callable(progress):
        yield progress
    elif progress:
        with progress_bar(unit) as bar:
            yield bar
    else:
        yield lambda done, known: None


# --- the event loop


class _LoopThread(threading.Thread, Generic[T]):
    """A thread with its own event loop: the caller's thread may already run a loop, as in a notebook."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        super().__init__(name="temwatch", daemon=True)
        self._work = work
        self._stop: Callable[[], object] = lambda: None
        self.result: T | None = None
        self.error: BaseException | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        """Run the work and store its result or error."""
        try:
            self.result = asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001  raised in the thread that waits
            self.error = error
        finally:
            self.ended.set()

    async def _run(self) -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._stop = lambda: loop.call_soon_threadsafe(task.cancel)
        return await self._work()

    def stop(self) -> None:
        """Cancel the work, twice if needed: after the first cancellation it still waits for the answer to a write."""
        for _ in range(2):
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._stop()
            if self.ended.wait(_STOP_S):
                return


def run_sync(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function and return its result. KeyboardInterrupt stops it within a second.

    If several faults occur at once, the first is raised.
    """
    thread = _LoopThread(work)
    thread.start()
    try:
        thread.ended.wait()
    except BaseException:
        thread.stop()
        raise
    if thread.error is not None:
        raise _first(thread.error).with_traceback(None) from None
    return thread.result  # type: ignore[return-value]


def _first(error: BaseException) -> BaseException:
    """Return the first fault of a group of exceptions, or its first exception.

    >>> _first(ExceptionGroup("several", [ValueError("a"), Fault("b", "is bad")]))
    Fault('b', 'is bad', '')
    """
    while isinstance(error, BaseExceptionGroup):
        error = next((each for each in error.exceptions if isinstance(each, Fault)), error.exceptions[0])
    return error
