"""A long outage of render-ws: few requests during it, and the backlog is processed in order of acquisition."""

import time

import pytest

from tests.acceptance.rig import Rig, wait_for

WAITING = 32
LIMIT = 4
"""Number of montages that may be ingested at once."""


def ingested_in_order(rig: Rig) -> list[int]:
    """Return for each montage, in order of ingest, its index in order of acquisition."""
    rows = sorted(rig.montages(), key=lambda row: row["metafile"].rpartition("/")[2])
    times = []
    for index, row in enumerate(rows):
        events = rig.montage(row["id"])["events"]
        times += [(event["at"], index) for event in events if event["event"] == "ingested"]
    return [index for _, index in sorted(times)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "outage",
    [
        {"match": ".", "kind": "status", "status": 503},
        {"match": "stack", "kind": "status", "status": 500, "text": "the database is gone"},
    ],
    ids=["unavailable", "only_pings_are_answered"],
)
def test_a_backlog_waits_with_few_requests_and_is_processed_in_order(rig: Rig, write, outage):
    rig.start_standin()
    rig.start()
    rig.tell_standin(**outage)
    sections = [write(1050 + number, specimen_id="s", size=(64, 64)) for number in range(WAITING)]
    rig.wait_until("settled", *(section.metafile for section in sections))
    wait_for(lambda: not rig.ready()["ready"], 60, "not ready")
    before = len(rig.requests())
    time.sleep(12)
    sent = rig.requests()[before:]
    # Each probe is a request with two repetitions within seconds, and the intervals between probes grow.
    assert len(sent) < 25, [request["path"] for request in sent]
    assert not [row for row in rig.montages() if row["state"] == "failed"]
    rig.tell_standin()
    rig.wait_until("complete", *(section.metafile for section in sections), timeout_s=120)
    order = ingested_in_order(rig)
    assert len(order) == WAITING
    assert max(abs(acquired - ingested) for ingested, acquired in enumerate(order)) <= LIMIT + 4, order
    assert len(rig.tiles("s_raw", 1050.0)) == 4
