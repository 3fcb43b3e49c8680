"""The cache of parsed metafiles: which are parsed once, and which are evicted."""

import asyncio
import hashlib
import threading
from pathlib import Path

import pytest

from daemon.pipeline.settling import metafile_cache
from daemon.pipeline.settling.metafile_cache import MetafileCache
from daemon.simulator.section import plan_section
from daemon.simulator.temca import write_section
from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.formats.pytemca import PyTemca
from handlers.errors import MetafilePartial

READER = PyTemca()
PATH = Path("/data/metafile")


@pytest.fixture
def contents(tmp_path: Path) -> list[bytes]:
    """Three metafiles of the same length, with different grids."""
    sections = [plan_section(tiles=4, size=(64, 64), grid=grid) for grid in (1001, 1002, 1003)]
    written = [write_section(each, tmp_path, pixels="flat").metafile.read_bytes() for each in sections]
    assert len({len(each) for each in written}) == 1
    return written


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_the_same_content_is_parsed_once(contents) -> None:
    metafiles = MetafileCache()
    for content in contents:
        first = await metafiles.parse(content, digest_of(content), PATH, READER)
        assert first == READER.parse(content, PATH)
        assert await metafiles.parse(content, digest_of(content), PATH, READER) is first


async def test_the_most_recently_used_metafiles_are_kept_up_to_a_size(contents) -> None:
    metafiles = MetafileCache(max_bytes=2 * len(contents[0]))
    one, two, three = [(content, digest_of(content), PATH, READER) for content in contents]
    first, second = await metafiles.parse(*one), await metafiles.parse(*two)
    assert await metafiles.parse(*one) is first
    await metafiles.parse(*three)
    assert await metafiles.parse(*one) is first
    assert await metafiles.parse(*two) is not second


async def test_a_forgotten_metafile_is_parsed_again_and_the_others_are_kept(contents) -> None:
    metafiles = MetafileCache()
    one, two = [(content, digest_of(content), PATH, READER) for content in contents[:2]]
    first, second = await metafiles.parse(*one), await metafiles.parse(*two)
    metafiles.forget(digest_of(contents[0]), PATH, READER)
    assert await metafiles.parse(*one) is not first
    assert await metafiles.parse(*two) is second


async def test_a_metafile_larger_than_the_cache_is_parsed_each_time_and_evicts_no_other(contents) -> None:
    metafiles = MetafileCache(max_bytes=len(contents[0]))
    kept, longer = (contents[0], digest_of(contents[0]), PATH, READER), contents[1] + b" "
    first = await metafiles.parse(*kept)
    found = [await metafiles.parse(longer, digest_of(longer), PATH, READER) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0] is not found[1]
    assert await metafiles.parse(*kept) is first


async def test_a_truncated_metafile_is_refused_each_time(contents) -> None:
    metafiles, part = MetafileCache(), contents[0][:-20]
    for subject in ("first.json", "second.json"):
        with pytest.raises(MetafilePartial) as caught:
            await metafiles.parse(part, digest_of(part), Path(subject), READER)
        assert caught.value.subject == subject


@pytest.mark.parametrize(("large_bytes", "at_once"), [(0, 1), (10**9, 3)], ids=["large", "small"])
async def test_only_large_metafiles_are_parsed_one_at_a_time(contents, monkeypatch, large_bytes, at_once) -> None:
    monkeypatch.setattr(metafile_cache, "LARGE_BYTES", large_bytes)
    lock, all_running, running, max_running = threading.Lock(), threading.Event(), 0, 0

    class Slow(PyTemca):
        def parse(self, content: bytes, path: Path) -> Acquisition:
            nonlocal running, max_running
            with lock:
                running += 1
                max_running = max(max_running, running)
                if running == len(contents):
                    all_running.set()
            all_running.wait(0.2 if at_once == 1 else 60)  # small ones wait for each other; large ones cannot
            with lock:
                running -= 1
            return super().parse(content, path)

    metafiles = MetafileCache()
    await asyncio.gather(*(metafiles.parse(content, digest_of(content), PATH, Slow()) for content in contents))
    assert max_running == at_once
