"""The daemon's memory."""

from daemon.journal.file import MIGRATIONS, connect, connect_read_only, journal_fault
from daemon.journal.journal import Journal
from daemon.journal.records import FaultRecord, Montage, Outcome, Settled, Settling

__all__ = ["MIGRATIONS", "FaultRecord", "Journal", "Montage", "Outcome", "Settled", "Settling"]
__all__ += ["connect", "connect_read_only", "journal_fault"]
