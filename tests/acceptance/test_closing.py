"""The closing of stacks: once, and not while steps use them."""

from collections import Counter
from datetime import datetime
from itertools import pairwise

from tests.acceptance.rig import Rig, fetch, running, wait_for

QUIET_S = 5


def pauses(rig: Rig, event: str) -> int:
    """Return how often more than QUIET_S passed between two such events, as on a machine with other load."""
    every = [fetch(f"{rig.url}/api/montages/{row['id']}")["events"] for row in rig.montages()]
    at = sorted(datetime.fromisoformat(each["at"]) for events in every for each in events if each["event"] == event)
    return sum((later - earlier).total_seconds() > QUIET_S for earlier, later in pairwise(at))


def test_a_stack_is_closed_once_when_it_has_been_quiet_and_not_after_every_section(rig, write):
    rig.settings["watch.stacks.close_after_s"] = QUIET_S
    with running(rig):
        sections = [write(grid) for grid in (1050, 1051)]
        first = [section.metafile for section in sections]

        def are_applied() -> bool:
            rows = [rig.montage_of(metafile) for metafile in first]
            return all(row is not None and row["state"] in ("applied", "complete") for row in rows)

        wait_for(are_applied, 60, lambda: str(rig.montages()))
        sections += [write(grid) for grid in (1052, 1053)]
        rig.wait_until("complete", *(section.metafile for section in sections))
        asked = [each for each in rig.requests() if each["path"].endswith("/state/COMPLETE")]
        closed = Counter(each["path"] for each in asked if each["status"] and each["status"] < 300)
        raw, mips = pauses(rig, "ingested"), pauses(rig, "applied")
    assert len(closed) == 2
    for path, times in closed.items():
        assert 1 <= times <= 1 + (mips if "mips" in path else raw), (closed, raw, mips)


def test_section_data_that_another_client_derives_do_not_fail_a_montage(running_rig, write):
    text = "section data not aggregated for stack s, set stack state to COMPLETE to generate the aggregate collection"
    running_rig.tell_standin(match="GET .*sectionData", kind="status", status=400, text=text, times=4)
    section = write()
    running_rig.wait_until("complete", section.metafile)
