"""Requests of persons: a retry, a dismissal, a verdict, a silence; and a journal that cannot be written."""

import json
from typing import Any

import pytest

from daemon.journal.journal import Journal
from daemon.montages.states import MontageState
from handlers.errors import StorageFault
from tests.integration.test_posts import Face
from tests.integration.test_posts import face as face

BY_PROXY = {"trusted_proxies": ["127.0.0.1"], "user_header": "X-User"}


async def post(face: Face, path: str, body: object, **headers: str) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"} | {key.replace("_", "-"): each for key, each in headers.items()}
    async with face.client.post(path, data=json.dumps(body), headers=headers) as answer:
        return answer.status, await answer.json()


async def detail_of_last_event(face: Face, montage_id: int) -> Any:
    return (await face.journal.events(montage_id))[-1]["detail"]


async def test_a_retry_says_how_many_sections_are_retried_and_why_others_are_not(face: Face) -> None:
    first, second = await face.failed(1), await face.failed(2)
    status, body = await post(face, "/api/retry", {"ids": [first, 999]})
    assert status == 200
    assert [(each["id"], each["retried"]) for each in body["montages"]] == [(first, True), (999, False)]
    assert body["said"] == "1 section is retried. 1 not: no such montage."
    third = await face.failed(3)
    status, body = await post(face, "/api/retry", {"ids": [second, third]})
    assert (status, body["said"]) == (200, "2 sections are retried.")


async def test_who_retries_dismisses_and_silences_is_the_user_that_the_proxy_names(face: Face) -> None:
    face.guarded(**BY_PROXY)
    montage_id = await face.failed()
    await post(face, "/api/dismiss", {"ids": [montage_id], "reason": "torn"}, X_User="annabel")
    montage = await face.journal.montage(montage_id)
    assert montage is not None
    assert montage.state is MontageState.DISMISSED
    assert (await detail_of_last_event(face, montage_id))["by"] == "annabel"
    retried = await face.failed(2)
    await post(face, "/api/retry", {"ids": [retried]}, X_User="annabel")
    assert "annabel" in json.dumps(await detail_of_last_event(face, retried))
    status, body = await post(face, "/api/alerts/silence", {"for_s": 60, "by": "somebody"}, X_User="annabel")
    assert status == 200
    assert "annabel" in json.dumps(body)
    assert "somebody" not in json.dumps(body)


async def test_a_decision_about_no_montage_is_not_found(face: Face) -> None:
    status, body = await post(face, "/api/montages/999/verdict", {"verdict": "pass", "by": "annabel"})
    assert (status, body["error"]) == (404, "no such montage")


async def test_a_verification_is_recorded_with_its_counts(face: Face) -> None:
    status, body = await post(face, "/api/alerts/differences", {"differing": [], "clean": [1, 2]})
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
async def test_nothing_is_asked_of_a_journal_that_cannot_be_written(
    face: Face, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    monkeypatch.setattr(Journal, "fault", StorageFault("/var/journal.sqlite", "the disk is full"))
    status, answer = await post(face, path, body)
    assert status == 503
    assert "the disk is full" in answer["error"]
