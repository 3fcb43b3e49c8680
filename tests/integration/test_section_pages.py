"""The pages of a section and its tiles, with a section of the whole pipeline."""

import io
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import xxhash
from PIL import Image

from daemon.config.settings import LinkSettings
from daemon.montages.records import Outcome
from daemon.montages.states import Event, MontageState, Step
from daemon.web.pages.section_files import SectionFiles
from daemon.web.pages.section_page import MAX_LINES, FindingLine, outside_links
from handlers.errors import MetafileFault
from handlers.quality.heatmap_numbers import Number
from handlers.quality.rules import Finding, Rule, Verdict
from tests.integration.paged import HTML, paged
from tests.integration.shown import Shown, shown_section

TIMELINE = re.compile(r"</time></td>\s*<td>(?:<strong>([^<]+)</strong>|(\w+))</td>")


@pytest.fixture
async def shown(tmp_path: Path) -> AsyncIterator[Shown]:
    async with shown_section(tmp_path) as brought:
        yield brought


async def test_a_section_shows_its_state_stacks_events_attempts_and_verdict(shown):
    text = await shown.page("")
    for text_shown in ("complete", "em/test/s_raw", "em/test/s_mips", "temca2", "4 of 4 tiles have mipmaps"):
        assert text_shown in text
    timeline = [("event", name) if name else ("attempt", step) for name, step in TIMELINE.findall(text)]
    for event in ("noticed", "settled", "ingested", "mipmapped", "applied", "completed"):
        assert ("event", event) in timeline
    for step, event in (("settle", "settled"), ("ingest", "ingested"), ("mipmaps", "mipmapped"), ("apply", "applied")):
        assert timeline.index(("attempt", step)) < timeline.index(("event", event))
    assert "min focus" in text
    view = shown.bench.assembly.client.base_url.rpartition("/")[0] + "/view"
    assert f"{view}/stack-details.html?renderStackOwner=em&amp;renderStackProject=test&amp;renderStack=s_mips" in text
    assert "/tile-with-neighbors.html?" in text


def test_findings_have_units_and_an_unknown_value_does_not_pass():
    known = Finding(Rule.MAX_STAGE_ERROR_SHARE, 19.2, 26.93, Verdict.REVIEW, ("t",), 1)
    line = FindingLine.of(known)
    assert (line.rule, line.limit, line.value) == ("max stage error share", "19.2 px", "26.93 px")
    assert (line.verdict, line.tiles, line.tile_count) == ("review", ("t",), 1)
    for rule, limit in ((Rule.MAX_STAGE_ERROR_SHARE, "\u2013"), (Rule.MAX_FOCUS_DROP, "25 %")):
        line = FindingLine.of(Finding(rule, 0.25, None, Verdict.PASS))
        assert (line.limit, line.value, line.verdict) == (limit, "\u2013", "unknown")


async def test_a_section_has_a_mosaic_and_heatmaps(shown):
    text = await shown.page("")
    pictures = set(re.findall(r'(?:href|src)="([^"]*\.png[^"]*)"', text))
    assert len(pictures) == 1 + len(Number)
    for picture in pictures:
        async with shown.client.get(picture) as answer:
            assert (answer.status, answer.content_type) == (200, "image/png"), picture
    assert re.search(
        r'<img class="picture"[^>]*width="\d+" height="\d+"', text
    )  # so the layout does not change while the picture loads


@pytest.mark.parametrize(
    ("show", "picture"), [("focus", "heatmap/focus.png"), ("nonsense", "mosaic.png"), ("", "mosaic.png")]
)
async def test_the_address_of_a_section_names_the_picture_that_is_shown(shown, show, picture):
    text = await shown.page(f"?show={show}")
    assert re.search(rf'<img class="picture" src="[^"]*/{picture}\?', text)
    assert len(re.findall(r"data-show=\S+ aria-current", text)) == 1
    assert "nonsense" not in text


async def test_the_address_of_the_mosaic_changes_when_tiles_are_finished(pages):
    montage_id = await pages.settled(1, tiles=40)
    await pages.journal.record(montage_id, Event.INGESTED)
    versions = []
    for made in range(0, 41, 4):
        await pages.journal.record_tiles(montage_id, {f"tile_1_{tile}": None for tile in range(made)})
        text = await pages.page(f"/montages/{montage_id}")
        versions.append(re.search(r'src="[^"]*mosaic.png\?as=([^"]*)"', text)[1])
    assert len(set(versions)) == len(versions)


