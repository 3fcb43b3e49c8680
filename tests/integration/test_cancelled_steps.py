"""A step that is cancelled at any moment keeps nothing locked and does not count as a crash."""

import asyncio
import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.states import MontageState
from daemon.pipeline.steps.mipmap_step import Stopped
from daemon.pipeline.steps.perform import Steps
from daemon.pipeline.steps.section import Section
from tests.integration.inprocess import bench, retry_fast


async def test_a_step_cancelled_before_it_begins_leaves_the_render_gate_and_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retry_fast(monkeypatch)
    real = asyncio.TaskGroup.create_task
    cancelled: list[asyncio.Task[Any]] = []

    def cancel_at_once(group: asyncio.TaskGroup, coroutine: Any, *, name: str | None = None, **options: Any) -> Any:
        task = real(group, coroutine, name=name, **options)
        if (name or "").startswith("montage ") and not cancelled:
            task.cancel()
            cancelled.append(task)
        return task

    monkeypatch.setattr(asyncio.TaskGroup, "create_task", cancel_at_once)
    async with bench(tmp_path) as running:
        left: list[Any] = []
        monkeypatch.setattr(running.assembly.gate, "leave", left.append)
        metafile = running.write()
        await running.notice(metafile)
        await running.until(lambda: cancelled and cancelled[0].done() and not running.assembly.pipeline.under_way)
        montage = await running.montage(metafile)
        assert montage is not None
        assert left == [montage.id]
        assert running.assembly.pipeline.waiting == 0
        await running.assembly.pipeline.enqueue(montage)
        await running.reaches(metafile, MontageState.COMPLETE)


async def test_a_step_that_ends_because_the_daemon_stops_stays_in_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retry_fast(monkeypatch)

    async def stopped(_: Steps, section: Section) -> None:
        running.assembly.pipeline.stop()
        raise Stopped

    monkeypatch.setattr(Steps, "make_mipmaps", stopped)
    async with bench(tmp_path) as running:
        metafile = running.write()
        await running.notice(metafile)
        await running.tasks.pop("pipeline")
        await running.reaches(metafile, MontageState.INGESTED)
        assert running.assembly.pipeline.waiting == 1


@pytest.mark.parametrize("turns", range(12))
async def test_a_step_cancelled_while_its_attempt_begins_does_not_count_as_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    retry_fast(monkeypatch)
    begun = asyncio.Event()
    real = Journal.begin_attempts

    async def begin_attempts(journal: Journal, *arguments: Any) -> Any:
        begun.set()
        return await real(journal, *arguments)

    monkeypatch.setattr(Journal, "begin_attempts", begin_attempts)
    async with bench(tmp_path) as running:
        await running.notice(running.write())
        await begun.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        running.assembly.pipeline.stop()
        running.assembly.pipeline.cancel()
        await running.tasks.pop("pipeline")
        assert await running.assembly.journal.count_crashes() == 0


async def test_a_new_content_that_a_cancelled_step_found_is_ingested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retry_fast(monkeypatch)
    real_section, real_write = Steps.section, Journal.write
    changed, cancelled = asyncio.Event(), asyncio.Event()

    async def section(steps: Steps, montage: Montage, *arguments: Any) -> Any:
        if not changed.is_set():
            changed.set()
            montage.metafile.write_bytes(montage.metafile.read_bytes() + b"\n")
        return await real_section(steps, montage, *arguments)

    async def write(journal: Journal, closure: Any) -> Any:
        """Cancel the task that has just recorded another content of the metafile in the journal."""
        before = await unread()
        result = await real_write(journal, closure)
        task = asyncio.current_task()
        if changed.is_set() and not cancelled.is_set() and not before and await unread():
            assert task is not None
            cancelled.set()
            if task.get_name().startswith("montage "):
                task.cancel()
                await asyncio.sleep(0)
        return result

    async with bench(tmp_path) as running:

        async def unread() -> bool:
            rows = await real_write(running.assembly.journal, lambda connection: rows_of(connection, "digest IS NULL"))
            return bool(rows)

        monkeypatch.setattr(Steps, "section", section)
        monkeypatch.setattr(Journal, "write", write)
        metafile = running.write()
        await running.notice(metafile)
        await running.until(cancelled.is_set)
        montage = await running.reaches(metafile, MontageState.COMPLETE)
        assert montage.digest == hashlib.sha256(metafile.read_bytes()).hexdigest()


def rows_of(connection: sqlite3.Connection, condition: str) -> list[Any]:
    return connection.execute(f"SELECT id FROM montages WHERE {condition}").fetchall()
