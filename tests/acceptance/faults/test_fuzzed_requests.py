"""Broken, odd, huge and incomplete requests to the daemon's port: none is answered with 5xx, and the work continues."""

import contextlib
import random
import secrets
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.accounts import audit
from tests.acceptance.faults.broken_requests import ask, request, status_of
from tests.acceptance.faults.pulse import pulse_of
from tests.acceptance.faults.rows import FaultRun
from tests.acceptance.rig import Rig, running

LEVELS = 2
SLOW_CONNECTIONS = 100


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_request_stops_the_daemon_or_is_answered_with_5xx(tmp_path, scale, enter):
    count, seed = scale.pick(5000, 1000, 50), secrets.randbelow(10**6)
    rng = random.Random(seed)
    rig = Rig(tmp_path, {"watch.mipmaps.levels": LEVELS, "workers.count": 1})
    with running(rig), contextlib.ExitStack() as slow:
        parts = urlsplit(rig.url)
        address = (parts.hostname or "", parts.port or 0)
        first = write_section(section_plan(1050, size=(64, 64)), rig.acquisition, pixels="noise").metafile
        rig.wait_until("complete", first)
        for _ in range(SLOW_CONNECTIONS):  # each sends half a request and stays open
            connection = slow.enter_context(socket.create_connection(address))
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX")
        with pulse_of(rig.url) as pulse:
            sent = [request(rng) for _ in range(count)]
            with ThreadPoolExecutor(8) as clients:
                answers = list(clients.map(lambda each: ask(address, each), sent))
            second = write_section(section_plan(1051, size=(64, 64)), rig.acquisition, pixels="noise").metafile
            rig.wait_until("complete", second)
        account = audit(rig, [first, second], levels=LEVELS)
        assert rig.daemon.process.poll() is None
        log = rig.daemon.log.read_text()
    statuses = Counter(map(status_of, answers))
    wrong = [
        f"{status_of(answer)} for {each[:200]!r}"
        for each, answer in zip(sent, answers, strict=True)
        if (status_of(answer) or 0) >= 500 and not (status_of(answer) == 503 and b"/readyz" in each)
    ]
    note = f"seed {seed}; statuses {dict(sorted(statuses.items(), key=str))}, None for no answer; "
    note += f"{SLOW_CONNECTIONS} other connections with half a request; healthz within {pulse.slowest_s:.1f} s"
    assert not wrong, wrong[:10]
    assert statuses.total() - statuses[None] > count // 2, "too few requests were answered, so nothing was tested"
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]
    enter(FaultRun("broken requests to the daemon's port", count + SLOW_CONNECTIONS, **account.counts(), note=note))
    assert not pulse.wrong
