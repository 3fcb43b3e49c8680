"""`temwatch quality`: verdicts, worst tiles, numbers and pictures of metafiles with known values."""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.acceptance.rig import Rig, temwatch


@pytest.mark.slow
def test_the_command_shows_verdicts_numbers_and_pictures_of_selected_montages(rig: Rig, write, tmp_path: Path):
    rig.settings |= {"watch.qc.min_focus": 20.0}
    section, other = write(1050), write(1051)
    document = json.loads(section.metafile.read_bytes())
    for tile, score in zip(document[1]["data"], (19.5, 3.25), strict=False):
        tile["focus_score"] = score
    section.metafile.write_text(json.dumps(document))
    rig.start_standin()
    config = ("--config", str(rig.config()))
    empty = temwatch("quality", *config)
    assert (empty.returncode, "does not exist" in empty.stderr) == (1, True)
    rig.start()
    rig.wait_until("complete", section.metafile, other.metafile)
    names = [f"{Path(tile['img_path']).stem}.1050.0" for tile in document[1]["data"]]

    shown = temwatch("quality", "--z", "1050", *config)
    assert shown.returncode == 1
    head, title, *rows = shown.stdout.splitlines()
    assert head.startswith("fail: z 1050, montage ")
    assert head.endswith(str(section.metafile))
    assert title.split() == ["rule", "value", "limit", "tile"]
    focus = [row.split() for row in rows if row.split()[0] == "min_focus"]
    assert focus == [["min_focus", "3.25", "20", names[1]], ["min_focus", "19.5", "20", names[0]]]
    assert shown.stdout.splitlines()[-1] == "1 montage with quality numbers, 0 without; 1 failed"

    as_csv = list(csv.DictReader(io.StringIO(temwatch("quality", "--csv", *config).stdout)))
    assert {row["z"] for row in as_csv} == {"1050.0", "1051.0"}
    by_tile = {row["tile"]: row for row in as_csv}
    assert (by_tile[names[1]]["focus_score"], by_tile[names[1]]["verdict"]) == ("3.25", "fail")
    assert "min_focus" in by_tile[names[1]]["rules"].split()

    lines = [
        json.loads(line) for line in temwatch("quality", str(section.metafile), "--json", *config).stdout.splitlines()
    ]
    assert [(line["z"], line["verdict"]) for line in lines] == [(1050.0, "fail")]
    assert lines[0]["numbers"]["focus_score"][:2] == [19.5, 3.25]

    drawn = temwatch("quality", "--pictures", str(tmp_path / "drawn"), *config)
    files = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert any(name.startswith("z1051_") and name.endswith("_mosaic.png") for name in files), drawn.stdout
    assert any(name.startswith("z1050_") and name.endswith("_focus.png") for name in files)
    for name in files:
        with Image.open(tmp_path / "drawn" / name) as picture:
            picture.load()
    assert all(f"{tmp_path}/drawn/{name}" in drawn.stdout for name in files)
    assert temwatch("quality", "--csv", "--json", *config).returncode == 2
