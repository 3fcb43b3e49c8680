"""A metafile that changes after it settled, before a scan notices the change."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from daemon.montages.states import MontageState
from daemon.pipeline.steps.perform import Steps
from tests.integration.inprocess import bench, retry_fast


@pytest.mark.parametrize("state", [MontageState.SETTLED, MontageState.INGESTED, MontageState.MIPMAPPED])
async def test_no_step_works_on_a_metafile_that_changed_after_it_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: MontageState
) -> None:
    retry_fast(monkeypatch)
    changed: list[int] = []
    real = Steps.section

    async def change_before(steps: Steps, montage: Any, watch: Any) -> Any:
        if montage.state is state and not changed:
            montage.metafile.write_bytes(montage.metafile.read_bytes() + b"\n")
            changed.append(montage.id)
        return await real(steps, montage, watch)

    monkeypatch.setattr(Steps, "section", change_before)
    async with bench(tmp_path) as running:
        metafile = running.write()
        await running.notice(metafile)
        await running.until(lambda: changed)
        montage = await running.reaches(metafile, MontageState.COMPLETE)
        assert montage.digest == hashlib.sha256(metafile.read_bytes()).hexdigest()
        former = await running.assembly.journal.montage(changed[0])
        assert former is not None
        assert former.state is MontageState.SUPERSEDED
