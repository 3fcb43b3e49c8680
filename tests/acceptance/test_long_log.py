"""A growing log of 1,000,000 tiles: the cost of a section does not depend on the length of the log."""

import resource
import sys
import time
from pathlib import Path

import pytest

from daemon.watching.scan import NameRule, Tree
from handlers.acquisition.formats.sbemimage import SbemImage

SLICES, TILES, RESTART_AT = 10_000, 100, 5_000
READER = SbemImage()
SESSION = (
    "SESSION: {'timestamp': 1591084932, 'slice_thickness': 50, 'grids': ['0000'], 'rotation_angles': [0.0], "
    "'pixel_sizes': [5.0], 'email_addresses: ': ['operator@example.org', '']}\r\n"
)


def slice_lines(number: int) -> str:
    lines = [
        f"TILE: {{'tileid': '0000.{tile:04d}.{number:05d}', 'timestamp': {1591084958 + number * 60}, "
        f"'slice_counter': {number}, 'filename': 'tiles/g0000/t{tile:04d}/stack_g0000_t{tile:04d}_s{number:05d}.tif', "
        f"'tile_width': 2048, 'tile_height': 1536, 'wd_stig_xy': [0.00625, -0.014, 1.094], "
        f"'glob_x': {tile % 10 * 9240}, 'glob_y': {tile // 10 * 6680}, 'glob_z': {number * 50}}}\r\n"
        for tile in range(TILES)
    ]
    return "".join(lines) + f"SLICE COMPLETE: {{'timestamp': 1, 'completed_slice': {number + 1}}}\r\n"


def tree_at(root: Path) -> Tree:
    return Tree(str(root), NameRule(READER.pattern), follow=READER.follower)


@pytest.mark.slow(minutes=2)
@pytest.mark.timeout(1800)
def test_the_cpu_of_a_section_is_constant_and_memory_is_bounded_over_a_million_tiles(tmp_path: Path) -> None:
    log = tmp_path / "stack" / "meta" / "logs" / "metadata_2020-06-0210021236.txt"
    log.parent.mkdir(parents=True)
    log.write_text(SESSION, newline="")
    tree = tree_at(tmp_path)
    tree.scan_some((), (str(tmp_path),))
    costs, memory, seen, restart_s = [], [], 0, 0.0
    with log.open("a", newline="") as file:
        for number in range(SLICES):
            file.write(slice_lines(number))
            file.flush()
            before = time.process_time()
            if number == RESTART_AT:
                tree = tree_at(tmp_path)
                assert len(tree.scan_some((), (str(tmp_path),))) == number + 1
                restart_s = time.process_time() - before
                seen += 1
                continue
            found = tree.scan_some((str(log.parent),), ())
            costs.append(time.process_time() - before)
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            seen += len(found)
    assert seen == SLICES
    early, late = sorted(costs[:1000])[500], sorted(costs[-1000:])[500]
    grown_mib = (memory[-1] - memory[0]) / 1024
    sys.stderr.write(
        f"median CPU of a section {1e3 * early:.2f} ms of the first 1,000, {1e3 * late:.2f} ms of the last 1,000; "
        f"restart after {RESTART_AT} sections {restart_s:.1f} s; memory grew by {grown_mib:.0f} MiB\n"
    )
    assert late < 2 * early
    assert grown_mib < 64
