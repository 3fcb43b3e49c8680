"""A render-ws that fails all requests counts as unavailable even for one montage, which is not FAILED."""

from collections.abc import Iterator
from typing import Any

import pytest

from daemon.simulator.delivery import Written
from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.rig import Rig, running, temwatch, wait_for

DATABASE = r"^(?!GET .*/versionInfo)"
"""Pattern of the requests that need the database of render-ws."""
OUTAGES: dict[str, dict[str, Any]] = {
    "the database is unavailable": {"match": DATABASE, "status": 500, "text": "Timed out after 30000 ms while waiting"},
    "each request gets a 500 after 3 s": {"match": DATABASE, "status": 500, "seconds": 3},
    "each answer is a page": {"match": ".", "status": 200},
    "each answer except the version is a page": {"match": DATABASE, "status": 200},
    "a proxy knows no such page": {"match": DATABASE, "status": 404, "text": "404 page not found"},
    "a proxy redirects": {"match": DATABASE, "status": 302},
    "a proxy requires another protocol": {"match": DATABASE, "status": 400},
}
QUICK = ("the database is unavailable",)
"""Outages of the quick tests; the others belong to the long tests."""


@pytest.fixture(scope="module")
def lasting_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One rig for all tests. Each test has its own specimen and therefore its own stacks."""
    with running(Rig(tmp_path_factory.mktemp("fails"))) as rig:
        yield rig


@pytest.fixture
def well_rig(lasting_rig: Rig) -> Rig:
    lasting_rig.tell_standin()
    wait_for(lambda: lasting_rig.ready().get("ready"), 40, lambda: f"ready; {lasting_rig.ready()}")
    return lasting_rig


def image(rig: Rig, specimen: str, grid: int = 1050) -> Written:
    """Write a section of a specimen with its own session."""
    plan = section_plan(grid, 4, specimen_id=specimen, session_id=f"{specimen}_session")
    return write_section(plan, rig.acquisition, pixels="noise")


def away_reasons(rig: Rig) -> list[str]:
    return [reason for reason in rig.ready().get("reasons", ()) if reason.startswith("render-ws is unavailable: ")]


def attempts_of(rig: Rig, section: Written) -> list[dict[str, Any]]:
    row = rig.montage_of(section.metafile)
    return rig.montage(row["id"])["attempts"] if row else []


@pytest.mark.parametrize(
    ("specimen", "outage"),
    [pytest.param(f"lone{n}", name, marks=() if name in QUICK else pytest.mark.slow) for n, name in enumerate(OUTAGES)],
)
def test_a_single_montage_waits_for_a_service_that_fails_all_requests(well_rig, specimen, outage):
    rig = well_rig
    rig.tell_standin(kind="status", **OUTAGES[outage])
    section = image(rig, specimen)
    wait_for(lambda: away_reasons(rig), 60, lambda: f"not ready; {rig.ready()}; {rig.montage_of(section.metafile)}")
    known = len(rig.requests())
    wait_for(lambda: len(rig.requests()) >= known + 3, 60, "three more probes")
    assert rig.montage_of(section.metafile)["state"] == "settled"
    assert len(attempts_of(rig, section)) <= 3, "during the outage only probes are sent"
    rig.tell_standin()
    rig.wait_until("complete", section.metafile)
    wait_for(lambda: rig.ready().get("ready"), 40, lambda: f"ready; {rig.ready()}")


def test_montages_wait_for_an_operator_after_a_refused_login_which_is_not_retried(well_rig):
    rig = well_rig
    rig.tell_standin(match=DATABASE, kind="status", status=401)
    section = image(rig, "nologin")
    begins = "render-ws cannot be used until an operator acts: "
    reasons = wait_for(
        lambda: [each for each in rig.ready().get("reasons", ()) if each.startswith(begins)], 60, "not ready"
    )
    assert f"the proxy at {rig.render_url.removesuffix('/render-ws/v1')} asks for a login (401: " in reasons[0]
    assert "set render.username and render.password_file, or render.token_file" in reasons[0]
    known = len(rig.requests())
    others = [image(rig, f"nologin{number}") for number in range(3)]
    wait_for(
        lambda: all((rig.montage_of(each.metafile) or {}).get("state") == "settled" for each in others), 60, "settled"
    )
    assert len(rig.requests()) == known, "a refused login is sent again"
    assert rig.montage_of(section.metafile)["state"] == "settled"
    rig.tell_standin()
    done = temwatch("reload", "--config", str(rig.config()))
    assert done.returncode == 0, done.stderr
    rig.wait_until("complete", section.metafile, *(each.metafile for each in others))
    wait_for(lambda: rig.ready().get("ready"), 40, lambda: f"ready; {rig.ready()}")


@pytest.mark.slow(minutes=4)
@pytest.mark.timeout(600)
def test_a_database_unavailable_for_minutes_is_reported_within_one_and_fails_no_montage(rig):
    """render-ws without its database answers each request with 500 after 30 s."""
    with running(rig):
        rig.tell_standin(match=DATABASE, kind="status", status=500, seconds=30)
        section = image(rig, "minutes")
        wait_for(lambda: away_reasons(rig), 60, lambda: f"not ready; {rig.ready()}")
        wait_for(lambda: len(rig.requests()) >= 20, 500, "an outage of minutes")
        assert rig.montage_of(section.metafile)["state"] == "settled"
        assert not rig.ready()["ready"]
        rig.tell_standin()
        rig.wait_until("complete", section.metafile, timeout_s=120)


@pytest.mark.slow
def test_a_montage_on_which_alone_render_ws_fails_is_failed_after_five_attempts(well_rig):
    rig = well_rig
    rig.tell_standin(match=r"PUT .*/stack/poison_raw/z/", kind="status", status=500, text="a bug in render-ws")
    section = image(rig, "poison")
    wait_for(lambda: (rig.montage_of(section.metafile) or {}).get("state") == "failed", 60, "FAILED")
    assert rig.montage_of(section.metafile)["fault"]["kind"] == "RenderBroken"
    assert len([each for each in attempts_of(rig, section) if each["step"] == "ingest"]) == 5
    assert rig.ready()["ready"], rig.ready()
    later = image(rig, "wholesome")
    rig.wait_until("complete", later.metafile)


@pytest.mark.slow
def test_a_montage_on_which_alone_render_ws_fails_is_failed_even_after_an_outage(well_rig):
    rig = well_rig
    rig.tell_standin(match=r"PUT .*/stack/bitter_raw/z/", kind="status", status=500, text="a bug in render-ws")
    rig.tell_standin(match=".", kind="status", status=503, times=60)
    section = image(rig, "bitter")
    wait_for(lambda: away_reasons(rig), 60, lambda: f"not ready; {rig.ready()}")
    rig.tell_standin()
    rig.tell_standin(match=r"PUT .*/stack/bitter_raw/z/", kind="status", status=500, text="a bug in render-ws")
    wait_for(lambda: (rig.montage_of(section.metafile) or {}).get("state") == "failed", 100, "FAILED")
    wait_for(lambda: rig.ready().get("ready"), 40, lambda: f"ready; {rig.ready()}")
