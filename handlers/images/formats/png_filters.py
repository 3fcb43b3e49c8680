"""The filters of PNG rows, undone in compiled code (png_rows.c), if it was built."""

import ctypes
import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from handlers.errors import InvalidImage

LIBRARY = Path(__file__).with_name("libpng_rows.so")
Bytes = npt.NDArray[np.uint8]


@functools.cache
def compiled_filters() -> ctypes.CDLL | None:
    """Return the compiled code; None if it was not built, or was built for another machine."""
    size, short, place = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
        loaded.temwatch_unfilter.argtypes = (place, size, size, short, place, place)
        loaded.temwatch_unfilter.restype = short
    except (OSError, AttributeError):
        return None
    return loaded


def unfilter(filtered: Bytes, above: Bytes, rows: Bytes, pixel_bytes: int) -> None:
    """Undo the filters of some rows of an image. Pixels keep the byte order of the file.

    Parameters
    ----------
    filtered : (rows, 1 + bytes of a row), each row behind the number of its filter.
    above : the row above the first one, without a filter; zeros above the first row of an image.
    rows : receives the rows, (rows, bytes of a row).
    pixel_bytes : 1 or 2.

    Raises
    ------
    InvalidImage
        If a row has an unknown filter.
    """
    code = compiled_filters()
    assert code is not None
    sizes = len(rows), rows.shape[1], pixel_bytes
    if not code.temwatch_unfilter(filtered.ctypes.data, *sizes, above.ctypes.data, rows.ctypes.data):
        raise InvalidImage("has broken PNG data: a row has an unknown filter")
