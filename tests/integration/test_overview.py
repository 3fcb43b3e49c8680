"""Texts of the overview about watches, disks and services."""

import re
import time
from dataclasses import replace

import pytest

from daemon.montages.states import MontageState
from daemon.pipeline.health import Disk
from daemon.watching.roots import RootStatus
from handlers.workers.crew import Crew, Member
from tests.integration.paged import Paged, paged
from tests.ready_facts import READY, ROOT


def text_of(html: str) -> str:
    """Return the visible text of a page."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


async def row(pages: Paged, name: str) -> str:
    """Return the visible text of the row of a watch or scope."""
    (found,) = re.findall(rf'<th scope="row"><a[^>]*>{name}</a></th>.*?</tr>', await pages.page("/"), re.DOTALL)
    return text_of(found)


async def test_each_disk_shows_its_free_space_and_when_it_will_be_full(pages):
    disks = (Disk("/a", 412 * 10**9, 1, full_in_s=5.5 * 3600), Disk("/b", 2 * 10**12, 1), Disk("/c", 1, 2, "is full"))
    pages.facts = replace(READY, disks=disks)
    text = text_of(await pages.page("/"))
    assert "usable /a 412.00 GB free full in 5 h 30 min" in text
    assert "usable /b 2.00 TB free not filling up" in text
    assert "not usable /c 1 byte free Failed 0" in text  # and not that it does not fill up


async def test_render_ws_is_shown_as_up_or_unreachable(pages):
    assert "up render-ws http://127.0.0.1:9/render-ws/v1" in text_of(await pages.page("/"))
    pages.facts = replace(READY, render_fault="connection refused")
    assert "unreachable render-ws http://127.0.0.1:9/render-ws/v1" in text_of(await pages.page("/"))


@pytest.mark.parametrize("status", list(RootStatus))
async def test_each_watch_shows_its_state(pages, status):
    pages.facts = replace(READY, roots=(replace(ROOT, status=status),))
    assert (await row(pages, "temca2")).startswith(f"temca2 {status.replace('_', ' ')} ")


async def test_a_watch_and_a_scope_show_since_when_they_are_quiet(pages):
    montage = await pages.journal.montage(await pages.settled(1))
    since = f"{time.strftime('%H:%M', time.gmtime(montage.noticed_at))} (now)"
    for name in ("temca2", "5"):
        assert since in await row(pages, name)


async def test_without_progress_no_end_is_predicted(pages):
    assert " \u2013 \u2013 0 0 0" in await row(pages, "temca2")  # empty in, quiet since, failed, complete, tiles made
    await pages.reached(1, MontageState.INGESTED)
    assert "no progress" in await row(pages, "5")


@pytest.mark.parametrize(("tiles", "text"), [(1, "1 tile queued"), (1284, "1,284 tiles queued")])
async def test_the_number_of_queued_tiles_is_shown(pages, tiles, text):
    pages.facts = replace(READY, crew=Crew((Member("node7"),), tiles))
    assert text in text_of(await pages.page("/"))


async def test_the_button_to_retry_shows_the_number_of_failures_if_there_are_several(pages):
    for number, button in ((1, "Retry it"), (2, "Retry all 2")):
        await pages.failed(number)
        assert button in text_of(await pages.page("/"))


async def test_the_counters_are_the_same_after_a_restart(tmp_path):
    async with paged(tmp_path) as pages:
        first = await pages.reached(1, MontageState.INGESTED)
        await pages.journal.record_tiles(first, {"tile_1_0": None, "tile_1_1": None})
        await pages.reached(2, MontageState.COMPLETE)
        await pages.failed(3)
        before = await row(pages, "5")
    assert before.endswith(" 1 1 2")  # failed, complete, tiles made
    async with paged(tmp_path) as pages:
        assert await row(pages, "5") == before
        assert "Failed 1" in text_of(await pages.page("/"))
