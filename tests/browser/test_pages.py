"""The pages in a real browser: content, live updates, keyboard, phone, accessibility."""

import os
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest
from aiohttp.test_utils import TestServer
from playwright.async_api import Page, expect

from daemon.montages.states import Event, MontageState
from daemon.pipeline.health import Disk
from daemon.pipeline.metrics import Metrics
from daemon.web.live_events import LiveEvents
from daemon.web.pages.handlers import Pages
from daemon.web.routes import make_app
from tests.browser.conftest import TEST_TIMEOUT_S, TIMEOUT_MS, Viewer, proxied
from tests.integration.inprocess import bench
from tests.integration.paged import Paged, paged
from tests.integration.shown import Shown, shown_section
from tests.ready_facts import READY

AXE = Path(os.environ.get("TEMWATCH_AXE", "/nowhere"))
with_axe = pytest.mark.skipif(
    not AXE.is_file(), reason="axe-core is not installed: TEMWATCH_AXE is the path of axe.min.js"
)
HOSTILE = '"><script>window.hit=1</script><img src=x onerror="window.hit=1">\u202e'
expect.set_options(timeout=TIMEOUT_MS)
pytestmark = pytest.mark.timeout(TEST_TIMEOUT_S)


@pytest.fixture
async def face(tmp_path: Path) -> AsyncIterator[Paged]:
    directory = tmp_path / "odd"  # some tests also have a real section in tmp_path
    directory.mkdir()
    async with paged(directory) as served:
        yield served


@pytest.fixture
async def shown(tmp_path: Path) -> AsyncIterator[Shown]:
    async with shown_section(tmp_path) as section:
        yield section


async def mark(page: Page) -> None:
    """Mark a page, so that `is_marked` is false if it is reloaded later."""
    await page.evaluate("window.mark = 1")
    await expect(page.locator("#connection")).to_have_text("live")


async def is_marked(page: Page) -> bool:
    return bool(await page.evaluate("window.mark === 1"))


@pytest.mark.slow
async def test_the_overview_follows_a_new_section_until_it_is_complete(viewer: Viewer, tmp_path):
    async with bench(tmp_path) as running:
        work = running.assembly

        async def facts():
            return READY

        pages, live = Pages(work.settings, work.journal, facts, work.client), LiveEvents(work.journal)
        app = make_app(work.journal, Metrics(), facts, http=lambda: work.settings().http, pages=pages, live=live)
        async with TestServer(app) as server:
            page = await viewer.open(str(server.make_url("/")))
            await expect(page.get_by_text("No metafile has been found yet")).to_be_visible()
            await mark(page)
            metafile = running.write()
            await running.notice(metafile)
            await expect(page.locator("ol.grid a")).to_have_attribute("aria-label", "z 1050, scope temca2, complete, "
                                                                      + metafile.name)  # fmt: skip
            await expect(page.locator("ol.grid .cell.done")).to_have_count(5)
            assert await is_marked(page)
            await page.locator("ol.grid a").click()
            await expect(page.get_by_text("2 of 2 tiles have mipmaps")).to_be_visible()
            raster = page.locator("svg.raster")
            box = await raster.bounding_box()
            await raster.click(position={"x": box["width"] * 0.45, "y": box["height"] * 0.5})
            await expect(page.locator("img.picture")).to_be_visible()
            assert await page.locator("img.picture").evaluate("each => each.decode().then(() => each.naturalWidth)") > 0


async def test_selected_failures_are_retried_without_reloading_the_page(viewer: Viewer, face):
    for number in (1, 2, 3):
        await face.failed(number)
    page = await viewer.open(str(face.client.make_url("/")))
    await mark(page)
    await expect(page.get_by_role("button", name="Retry selected")).to_be_disabled()
    await page.get_by_role("checkbox", name="Select z 1,").check()
    await page.get_by_role("checkbox", name="Select z 3,").check()
    await face.reached(9, MontageState.COMPLETE)  # the page refreshes, and keeps the selection
    await expect(page.locator("ol.grid li")).to_have_count(4)
    await page.get_by_role("button", name="Retry 2 selected").click()
    await expect(page.locator("#failed output")).to_have_text("2 sections are retried.")
    await expect(page.locator("#failed tbody tr")).to_have_count(1)
    assert len(face.queue.enqueued) == 2
    assert await is_marked(page)


