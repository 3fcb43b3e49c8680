"""Write a montage as SerialEM into an MRC stack: the stack grows, and its mdoc is rewritten."""

from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from daemon.simulator.delivery import Written
from daemon.simulator.frames import Frame, FrameSource, measure
from daemon.simulator.section import SectionPlan
from daemon.simulator.serialem import head, montage_text

HEADER_BYTES = 1024


def write_stack_montage(plan: SectionPlan, root: Path, source: FrameSource) -> Written:
    """Append a section to the stack of its session below `root`. All returned images are the stack's file."""
    directory = root / plan.specimen_id
    directory.mkdir(parents=True, exist_ok=True)
    stack, mdoc = directory / f"{plan.session_id}.mrc", directory / f"{plan.session_id}.mrc.mdoc"
    before = mdoc.read_bytes() if mdoc.exists() else stack_head(plan, stack.name)
    section, first = before.count(b"[MontSection"), before.count(b"[ZValue")
    statistics = []
    for tile in plan.tiles:
        frame = source.frame(tile)
        statistics.append(measure(frame, tile.fault))
        append_section(stack, frame)
    entries = [f"ZValue = {first + index}" for index in range(len(plan.tiles))]
    written = mdoc.with_suffix(".new")
    written.write_bytes(before + montage_text(plan, entries, statistics, section).encode())
    written.replace(mdoc)
    return Written(directory, mdoc / f"montage@{section:05d}", tuple(stack for _ in plan.tiles))


def stack_head(plan: SectionPlan, stack: str) -> bytes:
    """Return the head of an mdoc: that of an idoc with the name of the stack."""
    return head(plan).replace("ImageSeries = 1", f"ImageFile = {stack}").encode()


def append_section(stack: Path, frame: Frame) -> None:
    """Append an image to a stack: rows from the bottom up, bytes signed. The number of sections is written last."""
    rows = frame[::-1]
    stored = (rows.astype(np.int16) - 128).astype(np.int8) if frame.dtype == np.uint8 else rows.astype("<u2")
    section_bytes = stored.nbytes
    sections = (stack.stat().st_size - HEADER_BYTES) // section_bytes if stack.exists() else 0
    with stack.open("r+b" if sections else "wb") as file:
        file.seek(HEADER_BYTES + sections * section_bytes)
        file.write(stored.tobytes())
        file.seek(0)
        file.write(stack_header(frame, sections + 1))


def stack_header(frame: Frame, sections: int) -> bytes:
    """Return the header of a stack of images like the frame."""
    found = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    height, width = frame.shape
    for fields in (("nx", "ny", "nz"), ("mx", "my", "mz")):
        for name, value in zip(fields, (width, height, sections), strict=True):
            found[name] = value
    found["mode"] = 0 if frame.dtype == np.uint8 else 6
    found["mapc"], found["mapr"], found["maps"] = 1, 2, 3
    found["cella"] = (width, height, sections)
    found["cellb"] = (90, 90, 90)
    found["nversion"] = 20140
    found["map"], found["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    return found.tobytes()
