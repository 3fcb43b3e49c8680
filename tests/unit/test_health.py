"""Readiness: facts that make the daemon not ready, warnings, metrics, and their texts."""

from dataclasses import replace

from daemon.montages.states import MontageState, Step
from daemon.montages.waits import NOTHING
from daemon.pipeline.health import Disk, HookFacts, reasons_not_ready, waits_of, warnings
from daemon.pipeline.metrics import Metrics
from daemon.watching.roots import RootStatus
from daemon.web.answers import readiness_json
from handlers.workers.crew import Crew, Member
from tests.ready_facts import READY, ROOT


def require_lines(text: bytes, *lines: str) -> None:
    assert set(lines) - set(text.decode().splitlines()) == set()


def test_a_daemon_without_problems_is_ready():
    assert reasons_not_ready(READY) == ()


def test_an_unavailable_render_ws_is_a_reason():
    facts = replace(READY, render_fault="http://render:8080: connection refused")
    assert reasons_not_ready(facts) == ("render-ws is unavailable: http://render:8080: connection refused",)
    facts = replace(READY, render_fault="the proxy at https://r asks for a login", render_needs_person=True)
    reason = (
        "render-ws cannot be used until an operator acts: the proxy at https://r asks for a login; "
        "temwatch tries again within minutes, and at once after `temwatch reload`"
    )
    assert reasons_not_ready(facts) == (reason,)


def test_an_unreachable_directory_is_a_reason_that_names_it():
    unreachable = replace(ROOT, status=RootStatus.UNREACHABLE, reasons=("it does not exist",))
    (reason,) = reasons_not_ready(replace(READY, roots=(unreachable,)))
    assert reason == "watch temca2: /data/temca2 is unreachable: it does not exist"


def test_montages_wait_for_the_directory_or_store_of_their_watch_that_their_next_step_needs():
    unreachable = replace(ROOT, status=RootStatus.UNREACHABLE, reasons=("it does not exist",))
    store = Disk("s3://em/mips", None, 0, "cannot be used: no answer", watches=("temca2", "temca3"))
    waits = waits_of(
        replace(READY, roots=(unreachable,), disks=(store, replace(store, problem="", watches=("temca4",))))
    )
    assert waits.outputs == dict.fromkeys(("temca2", "temca3"), "s3://em/mips cannot be used: no answer")
    assert waits.directories == {"temca2": "the directory of watch temca2 cannot be accessed: it does not exist"}
    assert waits_of(READY) == NOTHING


def test_an_empty_directory_is_a_reason():
    empty = replace(ROOT, status=RootStatus.PAUSED, reasons=("it is empty",))
    assert reasons_not_ready(replace(READY, roots=(empty,))) == ("watch temca2: /data/temca2 is paused: it is empty",)


def test_unreliable_events_are_a_warning_and_no_reason():
    unreliable = replace(ROOT, status=RootStatus.POLLING, reasons=("events are missing",))
    facts = replace(READY, roots=(unreliable,))
    assert reasons_not_ready(facts) == ()
    assert warnings(facts) == ("watch temca2: events are missing",)


def test_an_upload_limit_of_a_proxy_is_a_warning_and_no_reason():
    facts = replace(READY, upload_limit="625.00 kB")
    assert reasons_not_ready(facts) == ()
    (warning,) = warnings(facts)
    assert "tiles are uploaded in parts of 625.00 kB: raise its limits, client_max_body_size" in warning


def test_a_message_that_was_not_delivered_is_a_warning_and_no_reason():
    problem = "alerts.urls_file: address 2 did not accept a message"
    for facts, expected in ((READY, ()), (replace(READY, alert_problem=problem), (f"alerts: {problem}",))):
        assert (reasons_not_ready(facts), warnings(facts)) == ((), expected)
        require_lines(Metrics().text(facts, {}), f"temwatch_alerts_deliverable {0.0 if expected else 1.0}")


def test_deaths_of_workers_are_a_warning_with_their_number():
    for deaths, number in ((1, "a worker process"), (2, "2 worker processes")):
        facts = replace(READY, worker_deaths=deaths, last_worker_death="by signal 9")
        (warning,) = warnings(facts)
        assert warning.startswith(f"{number} died since the start, the last by signal 9: ")
        assert reasons_not_ready(facts) == ()


