"""Damaged journals: the daemon refuses each with one line and an exit code, or continues with it."""

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
"""Prefix of a command without root's capability to write everywhere, so that read-only files are read-only."""


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def truncated_to_its_header(path: Path) -> None:
    os.truncate(path, 100)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def zeroed_from_the_second_page(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(len(content) - 4096))


def with_a_random_header(path: Path) -> None:
    path.write_bytes(os.urandom(100) + path.read_bytes()[100:])


def text_file(path: Path) -> None:
    path.write_text("these are an operator's notes\n" * 300)


def newer_schema(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
        connection.commit()


def another_program(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE montages (a); PRAGMA user_version = 1;")


def replaced_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def with_its_directory_replaced_by_a_file(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("a file instead of the directory")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def gone(path: Path) -> None:
    path.unlink()


def without_its_wal(path: Path) -> None:
    """Replace the journal by a copy of this file only, which was made while the daemon ran."""
    shutil.copy(path.with_name("running.sqlite"), path)


def without_tables(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def gone_with_its_wal_left(path: Path) -> None:
    path.unlink()
    path.with_name(f"{path.name}-wal").write_bytes(b"transactions that are not in the journal yet")


def untouched(_: Path) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Refusal:
    """A kind of damage, and how the start must end."""

    damage: Callable[[Path], None]
    code: int
    words: str
    """Part of the line that is printed."""


REFUSED = (
    Refusal(empty, 2, "is a damaged journal"),
    Refusal(without_tables, 2, "is a damaged journal"),
    Refusal(gone_with_its_wal_left, 2, "-wal file exists"),
    Refusal(truncated, 2, "is a damaged journal"),
    Refusal(truncated_to_its_header, 2, "is a damaged journal"),
    Refusal(zeroed, 2, "is a damaged journal"),
    Refusal(zeroed_from_the_second_page, 2, "is a damaged journal"),
    Refusal(with_a_random_header, 2, "is a damaged journal"),
    Refusal(text_file, 2, "is a damaged journal"),
    Refusal(newer_schema, 2, "was written by a newer temwatch"),
    Refusal(another_program, 2, "is an SQLite database but not a journal"),
    Refusal(replaced_by_a_directory, 2, "is a directory (name a file in it)"),
    Refusal(with_its_directory_replaced_by_a_file, 2, "journal"),
)
USED = (untouched, gone, without_its_wal)
"""Kinds of damage with which the daemon runs. Without a journal it repeats the work, which changes no stack."""


@contextlib.contextmanager
def journal_of_a_run(root: Path) -> Iterator[tuple[Rig, list[Path]]]:
    """Yield a rig whose daemon has completed two montages and ended, with a running stand-in; and the metafiles."""
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
def test_every_damaged_journal_is_refused_with_one_line_or_used(tmp_path, enter):
    with journal_of_a_run(tmp_path) as (rig, metafiles):
        kept = tmp_path / "kept"
        shutil.copytree(tmp_path / "j", kept)
        for case in REFUSED:
            case.damage(restored(rig, kept))
            code, said = start_and_end(rig, case.damage.__name__)
            require_refusal(case.damage.__name__, code, said, case.code, case.words)
        refused = len(REFUSED) + refuse_read_only_journals(rig, kept)
        for damage in USED:
            damage(restored(rig, kept))
            rig.start()
            rig.wait_until("complete", *metafiles)
            assert rig.daemon.stop() == 0
        use_a_locked_journal(rig, restored(rig, kept), metafiles)
        account = audit(rig, metafiles, levels=LEVELS)
        assert "Traceback" not in rig.daemon.log.read_text()
    enter(
        FaultRun(
            "damaged journals",
            refused + len(USED) + 1,
            **account.counts(),
            note=f"{refused} were refused with one line, {len(USED) + 1} were used",
        )
    )


def refuse_read_only_journals(rig: Rig, kept: Path) -> int:
    """Start the daemon with a read-only journal, and in a read-only directory; return the number of starts."""
    prefix = UNPRIVILEGED if os.geteuid() == 0 else ()
    for name in (names := ("file", "directory")):
        path = restored(rig, kept)
        path.chmod(0o444)
        path.parent.chmod(0o555 if name == "directory" else 0o755)
        code, said = start_and_end(rig, f"read_only_{name}", prefix=prefix)
        path.parent.chmod(0o755)
        require_refusal(f"read-only {name}", code, said, 1, "journal")
    return len(names)


def use_a_locked_journal(rig: Rig, journal: Path, metafiles: list[Path]) -> None:
    """Start the daemon while another program has locked the journal, for example for a copy, for three seconds."""
    with contextlib.closing(sqlite3.connect(journal, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        log = rig.root / "daemon.log"
        known = len(log.read_text().splitlines())
        rig.daemon = Program(log, "daemon", "run", "--config", str(rig.root / "daemon.toml"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            rig.daemon.process.wait(3)
        assert rig.daemon.process.poll() is None, "the daemon waits for the end of the lock"
        other.execute("ROLLBACK")
    rig.url = wait_for(lambda: rig._ready_url(known), 60, "daemon.ready")
    rig.wait_until("complete", *metafiles)
