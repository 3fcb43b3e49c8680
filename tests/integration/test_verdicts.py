"""Verdicts in the journal: findings of the rules and decisions of persons survive a restart and kill -9."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.journal.journal import Journal
from daemon.montages.records import Inspection, Montage, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event, MontageState
from daemon.montages.verdicts import Decision, verdict_json
from handlers.identity import FileIdentity
from handlers.quality.rules import Finding, Judgement, Rule, Verdict
from tests.outbox import announced

RAW, MIPS = "em/v1/s_raw", "em/v1/s_mips"
BAD = Judgement(Verdict.FAIL, (Finding(Rule.MIN_FOCUS, 16.0, 3.0, Verdict.FAIL, ("t1",), 1),))
GOOD = Judgement(Verdict.PASS, (Finding(Rule.MIN_FOCUS, 16.0, 22.0, Verdict.PASS),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


async def montage_of(journal: Journal, number: int = 1, state: MontageState = MontageState.MIPMAPPED) -> Montage:
    identity = FileIdentity(100, 1_000, 1_000, number)
    path = Path(f"/data/temca2/{number}/_metadata_2017082900000{number:02d}_.json")
    montage_id = await journal.notice(Sighting("temca2", path, identity, FoundBy.SCAN))
    assert montage_id is not None
    facts = Settled(f"d{number}", float(number), RAW, MIPS, (f"t{number}",), (), scope="temca2")
    await journal.settle(Inspection(montage_id, identity, identity, facts.digest), facts)
    for event in (Event.INGESTED, Event.MIPMAPPED, Event.APPLIED):
        montage = await journal.record(montage_id, event)
        if montage.state is state:
            return montage
    raise AssertionError(state)


async def announced_verdicts(journal: Journal) -> list[dict[str, object]]:
    return [dict(each.data) for each in await announced(journal) if each.kind == "montage.qc"]


async def test_a_verdict_is_recorded_announced_and_read_by_the_next_process(path: Path) -> None:
    async with Journal(path) as journal:
        montage = await montage_of(journal)
        assert (montage.verdict, await journal.verdict(montage.id)) == (None, None)
        judged = await journal.judge(montage.id, BAD, 22.5)
        assert (judged.verdict, judged.state) == ("fail", MontageState.MIPMAPPED)
        (announcement,) = await announced_verdicts(journal)
        assert (announcement["verdict"], announcement["rules"], announcement["decided_by"]) == (
            "fail",
            ["min_focus"],
            None,
        )
    async with Journal(path) as journal:
        verdict = await journal.verdict(montage.id)
        assert verdict is not None
        assert (verdict.judgement, verdict.effective, verdict.override) == (BAD, "fail", None)
        assert (await journal.events(montage.id))[-1]["detail"] == {"verdict": "fail", "rules": ["min_focus"]}


async def test_a_decision_is_in_force_until_the_next_decision(path: Path) -> None:
    async with Journal(path, clock=lambda: 1_500_000_000.0) as journal:
        montage = await montage_of(journal)
        await journal.judge(montage.id, BAD, None)
        passed = await journal.decide(montage.id, Decision.PASS, "ada", "only resin is blurred")
        assert passed is not None
        assert (passed.verdict, passed.state) == ("pass", MontageState.MIPMAPPED)
        verdict = await journal.verdict(montage.id)
        assert verdict is not None
        assert verdict_json(verdict)["override"] == {
            "verdict": "pass",
            "by": "ada",
            "at": "2017-07-14T02:40:00.000+00:00",
            "note": "only resin is blurred",
        }
        assert verdict_json(verdict)["computed"] == "fail"
        again = await journal.decide(montage.id, Decision.REIMAGE, "grace", "no, the knife")
        assert again is not None
        assert again.verdict == "re-image"
        withdrawn = await journal.decide(montage.id, Decision.COMPUTED, "ada", "as computed")
        assert withdrawn is not None
        assert withdrawn.verdict == "fail"
        details = [each["detail"] for each in await journal.events(montage.id) if each["event"] == "decided"]
        assert [(each["decision"], each["by"], each["note"]) for each in details] == [
            ("pass", "ada", "only resin is blurred"),
            ("re-image", "grace", "no, the knife"),
            ("computed", "ada", "as computed"),
        ]
        announcements = await announced_verdicts(journal)
        assert [(each["verdict"], each["decided_by"]) for each in announcements] == [
            ("fail", None),
            ("pass", "ada"),
            ("re-image", "grace"),
            ("fail", "ada"),
        ]
        assert await journal.decide(99, Decision.PASS, "ada", "") is None


async def test_a_decision_stays_in_force_after_the_same_verdict_and_ends_with_another_verdict(path: Path) -> None:
    async with Journal(path) as journal:
        montage = await montage_of(journal)
        await journal.judge(montage.id, BAD, None)
        await journal.decide(montage.id, Decision.PASS, "ada", "")
        assert (await journal.judge(montage.id, BAD, None)).verdict == "pass"
        assert len(await announced_verdicts(journal)) == 2
        worse = replace(BAD, findings=(*BAD.findings, *GOOD.findings))
        assert (await journal.judge(montage.id, worse, None)).verdict == "fail"


async def test_a_person_can_decide_before_the_rules_do(path: Path) -> None:
    async with Journal(path) as journal:
        montage = await montage_of(journal)
        decided = await journal.decide(montage.id, Decision.FAIL, "ada", "fold")
        assert decided is not None
        assert decided.verdict == "fail"
        verdict = await journal.verdict(montage.id)
        assert verdict is not None
        assert (verdict.judgement, verdict.findings, verdict_json(verdict)["computed"]) == (None, (), None)


async def test_the_usual_focus_is_the_median_of_the_last_20_sections_of_the_microscope(path: Path) -> None:
    async with Journal(path) as journal:
        montages = [await montage_of(journal, number) for number in range(1, 31)]
        for at, montage in enumerate(montages[:29]):
            assert (await journal.evidence(montage)).usual_focus == (None if at < 5 else median_of(at))
            await journal.judge(montage.id, GOOD, 20.0 + at)
        assert (await journal.evidence(montages[29])).usual_focus == median_of(29)
        assert (await journal.evidence(replace(montages[29], scope="temca3"))).usual_focus is None
        assert (await journal.evidence(replace(montages[29], scope=None))).usual_focus is None
        # A section is not compared with sections that were imaged after it.
        assert (await journal.evidence(montages[10])).usual_focus == median_of(10)


def median_of(count: int) -> float:
    """Return the median focus of the last 20 of `count` sections, where section n has the focus 20 + n."""
    last = sorted(20.0 + at for at in range(count))[-20:]
    middle = len(last) // 2
    return last[middle] if len(last) % 2 else (last[middle - 1] + last[middle]) / 2


async def test_only_unfinished_montages_with_a_bad_verdict_hold_their_stacks(path: Path) -> None:
    async with Journal(path) as journal:
        bad = await montage_of(journal, 1, MontageState.APPLIED)
        good = await montage_of(journal, 2, MontageState.APPLIED)
        await journal.judge(bad.id, BAD, None)
        await journal.judge(good.id, GOOD, None)
        assert await journal.holding() == [("temca2", (RAW, MIPS))]
        await journal.decide(bad.id, Decision.PASS, "ada", "")
        assert await journal.holding() == []
        await journal.decide(bad.id, Decision.REIMAGE, "ada", "")
        assert await journal.holding() == [("temca2", (RAW, MIPS))]
        await journal.record(bad.id, Event.SUPERSEDED, because="the metafile was removed")
        assert await journal.holding() == []


DECIDER = """
import asyncio, sys
from pathlib import Path
from daemon.journal.journal import Journal
from daemon.montages.verdicts import Decision

