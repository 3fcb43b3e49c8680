"""The daemon reads and writes only in its configured directories, even if another program replaces them by links."""

import os
import shutil

from tests.acceptance.rig import Rig, wait_for


def test_no_levels_are_made_from_a_directory_that_a_link_replaced_after_the_ingest(rig: Rig, write):
    """The missing marker of the mipmap directory stops the second section between its steps."""
    rig.settings |= {"watch.settle_s": 0.1}
    rig.start_standin()
    rig.start()
    first = write(1050, specimen_id="s")
    rig.wait_until("complete", first.metafile)
    marker = rig.mipmaps / ".temwatch"
    marker.unlink()
    assert rig.daemon.stop() == 0
    rig.start()
    second = write(1051, specimen_id="s")
    rig.wait_until("ingested", second.metafile)
    wait_for(lambda: any("lacks the marker" in reason for reason in rig.ready().get("reasons", ())), 60, "not ready")
    directory, outside = second.metafile.parent, rig.root / "private"
    shutil.copytree(directory, outside)
    shutil.rmtree(directory)
    directory.symlink_to(outside)
    marker.touch()
    wait_for(lambda: (rig.montage_of(second.metafile) or {}).get("fault"), 60, "the second section has a fault")
    assert "lies outside" in rig.montage_of(second.metafile)["fault"]["problem"]
    assert not [path for path in rig.mipmaps.rglob("*.tif") if path.is_relative_to(rig.mipmaps / f"1{directory}")]


def test_links_within_the_directory_of_the_metafile_are_followed(rig: Rig, write):
    """Relative links, absolute links, and a watched directory that is itself a link."""
    rig.settings |= {"watch.settle_s": 0.1}
    (rig.root / "mounted").symlink_to(rig.acquisition)
    rig.settings["watch.directory"] = str(rig.root / "mounted")
    rig.start_standin()
    section = write(1050, specimen_id="s")
    elsewhere = section.metafile.parent / "images"
    elsewhere.mkdir()
    for number, image in enumerate(section.images):
        target = image.rename(elsewhere / image.name)
        image.symlink_to(target if number % 2 else os.path.relpath(target, image.parent))
    rig.start()
    rig.wait_until("complete", rig.root / "mounted" / section.metafile.relative_to(rig.acquisition))
