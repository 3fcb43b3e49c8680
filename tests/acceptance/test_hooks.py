"""Hooks of the daemon as a process, and `temwatch notify`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.section import plan_section
from daemon.simulator.temca import write_section
from tests.acceptance.receiver import Receiver
from tests.acceptance.rig import Rig, fetch, temwatch, wait_for


class Refusing(Receiver):
    """Answers each event with `status`."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 204
        self.url = f"http://{self.address}/"

    def status_of(self, message: dict[str, Any]) -> int | None:
        return self.status


@pytest.fixture
def receiver() -> Iterator[Refusing]:
    with Refusing() as receiver:
        yield receiver


def add_hook(config: Path, **keys: Any) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    config.write_text("\n".join([config.read_text(), "[[hook]]", *lines, ""]))


def test_events_that_a_receiver_refused_are_listed_retried_and_dropped(
    rig: Rig, receiver: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.start_standin()
    config = rig.config()
    add_hook(config, name="workflow", url=receiver.url, on=["montage.complete", "stack.closed"])
    monkeypatch.setattr(rig, "config", lambda: config)
    receiver.status = 410  # the daemon's next attempt follows in an hour
    rig.start()
    section = write_section(plan_section(tiles=1, size=(64, 64), grid=3, specimen_id="s"), rig.acquisition)
    rig.wait_until("complete", section.metafile)
    options = ("--config", str(config))

    def listed() -> list[dict[str, Any]]:
        return json.loads(temwatch("notify", "list", "--json", *options).stdout)

    rows = wait_for(lambda: [each for each in listed() if each["attempts"]][2:] and listed(), 60, listed)
    # A stack that no step uses for some time between two steps is closed twice.
    assert [row["kind"] for row in rows].count("montage.complete") == 1
    assert {row["subject"] for row in rows if row["kind"] == "stack.closed"} == {
        "stacks/em/test/s_raw",
        "stacks/em/test/s_mips",
    }
    assert {row["problem"] for row in rows if row["attempts"]} == {"answered 410 Gone"}
    metrics = fetch(f"{rig.url}/metrics")
    assert f'temwatch_hook_waiting{{hook="workflow"}} {len(rows):.1f}' in metrics
    receiver.status = 204
    complete = next(row for row in rows if row["kind"] == "montage.complete")
    dropped = next(row for row in rows if row["kind"] == "stack.closed")
    done = temwatch("notify", "drop", str(dropped["id"]), *options)
    assert (done.returncode, done.stdout) == (0, f"dropped   {dropped['id']}\n")
    done = temwatch("notify", "retry", *(str(row["id"]) for row in rows), *options)
    assert done.returncode == 1
    assert f"unknown   {dropped['id']}: it was delivered or dropped" in done.stdout
    wait_for(lambda: len(receiver.accepted) == len(rows) - 1, 60)
    accepted = next(event for event in receiver.accepted if event["type"] == "montage.complete")
    assert (accepted["id"], accepted["data"]["z"]) == (complete["event_id"], 3.0)
    assert Path(accepted["data"]["output_dir"]) == rig.mipmaps
    wait_for(lambda: temwatch("notify", "list", *options).stdout == "no event waits for a hook\n", 60)
    done = temwatch("notify", "test", *options)
    assert (done.returncode, done.stdout) == (0, "hook workflow: accepted the event\n")
    assert (receiver.accepted[-1]["type"], receiver.accepted[-1]["data"]) == ("test", {})
    receiver.status = 500
    done = temwatch("notify", "test", *options)
    assert (done.returncode, done.stdout) == (1, "hook workflow: answered 500 Internal Server Error\n")
    assert rig.daemon is not None
    assert rig.daemon.stop() == 0
    done = temwatch("notify", "retry", "999", *options)
    assert (done.returncode, done.stdout) == (1, "unknown   999: it was delivered or dropped, or never existed\n")
