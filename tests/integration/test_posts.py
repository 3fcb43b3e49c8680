"""`POST /api/replay` on a real server: access, bodies, answers."""

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.config.settings import HttpSettings, Settings
from daemon.journal.copies import remove_journal
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import MontageState
from daemon.pipeline.health import Facts
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.replay.replayer import Replayer
from daemon.web.posts import Posts
from daemon.web.routes import MAX_BODY_BYTES, make_app
from handlers.errors import MetafileFault
from handlers.identity import FileIdentity
from tests.ready_facts import READY

TOKEN = "0123456789abcdef0123"


class Queue:
    """Records the montages that are enqueued."""

    def __init__(self) -> None:
        self.enqueued: list[tuple[int, bool]] = []

    async def enqueue(self, montage: Montage, *, force: bool = False) -> None:
        self.enqueued.append((montage.id, force))


class Api:
    """A client of the POST routes, with a journal and a watched directory."""

    def __init__(self, tmp_path: Path, journal: Journal) -> None:
        self.directory = tmp_path / "data"
        self.directory.mkdir()
        self.journal = journal
        self.queue = Queue()
        self.posts = Posts(HttpSettings(), Replayer(lambda: self.settings, journal, self.queue), journal)
        watch = {
            "name": "temca2", "directory": str(self.directory), "z": {"rule": "grid"},
            "mipmaps": {"output_dir": str(tmp_path / "mips")},
        }  # fmt: skip
        self.settings = Settings(
            render={"url": "http://render/render-ws/v1", "owner": "em", "project": "v1"}, watch=[watch]
        )
        self.client: TestClient

    def configure(self, **http: object) -> None:
        self.posts._http = HttpSettings(**http)

    async def failed(self, number: int = 1) -> int:
        path = self.directory / f"_metadata_{number}_.json"
        path.write_text("{}")
        found = path.stat()
        sighting = Sighting("temca2", path, FileIdentity.of(found), FoundBy.SCAN)
        montage_id = await self.journal.notice(sighting)
        await self.journal.fail(montage_id, MetafileFault("m", "has no data"))
        return montage_id

    async def post(self, body: object, **headers: str) -> tuple[int, dict]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | {key.replace("_", "-"): each for key, each in headers.items()}
        async with self.client.post("/api/replay", data=io.BytesIO(data), headers=headers) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with Journal(tmp_path / "journal.sqlite") as journal:
        api = Api(tmp_path, journal)

        async def facts() -> Facts:
            return READY

        app = make_app(journal, Metrics(), facts, api.posts, lambda: api.posts._http)
        async with TestClient(TestServer(app)) as client:
            api.client = client
            yield api


async def test_failed_montages_are_replayed_and_listed(api):
    montage_id = await api.failed()
    status, body = await api.post({})
    assert status == 202
    (plan,) = body["montages"]
    assert (plan["id"], plan["action"], plan["start"]) == (montage_id, "replay", "noticed")
    assert api.queue.enqueued == [(montage_id, True)]
    assert (await api.journal.montage(montage_id)).state == "noticed"


async def test_the_user_of_a_replay_is_recorded(api):
    montage_id = await api.failed()
    api.configure(trusted_proxies=["127.0.0.1"], user_header="X-User")
    assert (await api.post({}, X_User="annabel"))[0] == 202
    replayed = (await api.journal.events(montage_id))[-1]
    assert (replayed["event"], replayed["detail"]["by"]) == ("replayed", "annabel")


async def test_a_repeated_post_does_not_repeat_the_work(api):
    montage_id = await api.failed()
    path = str(api.directory / "_metadata_1_.json")
    await api.post({"paths": [path]})
    status, body = await api.post({"paths": [path]})
    assert (status, body["montages"][0]["action"]) == (202, "wait")
    assert api.queue.enqueued == [(montage_id, True), (montage_id, False)]
    assert [event["event"] for event in await api.journal.events(montage_id)] == ["noticed", "failed", "replayed"]


async def test_an_unknown_metafile_is_noticed_once(api):
    (api.directory / "deep").mkdir()
    (api.directory / "deep" / "_metadata_9_.json").write_text("{}")
    for _ in range(2):
        status, body = await api.post({"paths": [str(api.directory / "deep")], "state": "all"})
        assert status == 202
    assert [row.metafile.name for row in await api.journal.montages()] == ["_metadata_9_.json"]
    assert body["montages"][0]["action"] == "wait"