async def decide(path, montage_id):
    async with Journal(Path(path)) as journal:
        for number in range(10_000):
            await journal.decide(montage_id, Decision.PASS if number % 2 else Decision.FAIL, "ada", f"note {number}")
            print(number, flush=True)

asyncio.run(decide(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.parametrize("acknowledged", [1, 7, 20])
async def test_an_acknowledged_decision_survives_kill_9_and_no_decision_is_stored_in_part(
    path: Path, acknowledged: int
) -> None:
    async with Journal(path) as journal:
        montage = await montage_of(journal)
        await journal.judge(montage.id, BAD, None)
    decider = subprocess.Popen(  # noqa: ASYNC220  the loop has nothing else to do
        [sys.executable, "-c", DECIDER, str(path), str(montage.id)], stdout=subprocess.PIPE, text=True
    )
    with decider:
        assert decider.stdout is not None
        last = -1
        while last < acknowledged:
            last = int(decider.stdout.readline())
        os.kill(decider.pid, signal.SIGKILL)
        last = max([last, *map(int, decider.stdout.read().split())])
    async with Journal(path) as journal:
        events = [each for each in await journal.events(montage.id) if each["event"] == "decided"]
        assert len(events) in (last + 1, last + 2)  # the last one may have committed without its acknowledgement
        verdict = await journal.verdict(montage.id)
        known = await journal.montage(montage.id)
    assert verdict is not None
    assert verdict.override is not None
    assert known is not None
    newest = events[-1]["detail"]
    assert (verdict.override.decision, verdict.override.note) == (newest["decision"], newest["note"])
    assert known.verdict == newest["verdict"] == verdict.effective
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM outbox WHERE kind = 'montage.qc'").fetchone()
    assert count == 1 + len(events)
