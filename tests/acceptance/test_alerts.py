"""Alerts of the daemon as a process, to a receiver on a loopback port."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from daemon.simulator.microscope import plan_section, write_section
from tests.acceptance.rig import Program, Rig, temwatch, wait_for

pytest.importorskip("apprise", reason='needs the extra "alerts"')


class Receiver:
    """Takes messages, or reads them and does not answer."""

    def __init__(self) -> None:
        self.read: list[dict[str, Any]] = []
        self.taken: list[dict[str, Any]] = []
        self.answers = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.read.append(message)
                if not receiver.answers.is_set():
                    receiver.answers.wait(60)
                    return
                receiver.taken.append(message)
                self.send_response(204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"json://user:secret@127.0.0.1:{self.server.server_address[1]}/secret"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.answers.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.close()


def test_a_message_that_was_committed_arrives_once_though_the_daemon_is_killed_before_it_was_taken(
    rig: Rig, receiver: Receiver
) -> None:
    rig.start_standin()
    addresses = rig.root / "urls"
    addresses.write_text(f"{receiver.address}\n")
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
    (taken,) = wait_for(lambda: receiver.taken, 60, "the message")
    assert taken == receiver.read[0]  # with the same time and id
    assert taken["title"].startswith("temwatch: QC rule broken (")
    assert "z 3: min_std_dev" in taken["message"]
    config = str(rig.config())
    wait_for(lambda: temwatch("notify", "list", "--config", config).stdout == "no event waits for a hook\n", 30)
    level = rig.mipmaps / "1" / f"{str(section.images[0]).lstrip('/')}.tif"
    level.unlink()
    assert temwatch("verify", "--config", config).returncode == 1
    wait_for(lambda: receiver.taken[1:], 60, "a message about the differences")
    said = temwatch("notify", "test", "--config", config)
    assert (said.returncode, said.stdout) == (0, "alerts.urls_file: address 1 took the message\n")
    titles = [message["title"] for message in receiver.taken[1:]]
    assert titles == ["temwatch: verify differences (daemon)", "temwatch: a test message"]
    assert "`temwatch verify` found 1 difference; replay it from mipmaps" in receiver.taken[1]["message"]
    silence = ("notify", "silence", "--config", config)
    done = temwatch(*silence, "disk low", "--hours", "1", "--reason", "new disks")
    assert (done.returncode, done.stdout.startswith("silent   disk low, until 20")) == (0, True), done
    done = temwatch(*silence, "nonsense", "--hours", "1")
    assert (done.returncode, done.stderr.startswith("KIND: Input should be 'montage failed'")) == (2, True), done
    assert temwatch(*silence, "disk low", "--hours", "0").stdout == "nothing is silenced\n"
    assert "secret" not in "\n".join(rig.daemon.lines()) + said.stdout + said.stderr
