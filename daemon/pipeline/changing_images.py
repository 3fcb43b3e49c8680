"""Images that changed after their mipmaps were made, and may still be written: their faults are not final at once."""

import time
from pathlib import Path

from daemon.config.watch_settings import WatchSettings
from daemon.pipeline.settle import patience_s
from handlers.errors import Fault, ImageChanging, ImageFault
from handlers.identity import FileIdentity


class ChangingImages:
    """Remembers when each broken image of an expected montage last changed."""

    def __init__(self) -> None:
        self._last_changes: dict[int, dict[Path, tuple[FileIdentity | None, float]]] = {}

    def expect(self, montage_id: int) -> None:
        """Expect images of a montage to be written still."""
        self._last_changes.setdefault(montage_id, {})

    def forget(self, montage_id: int) -> None:
        """End the expectation: all images of the montage were read."""
        self._last_changes.pop(montage_id, None)

    def fault_for_now(self, montage_id: int, watch: WatchSettings, fault: Fault) -> Fault:
        """Return ImageChanging in place of an image's fault until the image has not changed for a while."""
        changes, evidence = self._last_changes.get(montage_id), fault.evidence
        if changes is None or evidence is None or not isinstance(fault, ImageFault):
            return fault
        identity, since = changes.get(evidence.path, (None, 0.0))
        if identity is None or identity != evidence.identity:
            since = time.monotonic()
            changes[evidence.path] = evidence.identity, since
        if time.monotonic() - since >= patience_s(watch):
            return fault
        problem = f"{fault.problem}; it changed after its mipmaps were made, and may still be written"
        return ImageChanging(fault.subject, problem, fault.hint)
