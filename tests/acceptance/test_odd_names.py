"""A directory whose name is not UTF-8 is processed, and every text about it is valid UTF-8."""

import json
import os
from pathlib import Path

import pytest

from tests.acceptance.rig import Rig, fetch, temwatch


@pytest.mark.slow
def test_a_directory_that_is_not_utf_8_is_processed_and_reported(rig: Rig, write) -> None:
    odd = Path(os.fsdecode(os.fsencode(rig.acquisition) + b"/probe_\xe4"))
    rig.acquisition = odd
    odd.mkdir()
    good, bad = write(1050), write(1051)
    broken = next(path for path in bad.metafile.parent.iterdir() if path.suffix == ".tif")
    broken.write_bytes(b"II*\0 no image at all")
    rig.acquisition = odd.parent
    rig.start_standin()
    rig.settings = {"log.level": "debug", "watch.arrival_timeout_s": 2}
    rig.start()
    rig.wait_until("complete", good.metafile)
    rig.wait_until("failed", bad.metafile)
    config = ("--config", str(rig.config()))
    assert "temwatch_montages{" in fetch(f"{rig.url}/metrics")
    assert rig.ready()["ready"]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as with any locale except C
    for command in (("status",), ("status", "--json"), ("verify",), ("replay", "--dry-run", str(bad.metafile))):
        done = temwatch(*command, *config, env=strict)
        assert (done.returncode, done.stderr) == (0, "")
        assert "probe_" in done.stdout or command == ("verify",)
    rig.daemon.stop()
    for line in rig.daemon.log.read_bytes().splitlines():
        json.loads(line.decode())
