"""kill -9 of worker processes, as by the kernel when memory runs out: no tile is lost, and no montage fails."""

import contextlib
import os
import random
import secrets
import signal
import time
from pathlib import Path

import pytest

from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.accounts import audit, present_rows, wait_until_ended
from tests.acceptance.faults.rows import FaultRun
from tests.acceptance.rig import Rig, fetch, running, wait_for
from tests.worker_processes import worker_pids

FIRST_GRID = 1050
LEVELS = 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_tile_or_montage_is_lost_when_workers_are_killed_at_random_moments(tmp_path, scale, enter):
    kills, seed = scale.pick(100, 10, 4), secrets.randbelow(10**6)
    rng = random.Random(seed)
    rig = Rig(tmp_path, {"workers.count": 2, "watch.mipmaps.levels": LEVELS})
    metafiles: list[Path] = []
    killed: set[int] = set()
    with running(rig):
        while len(killed) < kills:
            unfinished = sum(row["state"] in ("settled", "ingested") for row in present_rows(rig).values())
            if unfinished < 2:  # so that there is work at every kill
                plan = section_plan(FIRST_GRID + len(metafiles), 12, size=(512, 512), seed=len(metafiles))
                metafiles.append(write_section(plan, rig.acquisition, pixels="noise").metafile)
                continue
            # The worker is chosen after the pause, otherwise nearly every kill would hit a pool that is starting.
            time.sleep(rng.uniform(0.1, 0.6))
            candidates = [pid for pid in worker_pids(rig.daemon.process.pid) if pid not in killed]
            if not candidates:
                continue
            victim = rng.choice(candidates)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)
        wait_until_ended(rig, metafiles, 240)
        account = audit(rig, metafiles, levels=LEVELS)
        assert fetch(f"{rig.url}/healthz") == {"alive": True}
        wait_for(lambda: rig.ready().get("ready"), 60, "ready")
        assert "Traceback" not in rig.daemon.log.read_text()
    enter(FaultRun("kill -9 of a worker process", len(killed), **account.counts(), note=f"seed {seed}"))
    assert not account.problems
