"""Mipmaps stop before their disk is full, and resume automatically when it has free space."""

import os
import shutil

import pytest

from tests.acceptance.rig import Rig, digest_tree, fetch, verify_levels, wait_for


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_step_stops_when_its_disk_becomes_low_and_no_level_is_made_twice(rig: Rig, write):
    """The reserve is so large that a file of another program makes the disk low."""
    rig.start_standin()
    rig.mipmaps.mkdir()
    filling = rig.root / "data_of_another_program"
    margin = shutil.disk_usage(rig.mipmaps).free // 2  # other tests may write gigabytes
    reserve = shutil.disk_usage(rig.mipmaps).free - margin
    rig.settings |= {"watch.mipmaps.min_free_bytes": reserve, "workers.count": 1}
    rig.start()

    def tiles_made() -> int:
        return int(rig.montage(rig.montage_of(written.metafile)["id"])["tiles_made"])

    with rig.held_at_mipmaps(lambda: write(tiles=120, specimen_id="s"), first=5) as (written, lease):
        wait_for(lambda: tiles_made() >= 3, 60, "some tiles are made")
        with filling.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, margin * 6 // 5)
        wait_for(
            lambda: any("GB free" in reason for reason in rig.ready().get("reasons", ())), 30, lambda: str(rig.ready())
        )
        metrics = fetch(f"{rig.url}/metrics")
        assert f'temwatch_disk_usable{{directory="{rig.mipmaps}"}} 0.0' in metrics
        row = rig.montage_of(written.metafile)
        lease.give_back()
    wait_for(lambda: rig.montage_of(written.metafile)["fault"], 60, "the step ends")
    assert "GB free" in rig.montage_of(written.metafile)["fault"]["problem"]
    made = tiles_made()
    assert made < row["tiles"]
    assert any('"disk.unusable"' in line for line in rig.daemon.lines())
    files = digest_tree(rig.mipmaps)
    times = {path: (rig.mipmaps / path).stat().st_mtime_ns for path in files}
    filling.unlink()
    rig.wait_until("complete", written.metafile, timeout_s=240)
    assert rig.ready()["ready"]
    assert {path: (rig.mipmaps / path).stat().st_mtime_ns for path in times} == times
    assert verify_levels(rig.tiles("s_mips", 1050.0)) == 6 * row["tiles"]
    assert not list(rig.mipmaps.rglob("*.tmp"))


@pytest.mark.slow
def test_no_mipmaps_are_written_below_a_missing_mount(rig: Rig, write):
    rig.start_standin()
    rig.start()
    first = write(1050, specimen_id="s")
    rig.wait_until("complete", first.metafile)
    mounted = rig.mipmaps.with_name("mounted")
    rig.mipmaps.rename(mounted)
    rig.mipmaps.mkdir()
    assert rig.daemon.stop() == 0
    rig.start()
    second = write(1051, specimen_id="s")
    wait_for(lambda: any("lacks the marker" in reason for reason in rig.ready().get("reasons", ())), 60, "not ready")
    rig.wait_until("ingested", second.metafile)
    assert list(rig.mipmaps.iterdir()) == []
    rig.mipmaps.rmdir()
    mounted.rename(rig.mipmaps)
    rig.wait_until("complete", second.metafile)
    assert rig.ready()["ready"]
