"""Parcels: values that are pickled for another process."""

import copy
import pickle
from dataclasses import fields
from pathlib import Path

import pytest

from handlers.container import Container
from handlers.images.encode import Encoding
from handlers.images.read_ahead import UpcomingImage
from handlers.images.reduction import Reduction
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.measure import Measured
from handlers.mipmaps.overlap import Neighbour, Overlap, Side
from handlers.mipmaps.report import FaultReport, MadeLevel, MipmapReport
from handlers.parcel import Parcel
from handlers.sharing import Sharing

IMAGE = Path("/data/tile.tif")
DATA = Container(Path("/data"), Path("/disk/data"), "em1")
JOB = MipmapJob(
    "tile",
    IMAGE,
    ((1, Path("/mips/1/tile.tif")),),
    64,
    48,
    Reduction("PIL", "BOX"),
    Encoding("png", compression=1),
    root=DATA,
    sharing=Sharing(0o644, 0o755, "em"),
    measure=True,
    neighbours=(Neighbour(next(iter(Side)), IMAGE, 64, 48, 1.0, 2.0),),
    upcoming=(UpcomingImage(IMAGE, DATA, 100),),
)
REPORT = MipmapReport(
    "tile",
    (MadeLevel(1, IMAGE, 32, 24, "L", 100, digest=b"digest"),),
    0.5,
    FaultReport("WorkerFault", "tile", "problem", "hint"),
    measured=Measured(8.0, 0.0, 255.0, 0.5, 0.25, 1.5, overlaps=(Overlap(next(iter(Side)), 0.5, 0.25, 0.1),)),
)


@pytest.mark.parametrize("parcel", [JOB, REPORT])
def test_a_parcel_is_the_same_after_pickling_and_copying(parcel: Parcel) -> None:
    arrived = pickle.loads(pickle.dumps(parcel))
    assert (arrived, type(arrived)) == (parcel, type(parcel))
    assert copy.deepcopy(parcel) == parcel


def test_a_parcel_is_pickled_as_a_call_of_its_class() -> None:
    kind, values = JOB.__reduce__()
    assert (kind, len(values)) == (MipmapJob, len(fields(JOB)))
