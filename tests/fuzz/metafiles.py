"""Fuzzer of metafiles: each one must give tile specs that can be uploaded, or a fault that names it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon.config.render_settings import RenderSettings
from daemon.config.watch_settings import WatchSettings
from daemon.pipeline.settling.interpret import interpret_metafile
from daemon.pipeline.steps.section import section_from_metafile
from handlers.errors import MAX_TEXT, Fault
from handlers.render.tiles import MAX_BYTES, MAX_TILES, check_upload, upload_parts
from tests.acceptance.faults.mutations import damage_metafile
from tests.fuzz.fuzzer import Check, Fuzzer
from tests.unit.sections import NAME, section
from tests.unit.test_section import LENS, montage_of, watch_settings

RENDER = RenderSettings(url="http://render:8080/render-ws/v1", owner="em", project="v1")
DOCUMENT = [*section(width=2, height=2), {"sharedTransform": LENS}]


def draw_metafile(rng: random.Random) -> bytes:
    """Return a damaged metafile."""
    return damage_metafile(rng, DOCUMENT)


def import_metafile(content: bytes, path: Path, watch: WatchSettings) -> None:
    """Process a metafile as the daemon does, until its first request. Raises a Fault."""
    acquisition = watch.reader.parse(content, path)
    settled = interpret_metafile(acquisition, path, "digest", watch, RENDER)
    assert all(len(text) <= MAX_TEXT for text in settled.findings)
    montage = montage_of(path.parent)
    montage.z = settled.z
    found = section_from_metafile(montage, watch, acquisition)
    transforms = {found.transform["id"]: found.transform} if found.transform else {}
    check_upload(str(path), settled.z, found.specs)
    upload_parts(found.specs, transforms, MAX_TILES, MAX_BYTES)


@contextmanager
def open_check(place: Path) -> Iterator[Check]:
    """Yield the check of a metafile."""
    path, watch = place / "acquisition" / NAME, watch_settings(place / "acquisition", shared_transform=True)

    def check(content: bytes) -> None:
        try:
            import_metafile(content, path, watch)
        except Fault as fault:
            text = f"{fault.subject}: {fault.problem} ({fault.hint})"
            assert NAME in text, text
            assert text.isprintable(), repr(text)
            assert len(text) <= 3 * MAX_TEXT, text

    yield check


METAFILES = Fuzzer("metafiles", draw_metafile, open_check)
