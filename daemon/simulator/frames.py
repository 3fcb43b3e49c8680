"""Frames of the simulated camera, and the microscope's statistics of them."""

import io
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from daemon.simulator.pytemca import TileStatistics
from daemon.simulator.section import SectionPlan, TileFault, TilePlan

Frame = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""A camera frame, (height, width)."""

_CAMERA_NOISE = 5.0
"""Standard deviation of a pixel, in 8-bit grey values."""
_SHIFTS = 64
_TOO_BRIGHT = 90
"""Grey values that are added to a SATURATED tile."""
_BLUR_PX = 16
"""Standard deviation of the blur of a BLURRED tile, pixels."""
_FOCUS_LOST = 8.0
"""Reduction of a BLURRED tile's focus score."""


class PixelSource(StrEnum):
    """Content of the images."""

    TISSUE = "tissue"
    """Neuropil, continuous within and between sections. Takes about 0.15 s for a tile of 1024 x 1024."""
    NOISE = "noise"
    """Coarse noise, different in every tile. As fast as the disk."""
    FLAT = "flat"
    """One grey value per tile."""


class NoiseFrames:
    """Coarse noise: each index selects another window and is written into its first pixels."""

    def __init__(self, width: int, height: int, seed: int) -> None:
        shape = (-(-(height + _SHIFTS) // 4), -(-(width + _SHIFTS) // 4))
        grains = np.random.default_rng(seed).integers(40, 220, shape, np.uint8)
        self._field = grains.repeat(4, axis=0).repeat(4, axis=1)
        self._size = (width, height)

    def frame(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the frame of an index, (H, W)."""
        width, height = self._size
        x, y = index % _SHIFTS, index // _SHIFTS % _SHIFTS
        frame = self._field[y : y + height, x : x + width].copy()
        mark = np.frombuffer(index.to_bytes(4, "big"), np.uint8)
        frame.flat[: len(mark)] = mark[-frame.size :]
        return frame


class FrameSource:
    """Makes the frames of a section's tiles."""

    def __init__(self, plan: SectionPlan, source: PixelSource) -> None:
        self._plan = plan
        self._source = source
        size = plan.camera.width, plan.camera.height
        self._noise = NoiseFrames(*size, plan.seed) if source is PixelSource.NOISE else None

    def frame(self, tile: TilePlan) -> Frame:
        """Return the frame of a tile, (H, W), uint8 or uint16; the same in every call."""
        if tile.fault is TileFault.REPEATED:
            tile = self._plan.tiles[tile.raster_index - 1]
        camera = self._plan.camera
        if self._noise is not None:
            grey: npt.NDArray[Any] = self._noise.frame(tile.raster_index)
        elif self._source is PixelSource.FLAT:
            grey = np.full((camera.height, camera.width), 60 + tile.raster_index % 128, np.uint8)
        else:
            grey = self._tissue(tile)
        return _digitise(grey + _TOO_BRIGHT if tile.fault is TileFault.SATURATED else grey, camera.bits)

    def _tissue(self, tile: TilePlan) -> npt.NDArray[np.float32]:
        plan = self._plan
        grey = plan.tissue.window(tile.left_px, tile.top_px, plan.camera.width, plan.camera.height)
        if tile.fault is TileFault.BLURRED:
            grey = _blurred(grey)
        random = np.random.default_rng([plan.seed, plan.z_index, plan.roi_index, tile.raster_index])
        return grey + random.standard_normal(grey.shape, np.float32) * np.float32(_CAMERA_NOISE)


def _blurred(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    sharp = Image.fromarray(np.rint(np.clip(grey, 0, 255)).astype(np.uint8))
    return np.asarray(sharp.filter(ImageFilter.GaussianBlur(_BLUR_PX)), np.float32)


def _digitise(grey: npt.NDArray[Any], bits: int) -> Frame:
    if bits == 8:
        image: npt.NDArray[np.uint8] = np.rint(np.clip(grey, 0, 255)).astype(np.uint8)
        return image
    deep: npt.NDArray[np.uint16] = np.rint(np.clip(grey.astype(np.float32) * 16, 0, 4095)).astype(np.uint16)
    return np.left_shift(deep, np.uint16(4))


def measure(frame: Frame, fault: TileFault | None = None) -> TileStatistics:
    """Return the statistics of a frame in the units of the metafile."""
    scale = 257 if frame.dtype == np.uint8 else 1
    mean, deviation = float(frame.mean()) * scale, float(frame.std(dtype=np.float32)) * scale
    return TileStatistics(
        minimum=int(frame.min()) * scale,
        maximum=int(frame.max()) * scale,
        mean=round(mean),
        std_dev=round(deviation / 257),
        focus_score=20 + 5 * deviation / (deviation + 3000) - (_FOCUS_LOST if fault is TileFault.BLURRED else 0),
    )


def tiff_bytes(frame: Frame) -> bytes:
    """Return a frame as an uncompressed grey TIFF with its bit depth."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "TIFF")
    return file.getvalue()
