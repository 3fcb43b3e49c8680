"""What montages wait for at present, whatever the journal says of them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.montages.records import Montage
from daemon.montages.states import UNFINISHED, MontageState


@dataclass(frozen=True, slots=True)
class Waits:
    """Directories and stores that cannot be used now, by the watches whose montages need them."""

    directories: Mapping[str, str] = field(default_factory=dict)
    """Watch name -> why its directory cannot be accessed."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Watch name -> the directory or store of its mipmaps, and why it cannot be written."""

    def reason_of(self, montage: Montage) -> str | None:
        """Return what a montage waits for; None if its next step needs none of them."""
        needs_directory = montage.state in UNFINISHED and montage.state is not MontageState.APPLIED
        reason = self.directories.get(montage.watch) if needs_directory else None
        if reason is None and montage.state is MontageState.INGESTED:
            reason = self.outputs.get(montage.watch)
        return reason


NOTHING = Waits()
