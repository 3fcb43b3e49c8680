"""The file whose change retries a FAILED montage: its identity is taken before the failed step."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from daemon.montages.states import MontageState
from daemon.pipeline.steps import mipmap_step
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.report import MipmapReport
from tests.integration.inprocess import bench, retry_fast


async def test_a_montage_is_retried_if_its_image_is_repaired_while_its_job_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retry_fast(monkeypatch)
    real = mipmap_step.make_all
    failed: list[str] = []

    async def repair_before_the_record(
        pool: Any, jobs: Sequence[MipmapJob], record: Callable[[list[MipmapReport]], Awaitable[None]], **options: Any
    ) -> None:
        async def repair_and_record(reports: list[MipmapReport]) -> None:
            failed.extend(report.fault.subject for report in reports if report.fault)
            image.write_bytes(good)
            await record(reports)

        await real(pool, jobs, repair_and_record, **options)

    async def damage_and_require(*_: object) -> None:
        if not failed:
            image.write_bytes(b"no image")

    monkeypatch.setattr(mipmap_step, "make_all", repair_before_the_record)
    async with bench(tmp_path) as running:
        metafile = running.write()
        image = min(metafile.parent.glob("*.tif"))
        good = image.read_bytes()
        monkeypatch.setattr(running.assembly.disks, "require", damage_and_require)
        await running.notice(metafile)
        await running.reaches(metafile, MontageState.COMPLETE)
        assert failed == [str(image)]
        events = [line["event"] for line in running.log_lines]
        assert events.count("montage.failed") == events.count("montage.retried") == 1
