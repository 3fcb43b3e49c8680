"""The journal's version, and its migration to the present one."""

from importlib.resources import files
from pathlib import Path

from daemon.journal.faults import UnusableJournal, foreign
from daemon.journal.transaction import Connection

MIGRATIONS: tuple[str, ...] = tuple(
    file.read_text(encoding="utf-8")
    for file in sorted(
        files("daemon.journal").joinpath("migrations").iterdir(), key=lambda file: int(file.name.partition("_")[0])
    )
)
"""SQL that migrates the journal from version n to n + 1; `PRAGMA user_version` holds n."""


def version_of(connection: Connection, path: Path) -> int:
    """Return the journal's version; 0 for a file without tables."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise UnusableJournal(
            "journal.path",
            f"{path} was written by a newer temwatch (journal version {version}, this one knows {len(MIGRATIONS)})",
            "run the newer temwatch, or restore a back-up from before the upgrade",
        )
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and (version == 0 or "montages" not in tables):
        raise foreign(path, "it has other tables")
    return version if tables else 0


def migrate(connection: Connection, path: Path) -> None:
    """Migrate an older journal to the present version, one transaction for each version.

    Raises
    ------
    UnusableJournal
        If the file was written by a newer temwatch, or is not a journal.
    """
    version = version_of(connection, path)
    for following, script in enumerate(MIGRATIONS[version:], start=version + 1):
        # executescript commits an open transaction, so the script contains its own.
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {following};\nCOMMIT;")
