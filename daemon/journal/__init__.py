"""The daemon's memory."""

from daemon.journal.file import MIGRATIONS, Examination, connect, connect_read_only, examine_ahead, journal_fault
from daemon.journal.journal import Journal
from daemon.journal.records import FaultRecord, Montage, Outcome, Settled, Settling

__all__ = ["MIGRATIONS", "Examination", "FaultRecord", "Journal", "Montage", "Outcome", "Settled", "Settling"]
__all__ += ["connect", "connect_read_only", "examine_ahead", "journal_fault"]
