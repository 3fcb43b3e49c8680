"""A long outage of render-ws with a backlog: few requests during it, and the backlog drains in order of acquisition."""

import time

import pytest

from tests.acceptance.rig import Rig, wait_for

WAITING = 32
LIMIT = 4
"""Number of montages that may be ingested at once."""


def ingested_in_order(rig: Rig) -> list[int]:
    """Return the montages' places in order of acquisition, in the order of their ingest."""
    rows = sorted(rig.montages(), key=lambda row: row["metafile"].rpartition("/")[2])
    times = []
    for place, row in enumerate(rows):
        events = rig.montage(row["id"])["events"]
        times += [(event["at"], place) for event in events if event["event"] == "ingested"]
    return [place for _, place in sorted(times)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "outage",
    [
        {"match": ".", "kind": "status", "status": 503},
        {"match": "stack", "kind": "status", "status": 500, "text": "the database is gone"},
    ],
    ids=["away", "pings_alone_are_answered"],
)
def test_a_backlog_waits_with_few_requests_and_drains_in_order(rig: Rig, write, outage):
    rig.start_standin()
    rig.start()
    rig.tell_standin(**outage)
    sections = [write(1050 + number, specimen_id="s", size=(64, 64)) for number in range(WAITING)]
    rig.wait_until("settled", *(section.metafile for section in sections))
    wait_for(lambda: not rig.ready()["ready"], 30, "not ready")
    before = len(rig.requests())
    waited_s = 12
    time.sleep(waited_s)
    asked = rig.requests()[before:]
    # Each probe or trial is a request that is repeated twice within seconds, and they become rarer.
    assert len(asked) < 25, [request["path"] for request in asked]
    assert not [row for row in rig.montages() if row["state"] == "failed"]
    rig.tell_standin()
    rig.wait_until("complete", *(section.metafile for section in sections), timeout_s=120)
    order = ingested_in_order(rig)
    assert len(order) == WAITING
    assert max(abs(place - index) for index, place in enumerate(order)) <= LIMIT + 4, order
    assert len(rig.tiles("s_raw", 1050.0)) == 4
