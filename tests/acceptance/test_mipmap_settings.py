"""Settings of the daemon for mipmaps: methods, formats, compression, existing levels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.images.reduction import MEAN, Reduction
from tests.acceptance.rig import verify_levels
from tests.reduction import reduce_levels

MIPS = "20314_2L_mips"


def path_of(url: str) -> Path:
    return Path(url.removeprefix("file://"))


@pytest.mark.parametrize(
    ("keys", "reduction", "extension"),
    [
        ({"method": "render", "format": "png", "compression": 1}, MEAN, ".png"),
        ({"method": "PIL", "filter": "LANCZOS", "compression": "lzw"}, Reduction("PIL", "LANCZOS"), ".tif"),
        ({"function": "median", "format": "png", "force": False}, Reduction(function="median"), ".png"),
    ],
)
def test_levels_are_made_with_the_configured_method_and_format(rig, write, keys, reduction, extension):
    rig.settings |= {f"watch.mipmaps.{key}": value for key, value in keys.items()}
    rig.start_standin()
    rig.start()
    section = write()
    rig.wait_until("complete", section.metafile)
    tiles = rig.tiles(MIPS, 1050.0)
    assert verify_levels(tiles) == 24
    if keys.get("method") == "render":
        assert any("/source/png-image" in request["path"] for request in rig.requests())
    for tile in tiles.values():
        urls = {int(level): entry["imageUrl"] for level, entry in tile["mipmapLevels"].items()}
        with Image.open(path_of(urls.pop(0))) as level0:
            expected = dict(reduce_levels(np.asarray(level0), urls, reduction))
        for level, url in urls.items():
            assert url.endswith(extension)
            with Image.open(path_of(url)) as found:
                np.testing.assert_array_equal(np.asarray(found), expected[level])


def test_existing_levels_are_kept_if_force_is_false(rig, write):
    rig.settings |= {"watch.mipmaps.force": False}
    rig.start_standin()
    rig.start()
    section = write()
    rig.wait_until("complete", section.metafile)
    before = {path: path.stat().st_mtime_ns for path in rig.mipmaps.rglob("*.tif")}
    assert rig.daemon.stop() == 0
    for path in rig.root.glob("daemon.sqlite*"):  # a daemon without a journal repeats all steps
        path.unlink()
    gone = next(iter(before))
    gone.unlink()
    rig.start()
    rig.wait_until("complete", section.metafile)
    after = {path: path.stat().st_mtime_ns for path in rig.mipmaps.rglob("*.tif")}
    assert {path for path in before if after[path] != before[path]} == {gone}
