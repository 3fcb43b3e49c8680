"""Actions of users on files: sections arrive, and are rewritten, moved, copied, deleted or damaged."""

import asyncio
import random
import shutil
from pathlib import Path
from typing import Any

from tests.simulation.actions import Action
from tests.simulation.sections import Slot, tiff
from tests.simulation.substitutes import Machine


class FileActions:
    """Part of a scenario: one method for each kind of action."""

    acquisition: Path
    mipmaps: Path
    away: Path
    place: Path
    machine: Machine
    slots: list[Slot]
    daemon: Any
    loop: Any
    _run: Any
    _daemon_context: Any
    _rng: random.Random
    _duplicates: int
    _unmounted: set[Path]

    def _write(self, path: Path, content: bytes, *, replaced: bool = False) -> None:
        if self.acquisition in self._unmounted:
            raise OSError(f"{path} cannot be written: its disk is not mounted")
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f".{path.name}.part") if replaced else path
        written.write_bytes(content)
        self.machine.changed(written)
        if replaced:
            written.replace(path)
        self._touched(path.parent)

    def _touched(self, directory: Path) -> None:
        """Set the times of a directory that changed; in 70 % of the cases a file event reports the change."""
        for each in (directory, *directory.parents):
            if each.exists():
                self.machine.changed(each)
            if each == self.acquisition:
                break
        if self._rng.random() < 0.7:
            self._wake(directory)

    def _wake(self, directory: Path) -> None:
        watcher = getattr(self.daemon, "_watcher", None)
        if self._run is not None and watcher is not None:
            hint = directory / "no_metafile"  # the watcher scans its directory
            self._daemon_context.run(self.loop.call_later, self._rng.random() * 0.3, watcher.rescan, hint)

    async def _write_slowly(self, path: Path, content: bytes, seconds: float) -> None:
        half = len(content) // 2
        self._write(path, content[:half])
        await asyncio.sleep(seconds)
        self._write(path, content)

    async def _arrive(self, action: Action) -> None:
        slot = self.slots[action.slot]
        slot.version = action.version
        images, metafile = slot.section.images(action.version), slot.section.metafile(action.version)
        late: dict[str, bytes] = {}
        first = next(iter(images))
        if action.how == "metafile first":
            late, images = images, {}
        elif action.how == "one late":
            late = {first: images.pop(first)}
        elif action.how == "one cut":
            late = {first: images[first]}
            images[first] = images[first][: len(images[first]) // 2]
        await self._copy(slot, images)
        if action.how == "slow":
            await self._write_slowly(slot.metafile, metafile, min(action.seconds, 10))
        else:
            self._write(slot.metafile, metafile)
        if late:
            await asyncio.sleep(action.seconds)
            await self._copy(slot, late)

    async def _copy(self, slot: Slot, images: dict[str, bytes]) -> None:
        for name, content in images.items():
            self._write(slot.directory / name, content)
            await asyncio.sleep(self._rng.random() * 0.02)

    async def _rewrite(self, action: Action) -> None:
        """Write the metafile of another version, and its images that differ."""
        slot = self.slots[action.slot]
        await self._change(slot, action.version, action.how, action.seconds)

    async def _change(self, slot: Slot, version: int, how: str, seconds: float) -> None:
        slot.version = version
        for name, content in slot.section.images(version).items():
            path = slot.directory / name
            if not path.exists() or path.read_bytes() != content:
                self._write(path, content)
        content = slot.section.metafile(version)
        if how == "slow":
            await self._write_slowly(slot.metafile, content, seconds)
        else:
            self._write(slot.metafile, content, replaced=how == "replaced")

    async def _back_and_forth(self, action: Action) -> None:
        slot = self.slots[action.slot]
        before = slot.version
        for version in (action.version, before, *((action.number,) if action.number != before else ())):
            await self._change(slot, version, action.how, 0.0)
            await asyncio.sleep(action.seconds)

    async def _copy_again(self, action: Action) -> None:
        """Copy all files again, unchanged."""
        slot = self.slots[action.slot]
        for name, content in slot.section.images(slot.version).items():
            self._write(slot.directory / name, content, replaced=action.how == "replaced")
        self._write(slot.metafile, slot.section.metafile(slot.version), replaced=action.how == "replaced")

    async def _rewrite_images(self, action: Action) -> None:
        """Write images of another version; the metafile stays the same."""
        slot = self.slots[action.slot]
        for name, content in list(slot.section.images(action.version).items())[: action.number]:
            if (slot.directory / name).exists():
                self._write(slot.directory / name, content, replaced=action.how == "replaced")

    async def _unmount(self, action: Action) -> None:
        """Unmount a disk for some time. Files that are written in its place disappear when it is mounted again."""
        directory = self.acquisition if action.how == "acquisition" else self.mipmaps
        elsewhere = self.place / f"{directory.name}.unmounted"
        if not directory.exists() or elsewhere.exists():
            return
        directory.rename(elsewhere)
        self._unmounted.add(directory)
        await asyncio.sleep(action.seconds)
        shutil.rmtree(directory, ignore_errors=True)
        elsewhere.rename(directory)
        self._unmounted.discard(directory)

    async def _touch(self, action: Action) -> None:
        self.machine.changed(self.slots[action.slot].metafile)
        self._touched(self.slots[action.slot].directory)

    async def _rename(self, action: Action) -> None:
        slot = self.slots[action.slot]
        slot.moves += 1
        base = f"{slot.section.grid:06d}_{slot.section.roi_index}"
        self._move(slot, self.acquisition / (base if slot.moves % 3 == 0 else f"{base}_moved{slot.moves}"))

    def _move(self, slot: Slot, target: Path) -> None:
        if target.exists() or not slot.directory.exists() or self.acquisition in self._unmounted:
            return
        before, slot.directory = slot.directory, target
        before.rename(target)
        self.machine.moved(target)
        for parent in {before.parent, target.parent}:
            if parent != self.away:
                self._touched(parent)

    async def _rename_file(self, action: Action) -> None:
        slot = self.slots[action.slot]
        slot.moves += 1
        before, slot.name = slot.metafile, f"_metadata_renamed{slot.moves}.json"
        try:
            before.rename(slot.metafile)
        except OSError:
            slot.name = before.name
            raise
        self.machine.moved(slot.metafile)
        self._touched(slot.directory)

    async def _move_away(self, action: Action) -> None:
        slot = self.slots[action.slot]
        home = slot.directory
        self._move(slot, self.away / home.name)
        await asyncio.sleep(action.seconds)
        if slot.directory.parent == self.away:
            self._move(slot, home)

    async def _duplicate(self, action: Action) -> None:
        """Add the metafile a second time: as a conflict copy, in a copy of its directory, or by a link."""
        slot = self.slots[action.slot]
        self._duplicates += 1
        content = slot.metafile.read_bytes()
        duplicate = slot.metafile.with_name(f"_metadata_conflict{self._duplicates}.json")
        if action.how != "beside":
            duplicate = self.acquisition / f"copy{self._duplicates}" / slot.name
        if action.how == "elsewhere":
            for name in slot.section.images(slot.version):
                if (slot.directory / name).exists():
                    self._write(duplicate.parent / name, (slot.directory / name).read_bytes())
        if action.how == "link":
            duplicate.parent.mkdir()
            duplicate.hardlink_to(slot.metafile)
            self.machine.moved(duplicate)
            self._touched(duplicate.parent)
        else:
            self._write(duplicate, content)
        if action.seconds:
            await asyncio.sleep(action.seconds)
            duplicate.unlink(missing_ok=True)
            self._touched(duplicate.parent)

    async def _delete(self, action: Action) -> None:
        slot = self.slots[action.slot]
        if action.how == "metafile":
            slot.metafile.unlink(missing_ok=True)
            self._touched(slot.directory)
        else:
            shutil.rmtree(slot.directory, ignore_errors=True)
            self._touched(slot.directory.parent)

    async def _arrive_damaged(self, action: Action) -> None:
        """Write a section with an invalid image; perhaps copy it again later."""
        slot = self.slots[action.slot]
        slot.version = action.version
        images = slot.section.images(action.version)
        first = next(iter(images))
        if action.how == "missing":
            del images[first]
            (slot.directory / first).unlink(missing_ok=True)
        elif action.how == "cut":
            images[first] = images[first][: len(images[first]) // 2]
        else:
            images[first] = tiff(1)[:4] + tiff(1)[4:].replace(b"\x08\x00", b"\x09\x00", 1)
        await self._copy(slot, images)
        self._write(slot.metafile, slot.section.metafile(action.version))
        await asyncio.sleep(action.seconds)
        if action.number:
            await self._copy_again(Action(0, "copy_again", action.slot, how="in place"))
