"""The pages for people: their content, and access to them."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.montages.records import Outcome
from daemon.montages.states import Event, MontageState, Step
from daemon.pipeline.health import Disk
from handlers.errors import StorageFault
from handlers.workers.crew import Crew, Member
from tests.integration.paged import HTML, Paged, paged
from tests.ready_facts import READY

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m\u202e'


async def test_the_overview_of_an_empty_journal_shows_the_watched_directories(pages):
    text = await pages.page("/")
    assert "No metafile has been found yet" in text
    assert "/data/temca2" in text
    assert "No section has failed." in text


async def test_the_overview_shows_why_a_section_failed_and_what_to_do(pages):
    await pages.failed(1050, "has 3 images too few", "copy them")
    text = await pages.page("/")
    assert "has 3 images too few" in text
    assert "copy them" in text
    assert "Retry it" in text


async def test_the_overview_counts_by_watch_and_scope_and_step(pages):
    await pages.reached(1, MontageState.COMPLETE)
    await pages.reached(2, MontageState.INGESTED, scope="6")
    second = await pages.reached(3, MontageState.INGESTED, scope="6")
    await pages.journal.record_tiles(second, {"a": None, "b": None})
    text = await pages.page("/")
    rows = {match[0]: re.findall(r"<td[^>]*>(.*?)</td>", match[1]) for match in
            re.findall(r'<th scope="row"><a[^>]*>(\w+)</a></th>(.*?)</tr>', text, re.DOTALL)}  # fmt: skip
    assert set(rows) == {"temca2", "5", "6"}
    # tiles/min, sections/h, settle, ingest, mipmaps, apply, close
    assert rows["temca2"][1:8] == ["0.20", "1", "0", "0", "2", "0", "0"]
    assert rows["5"][1:8] == ["0", "1", "0", "0", "0", "0", "0"]
    assert rows["6"][1:8] == ["0.20", "0", "0", "0", "2", "0", "0"]
    assert rows["6"][8] == "30 min"  # 6 of 8 tiles to do, at 0.2 a minute
    assert "2 of 4" in text


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", {1, 2, 3, 4}),
        ("state=failed", {4}),
        ("scope=6", {2}),
        ("tape=0152", {3}),
        ("watch=temca2", {1, 2, 3, 4}),
        ("watch=other", set()),
        ("z_from=2&z_to=3", {2, 3}),
        ("z_from=3", {3, 4}),
        ("scope=5&state=complete&z_to=1", {1}),
        ("state=&scope=&z_from=", {1, 2, 3, 4}),
    ],
)
async def test_the_grid_is_filtered(pages, query, shown):
    await pages.reached(1, MontageState.COMPLETE)
    await pages.reached(2, MontageState.COMPLETE, scope="6")
    await pages.reached(3, MontageState.APPLIED, tape="0152")
    await pages.failed(4)
    text = await pages.page(f"/?{query}")
    assert {int(z) for z in re.findall(r'aria-label="z (\d+),', text)} == shown
    if not shown:
        assert "No section matches." in text
    assert text.count(">Show all</a>") <= 1


@pytest.mark.parametrize("query", ["state=nope", "z_from=x", "z_to=nan", "before=-1", "before=" + "9" * 30])
async def test_an_invalid_filter_is_answered_with_a_page_that_names_the_parameter(pages, query):
    text = await pages.page(f"/?{query}", 400)
    assert f"{query.partition('=')[0]}: must be" in text


async def test_the_grid_is_shown_page_by_page(pages, monkeypatch):
    monkeypatch.setattr("daemon.web.pages.overview.GRID", 2)
    for number in range(1, 6):
        await pages.settled(number)
    seen, path = [], "/?state=settled"
    while path:
        text = await pages.page(path)
        seen += re.findall(r'aria-label="z (\d+),', text)
        older = re.search(r'href="([^"]*)" rel="next"', text)
        path = older[1].replace("&amp;", "&") if older else ""
        assert not path or "state=settled" in path
    assert seen == ["5", "4", "3", "2", "1"]


async def test_hostile_names_are_shown_as_text(pages):
    await pages.failed(1, HOSTILE, HOSTILE, name="<b>x\x1b", scope=HOSTILE, tape=HOSTILE)
    pages.facts = replace(READY, render_fault=HOSTILE, disks=(Disk(HOSTILE, None, 1, HOSTILE),))
    text = await pages.page("/")
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "<b>" not in text
    assert not [each for each in text if not each.isprintable() and each != "\n"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


async def test_every_link_in_the_overview_works(pages):
    await pages.failed(1)
    await pages.reached(2, MontageState.COMPLETE)
    text = await pages.page("/")
    paths = set(re.findall(r'(?:href|src|action)="(/[^"]*)"', text))
    assert len(paths) > 3
    for path in paths:
        async with pages.client.get(path.replace("&amp;", "&"), headers=HTML) as answer:
            assert answer.status == 200, path


async def test_pages_have_a_strict_content_security_policy_and_load_nothing_from_other_sites(pages):
    async with pages.client.get("/", headers=HTML) as answer:
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
        text = await answer.text()
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert not re.findall(r'(?:src|href)="(?!/|#)', text)
    assert " style=" not in text
    assert "<style" not in text
    assert not re.findall(r"<script(?! type=\"module\" src=)|\son\w+=", text)


async def test_browsers_cache_script_and_style_until_they_change(pages):
    text = await pages.page("/")
    for path in re.findall(r'"(/static/[^"]*)"', text):
        async with pages.client.get(path) as answer:
            assert (answer.status, answer.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
        stale = re.sub(r"/static/\w+/", "/static/0/", path)
        async with pages.client.get(stale) as answer:
            assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    assert await pages.page("/static/0/nothing.js", 404)


async def test_pages_are_served_while_the_journal_cannot_be_written_and_render_ws_is_unreachable(pages):
    await pages.reached(1, MontageState.COMPLETE)
    pages.facts = replace(READY, render_fault="connection refused", journal_fault="/var/journal: disk is full")
    text = await pages.page("/")
    assert "render-ws is unavailable: connection refused" in text
    assert "the journal cannot be written: /var/journal: disk is full" in text
    assert 'aria-label="z 1,' in text


async def test_an_unknown_address_is_answered_with_a_page_that_says_so_once(pages):
    text = await pages.page("/nowhere", 404)
    assert len(re.findall("not found", text, re.IGNORECASE)) == 2  # the title and the heading
    assert "There is no page at this address." in text
    assert "No such montage." in await pages.page("/montages/99", 404)


async def test_an_unexpected_exception_in_a_page_is_logged_and_answered_with_a_page(pages, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("daemon.web.pages.scope_handlers.scope_values", fail)
    text = await pages.page("/scopes/temca2/5", 500)
    assert "Internal error" in text
    assert "a bug" not in text
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["a bug"]
    async with pages.client.get("/scopes/temca2/5") as answer:  # a program
        assert answer.status == 500


async def test_failed_sections_are_shown_before_the_workers(pages):
    text = await pages.page("/")
    assert text.index('id="h-failed"') < text.index('id="h-workers"')


async def test_a_program_gets_json_from_the_addresses_of_pages(pages):
    async with pages.client.get("/nowhere") as answer:
        assert (answer.status, await answer.json()) == (404, {"error": "Not Found"})
    async with pages.client.get("/") as answer:
        assert "/readyz" in (await answer.json())["links"]


async def test_pages_refuse_an_unknown_host(pages):
    async with pages.client.get("/", headers={**HTML, "Host": "evil.example"}) as answer:
        assert answer.status == 403
        assert "temca2" not in await answer.text()


# --- retry


async def test_selected_failures_are_retried_where_they_failed(pages):
    ids = [await pages.failed(number) for number in (1, 2, 3)]
    status, body = await pages.post("/api/retry", {"ids": ids[:2]})
    assert (status, body["summary"]) == (200, "2 sections are retried.")
    assert pages.queue.enqueued == ids[:2]
    states = [(await pages.journal.montage(each)).state for each in ids]
    assert states == ["settled", "settled", "failed"]


async def test_all_failures_are_retried(pages):
    ids = [await pages.failed(number) for number in (1, 2)]
    await pages.reached(3, MontageState.COMPLETE)
    assert (await pages.post("/api/retry", {"all": True}))[1]["summary"] == "2 sections are retried."
    assert sorted(pages.queue.enqueued) == ids


async def test_a_refused_retry_gives_its_reason(pages):
    complete = await pages.reached(1, MontageState.COMPLETE)
    _, body = await pages.post("/api/retry", {"ids": [complete, 99]})
    assert body["summary"] == "0 sections are retried. 2 not: is complete; only a FAILED montage can be retried."
    assert pages.queue.enqueued == []


@pytest.mark.parametrize("body", [{}, {"ids": []}, {"ids": [1], "all": True}, {"ids": ["x"]}, {"ids": [0]}, {"id": 1}])
async def test_an_invalid_retry_is_refused(pages, body):
    assert (await pages.post("/api/retry", body))[0] == 400


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}, {"Content_Type": "text/plain"}],
)
async def test_a_retry_that_another_site_sends_is_refused(pages, headers):
    montage_id = await pages.failed(1)
    assert (await pages.post("/api/retry", {"ids": [montage_id]}, **headers))[0] in (403, 415)
    assert (await pages.journal.montage(montage_id)).state == "failed"


async def test_a_retry_while_the_journal_cannot_be_written_is_refused_with_the_reason(pages, monkeypatch):
    montage_id = await pages.failed(1)
    monkeypatch.setattr(type(pages.journal), "fault", property(lambda _: "the disk is full"))
    assert await pages.post("/api/retry", {"ids": [montage_id]}) == (503, {"error": "the disk is full"})


# --- proxies


async def test_the_name_of_a_user_counts_only_from_a_trusted_proxy(tmp_path):
    for proxies, recorded in (([], "requested by an operator"), (["127.0.0.1"], "requested by an operator: annabel")):
        directory = tmp_path / str(len(proxies))
        directory.mkdir()
        async with paged(directory, trusted_proxies=proxies, user_header="X-User") as pages:
            montage_id = await pages.failed(1)
            await pages.post("/api/retry", {"ids": [montage_id]}, X_User="annabel")
            retried = (await pages.journal.events(montage_id))[-1]
            assert (retried["event"], retried["detail"]["because"]) == (Event.RETRIED, recorded)
            assert ("annabel" in await pages.page("/", X_User="annabel")) is bool(proxies)


async def test_the_user_of_a_dismissal_is_recorded_and_shown(tmp_path):
    async with paged(tmp_path, trusted_proxies=["127.0.0.1"], user_header="X-User") as pages:
        montage_id = await pages.failed(1)
        assert (await pages.post("/api/dismiss", {"ids": [montage_id], "reason": "a test"}, X_User="annabel"))[0] == 200
        recorded = (await pages.journal.events(montage_id))[-1]
        assert (recorded["event"], recorded["detail"]["by"]) == (Event.DISMISSED, "annabel")
        assert "a test; by annabel" in await pages.page(f"/montages/{montage_id}")


async def test_behind_a_proxy_all_links_begin_with_the_base_path(tmp_path):
    async with paged(tmp_path, base_path="/em/temwatch/", trusted_proxies=["127.0.0.0/8"]) as pages:
        montage_id = await pages.failed(1)
        for path in ("/", "/em/temwatch/"):  # the proxy may remove the base path
            text = await pages.page(path)
            paths = re.findall(r'(?:href|src|action|data-post)="(/[^"]*)"', text)
            assert paths
            assert all(each.startswith("/em/temwatch/") for each in paths)
        proxied = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "em.example", "Origin": "https://em.example"}
        assert (await pages.post("/em/temwatch/api/retry", {"ids": [montage_id]}, **proxied))[0] == 200
        other = {**proxied, "Origin": "https://evil.example"}
        assert (await pages.post("/em/temwatch/api/retry", {"ids": [montage_id]}, **other))[0] == 403


async def test_forwarded_headers_of_other_machines_do_not_count(tmp_path):
    async with paged(tmp_path, trusted_proxies=["10.0.0.1"]) as pages:
        montage_id = await pages.failed(1)
        forged = {"X_Forwarded_Host": "evil.example", "Origin": "http://evil.example"}
        assert (await pages.post("/api/retry", {"ids": [montage_id]}, **forged))[0] == 403


# --- log in

TOKEN = "0123456789abcdef0123"


@pytest.fixture
async def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Paged]:
    monkeypatch.setattr("daemon.web.pages.handlers.WRONG_TOKEN_S", 0.0)
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    async with paged(tmp_path, token_file=str(file)) as served:
        yield served


async def log_in(pages: Paged, token: str = TOKEN, **headers: str) -> tuple[int, str]:
    given = HTML | {name.replace("_", "-"): value for name, value in headers.items()}
    form = {"token": token}
    async with pages.client.post("/login", data=form, headers=given, allow_redirects=False) as answer:
        return answer.status, answer.headers.get("Set-Cookie", "")


async def test_reading_needs_no_login_and_writing_does(locked):
    montage_id = await locked.failed(1)
    text = await locked.page("/")
    assert "Log in" in text
    assert "<button name=" not in text
    assert (await locked.post("/api/retry", {"ids": [montage_id]}))[0] == 401


async def test_a_login_is_kept_in_a_cookie_that_scripts_and_other_sites_cannot_read(locked):
    montage_id = await locked.failed(1)
    status, cookie = await log_in(locked)
    assert status == 303
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    assert "Retry it" in await locked.page("/")
    assert (await locked.post("/api/retry", {"ids": [montage_id]}))[0] == 200
    assert (await locked.post("/api/retry", {"ids": [montage_id]}, Origin="http://evil.example"))[0] == 403


async def test_a_wrong_token_sets_no_cookie(locked):
    for token in ("", "wrong", TOKEN + "x", "é"):
        assert await log_in(locked, token) == (403, "")


async def test_a_login_form_of_another_site_is_refused(locked):
    assert await log_in(locked, Origin="http://evil.example") == (403, "")


async def test_a_login_ends_with_log_out_and_with_another_token(locked, tmp_path):
    montage_id = await locked.failed(1)
    await log_in(locked)
    async with locked.client.post("/logout", headers=HTML) as answer:
        assert answer.status == 200
    assert (await locked.post("/api/retry", {"ids": [montage_id]}))[0] == 401
    await log_in(locked)
    (tmp_path / "token").write_text("another0123456789")
    assert (await locked.post("/api/retry", {"ids": [montage_id]}))[0] == 401


async def test_pages_without_write_access_show_the_reason(tmp_path):
    async with paged(tmp_path, host="0.0.0.0") as pages:
        await pages.failed(1)
        assert "writing over HTTP is disabled" in await pages.page("/")


async def test_the_overview_shows_workers_by_host(tmp_path):
    blind = Member("node8", 2, 0, "does not see <b>/data</b>", is_usable=False)
    async with paged(tmp_path) as pages:
        pages.facts = replace(READY, crew=Crew((Member("node7", 4, 3), blind), 1200, "tcp://scheduler:8786"))
        page = await pages.page("/")
        assert "tcp://scheduler:8786" in page
        assert "1,200 tiles queued or running" in page
        assert '<td class="n" data-label="tiles in flight">3</td>' in page
        assert '<td class="n bad" data-label="refused">1</td>' in page
        assert "does not see &lt;b&gt;/data&lt;/b&gt;" in page


STORE = Disk("s3://em/mips", None, 0, "cannot be used: could not write it: SlowDown", watches=("temca2",))


async def test_pages_and_api_name_the_store_that_a_montage_waits_for(pages):
    waiting = await pages.reached(1, MontageState.INGESTED)
    others = [await pages.settled(2), await pages.reached(3, MontageState.MIPMAPPED)]
    await pages.journal.wait(others[0], "an image is missing")
    pages.facts = replace(READY, disks=(STORE, replace(STORE, watches=("other",), directory="s3://other")))
    reason = "s3://em/mips cannot be used: could not write it: SlowDown"
    text = await pages.page(f"/montages/{waiting}")
    assert f"<dt>Waits for</dt><dd>{reason}</dd>" in text
    (shown,) = re.findall(r'data-label="state">ingested<br><span class="quiet">([^<]*)<', await pages.page("/"))
    assert shown == reason
    async with pages.client.get("/api/montages") as answer:
        rows = {row["id"]: row["waiting_for"] for row in (await answer.json())["montages"]}
    assert rows == {waiting: reason, others[0]: "an image is missing", others[1]: None}
    for each in others:
        assert f"<dd>{reason}</dd>" not in await pages.page(f"/montages/{each}")
    pages.facts = READY
    assert "Waits for" not in await pages.page(f"/montages/{waiting}")


async def test_a_section_that_waits_for_its_store_shows_its_last_fault_as_former(pages):
    waiting = await pages.reached(1, MontageState.INGESTED)
    attempt = await pages.journal.begin_attempt(waiting, Step.MIPMAPS)
    await pages.journal.end_attempt(attempt, Outcome.FAILED, StorageFault("/data/a.tif", "could not be read", ""))
    assert "<dt>Last fault</dt>" in await pages.page(f"/montages/{waiting}")
    pages.facts = replace(READY, disks=(STORE,))
    text = await pages.page(f"/montages/{waiting}")
    assert "<dt>Waits for</dt><dd>s3://em/mips" in text
    assert "<dt>Before</dt>" in text
    assert "<dt>Last fault</dt>" not in text
