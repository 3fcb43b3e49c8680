"""Putting reduced levels into files: encoding them with their text, writing them atomically, verifying them."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import xxhash

from handlers.errors import StorageFault
from handlers.images.encode import Page, set_description
from handlers.images.level0 import OpenLevel0
from handlers.images.pixels import Grey
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.level_text import LevelText
from handlers.mipmaps.measure import Measurement
from handlers.mipmaps.report import MadeLevel
from handlers.place import Place
from handlers.stores.choose import store_of
from handlers.stores.level_store import BegunLevel

ReducedLevel = tuple[int, Grey | Page]
"""A level and its pixels; a page if the pixels are already in the content of an uncompressed TIFF."""


def put_levels(
    levels: Iterable[ReducedLevel],
    job: MipmapJob,
    level0: OpenLevel0,
    made: list[MadeLevel],
    measurement: Measurement | None = None,
) -> None:
    """Put the files of the levels in place, and append the levels that were put to `made`.

    Parameters
    ----------
    measurement : if given, measures the levels, and the digest of each file is computed.

    Raises
    ------
    StorageFault, SettingsFault
        As `LevelStore.put`. Levels that were put before stay in `made`.
    ImageChanging
        If level 0 changed while it was read. No level is put then.
    """
    places, texts = dict(job.outputs), LevelText(job, level0.bits)
    store = store_of(job.outputs[0][1], job.container, job.sharing)

    def begin(level: int, page: Page) -> _Begun:
        hashed = xxhash.xxh3_128() if measurement else None
        put = store.begin(level, places[level], page, job.encoding, hashed.update if hashed else None)
        return _Begun(level, places[level], page, put, hashed.digest() if hashed else None)

    pages = ((level, _page(job, texts, level, reduced, level0.digest)) for level, reduced in levels)
    try:
        if store.puts_at_once > 1:
            level0.require_unchanged()
            _put_at_once(begin, pages, store.puts_at_once, made, measurement)
        else:
            _put_in_turn(begin, pages, level0, made, measurement)
    finally:
        try:
            store.sync(level.path for level in made)
        except StorageFault:
            made.clear()
            raise


@dataclass(frozen=True, slots=True)
class _Begun:
    """A level that is written but not finished: it may not be synced and in place yet."""

    level: int
    place: Place
    page: Page
    put: BegunLevel
    digest: bytes | None

    def finished(self) -> MadeLevel:
        """Finish the level and return it."""
        replaced, page = self.put.finish(), self.page
        height, width = page.pixels.shape
        return MadeLevel(self.level, self.place, width, height, page.mode, len(page.content), replaced, self.digest)


def _put_in_turn(
    begin: Callable[[int, Page], _Begun],
    pages: Iterable[tuple[int, Page]],
    level0: OpenLevel0,
    made: list[MadeLevel],
    measurement: Measurement | None,
) -> None:
    """Write all levels, then finish them. Levels that were written before a failure are also finished.

    If level 0 has changed, no level is finished.
    """
    begun: deque[_Begun] = deque()
    try:
        try:
            for level, page in pages:
                begun.append(begin(level, page))
        finally:
            level0.require_unchanged()
            while begun:
                each = begun.popleft()
                made.append(each.finished())
                if measurement:
                    measurement.see_level(each.level, each.page.pixels)
    finally:
        for each in begun:
            each.put.drop()


def _put_at_once(
    begin: Callable[[int, Page], _Begun],
    pages: Iterable[tuple[int, Page]],
    most: int,
    made: list[MadeLevel],
    measurement: Measurement | None,
) -> None:
    """Put several levels at the same time, wait for all of them, and then raise the fault of the lowest level."""
    under_way: list[tuple[int, Page, Future[MadeLevel]]] = []
    try:
        with ThreadPoolExecutor(most, "put") as threads:
            for level, page in pages:
                under_way.append((level, page, threads.submit(lambda *which: begin(*which).finished(), level, page)))
    finally:
        for level, page, putting in under_way:
            if putting.exception() is None:
                made.append(putting.result())
                if measurement:
                    measurement.see_level(level, page.pixels)
    for _, _, putting in under_way:
        putting.result()


def _page(job: MipmapJob, texts: LevelText, level: int, reduced: Grey | Page, digest: bytes | None) -> Page:
    """Return the content of a level's file."""
    pixels = reduced.pixels if isinstance(reduced, Page) else reduced
    text = texts.of_pixels(level, digest, pixels)
    if not isinstance(reduced, Page) or not job.encoding.is_plain:
        return job.encoding.page(pixels, text)
    set_description(reduced, text)
    return reduced