@pytest.mark.slow
async def test_all_failures_are_retried_after_a_confirmation(viewer: Viewer, face):
    ids = [await face.failed(number) for number in (1, 2)]
    page = await viewer.open(str(face.client.make_url("/")))
    viewer.confirms = "Retry all 2 failed sections?"
    await page.get_by_role("button", name="Retry all 2").click()
    await expect(page.get_by_text("No section has failed.")).to_be_visible()
    assert sorted(face.queue.enqueued) == ids
    ids.append(await face.failed(3))
    await page.get_by_role("button", name="Retry it").click()  # without a confirmation
    await expect(page.get_by_text("No section has failed.")).to_be_visible()
    assert sorted(face.queue.enqueued) == ids


async def test_a_person_overrides_the_verdict_of_the_rules(viewer: Viewer, face):
    montage_id = await face.reached(1, MontageState.COMPLETE)
    page = await viewer.open(str(face.client.make_url(f"/montages/{montage_id}")))
    await mark(page)
    await page.get_by_label("Your name").fill("annabel")
    await page.get_by_role("button", name="Decide").click()
    assert await page.get_by_label("Verdict").evaluate("each => each.validity.valueMissing")  # nothing is sent
    await page.get_by_label("Verdict").select_option("re-image")
    await page.get_by_label("Note").fill("a fold")
    await page.get_by_role("button", name="Decide").click()
    await expect(page.locator("#quality")).to_contain_text("annabel decided re-image")
    await expect(page.locator("#quality")).to_contain_text("a fold")
    assert await is_marked(page)


@pytest.mark.slow
async def test_the_filter_works_with_and_without_script(viewer: Viewer, face):
    await face.reached(1, MontageState.COMPLETE)
    await face.failed(2)
    for script in (True, False):
        page = await viewer.open(str(face.client.make_url("/")), script=script)
        await expect(page.locator("ol.grid li")).to_have_count(2)
        await page.get_by_label("State").select_option("failed")
        await page.get_by_role("button", name="Filter").click()
        await expect(page.locator("ol.grid li")).to_have_count(1)
        assert "state=failed" in page.url
        await page.get_by_role("link", name="Show all").click()
        await expect(page.locator("ol.grid li")).to_have_count(2)


@pytest.mark.slow
async def test_all_controls_of_the_overview_can_be_reached_by_keyboard(viewer: Viewer, face):
    for number in range(1, 6):
        await face.reached(number, MontageState.COMPLETE)
    await face.failed(6)
    page = await viewer.open(str(face.client.make_url("/")))
    await mark(page)
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "skip"
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "main"
    stops = []
    for _ in range(60):
        await page.keyboard.press("Tab")
        stops.append(await page.evaluate("document.activeElement.getAttribute('aria-label') || ''"))
        if stops[-1].startswith("z 6"):
            break
    assert any(each.startswith("Select z 6") for each in stops)
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("ArrowLeft")
    assert (await page.evaluate("document.activeElement.getAttribute('aria-label')")).startswith("z 5,")
    await page.keyboard.press("Tab")  # the grid is a single tab stop
    assert not await page.evaluate("document.activeElement.closest('ol.grid') !== null")
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Section z 5")).to_be_visible()


async def hostile_pages(face: Paged) -> list[str]:
    """Return the addresses of pages with hostile names, long texts and failed services."""
    failed = await face.failed(1, HOSTILE, HOSTILE, name="<b>\u202e", scope=HOSTILE, tape=HOSTILE)
    await face.failed(4, f"1 of 24 images cannot be used: {'20261126020622710_' * 4}0_4_1.tif is truncated")
    complete = await face.reached(2, MontageState.COMPLETE)
    await face.journal.decide(complete, "fail", HOSTILE, HOSTILE)
    waiting = await face.noticed(3)
    await face.journal.wait(waiting, "2 images are missing")
    face.facts = replace(READY, render_fault=HOSTILE, journal_fault=HOSTILE, disks=(Disk("/m", 1, 2, "is full"),))
    paths = ["/", "/?state=ignored", f"/montages/{failed}", f"/montages/{complete}", f"/montages/{waiting}", "/login"]
    return [str(face.client.make_url(path)) for path in [*paths, f"/scopes/temca2/{quote(HOSTILE, '')}", "/nowhere"]]


