"""Hooks: settings, signatures, delays, the JSON of events, and the page about them."""

import base64
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.commands.notify import delivery_lines
from daemon.config.errors import ConfigError
from daemon.config.hook_files import read_hook_secret
from daemon.config.load import load_settings
from daemon.montages.announcements import KIND_OF_EVENT, Announced, Kind
from daemon.montages.states import Event
from daemon.notify.hooks.cloud_event import cloud_event_body, event_schema
from daemon.notify.hooks.delays import GIVE_UP_S, delay_s, is_given_up
from daemon.notify.hooks.signing import signature_headers
from handlers.errors import SettingsFault
from tests.settings_text import settings_text

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/hooks.md").read_text(encoding="utf-8")
COMPLETE = Announced(
    7,
    "0123abcd",
    1.5e9,
    Kind.MONTAGE_COMPLETE,
    "temca2",
    "montages/3",
    {"z": 1050.0, "tiles": 2, "mipmapped_stack": {"owner": "em", "project": "v1", "stack": "s_mips"}},
)


def test_a_signature_equals_that_in_the_example_of_the_specification() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signature_headers(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_delays_grow_to_an_hour_until_the_delivery_is_given_up() -> None:
    delays = [delay_s(attempts, 0.5) for attempts in range(1, 40)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (1.0, 3600.0)
    assert delay_s(1, 0.5, is_gone=True) == 3600.0
    assert delay_s(30, 0.5, is_unavailable=True) == 60.0
    assert (is_given_up(0.0, GIVE_UP_S - 1), is_given_up(0.0, GIVE_UP_S)) == (False, True)


def test_all_events_except_rebuilt_and_seen_again_are_announced() -> None:
    assert set(Event) - set(KIND_OF_EVENT) == {Event.REBUILT, Event.SEEN_AGAIN}


def problems(path: Path, hook: str) -> tuple[str, ...]:
    path.write_text(f"{settings_text()}[[hook]]\n{hook}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    return caught.value.problems


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        ("", "hook[0].url: is required, unless `command` is set"),
        ('url = "http://a/"\ncommand = ["/bin/true"]', "hook[0].command: is only valid without `url`"),
        (
            'command = ["/bin/true"]\nsecret_file = "/etc/passwd"',
            "hook[0].secret_file: is only valid with `url`",
        ),
        ('url = "ftp://a"', "hook[0].url: 'ftp://a' is not an address such as http://workflow:8000/events"),
        ('url = "http://u:pw@"', "hook[0].url: 'http://' is not an address such as http://workflow:8000/events"),
        ('command = ["true"]', "hook[0].command: 'true' is not an absolute path"),
        ('url = "http://a"\non = []', "hook[0].on: needs at least one entry"),
        ('url = "http://a"\nwatch = ["temca3"]', "hook[0].watch: 'temca3' is not the name of a [[watch]]"),
        ('url = "http://a"\n[[hook]]\nurl = "http://a/b"', "hook[1].name: 'a' is already the name of hook[0]"),
        (
            'command = ["/nowhere/x"]',
            "hook[0].command: /nowhere/x does not exist, or this user cannot run it",
        ),
        ('url = "http://a"\nsecret_file = "/nowhere"', "hook[0].secret_file: /nowhere cannot be read: No such file"),
    ],
)
def test_an_invalid_hook_is_refused_with_its_key(tmp_path: Path, hook: str, problem: str) -> None:
    (found,) = problems(tmp_path / "config.toml", hook)
    assert found.startswith(problem)


def test_an_unknown_event_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    (found,) = problems(tmp_path / "config.toml", 'url = "http://a"\non = ["montage.done"]')
    assert found.startswith("hook[0].on[0]: 'montage.done' is not one of montage.noticed, montage.settled")


def test_the_name_of_a_hook_shows_no_password(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'{settings_text()}[[hook]]\nurl = "http://em:secret@workflow:8000/events"\n')
    (hook,) = load_settings(path).hook
    assert hook.label == "workflow:8000"
    assert "em:secret" not in repr(hook)


def test_a_secret_must_be_base64_and_hidden_from_other_users(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    path.chmod(0o640)
    assert len(read_hook_secret(path, "k")) == 24
    path.chmod(0o644)
    with pytest.raises(SettingsFault, match="is open to other users"):
        read_hook_secret(path, "k")
    path.chmod(0o600)
    path.write_text("not base64!")
    with pytest.raises(SettingsFault, match="does not contain a secret") as caught:
        read_hook_secret(path, "k")
    assert "not base64" not in str(caught.value)


def test_the_page_has_the_schema_of_the_code() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert json.loads(block) == event_schema(), "python -m daemon.notify.hooks.cloud_event prints it"


def test_the_page_names_every_event() -> None:
    (table,) = re.findall(r"## Which events are there\?\n(.*?)\n## ", PAGE, re.DOTALL)
    assert re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE) == [str(kind) for kind in Kind]


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_on_the_page_starts_one_job_for_an_event_that_is_delivered_twice(tmp_path: Path) -> None:
    script, sbatch, calls = tmp_path / "start-point-match", tmp_path / "sbatch", tmp_path / "calls"
    script.write_text(examples()[0])
    sbatch.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(calls))}\n')
    sbatch.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "POINT_MATCH_STARTED": str(tmp_path),
        "POINT_MATCH_JOB": "job",
    }
    for _ in range(2):
        body = cloud_event_body(COMPLETE, "host")
        subprocess.run([sys.executable, str(script)], input=body, env=environment, check=True, timeout=60)
    assert calls.read_text() == "job em v1 s_mips 1050.0 2\n"


def test_the_check_on_the_page_accepts_only_recent_signatures_of_temwatch() -> None:
    names: dict[str, Any] = {}
    exec(examples()[1], names)  # the example itself is under test
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    key, body = base64.b64decode(secret.removeprefix("whsec_")), b'{"z": 1}'
    now = int(time.time())
    assert names["is_genuine"](signature_headers(key, "a", now, body), body, secret)
    assert not names["is_genuine"](signature_headers(key, "a", now, body), b'{"z": 2}', secret)
    assert not names["is_genuine"](signature_headers(key, "a", now - 4000, body), body, secret)
    assert not names["is_genuine"](signature_headers(b"other", "a", now, body), body, secret)


def test_the_list_shows_each_waiting_event_with_its_problem() -> None:
    row = {
        "id": 3,
        "hook": "workflow:8000",
        "kind": "montage.complete",
        "subject": "montages/17",
        "queued_at": "2026-01-01T00:00:00.000Z",
        "attempts": 2,
        "next_try_at": "2026-01-01T00:00:04.000Z",
        "is_dead": False,
        "problem": "answered 500\x1b",
    }
    start = "     3  workflow:8000  montage.complete  montages/17  queued 2026-01-01T00:00:00.000Z"
    assert delivery_lines([row, {**row, "is_dead": True, "problem": None}]) == [
        f"{start}, attempts: 2, next at 2026-01-01T00:00:04.000Z",
        "        answered 500\\x1b",
        f"{start}, given up",
    ]
    assert delivery_lines([]) == ["no event waits for a hook"]
