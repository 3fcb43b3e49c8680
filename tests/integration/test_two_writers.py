"""Two daemons that know nothing of one another and put the same tiles: it is told where it can be seen."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon.montages.states import MontageState, Step
from daemon.pipeline.health import warnings
from daemon.simulator.standin.server import serve_standin
from handlers.render.client import RenderClient
from tests.integration.inprocess import bench, hurry
from tests.unit.test_health import WELL


def told(work: Any) -> list[dict[str, Any]]:
    return [line for line in work.said if line["event"] == "tiles.of_another_writer"]


async def test_tiles_that_another_journals_daemon_has_put_are_told_of(tmp_path: Path, monkeypatch: Any) -> None:
    hurry(monkeypatch)
    async with serve_standin() as url, RenderClient(url) as client:
        async with bench(tmp_path, client) as first:
            metafile = first.write()
            await first.notice(metafile)
            await first.reaches(metafile, MontageState.COMPLETE)
            other = first.write(1051)
            await first.notice(other)
            await first.reaches(other, MontageState.COMPLETE)
            assert told(first) == []
            await first.stop()
        for file in tmp_path.glob("journal.sqlite*"):
            file.unlink()  # the other host's daemon has a journal of its own
        async with bench(tmp_path, client) as second:
            await second.notice(metafile)
            await second.reaches(metafile, MontageState.COMPLETE)
            (line,) = told(second)
            assert line["tiles"] == 2
            assert second.work.steps.put_by_others == 1
            replayed = await second.work.journal.replay(1, Step.INGEST)
            assert replayed is not None
            await second.work.pipeline.enqueue(replayed, force=True)
            await second.reaches(metafile, MontageState.COMPLETE)
            assert len(told(second)) == 1  # what it put itself is its own
            await second.stop()
    (warning,) = warnings(replace(WELL, put_by_others=1))
    assert "second temwatch" in warning
