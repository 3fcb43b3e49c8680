"""The readers, by the name of their format in the settings."""

from collections.abc import Mapping
from typing import Final

from handlers.acquisition.formats.multisem import MultiSem
from handlers.acquisition.formats.pytemca import PyTemca
from handlers.acquisition.formats.reader import Reader
from handlers.acquisition.formats.sbemimage import SbemImage
from handlers.acquisition.formats.serialem import SerialEM

READERS: Final[Mapping[str, Reader]] = {
    reader.format: reader
    for reader in (
        PyTemca(),
        MultiSem(),
        SbemImage(),
        SerialEM(),
    )
}
