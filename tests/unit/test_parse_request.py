"""Requests of the command line: a problem has the name that the user typed, once."""

import pytest

from daemon.commands.parse_request import parse_request
from daemon.notify.alerts.silences import SilenceRequest
from daemon.pipeline.replay.lookup import NotSelectable
from daemon.pipeline.requests.dismissal import DismissRequest


def fault_of(*arguments: object) -> str:
    with pytest.raises(NotSelectable) as refusal:
        parse_request(*arguments)  # type: ignore[arg-type]
    return str(refusal.value)


def test_a_problem_has_the_name_on_the_command_line_and_is_reported_once() -> None:
    text = fault_of(DismissRequest, {"ids": [0], "reason": "empty"}, {"ids": "ID"})
    assert text == "ID: Input should be greater than or equal to 1"


def test_every_invalid_argument_is_reported() -> None:
    values = {"kind": "unknown", "for_s": -1.0}
    text = fault_of(SilenceRequest, values, {"kind": "KIND", "for_s": "--hours"})
    first, second = text.split("; ")
    assert first.startswith("KIND: Input should be 'montage failed'")
    assert second == "--hours: Input should be greater than or equal to 0"


def test_a_key_without_another_name_is_a_flag() -> None:
    assert fault_of(DismissRequest, {"ids": [1], "reason": ""}).startswith("--reason: ")