def test_a_hook_is_a_warning_if_events_were_given_up_or_wait_for_more_than_five_minutes():
    waiting = HookFacts("lims", 2, 0, 301.0, "connection refused")
    on_time, delivered = replace(waiting, oldest_s=300.0), replace(waiting, oldest_s=None)
    assert warnings(replace(READY, hooks=(on_time, delivered, replace(waiting, problem="")))) == ()
    late = "hook lims: has not accepted an event for 5 min (events waiting: 2): connection refused"
    given_up = "hook lims: events that were given up: 3: see `temwatch notify list`"
    assert warnings(replace(READY, hooks=(waiting, replace(on_time, dead=3)))) == (late, given_up)


def test_a_full_disk_is_a_reason_with_its_figures():
    facts = replace(READY, disks=(Disk("/data/mipmaps", 5 * 10**8, 10**9, "has 0.50 GB free, less than"),))
    assert reasons_not_ready(facts) == ("/data/mipmaps has 0.50 GB free, less than",)


def test_a_disk_that_cannot_be_accessed_is_a_reason():
    facts = replace(READY, disks=(Disk("/data/mipmaps", None, 1, "cannot be accessed"),))
    assert reasons_not_ready(facts) == ("/data/mipmaps cannot be accessed",)


def test_a_backlog_that_is_too_old_is_a_reason():
    assert reasons_not_ready(replace(READY, oldest_unfinished_s=10_800.0)) == ("the oldest montage has waited 3.0 h",)


def test_every_watch_has_a_metric_for_every_state_from_the_start():
    metrics = Metrics()
    metrics.attempt_ended(Step.INGEST, "done", 0.3)
    require_lines(
        metrics.text(READY, {("temca2", MontageState.COMPLETE): 7}),
        'temwatch_montages{state="complete",watch="temca2"} 7.0',
        'temwatch_montages{state="failed",watch="temca2"} 0.0',
        'temwatch_attempts_total{outcome="done",step="ingest"} 1.0',
        "temwatch_ready 1.0",
        'temwatch_watch_metafiles_found{by="scan",watch="temca2"} 1.0',
    )


def test_a_directory_with_a_name_outside_utf_8_has_metrics():
    facts = replace(READY, disks=(Disk("/data/probe_\udce4", 10**12, 10**9),))
    require_lines(Metrics().text(facts, {}), r'temwatch_disk_usable{directory="/data/probe_\\xe4"} 1.0')


def test_workers_have_metrics_by_host():
    crew = Crew(
        (Member("node7", 4, 3), Member("node8", 2, 0, "does not see /data", is_usable=False)), 5, "tcp://s:8786"
    )
    require_lines(
        Metrics().text(replace(READY, crew=crew), {}),
        'temwatch_workers{host="node7",state="ready"} 1.0',
        'temwatch_workers{host="node8",state="refused"} 1.0',
        'temwatch_worker_threads{host="node7"} 4.0',
        'temwatch_tiles_in_flight{host="node7"} 3.0',
        "temwatch_tiles_submitted 5.0",
        "temwatch_scheduler_up 1.0",
    )


def test_an_unavailable_scheduler_is_a_reason_and_refused_workers_are_a_warning():
    unavailable = replace(READY, crew=Crew(scheduler="tcp://s:8786", fault="tcp://s:8786 does not answer"))
    assert reasons_not_ready(unavailable) == (
        "the dask scheduler cannot be used: tcp://s:8786 does not answer; tiles waiting: 0",
    )
    assert readiness_json(unavailable)["workers"]["problem"] == "tcp://s:8786 does not answer"
    without_files = Member("node8", 2, 0, "does not see /data", is_usable=False)
    refused = replace(READY, crew=Crew((without_files, Member("node7")), 1, "tcp://s:8786"))
    assert reasons_not_ready(refused) == ()
    assert warnings(refused) == (*warnings(READY), "workers on node8 get no tiles: does not see /data")
