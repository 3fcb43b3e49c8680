"""`temwatch log`: lines from events and attempts, and the hint where the daemon's own log is."""

import os
import subprocess
import sys
from pathlib import Path

from daemon.commands.log import history
from daemon.commands.log_location import reading_hint
from daemon.system.log_lines import console_line

PATH = "/data/temca2/_metadata_1_.json"
FAULT = {"kind": "RenderRefused", "subject": PATH, "problem": "answers 400", "hint": "correct it"}
MONTAGE = {
    "id": 17, "watch": "temca2", "z": 1050.0, "metafile": PATH,
    "events": [
        {"at": "2026-01-02T03:04:05.000+00:00", "event": "noticed", "state": "noticed", "detail": {}},
        {"at": "2026-01-02T03:04:06.000+00:00", "event": "settled", "state": "settled", "detail": {"tiles": 48}},
        {"at": "2026-01-02T03:04:09.000+00:00", "event": "failed", "state": "failed",
         "detail": {"fault": FAULT, "attempt": 5}},
        {"at": "2026-01-02T03:05:00.000+00:00", "event": "images_changed", "state": "ingested",
         "detail": {"images": ["a.tif", "b.tif", "c.tif", "d.tif", "e.tif"]}},
    ],
    "attempts": [
        {"step": "ingest", "started_at": "2026-01-02T03:04:06.000+00:00", "ended_at": "2026-01-02T03:04:07.500+00:00",
         "outcome": "failed", "fault": FAULT},
        {"step": "ingest", "started_at": "2026-01-02T03:04:08.000+00:00", "ended_at": None, "outcome": None,
         "fault": None},
    ],
}  # fmt: skip


LINES = """
2026-01-02 03:04:05 info    montage.noticed    watch=temca2 montage=17 z=1050 state=noticed
2026-01-02 03:04:06 info    montage.settled    watch=temca2 montage=17 z=1050 state=settled tiles=48
2026-01-02 03:04:09 error   montage.failed     watch=temca2 montage=17 z=1050 attempt=5 state=failed FAULT
2026-01-02 03:05:00 info    montage.images_changed watch=temca2 montage=17 z=1050 state=ingested images=5 NAMES
2026-01-02 03:04:07 warning step.failed        watch=temca2 montage=17 z=1050 step=ingest attempt=1 seconds=1.5 FAULT
2026-01-02 03:04:08 info    step.started       watch=temca2 montage=17 z=1050 step=ingest attempt=2
""".replace("FAULT", 'kind=RenderRefused fault="answers 400" hint="correct it"').replace(
    "NAMES", 'images_names="a.tif, b.tif, c.tif and 2 more"'
)


def test_each_event_and_attempt_is_a_line_with_its_facts_in_the_same_order_as_in_the_log() -> None:
    lines = [{key: value for key, value in facts.items() if key != "metafile"} for facts in history(MONTAGE)]
    assert "\n".join(map(console_line, lines)) == LINES.strip()


def test_the_hint_names_the_file_of_the_log(tmp_path: Path) -> None:
    with (tmp_path / "the log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=log)
    try:
        hint = reading_hint(process.pid, 17)
    finally:
        process.communicate()
    assert hint == f"the daemon's log: grep -E '\"montage\": 17[,}}]|montage=17( |$)' '{tmp_path}/the log'"


def test_the_hint_names_the_service_that_logs_to_the_system_journal(tmp_path: Path) -> None:
    (tmp_path / "7" / "fd").mkdir(parents=True)
    (tmp_path / "7" / "fd" / "1").symlink_to("socket:[4711]")
    (tmp_path / "7" / "cgroup").write_text("0::/system.slice/temwatch-em.service\n")
    assert reading_hint(7, 17, tmp_path).startswith("the daemon's log: journalctl -u temwatch-em.service -o cat | grep")


def test_the_hint_names_the_terminal_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "7" / "fd").mkdir(parents=True)
    (tmp_path / "7" / "fd" / "1").symlink_to("/dev/pts/3")
    (tmp_path / "7" / "cgroup").write_text("0::/user.slice/session-1.scope\n")
    assert "goes to /dev/pts/3" in reading_hint(7, 17, tmp_path)


def test_the_hint_for_a_daemon_that_does_not_run_or_is_another_users_names_the_system_journal() -> None:
    for hint, problem in (
        (reading_hint(None, 17), "the daemon does not run"),
        (reading_hint(7, 17, Path(os.devnull)), "belongs to another user"),
    ):
        assert problem in hint
        assert "journalctl -u temwatch " in hint
