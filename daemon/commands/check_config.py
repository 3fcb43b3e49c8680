"""`temwatch check-config`: show the effect of a configuration."""

from collections.abc import Iterator
from dataclasses import dataclass

from daemon.config.settings import Settings
from daemon.config.watch_settings import WatchSettings
from handlers.mipmaps.plan import Level0, level_uris


@dataclass(frozen=True, slots=True)
class Finding:
    """A result of the preflight."""

    key: str
    """Key of the configuration, dotted."""
    text: str
    prevents_start: bool = False
    """Whether `temwatch run` would exit because of it. Otherwise the daemon starts, and waits or warns."""

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


def effect(settings: Settings) -> Iterator[str]:
    """Yield lines that show what the daemon would read, where it would write, and with which rules."""
    render = settings.render
    yield f"render-ws  {render.public_url}  owner {render.owner}, project {render.project}"
    yield f"journal    {settings.journal.path}"
    yield f"http       {settings.http.host}:{settings.http.port}"
    yield f"workers    {settings.workers.executor}, {settings.workers.at_once} at once"
    for watch in settings.watch:
        stacks, mipmaps = watch.stacks, watch.mipmaps
        yield f"watch {watch.name}"
        yield f"  reads    {watch.directory}, {watch.pattern}, mode {watch.mode}"
        yield f"  z        {watch.z.description}"
        closed = f"closed after {stacks.close_after_s:g} s of quiet" if stacks.close else "never closed"
        raw, mipmapped = ("/".join(name) for name in stacks.full_names(render.owner, render.project))
        yield f"  stacks   {raw} -> {mipmapped if mipmapped != raw else 'the same stack, in place'}; {closed}"
        applied = "in the tile specs" if mipmaps.apply == "tiles" else "by a path builder of the stack"
        yield f"  mipmaps  {mipmaps.levels} levels, {mipmaps.format}, in {mipmaps.output_dir}; named {applied}"
        yield from (f"  URL      {what:<10} {url}" for what, url in _example_urls(watch))


def _example_urls(watch: WatchSettings) -> Iterator[tuple[str, str]]:
    """Yield (purpose, URL) with one example of each URL and path that a watch sends to render-ws."""
    plan, options = watch.mipmap_plan(), watch.tilespec_options()
    image = watch.directory / "IMAGE.tif"
    tile = Level0("IMAGE", image, options.mask, 1, 1)
    level, level_mask = level_uris(tile, plan)[1]
    yield "image", options.path_map.to_url(image)
    if options.mask:
        yield "mask", options.path_map.to_url(options.mask)
    yield "level 1", level
    if level_mask:
        yield "level mask", level_mask
    if plan.is_derived:
        yield "builder", str(plan.path_builder()["rootPath"])