async def pages_of(shown: Shown) -> list[str]:
    """Return the addresses of a page of each kind, of a section that is in its stack."""
    paths = [
        "/",
        f"/montages/{shown.montage.id}",
        await shown.first_tile_path(),
        f"/scopes/w/{shown.montage.scope}",
        "/login",
    ]
    return [shown.url(path) for path in paths]


@pytest.mark.slow  # tests/integration/test_pages.py reads the text of such pages
async def test_hostile_names_run_no_script_and_no_page_violates_the_content_security_policy(viewer: Viewer, face):
    page = await viewer.open()
    for url in await hostile_pages(face):
        await page.goto(url)
        assert await page.evaluate("window.hit") is None, url
        assert await page.locator("main img[src=x]").count() == 0, url


async def assert_fits(page: Page, url: str, scheme: str) -> None:
    await page.goto(url)
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390, url
    colour = await page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(colour) < 150) is (scheme == "dark"), url
    tables = "[...document.querySelectorAll('table.stack')]"
    wide = f"{tables}.filter(each => each.scrollWidth > each.parentElement.clientWidth)"
    assert await page.evaluate(f"{wide}.map(each => each.innerText)") == [], url


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_fits_a_phone_and_follows_the_colour_scheme_of_the_system(viewer: Viewer, face, scheme):
    page = await viewer.open(phone=True, scheme=scheme)
    for url in await hostile_pages(face):
        await assert_fits(page, url, scheme)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_pages_of_a_real_section_fit_a_phone(viewer: Viewer, shown, scheme):
    page = await viewer.open(phone=True, scheme=scheme)
    for url in await pages_of(shown):
        await assert_fits(page, url, scheme)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 1920])
async def test_no_table_needs_horizontal_scrolling_on_a_desktop(viewer: Viewer, shown, width):
    page = await viewer.open()
    await page.set_viewport_size({"width": width, "height": 900})
    for url in await pages_of(shown):
        await page.goto(url)
        wide = "[...document.querySelectorAll('.scroll')].filter(each => each.scrollWidth > each.clientWidth)"
        assert await page.evaluate(f"{wide}.map(each => each.innerText)") == [], url


SHIFTS = """new Promise(done => new PerformanceObserver(list => done(
    list.getEntries().filter(each => !each.hadRecentInput).map(each => each.value))
).observe({type: "layout-shift", buffered: true}) || setTimeout(() => done([]), 300))"""


@pytest.mark.slow
async def test_the_layout_does_not_shift_while_a_page_loads_and_refreshes(viewer: Viewer, shown, face):
    page = await viewer.open()
    for url in [*await pages_of(shown), *await hostile_pages(face)]:
        await page.goto(url)
        await page.wait_for_load_state("networkidle")
        assert sum(await page.evaluate(SHIFTS)) < 0.01, url
    montage_id = await face.settled(5)
    await page.goto(str(face.client.make_url("/?z_from=5")))
    await mark(page)
    await face.journal.record(montage_id, Event.INGESTED)  # the state changes, and no section is added
    await expect(page.locator("ol.grid .cell.done")).to_have_count(2)
    assert sum(await page.evaluate(SHIFTS)) < 0.05  # "4" becomes "0 of 4": a column of the list becomes wider


async def assert_accessible(page: Page, url: str) -> None:
    await page.goto(url)
    await page.evaluate(AXE.read_text(encoding="utf-8"))
    found = await page.evaluate("axe.run().then(done => done.violations.map(each => [each.id, each.nodes.length,"
                                " each.nodes[0].html, each.nodes[0].failureSummary]))")  # fmt: skip
    assert found == [], url


@with_axe
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_page_violates_a_rule_of_accessibility(viewer: Viewer, face, scheme):
    page = await viewer.open(scheme=scheme)
    for url in await hostile_pages(face):
        await assert_accessible(page, url)


