"""Open pages: a stop does not wait for them, and after a restart they get the events that they missed."""

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from daemon.simulator.delivery import Written
from tests.acceptance.rig import Rig

PAGES = 5
STOP_S = 60.0
TIMEOUT_S = 60.0


class Stream:
    """The events of one open page."""

    def __init__(self, url: str, after: int | None = None) -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        self._connection.request("GET", "/api/events", headers=headers)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200

    def events(self) -> Iterator[tuple[int, dict[str, object]]]:
        """Yield the number and the data of each event of a montage until the stream is ended."""
        fields: dict[str, str] = {}
        while line := self._answer.readline().decode():
            name, _, value = line.rstrip("\r\n").partition(": ")
            if line.strip():
                fields[name] = value
            elif fields.pop("event", "") == "montage":
                yield int(fields["id"]), json.loads(fields["data"])

    def until(self, state: str) -> list[tuple[int, dict[str, object]]]:
        """Return the events up to and including the first event with this state."""
        found = []
        for each in self.events():
            found.append(each)
            if each[1]["state"] == state:
                return found
        raise AssertionError(f"the stream has ended before {state}: {found}")

    def close(self) -> None:
        self._connection.close()


def test_a_stop_ends_the_streams_of_open_pages_which_get_missed_events_after_a_restart(
    running_rig: Rig, write: Callable[..., Written]
) -> None:
    rig = running_rig
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(contextlib.closing(Stream(rig.url))) for _ in range(PAGES)]
        write(1050)
        seen = [stream.until("complete") for stream in streams]
        assert all(each == seen[0] for each in seen)
        assert rig.daemon.stop(STOP_S) == 0
        for stream in streams:
            assert list(stream.events()) == []  # a stream that was cut off would raise an exception
    last = seen[0][-1][0]
    missed = write(1051)
    rig.start()
    rig.wait_until("complete", missed.metafile)
    with contextlib.closing(Stream(rig.url, after=last)) as stream:
        later = stream.until("complete")
    numbers = [number for number, _ in later]
    assert numbers == list(range(last + 1, numbers[-1] + 1))
    assert {event["z"] for _, event in later} == {1051.0}
