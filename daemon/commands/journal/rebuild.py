"""`temwatch journal rebuild`: make a new journal that replaces a lost or damaged one."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from daemon.commands.journal.rebuilder import Rebuilder
from daemon.config.settings import Settings
from daemon.journal.copies import remove_journal
from daemon.journal.file import COMPANIONS, sync
from daemon.journal.journal import Journal
from daemon.montages.states import MontageState
from daemon.system.locks import JournalHeld, lock_journal
from handlers.errors import SettingsFault, storage_fault
from handlers.render.client import RenderClient


async def rebuild(settings: Settings, say: Callable[[str], None]) -> None:
    """Replace the journal by one that is made from watches, stacks and mipmap files; keep the former one.

    Raises
    ------
    Fault
        If the daemon runs, a watched directory is missing, or render-ws does not answer. The journal is unchanged then.
    """
    path = settings.journal.path
    if settings.render.embedded:
        raise SettingsFault(
            "render.url", "a journal cannot be rebuilt from the embedded stand-in, which stores nothing"
        )
    try:
        lock = lock_journal(path)
    except JournalHeld as held:
        raise SettingsFault(held.subject, held.problem, "stop the daemon first: systemctl stop temwatch") from held
    with lock:
        unfinished = path.with_name(f".{path.name}.rebuilt")
        remove_journal(unfinished)
        try:
            async with (
                Journal(unfinished) as journal,
                RenderClient(settings.render.url, access=settings.render.access) as client,
            ):
                summary = await Rebuilder(settings, journal, client).run()
            former = _replace(path, unfinished)
        except OSError as error:
            raise storage_fault(str(path), "put the new journal in its place", error) from error
        finally:
            remove_journal(unfinished)
    counts = ", ".join(f"{summary.states[state]} {state}" for state in MontageState if summary.states.get(state))
    say(f"{path} is rebuilt: {counts or 'no metafile was found'}")
    for line in summary.unclaimed:
        say(line)
    if former is not None:
        say(f"the former journal is kept as {former}")
        say("its history is not copied: montages that were dismissed are processed again")


def _replace(path: Path, new: Path) -> Path | None:
    """Put the new journal in place; return the new name of the former one, None if there was none.

    The companions of the former journal are renamed first: SQLite would treat its -wal as part of the new journal. The
    journal's path is never without a file, so that no daemon creates an empty journal meanwhile.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    former = path.with_name(f"{path.name}.before-{stamp}")
    for companion in COMPANIONS[1:]:
        if (beside := Path(f"{path}{companion}")).exists():
            beside.rename(f"{former}{companion}")
    had_journal = path.exists()
    if had_journal:
        former.hardlink_to(path)
    new.rename(path)
    sync(path.parent)
    return former if had_journal else None
