"""A corpus of damaged journals: each is refused with one line and an exit code, or the daemon continues with it."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.accounts import audit
from tests.acceptance.faults.rows import FaultRun
from tests.acceptance.rig import Program, Rig, running, wait_for

LEVELS = 2
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Root may write everywhere: the daemon runs without that capability, so that read-only files are read-only."""


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def truncated_to_its_header(path: Path) -> None:
    os.truncate(path, 100)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def zeroed_from_the_second_page(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(len(content) - 4096))


def garbage_for_a_header(path: Path) -> None:
    path.write_bytes(os.urandom(100) + path.read_bytes()[100:])


def something_else(path: Path) -> None:
    path.write_text("these are an operator's notes\n" * 300)


def newer_schema(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
        connection.commit()


def another_program(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE montages (a); PRAGMA user_version = 1;")


def a_directory_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def its_directory_is_gone(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("a file where the directory was")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def gone(path: Path) -> None:
    path.unlink()


def without_its_wal(path: Path) -> None:
    """Leave the journal like a copy of the one file, made while the daemon ran."""
    shutil.copy(path.with_name("running.sqlite"), path)


def without_tables(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def gone_with_its_wal_left(path: Path) -> None:
    path.unlink()
    path.with_name(f"{path.name}-wal").write_bytes(b"what had not come into the journal yet")


def untouched(_: Path) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Refusal:
    """Expected end of the start."""

    damage: Callable[[Path], None]
    code: int
    words: str
    """In the line."""


REFUSED = (
    Refusal(empty, 2, "is a damaged journal"),
    Refusal(without_tables, 2, "is a damaged journal"),
    Refusal(gone_with_its_wal_left, 2, "-wal file exists"),
    Refusal(truncated, 2, "is a damaged journal"),
    Refusal(truncated_to_its_header, 2, "is a damaged journal"),
    Refusal(zeroed, 2, "is a damaged journal"),
    Refusal(zeroed_from_the_second_page, 2, "is a damaged journal"),
    Refusal(garbage_for_a_header, 2, "is a damaged journal"),
    Refusal(something_else, 2, "is a damaged journal"),
    Refusal(newer_schema, 2, "was written by a newer temwatch"),
    Refusal(another_program, 2, "is an SQLite database but not a journal"),
    Refusal(a_directory_in_its_place, 1, "journal"),
    Refusal(its_directory_is_gone, 2, "journal"),
)
TAKEN_UP = (untouched, gone, without_its_wal)
"""A lost journal starts an empty one: the work is repeated, which changes nothing in the stacks."""


@contextlib.contextmanager
def journal_of_a_run(root: Path) -> Iterator[tuple[Rig, list[Path]]]:
    """A rig whose daemon has finished two montages and ended; render-ws still runs."""
    rig = Rig(root, {"watch.mipmaps.levels": LEVELS, "workers.count": 1, "journal.path": str(root / "j" / "j.sqlite")})
    (root / "j").mkdir()
    with running(rig):
        metafiles = [
            write_section(section_plan(grid, size=(64, 64)), rig.acquisition, pixels="noise").metafile
            for grid in (1050, 1051)
        ]
        rig.wait_until("complete", *metafiles)
        shutil.copy(root / "j" / "j.sqlite", root / "j" / "running.sqlite")
        assert rig.daemon.stop() == 0
        yield rig, metafiles


def restored(rig: Rig, kept: Path) -> Path:
    place = rig.root / "j"
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    shutil.copytree(kept, place)
    return place / "j.sqlite"


def start_and_end(rig: Rig, name: str, *, prefix: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """Return the exit code of a start that must fail, and its output beside the log."""
    log = rig.root / f"refused_{name}.log"
    program = Program(log, "daemon", "run", "--config", str(rig.root / "daemon.toml"), prefix=prefix)
    try:
        code = program.process.wait(60)
    finally:
        program.end()
    return code, [line for line in program.lines() if not line.startswith("{")]


def require_refusal(name: str, code: int, said: list[str], wanted: int, words: str) -> None:
    assert "Traceback" not in "\n".join(said), (name, said)
    assert (code, len(said)) == (wanted, 1), (name, code, said)
    assert words in said[0], (name, said)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_damaged_journal_is_refused_in_one_line_or_taken_up(tmp_path, enter):
    with journal_of_a_run(tmp_path) as (rig, metafiles):
        kept = tmp_path / "kept"
        shutil.copytree(tmp_path / "j", kept)
        for case in REFUSED:
            case.damage(restored(rig, kept))
            code, said = start_and_end(rig, case.damage.__name__)
            require_refusal(case.damage.__name__, code, said, case.code, case.words)
        refused = len(REFUSED) + refused_where_it_cannot_be_written(rig, kept)
        for damage in TAKEN_UP:
            damage(restored(rig, kept))
            rig.start()
            rig.wait_until("complete", *metafiles)
            assert rig.daemon.stop() == 0
        taken_up_while_locked(rig, restored(rig, kept), metafiles)
        account = audit(rig, metafiles, levels=LEVELS)
        assert "Traceback" not in rig.daemon.log.read_text()
    enter(
        FaultRun(
            "damaged journals",
            refused + len(TAKEN_UP) + 1,
            **account.counts(),
            note=f"{refused} refused in one line, {len(TAKEN_UP) + 1} taken up",
        )
    )


def refused_where_it_cannot_be_written(rig: Rig, kept: Path) -> int:
    """Try a read-only file and a read-only directory; return the number of tries."""
    prefix = UNPRIVILEGED if os.geteuid() == 0 else ()
    for name in (names := ("file", "directory")):
        path = restored(rig, kept)
        path.chmod(0o444)
        path.parent.chmod(0o555 if name == "directory" else 0o755)
        code, said = start_and_end(rig, f"read_only_{name}", prefix=prefix)
        path.parent.chmod(0o755)
        require_refusal(f"read-only {name}", code, said, 1, "journal")
    return len(names)


def taken_up_while_locked(rig: Rig, journal: Path, metafiles: list[Path]) -> None:
    """Another program holds a write lock at the start, like a manual backup, and releases it a little later."""
    with contextlib.closing(sqlite3.connect(journal, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        log = rig.root / "daemon.log"
        known = len(log.read_text().splitlines())
        rig.daemon = Program(log, "daemon", "run", "--config", str(rig.root / "daemon.toml"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            rig.daemon.process.wait(3)
        assert rig.daemon.process.poll() is None, "a lock that is held for three seconds is waited for"
        other.execute("ROLLBACK")
    rig.url = wait_for(lambda: rig._ready_url(known), 60, "daemon.ready")
    rig.wait_until("complete", *metafiles)
