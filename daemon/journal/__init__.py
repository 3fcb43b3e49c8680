"""The daemon's memory."""

from daemon.journal.file import MIGRATIONS, Examination, connect, connect_read_only, examine_ahead, journal_fault
from daemon.journal.journal import Journal
from daemon.journal.records import Awaited, FaultRecord, Look, Montage, Outcome, Overtaken, Rival, Settled, Settling

__all__ = [
    "MIGRATIONS",
    "Awaited",
    "Examination",
    "FaultRecord",
    "Journal",
    "Look",
    "Montage",
    "Outcome",
    "Overtaken",
    "Rival",
]
__all__ += ["Settled", "Settling", "connect", "connect_read_only", "examine_ahead", "journal_fault"]
