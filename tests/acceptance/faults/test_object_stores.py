"""Object stores that fail in many ways: mipmaps wait, and nothing is lost, duplicated or incomplete."""

import io
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from daemon.simulator.temca import write_section
from handlers.place import ObjectPlace
from handlers.stores.bucket import BucketStore
from tests import object_store
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.accounts import audit, present_rows
from tests.acceptance.faults.rows import FaultRun, Scale
from tests.acceptance.rig import Rig, running, wait_for
from tests.object_store import Answer, FaultLayer, Request, place_at

LEVELS = 3
BUCKET = "faults"
LASTING: dict[str, Answer] = {
    "500": object_store.SERVER_ERROR,
    "503 SlowDown": object_store.SLOW_DOWN,
    "a reset": "reset",
    "half an answer": "cut",
    "expired credentials": object_store.EXPIRED,
    "a wrong clock": object_store.SKEWED,
    "a full disk behind it": object_store.FULL,
}


@pytest.fixture
def layer() -> Iterator[FaultLayer]:
    object_store.require_moto()
    with (
        object_store.environment(),
        object_store.moto() as url,
        FaultLayer(url).running() as layer,
    ):
        object_store.make_bucket(url, BUCKET)
        yield layer


def is_reported_or_done(rig: Rig, metafile: Path) -> bool:
    """Whether the store counts as unusable, or the montage has a fault of the store, or is COMPLETE.

    Truncated answers affect only lists and reads: the answer to an upload has no body, and the check of the store
    uploads.
    """
    montage = rig.montage_of(metafile) or {}
    is_out = "cannot be used" in " ".join(rig.ready().get("reasons", ()))
    return is_out or montage.get("state") == "complete" or (montage.get("fault") or {}).get("kind") == "StoreFault"


def state_of(rig: Rig, name: str, metafile: Path) -> str:
    return f"{name}: {rig.montage_of(metafile)}"


@pytest.mark.slow(minutes=2)
@pytest.mark.timeout(1800)
def test_nothing_is_lost_when_an_object_store_fails(
    tmp_path: Path, layer: FaultLayer, scale: Scale, enter: Callable[[FaultRun], None]
) -> None:
    output = place_at(layer.url, BUCKET, "mips")
    rig = Rig(
        tmp_path,
        {
            "watch.mipmaps.output_dir": str(output),
            "watch.mipmaps.url": f"{layer.target}/{BUCKET}/mips",
            "watch.mipmaps.store.endpoint": layer.url,
            "watch.mipmaps.levels": LEVELS,
        },
    )
    with running(rig):
        metafiles = [written(rig, 0)]
        rig.wait_until("complete", *metafiles)
        kinds = list(itertools.islice(itertools.cycle(LASTING.items()), scale.pick(21, 7, 2)))
        for number, (name, answer) in enumerate(kinds, 1):
            layer.rule = failing(answer)
            metafiles.append(written(rig, number))
            wait_for(partial(is_reported_or_done, rig, metafiles[-1]), 90, partial(state_of, rig, name, metafiles[-1]))
            if number % 3 == 0:
                rig.daemon.kill()
                rig.start()
            layer.rule = lambda request: None
            rig.wait_until("complete", *metafiles, timeout_s=300)
            wait_for(lambda: rig.ready().get("ready"), 60, name)
        # Every fourth request fails, until enough have been made. Then one section makes about 150.
        layer.every(4, *LASTING.values())
        begun = len(layer.requests)
        several = [written(rig, 100 + number) for number in range(scale.pick(6, 2, 1))]
        metafiles += several
        enough = begun + scale.pick(200, 100, 50)
        wait_for(lambda: len(layer.requests) >= enough, 240, lambda: f"{len(layer.requests) - begun} requests")
        layer.rule = lambda request: None
        rig.wait_until("complete", *metafiles, timeout_s=300)
        found = audit(rig, metafiles, levels=LEVELS)
        assert not found.problems, found.problems
        assert not [row for row in present_rows(rig).values() if row["state"] == "failed"]
        halves = half_objects(output) + open_uploads(layer.target)
        row = FaultRun(
            "the object store of the mipmaps fails",
            injected=len(kinds) + sum(1 for _ in several),
            **{**found.counts(), "left_over": found.left_over + halves},
            note=f"{', '.join(LASTING)}; {len(layer.requests):,} requests; half objects and open uploads: {halves}",
        )
    enter(row)


def failing(answer: Answer) -> Callable[[Request], Answer]:
    """Return a rule with which nothing can be written, and nothing can be read either if answers are truncated."""
    return lambda request: answer if request.method == "PUT" or answer in ("reset", "cut") else None


def written(rig: Rig, number: int) -> Path:
    plan = section_plan(1050 + number, 4, size=(256, 256), seed=number)
    return write_section(plan, rig.acquisition, pixels="noise").metafile


def half_objects(output: ObjectPlace) -> int:
    """Return the number of objects, except for the marker, that are not complete images."""
    import obstore

    from handlers.objects.connection import connection

    halves = 0
    for each in itertools.chain.from_iterable(obstore.list(connection(output.bucket), output.key)):
        if each["path"].endswith(".temwatch"):
            continue
        with BucketStore(output.bucket).open(ObjectPlace(output.bucket, each["path"])) as file:
            try:
                Image.open(io.BytesIO(file.read())).load()
            except OSError:
                halves += 1
    return halves


def open_uploads(url: str) -> int:
    """Return the number of multipart uploads that have not ended."""
    import boto3  # comes with moto

    client = boto3.client("s3", endpoint_url=url)
    try:
        return len(client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()))
    finally:
        client.close()
