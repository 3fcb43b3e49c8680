"""Verifying a section of a stack file (MRC) against the level 0 that temwatch made from it."""

from collections.abc import Iterator

from handlers.difference import MIPMAPS, REPLAY, Difference, Kind
from handlers.errors import Fault, ImageFault, ImagesMissing
from handlers.images.digest import FileContent
from handlers.images.mrc_header import inspect_section
from handlers.images.mrc_section import read_section
from handlers.mipmaps.plan import Level0


def check_stack(tile: Level0, recorded: FileContent | None, *, deep: bool) -> Iterator[Difference]:
    """Check that a section still holds the pixels from which level 0 was made. Blocking.

    Yields nothing for a tile whose level 0 is a file of the microscope. With `deep`, the pixels are read even if the
    stack file's identity is the recorded one.
    """
    if tile.stack is None:
        return
    where, what = str(tile.stack.path), f"section {tile.stack.number}"
    try:
        _, identity = inspect_section(tile.stack)
        if recorded is None or (identity.matches(recorded.identity) and not deep):
            return
        if read_section(tile.stack)[1].digest != recorded.digest:
            what = f"{what} holds other pixels than its level 0 was made of"
            yield Difference(Kind.SOURCE_CHANGED, tile.tile_id, where, what, REPLAY, MIPMAPS)
    except (FileNotFoundError, ImagesMissing):
        hint = "copy it there again; level 0 and its levels are not affected"
        yield Difference(Kind.SOURCE_GONE, tile.tile_id, where, f"the file of {what} is missing", hint, None)
    except ImageFault as fault:
        yield Difference(Kind.SOURCE_CHANGED, tile.tile_id, where, f"{what}: {fault.problem}", fault.hint, None)
    except (Fault, OSError) as error:
        problem = error.problem if isinstance(error, Fault) else error.strerror or str(error)
        yield Difference(
            Kind.NOT_CHECKED, tile.tile_id, where, f"{what}: {problem}", "check that its mount is there", None
        )
