"""The readers, by the name of their format in the settings."""

from collections.abc import Mapping
from typing import Final

from handlers.acquisition.multisem import MultiSem
from handlers.acquisition.pytemca import PyTemca
from handlers.acquisition.reader import Reader
from handlers.acquisition.sbemimage import SbemImage
from handlers.acquisition.serialem import SerialEM

READERS: Final[Mapping[str, Reader]] = {
    reader.format: reader
    for reader in (
        PyTemca(),
        MultiSem(),
        SbemImage(),
        SerialEM(),
    )
}
