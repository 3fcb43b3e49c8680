"""A FAILED montage is retried automatically when its cause has ended, even after a restart."""

from pathlib import Path
from typing import Any

import pytest

from daemon.simulator.delivery import Written
from tests.acceptance.rig import Rig, verify_levels, wait_for


def events_of(rig: Rig, metafile: Path) -> list[dict[str, Any]]:
    return rig.montage(rig.montage_of(metafile)["id"])["events"]


def require_retried(rig: Rig, written: Written, because: str) -> None:
    """Wait until the montage is COMPLETE; check that it was retried for this reason."""
    wait_for(lambda: rig.montage_of(written.metafile)["state"] == "complete", 60, lambda: str(rig.montages()))
    retried = [event for event in events_of(rig, written.metafile) if event["event"] == "retried"]
    assert retried
    assert because in retried[0]["detail"]["because"]
    assert verify_levels(rig.tiles("s_mips", 1050.0)) == 24


@pytest.fixture
def started(rig: Rig) -> Rig:
    rig.settings |= {"watch.arrival_timeout_s": 1.0, "watch.settle_s": 0.05, "watch.scan_interval_s": 0.5}
    rig.start_standin()
    return rig


def restart(rig: Rig) -> None:
    assert rig.daemon is not None
    rig.daemon.kill()
    rig.start()


@pytest.mark.slow
@pytest.mark.parametrize("restarted", [False, True])
def test_a_failed_montage_is_retried_when_its_missing_image_arrives(started, write, restarted):
    rig = started
    rig.start()
    written = write(specimen_id="s")
    image = min(written.metafile.parent.glob("*.tif"))
    kept = image.with_name("kept")
    image.rename(kept)
    rig.wait_until("failed", written.metafile)
    if restarted:
        restart(rig)
    kept.rename(image)
    require_retried(rig, written, f"{image} has appeared")


def test_a_failed_montage_is_retried_when_its_invalid_image_is_replaced(started, write):
    rig = started
    written = write(specimen_id="s")
    image = max(written.metafile.parent.glob("*.tif"))
    whole = image.read_bytes()
    image.write_bytes(b"not an image at all")
    rig.start()
    rig.wait_until("failed", written.metafile)
    assert rig.montage_of(written.metafile)["failed_in"] == "noticed"
    image.write_bytes(whole)
    require_retried(rig, written, f"{image} has changed")


@pytest.mark.slow
def test_a_failed_montage_is_retried_when_an_image_that_could_not_be_decoded_is_replaced(started, write):
    """The image has a valid header and length, so that it settles, and an unknown compression."""
    rig = started
    written = write(specimen_id="s")
    image = sorted(written.metafile.parent.glob("*.tif"))[1]
    whole = image.read_bytes()
    broken = make_undecodable(whole)
    image.write_bytes(broken)
    rig.start()
    rig.wait_until("failed", written.metafile)
    montage = rig.montage_of(written.metafile)
    image.write_bytes(whole)
    require_retried(rig, written, f"{image} has changed")
    assert montage["failed_in"] in ("noticed", "ingested")


def make_undecodable(content: bytes) -> bytes:
    """Return a TIFF of the same length with an unknown compression."""
    at = content.index((259).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    return content[: at + 8] + (32766).to_bytes(2, "little") + content[at + 10 :]


def test_a_failed_montage_is_retried_when_the_z_table_gets_its_row(started, write, tmp_path):
    rig = started
    table = tmp_path / "z.csv"
    table.write_text("grid,z\n7,7\n")
    rig.settings |= {"watch.z.rule": "table", "watch.z.table": str(table)}
    rig.start()
    written = write(specimen_id="s")
    rig.wait_until("failed", written.metafile)
    table.write_text("grid,z\n7,7\n1050,1050\n")
    require_retried(rig, written, f"{table} has changed")


@pytest.mark.slow
def test_a_failed_montage_is_retried_when_its_removed_metafile_is_back(started, write):
    rig = started
    written = write(specimen_id="s")
    away = written.metafile.with_name("away")
    # Its image is missing, so that it is still settling when it is removed.
    image = min(written.metafile.parent.glob("*.tif"))
    image.rename(image.with_name("kept"))
    rig.settings |= {"watch.arrival_timeout_s": 5.0}
    rig.start()
    wait_for(lambda: rig.montage_of(written.metafile), 60, "noticed")
    written.metafile.rename(away)
    rig.wait_until("failed", written.metafile)
    assert "was removed" in rig.montage_of(written.metafile)["fault"]["problem"]
    image.with_name("kept").rename(image)
    away.rename(written.metafile)
    wait_for(lambda: rig.montage_of(written.metafile)["state"] == "complete", 60, lambda: str(rig.montages()))
    events = [event["event"] for event in events_of(rig, written.metafile)]
    # A rename changes the ctime: a scan notices the file again, or the recheck finds it, whichever comes first.
    assert events[events.index("failed") + 1] in ("retried", "renoticed")
    assert verify_levels(rig.tiles("s_mips", 1050.0)) == 24
