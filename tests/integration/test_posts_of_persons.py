"""Requests of persons: a retry, a dismissal, a verdict, a silence; and a journal that cannot be written."""

import json
from typing import Any

import pytest

from daemon.journal.journal import Journal
from daemon.montages.states import MontageState
from daemon.pipeline.replay.replayer import Replayer
from handlers.errors import StorageFault
from tests.integration.test_posts import Api
from tests.integration.test_posts import api as api

BY_PROXY = {"trusted_proxies": ["127.0.0.1"], "user_header": "X-User"}


async def post(api: Api, path: str, body: object, **headers: str) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"} | {key.replace("_", "-"): each for key, each in headers.items()}
    async with api.client.post(path, data=json.dumps(body), headers=headers) as answer:
        return answer.status, await answer.json()


async def detail_of_last_event(api: Api, montage_id: int) -> Any:
    return (await api.journal.events(montage_id))[-1]["detail"]


async def test_a_retry_says_how_many_sections_are_retried_and_why_others_are_not(api: Api) -> None:
    first, second = await api.failed(1), await api.failed(2)
    status, body = await post(api, "/api/retry", {"ids": [first, 999]})
    assert status == 200
    assert [(each["id"], each["retried"]) for each in body["montages"]] == [(first, True), (999, False)]
    assert body["summary"] == "1 section is retried. 1 not: no such montage."
    third = await api.failed(3)
    status, body = await post(api, "/api/retry", {"ids": [second, third]})
    assert (status, body["summary"]) == (200, "2 sections are retried.")


async def test_retries_dismissals_and_silences_record_the_user_that_the_proxy_names(api: Api) -> None:
    api.configure(**BY_PROXY)
    montage_id = await api.failed()
    await post(api, "/api/dismiss", {"ids": [montage_id], "reason": "torn"}, X_User="annabel")
    montage = await api.journal.montage(montage_id)
    assert montage is not None
    assert montage.state is MontageState.DISMISSED
    assert (await detail_of_last_event(api, montage_id))["by"] == "annabel"
    retried = await api.failed(2)
    await post(api, "/api/retry", {"ids": [retried]}, X_User="annabel")
    assert "annabel" in json.dumps(await detail_of_last_event(api, retried))
    status, body = await post(api, "/api/alerts/silence", {"for_s": 60, "by": "somebody"}, X_User="annabel")
    assert status == 200
    assert "annabel" in json.dumps(body)
    assert "somebody" not in json.dumps(body)


async def test_a_decision_about_an_unknown_montage_is_answered_with_404(api: Api) -> None:
    status, body = await post(api, "/api/montages/999/verdict", {"verdict": "pass", "by": "annabel"})
    assert (status, body["error"]) == (404, "no such montage")


async def test_a_verification_is_answered_with_its_counts(api: Api) -> None:
    status, body = await post(api, "/api/alerts/differences", {"differing": [], "clean": [1, 2]})
    assert (status, body) == (200, {"differing": 0, "clean": 2})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/retry", {"all": True}),
        ("/api/dismiss", {"ids": [1], "reason": "torn"}),
        ("/api/montages/1/verdict", {"verdict": "pass", "by": "annabel"}),
        ("/api/notify", {"action": "drop", "ids": [1]}),
        ("/api/alerts/silence", {"for_s": 60, "by": "annabel"}),
        ("/api/alerts/differences", {"differing": []}),
    ],
)
async def test_every_post_is_refused_while_the_journal_cannot_be_written(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    monkeypatch.setattr(Journal, "fault", StorageFault("/var/journal.sqlite", "the disk is full"))
    status, answer = await post(api, path, body)
    assert status == 503
    assert "the disk is full" in answer["error"]


async def test_a_copy_of_the_journal_is_a_database_with_the_stated_length(api: Api) -> None:
    body = {"journal": str(api.journal.path)}
    async with api.client.post("/api/journal/backup", json=body) as answer:
        content = await answer.read()
        assert (answer.status, answer.content_type) == (200, "application/vnd.sqlite3")
        assert (len(content), content[:15]) == (answer.content_length, b"SQLite format 3")


async def test_a_failed_copy_is_answered_with_the_reason(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_room(*_: object) -> None:
        raise StorageFault("/var/journal.sqlite", "has no room for a copy")

    monkeypatch.setattr(Journal, "back_up", no_room)
    status, answer = await post(api, "/api/journal/backup", {"journal": str(api.journal.path)})
    assert status == 503
    assert "has no room for a copy" in answer["error"]


async def test_a_decision_records_the_user_that_the_proxy_names(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.configure(**BY_PROXY)
    decisions: list[Any] = []

    async def decide(journal: Journal, montage_id: int, wanted: Any, on_decided: Any) -> dict[str, Any]:
        decisions.append((montage_id, wanted.verdict, wanted.by))
        return {"verdict": "pass"}

    monkeypatch.setattr("daemon.web.posts.decide", decide)
    body = {"verdict": "pass", "by": "somebody"}
    assert await post(api, "/api/montages/17/verdict", body, X_User="annabel") == (200, {"verdict": "pass"})
    assert await post(api, "/api/montages/17/verdict", body) == (200, {"verdict": "pass"})
    assert decisions == [(17, "pass", "annabel"), (17, "pass", "somebody")]


async def test_a_failed_replay_is_answered_with_the_reason(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreachable(*_: object) -> None:
        raise StorageFault("/data/temca2", "does not answer")

    monkeypatch.setattr(Replayer, "replay", unreachable)
    status, answer = await post(api, "/api/replay", {})
    assert status == 503
    assert "/data/temca2" in answer["error"]
    assert "does not answer" in answer["error"]
