"""The memory of the daemon is bounded for large montages and long backlogs; `pytest -s` prints the figures."""

import time
from pathlib import Path

import pytest

from daemon.simulator.section import plan_section
from daemon.simulator.temca import write_section
from tests.acceptance.faults.rows import Scale
from tests.acceptance.rig import Rig, fetch, wait_for

MIB = 2**20


def peak_bytes(rig: Rig) -> int:
    """Return the peak memory of the daemon's own process, without its workers."""
    assert rig.daemon is not None
    lines = Path(f"/proc/{rig.daemon.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_section_of_20_000_tiles_takes_bounded_memory(rig: Rig, scale: Scale):
    tiles = scale.pick(full=20_000, short=2_000, tiny=200)
    plan = plan_section(tiles=tiles, size=(64, 64), grid=1050, specimen_id="s")
    written = write_section(plan, rig.acquisition, pixels="noise")
    rig.settings |= {"watch.mipmaps.levels": 1, "watch.arrival_timeout_s": 600}
    rig.start_standin()
    rig.start()
    idle = peak_bytes(rig)
    began = time.monotonic()
    rig.wait_until("complete", written.metafile, timeout_s=1500)
    peak = peak_bytes(rig)
    count = rig.montage_of(written.metafile)["tiles"]
    print(f"\n{count} tiles: idle {idle / MIB:.0f} MiB, peak {peak / MIB:.0f} MiB, {time.monotonic() - began:.0f} s")  # noqa: T201  what the test is for
    assert count >= tiles
    assert peak < 1024 * MIB


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_montages_that_wait_take_bounded_memory(rig: Rig, scale: Scale):
    montages = scale.pick(full=1000, short=100, tiny=10)
    rig.start_standin()
    rig.start()
    idle = peak_bytes(rig)
    rig.tell_standin(match=".", kind="status", status=503)
    for number in range(montages):
        plan = plan_section(tiles=4, size=(64, 64), grid=1050 + number, specimen_id="s")
        write_section(plan, rig.acquisition, pixels="noise")

    def settled() -> int:
        counts = fetch(f"{rig.url}/api/montages?limit=1")["counts"]
        return sum(states.get("settled", 0) for states in counts.values())

    wait_for(lambda: settled() == montages, 900, lambda: f"{settled()} settled")
    peak = peak_bytes(rig)
    print(f"\n{montages} montages waiting: idle {idle / MIB:.0f} MiB, peak {peak / MIB:.0f} MiB")  # noqa: T201  what the test is for
    assert peak - idle < 128 * MIB
