"""The page of a microscope: trends of its sections."""

import re

import numpy as np
import pytest

from daemon.journal.tables import trends
from daemon.montages.states import MontageState
from daemon.web.pages.scope_page import charts_of
from handlers.quality.medians import trend_of
from handlers.quality.numbers import TileNumbers
from handlers.quality.trend import Trend
from tests.integration.inprocess import bench
from tests.integration.paged import Paged


async def with_trend(pages: Paged, number: int, trend: Trend, scope: str = "5") -> int:
    montage_id = await pages.settled(number, scope=scope)
    await pages.journal.write(lambda connection: trends.store(connection, montage_id, trend))
    return montage_id


def test_medians_ignore_unknown_values():
    columns = {"focus_score": np.array([20.0, np.nan, 22.0, 30.0]), "interval": np.array([np.nan, 0.5, 0.7, 0.6])}
    numbers = TileNumbers.of(("a", "b", "c", "d"), columns)
    assert trend_of(numbers, 3.9) == Trend(focus=22.0, interval_s=0.6, pixel_size_nm=3.9)


def test_a_chart_places_points_by_time_and_value():
    points = [trends.TrendPoint(1, 100.0, 1.0, Trend(focus=10.0)), trends.TrendPoint(2, 200.0, 2.0, Trend(focus=20.0))]
    (chart,) = charts_of(points, 100.0, 200.0, 5.0)
    (x1, y1), (x2, y2) = ((float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)h0", chart.dots))
    assert (x1, x2) == (84.0, 634.0)
    assert y2 < y1 < chart.limit_y
    assert (chart.last, chart.median, chart.least, chart.greatest) == (20.0, 15.0, 10.0, 20.0)


def test_a_constant_value_is_drawn_without_a_division_by_zero():
    points = [trends.TrendPoint(1, 100.0, 1.0, Trend(pixel_size_nm=4.0))]
    (chart,) = charts_of(points, 0.0, 200.0, None)
    assert chart.title == "Pixel size"
    assert "nan" not in chart.dots + chart.line


async def test_a_microscope_has_a_page_of_its_own_trends(pages):
    await with_trend(pages, 1, Trend(20.0, 30.0, 0.37, 1.5, 3.9))
    newest = await with_trend(pages, 2, Trend(22.0, 31.0, 0.38, 1.0, 3.9))
    await with_trend(pages, 3, Trend(99.0), scope="6")
    text = await pages.page("/scopes/temca2/5")
    assert "Medians of 2 sections" in text
    assert re.findall(r'aria-label="([^:"]*): last', text) == [
        "Focus score", "Standard deviation", "From tile to tile", "Stage error", "Pixel size",
    ]  # fmt: skip
    assert f'href="/montages/{newest}"' in text
    assert "99" not in re.sub(r"<script.*?>|/static/\w+", "", text)
    assert '/scopes/temca2/5"' in await pages.page("/")


async def test_the_page_of_a_microscope_without_numbers_explains_when_they_are_measured(pages):
    await pages.settled(1)
    assert "They are measured while the mipmaps" in await pages.page("/scopes/temca2/5")
    assert "They are measured while the mipmaps" in await pages.page("/scopes/nothing/%3Cscript%3E")
    assert "from the last day." in await pages.page("/scopes/temca2/5?days=1")
    await pages.page("/scopes/temca2/5?days=2", 400)


async def test_the_medians_of_a_complete_section_are_recorded(tmp_path):
    async with bench(tmp_path) as running:
        metafile = running.write(tiles=4)
        await running.notice(metafile)
        montage = await running.reaches(metafile, MontageState.COMPLETE)
        found = await running.assembly.journal.read(lambda c: trends.of_scope(c, "w", montage.scope, 0.0, 10))
    (point,) = found
    assert (point.montage_id, point.z) == (montage.id, 1050.0)
    assert 10 < point.trend.focus < 40
    assert point.trend.interval_s == pytest.approx(0.373, abs=0.01)
    assert point.trend.pixel_size_nm > 1