@with_axe
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_page_of_a_real_section_violates_a_rule_of_accessibility(viewer: Viewer, shown, scheme):
    page = await viewer.open(scheme=scheme)
    for url in await pages_of(shown):
        await assert_accessible(page, url)


@pytest.mark.slow
async def test_times_are_in_the_time_zone_of_the_viewer_and_without_script_in_utc(viewer: Viewer, shown):
    at = datetime.fromtimestamp(shown.montage.noticed_at, UTC)
    there = f"{at.astimezone(ZoneInfo('America/New_York')):%Y-%m-%d %H:%M:%S}"
    for script, text, zone in ((True, there, "none"), (False, f"{at:%Y-%m-%d %H:%M:%S}", '" UTC"')):
        page = await viewer.open(shown.url(f"/montages/{shown.montage.id}"), script=script)
        time = page.locator("dt:text-is('Noticed') + dd time")
        await expect(time).to_have_text(text)
        assert await time.evaluate("each => getComputedStyle(each, '::after').content") == zone


@pytest.mark.slow
async def test_a_heatmap_replaces_the_mosaic_by_keyboard_without_reloading_the_page(viewer: Viewer, shown):
    page = await viewer.open(shown.url(f"/montages/{shown.montage.id}"))
    await mark(page)
    picture = page.locator("[data-picture] img")
    await expect(picture).to_have_attribute("src", re.compile("mosaic.png"))
    await page.get_by_role("link", name="focus", exact=True).focus()
    await page.keyboard.press("Enter")
    await expect(picture).to_have_attribute("src", re.compile("heatmap/focus.png"))
    await expect(picture).to_have_attribute("alt", "Heatmap: focus")
    await expect(page.locator("a[data-whole]")).to_have_attribute("href", re.compile("heatmap/focus.png"))
    assert await picture.evaluate("each => each.naturalWidth") > 0
    assert await is_marked(page)


@pytest.mark.slow
async def test_a_page_reports_that_its_mosaic_cannot_be_drawn_and_still_shows_a_heatmap(viewer: Viewer, shown):
    shown.montage.metafile.rename(shown.montage.metafile.with_suffix(".moved"))
    for kept in (shown.bench.root / "pictures").glob("*"):
        kept.unlink()
    page = await viewer.open(shown.url(f"/montages/{shown.montage.id}"))
    await expect(page.get_by_text("The picture cannot be drawn now.")).to_be_visible()
    await expect(page.locator("[data-picture] img")).to_be_hidden()
    await page.get_by_role("link", name="focus", exact=True).click()
    await expect(page.locator("[data-picture] img")).to_be_visible()
    await expect(page.get_by_text("The picture cannot be drawn now.")).to_be_hidden()


@pytest.mark.slow
async def test_a_tile_can_be_opened_and_left_by_keyboard(viewer: Viewer, shown):
    page = await viewer.open(shown.url(f"/montages/{shown.montage.id}"))
    await page.get_by_role("button", name="Show the tile").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Files")).to_be_visible()
    first = page.url
    stops = []
    for _ in range(40):
        await page.keyboard.press("Tab")
        stops.append(await page.evaluate("document.activeElement.closest('.around') ? 'neighbour' :"
                                         " document.activeElement.rel || document.activeElement.tagName"))  # fmt: skip
        if stops[-1] == "PRE":
            break
    assert {"next", "neighbour", "PRE"} <= set(stops)  # PRE is the tile spec, which can be scrolled
    await page.locator("a[rel=next]").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_url(lambda url: url != first)
    await expect(page.get_by_role("heading", name="Files")).to_be_visible()


@pytest.mark.slow
async def test_the_days_of_the_page_of_a_microscope_can_be_changed_by_keyboard(viewer: Viewer, shown):
    page = await viewer.open(shown.url(f"/scopes/w/{shown.montage.scope}"))
    assert await page.locator("main svg").count() >= 3
    await page.get_by_role("link", name="365 days").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("link", name="365 days")).to_have_attribute("aria-current", "true")