async def test_a_dry_run_changes_nothing(api):
    montage_id = await api.failed()
    status, body = await api.post({"dry_run": True})
    assert (status, body["dry_run"], body["montages"][0]["action"]) == (200, True, "replay")
    assert api.queue.enqueued == []
    assert (await api.journal.montage(montage_id)).state == "failed"


async def test_an_empty_selection_is_answered_with_200_and_an_empty_list(api):
    assert await api.post({"z": [1050.0]}) == (200, {"dry_run": False, "montages": []})


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"sate": "failed"}, "sate: unknown; the keys are paths, z, state, since, from, dry_run"),
        ({"state": "nope"}, "state: "),
        ({"paths": ["relative"]}, "paths.0: 'relative' is not an absolute path"),
        ({"paths": ["/elsewhere"]}, "PATH: /elsewhere is not in a watched directory"),
        ({"since": "soon\nlater"}, "since: 'soon\\nlater' is not a time"),
        ({"from": "close"}, "from: "),
        ([], "body: "),
        (b"{", "body: "),
        (b"\xff\xfe", "body: "),
        (b"[" * 50_000, "body: "),
    ],
)
async def test_an_invalid_body_is_answered_with_400_and_the_key(api, body, problem):
    status, answer = await api.post(body)
    assert status == 400
    assert answer["error"].startswith(problem)
    assert "\n" not in answer["error"]


async def test_a_body_that_is_too_large_is_not_read(api):
    assert (await api.post(b" " * (MAX_BODY_BYTES + 1)))[0] == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8787"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": "multipart/form-data; boundary=x"}, 415),
        ({"Host": "localhost:8787"}, 202),
        ({"Host": "[::1]:8787"}, 202),
        ({"Host": "127.0.0.1:1", "Origin": "http://127.0.0.1:1", "Sec_Fetch_Site": "same-origin"}, 202),
    ],
)
async def test_a_post_from_a_page_of_another_site_is_refused(api, headers, status):
    montage_id = await api.failed()
    assert (await api.post({}, **headers))[0] == status
    assert ((await api.journal.montage(montage_id)).state == "failed") is (status != 202)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 403),
        (TOKEN, 403),
        (f"Bearer {TOKEN}x", 403),
        ("Bearer é", 403),
        (f"Basic {TOKEN}", 403),
        (f"Bearer {TOKEN}", 202),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_post_is_accepted_only_with_the_token(api, token_file, host, authorization, status):
    await api.failed()
    api.configure(token_file=token_file, host=host)
    headers = {} if authorization is None else {"Authorization": authorization}
    answered, body = await api.post({}, **headers)
    assert answered == status
    assert TOKEN not in json.dumps(body)


async def test_without_a_token_a_daemon_open_to_other_machines_refuses_every_post(api):
    await api.failed()
    api.configure(host="0.0.0.0")
    status, body = await api.post({})
    assert (status, "http.token_file" in body["error"]) == (403, True)


async def test_an_unreadable_token_file_refuses_every_post(api, token_file):
    api.configure(token_file=token_file)
    token_file.chmod(0o644)
    status, body = await api.post({}, Authorization=f"Bearer {TOKEN}")
    assert (status, "open to other users" in body["error"]) == (503, True)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["paths", "z", "state", "since", "from", "dry_run", "other"])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(KEYS, JSON | st.lists(st.just("/") | st.text(max_size=9).map("/".__add__)), max_size=4))
async def test_any_body_is_answered_or_refused_without_an_internal_error(api, body):
    assert (await api.post(json.dumps(body).encode(errors="surrogatepass")))[0] in (200, 202, 400, 503)


async def dismiss(api: Api, body: object) -> tuple[int, dict]:
    headers = {"Content-Type": "application/json"}
    async with api.client.post("/api/dismiss", data=json.dumps(body).encode(), headers=headers) as answer:
        return answer.status, await answer.json()


