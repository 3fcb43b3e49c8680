"""Facts of a daemon that is ready: one watch, one disk, no faults."""

from pathlib import Path

from daemon.pipeline.health import Disk, Facts
from daemon.watching.roots import RootHealth, RootStatus

ROOT = RootHealth(
    name="temca2",
    directory=Path("/data/temca2"),
    status=RootStatus.WATCHING,
    modes=(),
    reasons=(),
    directories_seen=10,
    directories_watched=10,
    metafiles_seen=3,
    found_by_event=2,
    found_only_by_scan=1,
    overflows=0,
    undelivered=0,
    last_scan_at=0.0,
    last_scan_s=0.1,
)
READY = Facts(
    roots=(ROOT,),
    disks=(Disk("/data/mipmaps", 10**12, 10**9),),
    render_fault=None,
    journal_fault=None,
    oldest_unfinished_s=60.0,
    backlog_limit_s=7200.0,
)
