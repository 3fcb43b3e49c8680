"""Probe render-ws and every watch; collect what was proved and the problems, by key."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daemon.commands.check_config import Finding
from daemon.commands.probe.cluster import probe_cluster
from daemon.commands.probe.diagnosis import PATH_MAP, Shown, wrong_with
from daemon.commands.probe.files import (
    SIDE_PX,
    ProbeTile,
    low_space,
    readers_of,
    remove_probe,
    write_object_probe,
    write_probe,
)
from daemon.commands.probe.images import some_image
from daemon.commands.probe.scratch import scratch_stack
from daemon.commands.probe.service_user import become_service_user
from daemon.config.render_settings import RenderSettings
from daemon.config.settings import Settings
from daemon.config.stack_settings import NAME_FIELDS
from daemon.config.watch_settings import WatchSettings
from daemon.pipeline.gates.render_gate import PROBE_STACK
from handlers.errors import (
    AccessRefused,
    Fault,
    RenderFault,
    RenderUnavailable,
    SettingsFault,
    StorageFault,
)
from handlers.place import ObjectPlace
from handlers.render.client import RenderClient
from handlers.render.names import StackId, legal_stack_name

ANSWER_S = 60.0
"""Time-out of the files of one watch."""
__all__ = ["Probed", "become_service_user", "probe"]


@dataclass
class Probed:
    """Outcome of the probe."""

    proved: list[str] = field(default_factory=list)
    """Sentences about what works."""
    findings: list[Finding] = field(default_factory=list)

    def wrong(self, key: str, text: str) -> None:
        """Add a problem."""
        self.findings.append(Finding(key, text))


async def probe(settings: Settings, tried_as: str) -> Probed:
    """Probe render-ws, every watch, and the dask cluster if there is one. Deletes everything that it made.

    Parameters
    ----------
    tried_as : sentence about the user of this process, which is added to the outcome.
    """
    probed, render = Probed(), settings.render
    if render.embedded:
        probed.proved.append("render.url is the built-in stand-in, which starts with the daemon: only files are probed")
    async with RenderClient("http://127.0.0.1" if render.embedded else render.url, access=render.access) as client:
        skips_render = render.embedded or not await _responds(probed, client, render)
        for index, watch in enumerate(settings.watch):
            await _probe_watch(probed, f"watch[{index}]", watch, render, None if skips_render else client)
    proved, wrong = await probe_cluster(settings)
    probed.proved += [*proved, tried_as]
    probed.findings += wrong
    return probed


async def _responds(probed: Probed, client: RenderClient, render: RenderSettings) -> bool:
    """Ping render-ws and have it read its database once; return whether both succeed."""
    try:
        await client.ping()
        await client.ask_database(StackId(render.owner, render.project, PROBE_STACK))
    except RenderFault as fault:
        probed.wrong(_key_of(fault), str(fault))
        return False
    return True


async def _probe_watch(
    probed: Probed, key: str, watch: WatchSettings, render: RenderSettings, client: RenderClient | None
) -> None:
    place = f"{key}.mipmaps.output_dir"
    try:
        async with asyncio.timeout(ANSWER_S):
            tile = await asyncio.to_thread(_written, watch)
    except (StorageFault, SettingsFault) as fault:
        probed.wrong(place, str(fault))
        return
    except TimeoutError:
        probed.wrong(place, f"{watch.mipmaps.output_dir} has not answered for {ANSWER_S:g} s")
        return
    try:
        if low := await asyncio.to_thread(_low_space, watch):
            probed.wrong(place, low)
        probed.proved += [f"{watch.name}: {said}" for said in await asyncio.to_thread(lambda: [*readers_of(tile)])]
        if client is not None:
            await _probe_stack(probed, key, watch, render, client, tile)
    finally:
        try:
            await asyncio.to_thread(remove_probe, tile)
        except StorageFault as fault:
            probed.wrong(place, str(fault))


def _written(watch: WatchSettings) -> ProbeTile:
    output_dir = watch.mipmaps.output_dir
    if isinstance(output_dir, ObjectPlace):
        return write_object_probe(output_dir)
    return write_probe(output_dir, watch.mipmap_plan().sharing)


def _low_space(watch: WatchSettings) -> str:
    output_dir = watch.mipmaps.output_dir
    return "" if isinstance(output_dir, ObjectPlace) else low_space(output_dir, watch.mipmaps.min_free_bytes)


async def _probe_stack(
    probed: Probed, key: str, watch: WatchSettings, render: RenderSettings, client: RenderClient, tile: ProbeTile
) -> None:
    paths = render.paths
    try:
        async with scratch_stack(client, *_home(watch, render)) as scratch:
            async for shown in _shown(probed, key, watch, tile):
                wrong = await wrong_with(scratch, paths, shown)
                if wrong is None:
                    what, there = "the pixels of " * (shown.pixels is not None), shown.seen_at(paths)
                    elsewhere = f", which it sees at {there}" if there != str(shown.path) else ""
                    probed.proved.append(f"{watch.name}: render-ws shows {what}{shown.path}{elsewhere}")
                else:
                    of_watch = f"watch {watch.name}: " if wrong.key == PATH_MAP else ""
                    probed.wrong(wrong.key, of_watch + wrong.text)
    except RenderUnavailable as fault:
        probed.wrong(_key_of(fault), str(fault))
    except Fault as fault:
        probed.wrong(f"{key}.stacks", str(fault))


def _home(watch: WatchSettings, render: RenderSettings) -> tuple[str, str]:
    """Return owner and project of the scratch stack: those of the watch, with "probe" for header fields."""
    owner, project, _ = watch.stacks.full_names(render.owner, render.project)[0]
    fields = dict.fromkeys(NAME_FIELDS, "probe")
    return legal_stack_name(owner, fields), legal_stack_name(project, fields)


async def _shown(probed: Probed, key: str, watch: WatchSettings, tile: ProbeTile) -> AsyncIterator[Shown]:
    """Yield the files that render-ws has to read: the probe, an acquired image, and the mask."""
    plan = watch.mipmap_plan()
    is_plain = isinstance(tile.path, Path) and not plan.url
    url, name = ("", "output_dir") if is_plain else (plan.url_of(tile.path), "url")
    yield Shown(tile.path, f"{key}.mipmaps.{name}", SIDE_PX, SIDE_PX, 8, tile.pixels, url)
    for name, place in _read_places(watch):
        try:
            async with asyncio.timeout(ANSWER_S):
                image = await asyncio.to_thread(some_image, place)
        except TimeoutError:
            probed.wrong(f"{key}.{name}", f"{place} has not answered for {ANSWER_S:g} s")
            continue
        if image is None:
            probed.proved.append(
                f"{watch.name}: {place} contains no image yet, so reading it with render-ws was not tested"
            )
        else:
            yield Shown(image.path, f"{key}.{name}", image.width, image.height, image.bits, image.pixels)


def _read_places(watch: WatchSettings) -> Iterator[tuple[str, Path]]:
    yield "directory", watch.directory
    if watch.tilespecs.mask is not None:
        yield "tilespecs.mask", watch.tilespecs.mask


def _key_of(fault: RenderFault) -> str:
    """Return the configuration key that a fault of render-ws is about."""
    if not isinstance(fault, AccessRefused):
        return "render.url"
    named = re.search(r"\brender\.[a-z_]+", fault.hint)
    return named[0] if named else "render.url"