async def test_failed_montages_are_dismissed_and_others_are_refused(api):
    montage_id = await api.failed()
    status, body = await dismiss(api, {"ids": [montage_id, 99], "reason": " deleted on purpose "})
    assert status == 200
    assert [(each["id"], each["dismissed"], each["note"]) for each in body["montages"]] == [
        (montage_id, True, ""),
        (99, False, "no such montage; `temwatch status` shows ids"),
    ]
    _, body = await dismiss(api, {"ids": [montage_id], "reason": "again"})
    assert body["montages"][0]["note"] == (
        "is dismissed; only a FAILED montage, or a COMPLETE one without its metafile, can be dismissed"
    )
    montage = await api.journal.montage(montage_id)
    assert (montage.state, montage.waiting_for) == (MontageState.DISMISSED, "deleted on purpose")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"ids": [1]}, "reason: Field required"),
        ({"ids": [1], "reason": "  "}, "reason: "),
        ({"ids": [], "reason": "x"}, "ids: "),
        ({"ids": [0], "reason": "x"}, "ids.0: "),
        ({"ids": [2**64], "reason": "x"}, "ids.0: "),
        ({"ids": [1], "reason": "x", "state": "complete"}, "state: unknown; the keys are ids, reason"),
    ],
)
async def test_an_invalid_dismissal_is_answered_with_400_and_the_key(api, body, problem):
    status, answer = await dismiss(api, body)
    assert status == 400
    assert answer["error"].startswith(problem)


async def test_a_dismissal_needs_the_token(api, token_file):
    api.configure(token_file=token_file)
    assert (await dismiss(api, {"ids": [1], "reason": "x"}))[0] == 401


async def back_up(api: Api, body: object, **headers: str) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json"} | {key.replace("_", "-"): each for key, each in headers.items()}
    async with api.client.post("/api/journal/backup", data=json.dumps(body).encode(), headers=headers) as answer:
        return answer.status, await answer.read()


async def test_the_journal_is_copied_even_after_its_file_was_deleted(api, tmp_path):
    montage_id = await api.failed()
    remove_journal(api.journal.path)
    status, content = await back_up(api, {"journal": str(api.journal.path)})
    assert status == 200
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(content)
    async with Journal(copy) as journal:
        assert [each.id for each in await journal.montages()] == [montage_id]
    assert {each.name for each in tmp_path.iterdir() if "backup" in each.name} == set()


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({"journal": "/elsewhere.sqlite"}, 409, "journal: this daemon uses /"),
        ({}, 400, "journal: Field required"),
        ({"journal": "/x", "file": "/etc/passwd"}, 400, "file: unknown; the keys are journal"),
    ],
)
async def test_a_backup_that_is_not_of_this_journal_is_refused(api, body, status, problem):
    answered, content = await back_up(api, body)
    assert answered == status
    assert json.loads(content)["error"].startswith(problem)


async def test_a_backup_needs_the_token(api, token_file):
    api.configure(token_file=token_file)
    body = {"journal": str(api.journal.path)}
    assert (await back_up(api, body))[0] == 401
    assert (await back_up(api, body, Authorization=f"Bearer {TOKEN}"))[0] == 200


async def silence(api: Api, body: object) -> tuple[int, dict]:
    headers = {"Content-Type": "application/json"}
    async with api.client.post("/api/alerts/silence", data=json.dumps(body).encode(), headers=headers) as answer:
        return answer.status, await answer.json()


async def test_a_silence_is_answered_with_all_silences_in_force(api):
    status, body = await silence(api, {"kind": "disk low", "for_s": 60, "by": "Anna", "reason": "\x1b[2J"})
    assert (status, [each["reason"] for each in body["silences"]]) == (200, ["\\x1b[2J"])
    _, body = await silence(api, {"watch": "temca2", "for_s": 90})
    assert [(each["kind"], each["watch"]) for each in body["silences"]] == [("disk low", None), (None, "temca2")]
    _, body = await silence(api, {"kind": "disk low", "for_s": 0})
    assert [each["kind"] for each in body["silences"]] == [None]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"kind": "disk low"}, "for_s: Field required"),
        ({"kind": "nonsense", "for_s": 1}, "kind: "),
        ({"for_s": 31 * 86400}, "for_s: "),
        ({"for_s": -1}, "for_s: "),
        ({"for_s": 1, "until": "tomorrow"}, "until: "),
    ],
)
async def test_an_invalid_silence_is_refused_with_the_key(api, body, problem):
    status, answer = await silence(api, body)
    assert (status, answer["error"].startswith(problem)) == (400, True), answer