async def test_every_tile_has_a_page_with_picture_neighbours_files_and_specs(shown):
    paths = await shown.tile_paths()
    assert len(paths) == 4
    async with shown.client.get(paths[0], headers=HTML) as answer:
        text = await answer.text()
    pictures = set(re.findall(r'<img[^>]*src="([^"]*)"', text))
    assert len(pictures) == 5  # the tile, and the four tiles beside each other
    for picture in pictures:
        async with shown.client.get(picture) as answer:
            assert (answer.status, answer.content_type) == (200, "image/png")
            image = Image.open(io.BytesIO(await answer.read()))
            assert (image.mode, image.size) == ("L", (32, 32))
    (image,) = {each for each in shown.montage.metafile.parent.glob("*.tif") if each.stem in paths[0]}
    assert str(image) in text
    assert f"{image.stat().st_size:,}" in text
    levels = [path for path in (shown.bench.root / "mipmaps/1").rglob("*.tif") if path.name == f"{image.name}.tif"]
    for file in (image, *levels):
        assert f"<code>{xxhash.xxh3_128_hexdigest(file.read_bytes())}</code>" in text
    assert len(levels) == 1
    assert "levels: match the recorded digest" in text
    for stack in ("em/test/s_raw", "em/test/s_mips"):
        assert f"<summary>{stack}</summary>" in text
    assert text.count("&#34;mipmapLevels&#34;") == 2
    assert str(shown.bench.root / "mipmaps") in text
    assert "Focus score" in text


async def test_the_page_of_a_tile_without_its_level_says_so_and_shows_no_picture(shown):
    path = await shown.first_tile_path()
    for level in (shown.bench.root / "mipmaps/1").rglob("*.tif"):
        level.unlink()
    async with shown.client.get(path, headers=HTML) as answer:
        text = await answer.text()
    assert "not made yet" in text
    assert "missing" in text
    tile = path.rpartition("/")[2]
    async with shown.client.get(f"/api/tiles/{shown.montage.id}/{tile}.png") as answer:
        assert answer.status == 404


async def test_a_level_whose_bytes_have_changed_is_reported(shown):
    path = await shown.first_tile_path()
    for level in (shown.bench.root / "mipmaps/1").rglob("*.tif"):
        content = bytearray(level.read_bytes())
        content[-1] ^= 1
        level.write_bytes(content)
    async with shown.client.get(path, headers=HTML) as answer:
        assert "levels: do not match the recorded digest" in await answer.text()


async def test_a_level_that_is_too_large_for_a_page_is_not_read(shown, monkeypatch):
    monkeypatch.setattr("daemon.web.pages.section_files.MAX_BYTES", 100)
    async with shown.client.get(await shown.first_tile_path(), headers=HTML) as answer:
        text = await answer.text()
    assert "not read" in text
    assert "levels: not compared: not all were read" in text


async def test_a_level_that_is_a_link_out_of_the_directory_is_not_shown(shown, tmp_path):
    """A user who can write to the mipmap directory could otherwise show any image of the machine."""
    path = await shown.first_tile_path()
    secret = tmp_path / "secret.tif"
    Image.new("L", (32, 32)).save(secret)
    for level in (shown.bench.root / "mipmaps/1").rglob("*.tif"):
        level.unlink()
        level.symlink_to(secret)
    tile = path.rpartition("/")[2]
    async with shown.client.get(f"/api/tiles/{shown.montage.id}/{tile}.png") as answer:
        assert answer.status == 404
        assert "outside" in (await answer.json())["error"]


async def test_the_page_of_a_section_whose_metafile_has_changed_shows_its_history(shown):
    shown.montage.metafile.write_text("{}")
    text = await shown.page("")
    assert "has changed since this montage settled" in text
    assert "<strong>completed</strong>" in text
    assert "has changed" in await shown.page("/at?column=0&row=0", 404)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/at?column=9&row=0", 404), ("/at?column=x&row=0", 400), ("/at", 400), ("/tiles/nothing", 404)],
)
async def test_an_address_of_a_missing_tile_is_answered_with_a_page(shown, path, status):
    assert "<h1>" in await shown.page(path, status)


@pytest.mark.parametrize("path", ["nothing.png", "%2e%2e%2fsecret.png", "nothing.png?size=99999"])
async def test_a_picture_that_is_not_of_a_tile_is_refused(shown, path):
    async with shown.client.get(f"/api/tiles/{shown.montage.id}/{path}") as answer:
        assert answer.status in (400, 404)


