"""The two walks of docs/architecture.md, compared with the functions that are called while a montage is imported."""

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from daemon.montages.states import MontageState
from daemon.watching.scan import NameRule, Tree
from handlers.mipmaps.reductions.mean_kernel import LIBRARY
from tests.integration.inprocess import bench
from tests.unit.test_docs import read, walks

OTHER_FILES = {"handlers.images.level0.FileLevel0.pixels"}
"""Called for another image file than an uncompressed TIFF."""
OTHER_FUNCTIONS = {"handlers.mipmaps.reductions.reduce.ByStrips.add_file"}
"""Called for another function than the mean."""


@contextmanager
def calls_recorded() -> Iterator[list[str]]:
    """Record the functions of temwatch that are called in this thread and in new ones, in order."""
    called: list[str] = []

    def record(frame: FrameType, event: str, _: Any) -> None:
        module = frame.f_globals.get("__name__") or ""
        if event == "call" and module.startswith(("daemon.", "handlers.")):
            called.append(f"{module}.{frame.f_code.co_qualname}")

    threading.setprofile(record)
    sys.setprofile(record)
    try:
        yield called
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  None ends it, as for sys


async def functions_called(root: Path, **mipmaps: Any) -> list[str]:
    """Import a montage, from the scan of its directory until it is COMPLETE, and return the functions called."""
    with calls_recorded() as called:
        async with bench(root, mipmaps=mipmaps) as work:
            written = work.write()
            (found,) = Tree(str(root / "acquisition"), NameRule("_metadata_*.json")).pass_over()
            assert found.path == str(written)
            await work.notice(written)
            await work.reaches(written, MontageState.COMPLETE)
    return called


async def test_a_metafile_passes_the_stops_of_its_walk_in_order(tmp_path: Path) -> None:
    called = iter(await functions_called(tmp_path))
    stops = walks()["A metafile, from the disk to the stack"]
    assert [stop for stop in stops if stop not in called] == []  # `in` continues behind the stop before


async def test_the_pixels_of_a_tile_pass_every_stop_of_their_walk(tmp_path: Path) -> None:
    (tmp_path / "mean").mkdir()
    (tmp_path / "median").mkdir()
    stops = set(walks()["A tile's pixels, from the disk to the last level"]) - OTHER_FILES
    if not LIBRARY.exists():
        stops.remove("handlers.mipmaps.reductions.mean_kernel.CompiledMeans.add_file")
    assert stops - set(await functions_called(tmp_path / "mean")) == OTHER_FUNCTIONS
    assert set(await functions_called(tmp_path / "median", function="median")) >= OTHER_FUNCTIONS


async def test_the_daemon_sends_the_job_of_a_tile_by_the_functions_that_the_walk_names(tmp_path: Path) -> None:
    (sentence,) = re.findall(
        r"^The daemon sends a worker a job .*?:$", read("docs/architecture.md"), re.DOTALL | re.MULTILINE
    )
    named = re.findall(r"`([\w.]+)`", sentence)
    assert len(named) == 5
    called = iter(await functions_called(tmp_path))
    assert [name for name in named if name not in called] == []
