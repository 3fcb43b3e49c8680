"""Delay the faults of images that changed after their mipmaps were made, since they may still be written."""

import time
from pathlib import Path

from daemon.config.watch_settings import WatchSettings
from daemon.pipeline.settling.settle import incomplete_timeout_s
from handlers.errors import Fault, ImageChanging, ImageFault
from handlers.identity import FileIdentity


class ChangingImages:
    """Remembers when each broken image of a montage with expected changes last changed."""

    def __init__(self) -> None:
        self._last_changes: dict[int, dict[Path, tuple[FileIdentity | None, float]]] = {}

    def expect(self, montage_id: int) -> None:
        """Expect that images of a montage are still being written."""
        self._last_changes.setdefault(montage_id, {})

    def forget(self, montage_id: int) -> None:
        """Expect no further changes: all images of the montage were read."""
        self._last_changes.pop(montage_id, None)

    def fault_or_changing(self, montage_id: int, watch: WatchSettings, fault: Fault) -> Fault:
        """Return an image's fault, or ImageChanging until the image has not changed for `incomplete_timeout_s`."""
        changes, evidence = self._last_changes.get(montage_id), fault.evidence
        if changes is None or evidence is None or not isinstance(fault, ImageFault):
            return fault
        identity, since = changes.get(evidence.path, (None, 0.0))
        if identity is None or identity != evidence.identity:
            since = time.monotonic()
            changes[evidence.path] = evidence.identity, since
        if time.monotonic() - since >= incomplete_timeout_s(watch):
            return fault
        problem = f"{fault.problem}; it changed after its mipmaps were made, and may still be written"
        return ImageChanging(fault.subject, problem, fault.hint)
