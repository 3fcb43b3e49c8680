"""What a person should know of a usable configuration before the daemon starts: directories, rights, open ports."""

import os
from collections.abc import Iterator

from daemon.config.settings import Settings
from daemon.config.writable import outside_of_the_unit, refusal


def remarks(settings: Settings) -> Iterator[str]:
    """One line for each key that can be obeyed but that a person should know of before the daemon runs.

    May block for as long as the file servers of the directories like.
    """
    for index, watch in enumerate(settings.watch):
        key = f"watch[{index}]"
        if not os.access(watch.directory, os.R_OK | os.X_OK):
            yield f"{key}.directory: {watch.directory} cannot be looked at now; it will be waited for"
        if watch.tilespecs.mask and not watch.tilespecs.mask.is_file():
            yield f"{key}.tilespecs.mask: {watch.tilespecs.mask} is not there now"
    written = {
        f"watch[{index}].mipmaps.output_dir": each.mipmaps.output_dir for index, each in enumerate(settings.watch)
    }
    for key, path in {"journal.path": settings.journal.path.parent, **written}.items():
        try:
            problem = refusal(path)
        except OSError as error:
            problem = f"cannot be looked at: {error.strerror or error}"
        if problem:
            yield f"{key}: {path} {problem}"
    yield from outside_of_the_unit({**written, "journal.path": settings.journal.path.parent})
    if not settings.http.loopback:
        yield f"http.host: {settings.http.host} lets other machines read what is montaged here"
