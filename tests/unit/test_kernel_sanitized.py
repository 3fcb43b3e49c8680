"""The compiled kernels under AddressSanitizer and UndefinedBehaviorSanitizer, if the compiler has them."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import hatch_build

ROOT = Path(__file__).resolve().parents[2]
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
FLAGS = ("-std=gnu11", "-fPIC", "-shared", "-Wall", "-Wextra")
CHECK = """
    import itertools
    import sys
    from pathlib import Path
    import numpy as np
    from handlers.images.formats import png_filters
    from handlers.mipmaps.reductions import mean_kernel
    mean_kernel.LIBRARY = Path(sys.argv[1])
    assert mean_kernel.compiled_code() is not None
    from handlers.mipmaps.reductions.mean_kernel import CompiledMeans
    from tests.unit.noise import file_of_rows, noise
    from tests.unit.test_kernel import KINDS, require_same, require_same_numbers
    from tests.unit.test_png import require_filters_undone
    from tests.unit.test_resize_kernel import DEPTHS, FILTERS, require_same_as_pillow

    for depth, to_8bit in KINDS:
        white = np.iinfo(depth).max
        for height, width in ((2, 2), (3, 5), (2, 600), (259, 515), (64, 2050), (511, 257), (33, 1030)):
            levels = min(mean_kernel.HIGHEST_LEVEL, min(height, width).bit_length() - 1)
            require_same(noise(depth, height, width), levels, to_8bit)
        require_same(np.full((512, 768), white, depth), mean_kernel.HIGHEST_LEVEL, to_8bit)
        require_same_numbers(np.full((512, 768), white, depth))
        for height, width in ((3, 3), (3, 600), (259, 515), (33, 1030)):
            require_same_numbers(noise(depth, height, width))
        image = noise(depth, 395, 1500)
        file = Path(sys.argv[1]).with_suffix(".rows")
        for start, rows_each in ((0, 400), (122, 7), (4095, 90), (8, 1)):
            content, runs = file_of_rows(image, rows_each, start)
            file.write_bytes(content)
            outputs = {n: np.zeros((395 >> n, 1500 >> n), np.uint8 if to_8bit else depth) for n in (1, 2, 5)}
            means = CompiledMeans(1500, 395, image.itemsize * 8, outputs, to_8bit)
            with file.open("rb") as opened:
                means.add_file(opened.fileno(), runs, lambda offset, piece: bytes(piece))
    for name in FILTERS:
        for depth in DEPTHS:
            for height, width in ((2, 2), (3, 5), (2, 600), (69, 515), (140, 128)):
                levels = range(1, min(6, min(height, width).bit_length() - 1) + 1)
                require_same_as_pillow(noise(depth, height, width), name, levels)
    png_filters.LIBRARY = Path(sys.argv[1])
    assert png_filters.compiled_filters() is not None
    for depth, size in itertools.product((np.uint8, np.uint16), ((1, 1), (1, 9), (9, 1), (25, 13))):
        require_filters_undone(depth, size)
    print("clean")
"""


def compiler() -> str:
    return os.environ.get("CC", "cc").split()[0]


def runtime_library() -> str:
    """Return AddressSanitizer's library. A program that was built without it must load the library first."""
    if shutil.which(compiler()) is None:
        pytest.skip("there is no C compiler")
    name = subprocess.run([compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(name).is_absolute() or not Path(name).exists():
        pytest.skip("the compiler has no AddressSanitizer that can be loaded first")
    return name


@pytest.mark.slow
@pytest.mark.parametrize("option", ["", "-DPORTABLE"], ids=["this processor", "portable"])
def test_no_undefined_behaviour_and_no_access_outside_of_the_arrays(tmp_path: Path, option: str) -> None:
    library = tmp_path / "sanitized.so"
    sanitizer = runtime_library()
    sources = [str(hatch_build.ROOT / source) for each in hatch_build.LIBRARIES.values() for source in each]
    command = [compiler(), *FLAGS, *SANITIZERS, *option.split(), "-o", str(library), *sources]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    environment = {**os.environ, "LD_PRELOAD": sanitizer, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(CHECK), str(library)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=100)
    assert done.stdout.split() == ["clean"], done.stderr[-3000:]
