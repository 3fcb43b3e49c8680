"""The data of events as JSON values."""

from dataclasses import asdict

import pytest

from daemon.montages.announcements import Bounds, FaultData, MontageData, StackData, StackName, data_json

STACK = StackName("em", "v1", "s_raw")
FAILED = MontageData(
    montage=17,
    watch="temca2",
    state="failed",
    metafile="/data/m.json",
    metafile_uri="file:///data/m.json",
    z=1050.0,
    section_id="1050.0",
    tiles=4,
    bounds=Bounds(0.0, 0.0, 100.0, 200.0),
    raw_stack=STACK,
    mipmapped_stack=None,
    output_dir=None,
    noticed_at="1970-01-01T00:00:00.250Z",
    changed_at="1970-01-01T00:00:01.250Z",
    complete_at=None,
    verdict="fail",
    rules=("min_focus", "max_blank_tiles"),
    decided_by=None,
    fault=FaultData("ImageFault", "/data/a.tif", "is truncated", "copy it again"),
    reason=None,
    superseded_by=None,
)


@pytest.mark.parametrize("data", [FAILED, StackData(STACK, "temca2", (1.0, 2.0), None)], ids=["montage", "stack"])
def test_records_become_objects_at_every_depth(data: MontageData | StackData) -> None:
    assert data_json(data) == asdict(data)
