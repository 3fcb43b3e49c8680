"""Eight microscopes at full speed: all montages become COMPLETE, and the memory is bounded."""

import contextlib
import threading
import time
from itertools import count
from pathlib import Path
from statistics import median

import pytest

from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.accounts import audit, present_rows, wait_until_ended
from tests.acceptance.faults.pulse import pulse_of
from tests.acceptance.faults.rows import FaultRun
from tests.acceptance.rig import Rig, running, wait_for
from tests.worker_processes import worker_pids

LEVELS = 3
TILES = 12
MICROSCOPES = 8
MAX_WAITING = 24
"""Number of unfinished sections above which the microscopes pause, so that they do not fill the disk."""
EVERY_S = 1.0
MAX_GROWTH = 1.2
MAX_GROWTH_MIB = 20.0


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, MiB; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


def image_for_ever(rig: Rig, number: int, may_go_on: threading.Event, done: threading.Event, into: list[Path]) -> None:
    """Write section after section, as one microscope does, until `done`."""
    for k in count():
        may_go_on.wait()
        if done.is_set():
            return
        name = f"scope{number}"
        plan = section_plan(
            1000 + k, TILES, size=(256, 256), temca_id=name, session_id=f"{name}_session", specimen_id=name, seed=k
        )
        into.append(write_section(plan, rig.acquisition, pixels="noise").metafile)


def sample(rig: Rig) -> tuple[float, float]:
    """Return the memory of the daemon's process and of its largest worker, MiB."""
    pid = rig.daemon.process.pid
    return resident_mib(pid), max(map(resident_mib, worker_pids(pid)), default=0.0)


def first_and_last(samples: list[float]) -> tuple[float, float]:
    """Return the medians of the second and of the last sixth; during the first sixth modules are loaded."""
    sixth = max(1, len(samples) // 6)
    return median(samples[sixth : 2 * sixth]), median(samples[-sixth:])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_montages_of_eight_microscopes_become_complete_in_bounded_memory(tmp_path, scale, enter):
    lasts_s = scale.pick(240.0, 15.0, 15.0)
    rig = Rig(tmp_path, {"watch.mipmaps.levels": LEVELS, "workers.count": 2, "watch.stacks.close_after_s": 2})
    written: list[list[Path]] = [[] for _ in range(MICROSCOPES)]
    may_go_on, done = threading.Event(), threading.Event()
    samples: list[tuple[float, float]] = []
    with running(rig), pulse_of(rig.url) as pulse:
        scopes = [
            threading.Thread(target=image_for_ever, args=(rig, number, may_go_on, done, written[number]))
            for number in range(MICROSCOPES)
        ]
        for scope in scopes:
            scope.start()
        began = time.monotonic()
        try:
            while time.monotonic() - began < lasts_s:
                ended = sum(row["state"] in ("applied", "complete") for row in present_rows(rig).values())
                (may_go_on.set if sum(map(len, written)) - ended < MAX_WAITING else may_go_on.clear)()
                samples.append(sample(rig))
                time.sleep(EVERY_S)
        finally:
            done.set()
            may_go_on.set()
            for scope in scopes:
                scope.join()
        metafiles = [path for each in written for path in each]
        wait_until_ended(rig, metafiles, 120)
        took_s = time.monotonic() - began
        wait_for(lambda: rig.ready().get("ready"), 60, lambda: f"ready; {rig.ready()}")
        account = audit(rig, metafiles, levels=LEVELS)
        assert "Traceback" not in rig.daemon.log.read_text()
    daemon, worker = (first_and_last([each[column] for each in samples]) for column in (0, 1))
    note = (
        f"{len(metafiles) * TILES / took_s:.0f} tiles/s for {took_s:.0f} s; daemon {daemon[0]:.0f} -> {daemon[1]:.0f} "
    )
    note += f"MiB, largest worker {worker[0]:.0f} -> {worker[1]:.0f} MiB; healthz within {pulse.slowest_s:.1f} s"
    enter(FaultRun("eight microscopes at full speed", MICROSCOPES, **account.counts(), note=note))
    assert not account.problems
    for first, last in (daemon, worker):
        assert last < first * MAX_GROWTH + MAX_GROWTH_MIB, note
    assert not pulse.wrong
