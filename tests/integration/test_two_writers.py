"""Two daemons with separate journals that put the same tiles are reported by a log line and a warning."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon.montages.states import MontageState, Step
from daemon.pipeline.health import warnings
from daemon.simulator.standin.server import serve_standin
from handlers.render.client import RenderClient
from tests.integration.inprocess import bench, retry_fast
from tests.ready_facts import READY


def reported(work: Any) -> list[dict[str, Any]]:
    return [line for line in work.log_lines if line["event"] == "tiles.of_another_writer"]


async def test_tiles_of_a_section_that_was_moved_are_those_of_this_daemon(tmp_path: Path, monkeypatch: Any) -> None:
    retry_fast(monkeypatch)
    async with bench(tmp_path) as work:
        metafile = work.write()
        await work.notice(metafile)
        await work.reaches(metafile, MontageState.COMPLETE)
        moved = metafile.parent.rename(metafile.parent.with_name("archived")) / metafile.name
        await work.notice(moved)
        await work.reaches(moved, MontageState.COMPLETE)
        assert (await work.montage(metafile)).state is MontageState.SUPERSEDED
        assert (reported(work), work.assembly.steps.put_by_others) == ([], 0)


async def test_tiles_put_by_another_daemon_are_reported(tmp_path: Path, monkeypatch: Any) -> None:
    retry_fast(monkeypatch)
    async with serve_standin() as url, RenderClient(url) as client:
        async with bench(tmp_path, client) as first:
            metafile = first.write()
            await first.notice(metafile)
            await first.reaches(metafile, MontageState.COMPLETE)
            other = first.write(1051)
            await first.notice(other)
            await first.reaches(other, MontageState.COMPLETE)
            assert reported(first) == []
            await first.stop()
        for file in tmp_path.glob("journal.sqlite*"):
            file.unlink()  # the daemon of the other host has its own journal
        async with bench(tmp_path, client) as second:
            await second.notice(metafile)
            await second.reaches(metafile, MontageState.COMPLETE)
            (line,) = reported(second)
            assert line["tiles"] == 2
            assert second.assembly.steps.put_by_others == 1
            replayed = await second.assembly.journal.replay(1, Step.INGEST)
            assert replayed is not None
            await second.assembly.pipeline.enqueue(replayed, force=True)
            await second.reaches(metafile, MontageState.COMPLETE)
            assert len(reported(second)) == 1  # its own tiles are not reported
            await second.stop()
    (warning,) = warnings(replace(READY, put_by_others=1))
    assert "second temwatch" in warning
