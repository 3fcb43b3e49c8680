"""Alerts that the daemon, as a process, sends to a receiver on a loopback port."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from daemon.simulator.section import plan_section
from daemon.simulator.temca import write_section
from tests.acceptance.receiver import Receiver
from tests.acceptance.rig import Program, Rig, temwatch, wait_for

pytest.importorskip("apprise", reason='needs the extra "alerts"')


class Holding(Receiver):
    """Reads messages, and answers when `answers` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[dict[str, Any]] = []
        self.answers = threading.Event()
        self.url = f"json://user:secret@{self.address}/secret"

    def status_of(self, message: dict[str, Any]) -> int | None:
        self.read.append(message)
        if self.answers.is_set():
            return 204
        self.answers.wait(60)
        return None


@pytest.fixture
def receiver() -> Iterator[Holding]:
    with Holding() as receiver:
        try:
            yield receiver
        finally:
            receiver.answers.set()


@pytest.mark.slow
def test_a_committed_message_arrives_once_if_the_daemon_is_killed_before_its_delivery(
    rig: Rig, receiver: Holding
) -> None:
    rig.start_standin()
    addresses = rig.root / "urls"
    addresses.write_text(f"{receiver.url}\n")
    addresses.chmod(0o600)
    rig.settings |= {"alerts.urls_file": str(addresses), "watch.qc.min_std_dev": 250.0, "log.level": "debug"}
    rig.start()
    section = write_section(plan_section(tiles=1, size=(64, 64), grid=3, specimen_id="s"), rig.acquisition)
    wait_for(lambda: receiver.read, 60, "a message")
    assert isinstance(rig.daemon, Program)
    rig.daemon.kill()
    receiver.answers.set()
    rig.start()
    rig.wait_until("complete", section.metafile)
    (message,) = wait_for(lambda: receiver.accepted, 60, "the message")
    assert message == receiver.read[0]  # with the same time and id
    assert message["title"].startswith("temwatch: QC rule broken (")
    assert "z 3: min_std_dev" in message["message"]
    config = str(rig.config())
    wait_for(lambda: temwatch("notify", "list", "--config", config).stdout == "no event waits for a hook\n", 60)
    level = rig.mipmaps / "1" / f"{str(section.images[0]).lstrip('/')}.tif"
    level.unlink()
    assert temwatch("verify", "--config", config).returncode == 1
    wait_for(lambda: receiver.accepted[1:], 60, "a message about the differences")
    said = temwatch("notify", "test", "--config", config)
    assert (said.returncode, said.stdout) == (0, "alerts.urls_file: address 1 accepted the message\n")
    titles = [message["title"] for message in receiver.accepted[1:]]
    assert titles == ["temwatch: verify differences (daemon)", "temwatch: a test message"]
    assert "`temwatch verify` found 1 difference; replay it from mipmaps" in receiver.accepted[1]["message"]
    silence = ("notify", "silence", "--config", config)
    done = temwatch(*silence, "disk low", "--hours", "1", "--reason", "new disks")
    assert (done.returncode, done.stdout.startswith("silent   disk low, until 20")) == (0, True), done
    done = temwatch(*silence, "nonsense", "--hours", "1")
    assert (done.returncode, done.stderr.startswith("KIND: Input should be 'montage failed'")) == (2, True), done
    assert temwatch(*silence, "disk low", "--hours", "0").stdout == "no silence is active\n"
    assert "secret" not in "\n".join(rig.daemon.lines()) + said.stdout + said.stderr