@pytest.mark.slow
async def test_pages_report_an_unavailable_render_ws_and_journal_and_still_answer(viewer: Viewer, shown):
    page = await viewer.open(shown.url("/"))
    await mark(page)
    shown.facts = replace(READY, render_fault="connection refused", journal_fault="the disk is full")
    for url in await pages_of(shown):
        await page.goto(url)
        await expect(page.get_by_role("region", name="Not ready")).to_contain_text(
            "render-ws is unavailable: connection refused"
        )
        await expect(page.get_by_role("region", name="Not ready")).to_contain_text("the journal cannot be written")
        await expect(page.locator("#readiness")).to_have_text("not ready")


@pytest.mark.slow
async def test_two_tabs_show_the_same(viewer: Viewer, face):
    page = await viewer.open(str(face.client.make_url("/")))
    other = await viewer.open_tab(page.context, page.url)
    await mark(other)
    montage_id = await face.settled(1)
    for each in (page, other):
        await each.bring_to_front()
        await expect(each.locator("ol.grid li")).to_have_count(1)
    await face.journal.record(montage_id, Event.INGESTED)
    for each in (page, other):
        await each.bring_to_front()
        await expect(each.locator("ol.grid .cell.done")).to_have_count(2)


@pytest.mark.slow
async def test_a_page_reconnects_after_a_restart_of_the_daemon(viewer: Viewer, tmp_path):
    async with paged(tmp_path) as face:
        port = face.client.port
        await face.settled(1)
        page = await viewer.open(str(face.client.make_url("/")))
        await mark(page)
        await face.live.close()
    await expect(page.locator("#connection")).to_have_text("not connected")
    async with paged(tmp_path, serve_on=port) as face:
        await face.settled(2)
        await expect(page.locator("ol.grid li")).to_have_count(2)
        await expect(page.locator("#connection")).to_have_text("live")
        assert await is_marked(page)


@pytest.mark.slow
async def test_pages_behind_nginx_work_below_the_base_path(viewer: Viewer, tmp_path):
    keys = {"base_path": "/em/temwatch", "trusted_proxies": ["127.0.0.1"], "user_header": "X-Remote-User"}
    async with paged(tmp_path, **keys) as face:
        montage_id = await face.failed(1)
        upstream = str(face.client.make_url("/")).rstrip("/")
        with proxied(tmp_path / "nginx", upstream, "/em/temwatch") as url:
            page = await viewer.open(url)
            await mark(page)
            await expect(page.get_by_text("annabel")).to_be_visible()
            await face.settled(9)  # nginx passes events at once, although it buffers other answers
            await expect(page.locator("ol.grid li")).to_have_count(2)
            assert await is_marked(page)
            await page.get_by_role("checkbox", name="Select z 1,").check()
            await page.get_by_role("button", name="Retry 1 selected").click()
            await expect(page.get_by_text("No section has failed.")).to_be_visible()
            retried = (await face.journal.events(montage_id))[-1]
            assert retried["detail"]["because"].endswith(": annabel")
            await page.locator("ol.grid a").last.click()
            await expect(page.get_by_role("heading", name="Section z 1")).to_be_visible()
            assert "/em/temwatch/montages/" in page.url
            for each in viewer.contexts:
                await each.close()
            viewer.contexts.clear()


@pytest.mark.slow
async def test_a_person_can_retry_sections_only_after_logging_in(viewer: Viewer, tmp_path, monkeypatch):
    monkeypatch.setattr("daemon.web.pages.handlers.WRONG_TOKEN_S", 0.0)
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123")
    token.chmod(0o600)
    async with paged(tmp_path, token_file=str(token)) as face:
        await face.failed(1)
        page = await viewer.open(str(face.client.make_url("/")))
        await expect(page.get_by_role("button", name="Retry")).to_have_count(0)
        await page.get_by_role("navigation").get_by_role("link", name="Log in").click()
        await page.get_by_label("Token").fill("something else entirely")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert")).to_have_text("The token is wrong.")
        await page.get_by_label("Token").fill("0123456789abcdef0123")
        await page.get_by_role("button", name="Log in").click()
        assert await page.evaluate("document.cookie") == ""  # scripts cannot read the cookie
        await page.get_by_role("checkbox", name="Select z 1,").check()
        await page.get_by_role("button", name="Retry 1 selected").click()
        await expect(page.get_by_text("No section has failed.")).to_be_visible()
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_role("navigation").get_by_role("link", name="Log in")).to_be_visible()
