"""Colour maps whose brightness rises steadily, or falls on both sides of zero, so that everybody can read them. Pure.

Each is interpolated from a few colours. Sources: cividis by Nuñez, Anderton and Renslow (PLoS ONE 13, e0199239), made
for people with and without a colour vision deficiency; PuOr by Cynthia Brewer, colorbrewer2.org.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Colours = npt.NDArray[np.uint8]
"""(256, 3): red, green and blue, from the lower to the upper end of the scale."""
Colour = tuple[int, int, int]

UNKNOWN: Colour = (255, 255, 255)
"""Colour of a tile without the number, which also gets a cross."""
OUTSIDE: Colour = (213, 25, 28)
"""Outline of a tile outside the limit. It is drawn inside a white outline, so that it differs from every map colour."""


def _table(colours: Sequence[str]) -> Colours:
    """Return 256 colours, interpolated between the given ones at equal distances."""
    given = np.array([[int(colour[at : at + 2], 16) for at in (0, 2, 4)] for colour in colours], np.float64)
    places = np.linspace(0, len(given) - 1, 256)
    channels = [np.interp(places, np.arange(len(given)), given[:, channel]) for channel in range(3)]
    table: Colours = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    return table


SEQUENTIAL = _table(
    ["00224e", "123570", "3b496c", "575d6d", "707173", "8a8678", "a59c74", "c3b369", "e1cc55", "fee838"]
)
"""cividis, from dark blue to yellow."""
DIVERGING = _table(
    ["7f3b08", "b35806", "e08214", "fdb863", "fee0b6", "f7f7f7", "d8daeb", "b2abd2", "8073ac", "542788", "2d004b"]
)
"""PuOr, from brown to violet; white is the middle of the scale."""


def colour_index(values: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.intp]:
    """Return the index of each value in a table, from 0 to 255. A value outside the scale gets the colour of its end.

    >>> colour_index(np.array([15.0, 16.0, 20.5, 25.0, 99.0]), 16.0, 25.0).tolist()
    [0, 0, 128, 255, 255]
    """
    share = (values - low) / (high - low) if high > low else np.full(values.shape, 0.5)
    return np.rint(np.clip(share, 0.0, 1.0) * 255).astype(np.intp)