async def test_the_number_of_cached_sections_is_bounded(shown):
    files = SectionFiles(shown.bench.assembly.settings)
    first = await files.read(shown.montage)
    assert await files.read(shown.montage) is first
    for grid in (1051, 1052):
        metafile = shown.bench.write(grid)
        await shown.bench.notice(metafile)
        await files.read(await shown.bench.reaches(metafile, MontageState.COMPLETE))
    assert await files.read(shown.montage) is not first
    assert shown.bench.assembly.journal.fault is None


# --- without a section on disk


async def test_the_page_of_a_section_that_was_not_read_shows_the_known_facts(pages):
    montage_id = await pages.noticed(1)
    await pages.journal.wait(montage_id, "2 images are missing")
    text = await pages.page(f"/montages/{montage_id}")
    assert "has not settled" in text
    assert "2 images are missing" in text
    assert TIMELINE.findall(text) == [("noticed", "")]


async def test_a_failed_section_can_be_retried_on_its_page(pages):
    montage_id = await pages.failed(1, "lacks images", "copy them")
    text = await pages.page(f"/montages/{montage_id}")
    assert "copy them" in text
    assert f'value="{montage_id}" checked' in text


async def test_a_decision_is_recorded_under_the_name_that_the_proxy_gives(tmp_path):
    async with paged(tmp_path, trusted_proxies=["127.0.0.1"], user_header="X-User") as pages:
        montage_id = await pages.reached(1, MontageState.COMPLETE)
        body = {"verdict": "re-image", "by": "somebody else", "note": "<i>scratch</i>"}
        assert (await pages.post(f"/api/montages/{montage_id}/verdict", body, X_User="annabel"))[0] == 200
        text = await pages.page(f"/montages/{montage_id}")
        assert "<strong>annabel</strong> decided re-image" in text
        assert "&lt;i&gt;scratch&lt;/i&gt;" in text
        assert "somebody else" not in text


async def test_an_unknown_section_is_answered_with_a_page(pages):
    for path in ("/montages/7", "/montages/x", "/montages/7/tiles/a", "/montages/7/at?column=0&row=0"):
        assert "No such montage." in await pages.page(path, 404)


async def test_links_to_other_programs_are_filled_for_the_section(pages):
    montage = await pages.journal.montage(await pages.settled(1050, bounds=(0.0, 100.0, 2000.0, 300.0)))
    links = LinkSettings(
        catmaid="https://catmaid/?pid=1&zp={z}&yp={y}&xp={x}",
        neuroglancer='https://ng/#!{"layers":[{"source":"{source}"}]}',
    )
    found = dict(outside_links(links, "http://render:8080/render-ws/v1", montage))
    assert found["CATMAID"] == "https://catmaid/?pid=1&zp=1050&yp=200&xp=1000"
    assert found["Neuroglancer"] == 'https://ng/#!{"layers":[{"source":"render://http://render:8080/em/v1/mips"}]}'


async def test_a_section_links_to_other_programs_if_they_are_configured(tmp_path):
    links = {"catmaid": "https://catmaid/?zp={z}", "neuroglancer": "https://ng/#!{source}"}
    for number, given in enumerate(({}, links)):
        directory = tmp_path / str(number)
        directory.mkdir()
        async with paged(directory, links=given) as pages:
            text = await pages.page(f"/montages/{await pages.settled(1050)}")
        found = re.findall(r'<a href="(https[^"]*)" rel="noreferrer">(\w+)</a>', text)
        source = "render://http://127.0.0.1:9/em/v1/mips"
        expected = [("https://catmaid/?zp=1050", "CATMAID"), (f"https://ng/#!{source}", "Neuroglancer")]
        assert found == (expected if given else [])


async def test_a_long_timeline_shows_its_newest_lines_and_counts_the_others(pages):
    montage_id = await pages.settled(1050)
    for number in range(MAX_LINES):
        began = await pages.journal.begin_attempt(montage_id, Step.INGEST)
        await pages.journal.end_attempt(began, Outcome.FAILED, MetafileFault("m", f"problem {number}", ""))
    text = await pages.page(f"/montages/{montage_id}")
    assert len(TIMELINE.findall(text)) == MAX_LINES
    assert "2 earlier lines" in text  # noticed, settled
    assert f"problem {MAX_LINES - 1}" in text
    assert text.index("problem 7<") < text.index("problem 8<")
