"""Every request of a recording of the real render-ws gets the recorded answer, in the recorded order.

The tests compare status, content type, and text or JSON, except parts on which no client can rely: the texts of Java
exceptions, the queries to the database, times.
"""

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from tests.contract.conftest import OWNER, Answer, Service

RECORDING = Path(__file__).with_name("render_ws_answers.json").read_text(encoding="utf-8")
TIMES = ("createTimestamp", "lastModifiedTimestamp")
QUERY = "  The aggregation query was "


@pytest.fixture
async def project(service: Service) -> AsyncIterator[str]:
    """A project without stacks; the stacks of the recording are deleted at the end."""
    name = f"r{uuid.uuid4().hex}"
    yield name
    for stack in ("s", "s2"):
        path = f"/owner/{OWNER}/project/{name}/stack/{stack}"
        await service.send("PUT", f"{path}/state/COMPLETE")
        await service.send("DELETE", path)


def recorded(project: str) -> list[dict[str, Any]]:
    """Return the requests and answers with owner and project replaced."""
    renamed = RECORDING.replace("dif__PROJECT", f"{OWNER}__{project}").replace("PROJECT", project)
    rows: list[dict[str, Any]] = json.loads(renamed.replace("'dif'", f"'{OWNER}'").replace('"dif"', f'"{OWNER}"'))[
        "requests"
    ]
    return rows


def body_of(row: dict[str, Any]) -> bytes | None:
    """Return the body as it was sent: a text in the recording is the raw body."""
    if row["body"] is None:
        return None
    return row["body"].encode() if isinstance(row["body"], str) else json.dumps(row["body"]).encode()


def comparable(value: Any) -> Any:
    """Return JSON without its times, and with sorted lists: the service does not define an order."""
    if isinstance(value, dict):
        return {key: "TIME" if key in TIMES else comparable(member) for key, member in value.items()}
    if isinstance(value, list):
        return sorted((comparable(member) for member in value), key=json.dumps)
    return value


def comparable_outcome(row: dict[str, Any]) -> tuple[int, str, Any]:
    """Return status, content type, and the parts of the body on which a client can rely."""
    answer = row["answer"]
    if row["content_type"] == "application/json" and answer != "":
        return row["status"], row["content_type"], comparable(answer)
    if row["content_type"] == "text/html":
        return row["status"], row["content_type"], "a Java exception"
    if row["method"] == "OPTIONS":
        return row["status"], row["content_type"], set(answer.split(", "))
    return row["status"], row["content_type"], answer.partition(QUERY)[0]


def as_row(row: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """Return the row with this answer in place of the recorded one."""
    body = answer.json if answer.media_type == "application/json" and answer.body else answer.text
    return {**row, "status": answer.status, "content_type": answer.media_type, "answer": body}


async def test_every_recorded_request_gets_the_recorded_answer(service: Service, project: str) -> None:
    differing = []
    rows = recorded(project)
    for number, row in enumerate(rows):
        path, _, query = row["path"].partition("?")
        url = f"/owner/{OWNER}/project/{project}/stack/{quote(path)}" + (f"?{query}" if query else "")
        answer = await service.send(row["method"], url, body_of(row))
        now, then = comparable_outcome(as_row(row, answer)), comparable_outcome(row)
        if now != then:
            differing.append(f"{number} {row['method']} {unquote(row['path'])}\n  recorded {then}\n  answered {now}")
    assert len(rows) > 100
    assert not differing, f"{len(differing)} of {len(rows)} differ:\n" + "\n".join(differing)
