"""Stacks closed by the whole work, in this process, while others interfere."""

from pathlib import Path
from typing import Any

import pytest

from daemon.states import Event, MontageState
from handlers.errors import StackLocked
from handlers.render import RenderClient, StackId
from tests.integration.inprocess import RAW, bench, hurry


async def test_a_montage_superseded_while_its_stack_is_closed_and_locked_ends_no_part_of_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    async with bench(tmp_path) as work:
        journal = work.work.journal

        async def lock_and_supersede(_: RenderClient, stack: StackId, zs: Any = ()) -> Any:
            if stack == RAW:
                montage = await work.montage(metafile)
                assert montage is not None
                await journal.record(montage.id, Event.SUPERSEDED)
            raise StackLocked(str(stack), "the stack is READ_ONLY")

        metafile = work.write()
        with monkeypatch.context() as locked:
            locked.setattr(RenderClient, "close", lock_and_supersede)
            await work.notice(metafile)
            await work.reaches(metafile, MontageState.SUPERSEDED)
            await work.until(lambda: any(line["event"] == "stack.close_failed" for line in work.said))
        later = work.write(1051)
        await work.notice(later)
        await work.reaches(later, MontageState.COMPLETE)
