"""Mipmaps in an object store: made by workers, with URLs for render-ws, verified, and during outages."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from daemon.commands.verify.verifier import Verifier
from daemon.montages.states import MontageState
from handlers import generate_mipmaps
from handlers.difference import Kind
from handlers.errors import StoreFault
from handlers.images.encode import Encoding
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.plan import Level0, MipmapPlan, absent_levels, faulty_levels, level0_of, level_uris
from handlers.mipmaps.tile_jobs import tile_job
from handlers.objects.files import open_object
from handlers.path_map import NO_MAP
from handlers.place import parse_object
from handlers.stores.bucket import BucketStore
from handlers.verify import check_files
from handlers.workers.opening import open_executor
from tests import object_store
from tests.integration.inprocess import MIPS, bench
from tests.object_store import FaultLayer, place_at

WIDTH, HEIGHT = 300, 200


@pytest.fixture(scope="module")
def server():
    with object_store.moto_with_keys() as url:
        yield url


@pytest.fixture
def layer(server, request):
    with FaultLayer(server).running() as layer:
        object_store.make_bucket(server, bucket_of(request))
        yield layer


@pytest.fixture
def output(layer, request):
    return place_at(layer.url, bucket_of(request), "mips")


def bucket_of(request):
    return f"b{abs(hash(request.node.nodeid)):x}"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a+b 50%.tif"
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (HEIGHT, WIDTH), np.uint8)).save(path)
    return path


def tile_of(image):
    return Level0("a.1", image, None, WIDTH, HEIGHT)


def content(place):
    with open_object(place) as file:
        return file.read()


# --- tiles


@pytest.mark.parametrize(
    "encoding", [Encoding("tif"), Encoding("tif", compression="deflate"), Encoding("png"), Encoding("jpg")]
)
def test_objects_have_the_same_bytes_as_files(tmp_path, image, output, encoding):
    local = MipmapPlan(tmp_path / "mips", levels=3, encoding=encoding)
    stored = MipmapPlan(output, levels=3, encoding=encoding)
    for plan in (local, stored):
        report = make_mipmaps(tile_job(tile_of(image), plan, measure=True))
        assert report.fault is None
        assert [made.level for made in report.made] == [1, 2, 3]
    for (_, path), (_, place) in zip(local.outputs(image), stored.outputs(image), strict=True):
        assert content(place) == path.read_bytes()
    assert absent_levels([tile_of(image)], stored) == []
    assert faulty_levels(tile_of(image), stored) == ""
    assert check_files(tile_of(image), stored, report.level0, report.measured.levels_digest, deep=True) == []


def test_levels_of_a_tile_are_put_concurrently(image, output, layer):
    together = threading.Barrier(3)
    broken = []

    def wait_for_the_others(request):
        if request.method == "PUT":
            try:
                together.wait(60)
            except threading.BrokenBarrierError as error:
                broken.append(error)

    layer.rule = wait_for_the_others
    report = make_mipmaps(tile_job(tile_of(image), MipmapPlan(output, levels=3)))
    assert (report.fault, broken) == (None, [])
    assert [made.level for made in report.made] == [1, 2, 3]


def test_a_level_that_cannot_be_put_does_not_prevent_the_others(image, output, layer):
    plan = MipmapPlan(output, levels=3)
    refused = dict(plan.outputs(image))[2]
    layer.rule = lambda request: (
        object_store.EXPIRED if request.method == "PUT" and "/mips/2/" in request.path else None
    )
    report = make_mipmaps(tile_job(tile_of(image), plan, measure=True))
    assert [made.level for made in report.made] == [1, 3]
    assert (report.fault.kind, report.fault.subject) == ("StoreFault", str(refused))
    assert BucketStore(output.bucket).stat(refused) is None


def test_without_force_valid_levels_are_kept_and_invalid_levels_are_made_again(image, output, layer):
    plan = MipmapPlan(output, levels=3, force=False)
    assert len(make_mipmaps(tile_job(tile_of(image), plan)).made) == 3
    broken = dict(plan.outputs(image))[2]
    BucketStore(output.bucket).write(broken, content(broken)[:-9] + b"123456789", "image/tiff")
    layer.requests.clear()
    report = make_mipmaps(tile_job(tile_of(image), plan))
    assert ([kept.level for kept in report.kept], [made.level for made in report.made]) == ([1, 3], [2])
    assert report.made[0].replaced
    assert len([request for request in layer.requests if request.method == "PUT"]) == 1


def test_a_damaged_and_a_missing_level_are_found(image, output):
    plan = MipmapPlan(output, levels=3)
    make_mipmaps(tile_job(tile_of(image), plan))
    places, store = dict(plan.outputs(image)), BucketStore(output.bucket)
    store.write(places[1], content(places[1])[:-9] + b"123456789", "image/tiff")
    store.delete(places[2])
    assert [(each.kind, each.where) for each in check_files(tile_of(image), plan)] == [
        (Kind.LEVEL_BROKEN, str(places[1])),
        (Kind.LEVEL_MISSING, str(places[2])),
    ]
    assert absent_levels([tile_of(image)], plan) == [places[2]]
    assert "missing" in faulty_levels(tile_of(image), plan)


def test_a_deep_verification_compares_checksums_and_reads_only_the_smallest_level(image, output, layer):
    plan = MipmapPlan(output, levels=3)
    report = make_mipmaps(tile_job(tile_of(image), plan, measure=True))
    known = report.level0, report.measured.levels_digest
    layer.requests.clear()
    assert check_files(tile_of(image), plan, *known, deep=True) == []
    (read,) = [request.path for request in layer.requests if request.method == "GET"]
    assert "/mips/3/" in read
    requested = [request.path for request in layer.requests if request.method == "HEAD"]
    assert all(any(f"/mips/{level}/" in path for path in requested) for level in (1, 2, 3))
    # The level of another tile is valid, and differs from the level that was written.
    other = image.with_name("other.tif")
    Image.fromarray(np.random.default_rng(4).integers(0, 255, (HEIGHT, WIDTH), np.uint8)).save(other)
    make_mipmaps(tile_job(tile_of(other), plan))
    places, others = dict(plan.outputs(image)), dict(plan.outputs(other))
    store = BucketStore(output.bucket)
    store.write(places[1], content(others[1]), "image/tiff")
    (difference,) = check_files(tile_of(image), plan, *known, deep=True)
    assert difference.kind in (Kind.SOURCE_CHANGED, Kind.LEVEL_BROKEN)


def test_without_a_checksum_of_the_store_a_deep_verification_reads_all_levels(image, output, layer, monkeypatch):
    plan = MipmapPlan(output, levels=3)
    report = make_mipmaps(tile_job(tile_of(image), plan, measure=True))
    monkeypatch.setattr("handlers.stores.bucket._md5_in", lambda etag: "of an encrypted object")
    layer.requests.clear()
    assert check_files(tile_of(image), plan, report.level0, report.measured.levels_digest, deep=True) == []
    assert len([request for request in layer.requests if request.method == "GET"]) == 3


def test_level_0_in_the_store_is_read_by_ranges_and_gives_the_same_levels(tmp_path, output, layer):
    side = 2500  # more than one range
    path = tmp_path / "a.tif"
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (side, side), np.uint8)).save(path)
    BucketStore(output.bucket).write(output / "raw a+.tif", path.read_bytes(), "image/tiff")
    spec = {
        "tileId": "a",
        "width": side,
        "height": side,
        "mipmapLevels": {"0": {"imageUrl": (output / "raw a+.tif").url}},
    }
    tile = level0_of(spec, NO_MAP)
    assert str(tile.image) == str(output / "raw a+.tif")
    tile = Level0("a", output / "raw a+.tif", None, side, side)  # with the access of this test
    of_object, of_file = MipmapPlan(tmp_path / "1", levels=2), MipmapPlan(tmp_path / "2", levels=2)
    layer.requests.clear()
    report = make_mipmaps(tile_job(tile, of_object))
    assert (report.fault, report.level0, len(report.made)) == (None, None, 2)
    ranges = [request.headers["range"] for request in layer.requests if request.method == "GET"]
    assert ranges == ["bytes=0-4194303", f"bytes=4194304-{path.stat().st_size - 1}"]
    make_mipmaps(tile_job(Level0("a", path, None, side, side), of_file))
    for (_, one), (_, other) in zip(of_object.outputs(tile.image), of_file.outputs(path), strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert check_files(tile, of_object) == []
    BucketStore(output.bucket).write(output / "raw a+.tif", path.read_bytes()[:-5] + b"other", "image/tiff")
    assert [each.kind for each in check_files(tile, of_object)] == [Kind.SOURCE_CHANGED]


def test_levels_in_a_store_that_refuses_access_are_reported_as_not_checked(image, output, layer):
    plan = MipmapPlan(output, levels=2)
    make_mipmaps(tile_job(tile_of(image), plan))
    layer.rule = lambda request: object_store.EXPIRED
    found = check_files(tile_of(image), plan)
    assert {each.kind for each in found} == {Kind.NOT_CHECKED}
    assert "403 Forbidden" in found[0].what
    level0 = Level0("a", output / "raw.tif", None, 64, 64)
    (difference, *_) = check_files(level0, plan)
    assert (difference.kind, difference.where) == (Kind.NOT_CHECKED, str(output / "raw.tif"))


def test_a_level_0_that_is_no_longer_in_the_store_is_missing(output, tmp_path):
    tile = Level0("a", output / "gone.tif", None, 64, 64)
    report = make_mipmaps(tile_job(tile, MipmapPlan(tmp_path, levels=1)))
    assert report.fault is not None
    assert (report.fault.kind, report.fault.subject) == ("ImagesMissing", str(output / "gone.tif"))


def test_urls_of_levels_begin_with_the_configured_url(image, output):
    plan = MipmapPlan(output, levels=1, url="https://store/mips/")
    name = f"{image.parent}/a%2Bb%2050%25.tif.tif".lstrip("/")
    assert level_uris(tile_of(image), plan) == {1: (f"https://store/mips/1/{name}", None)}
    assert level_uris(tile_of(image), MipmapPlan(output, levels=1))[1][0] == f"{output}/1/{name}"


# --- processes


def modules_and_opener(job):
    """Return whether obstore was imported, and the opener, before the job; opener and process after it; the report."""
    from handlers.objects import connection

    before = "obstore" in sys.modules, connection._opened_by
    report = make_mipmaps(job)
    return before, (connection._opened_by, os.getpid()), report


async def test_each_worker_opens_the_store_itself_after_the_fork(image, layer, request, tmp_path):
    # In a file, since the fork server of the workers has the environment of an earlier test.
    keys = tmp_path / "credentials"
    keys.write_text("[default]\n" + "".join(f"{name.lower()} = {value}\n" for name, value in object_store.KEYS.items()))
    keys.chmod(0o600)
    plan = MipmapPlan(place_at(layer.url, bucket_of(request), "mips", credentials_file=keys), levels=2)
    with open_executor("processes", 2) as pool:
        for _ in range(4):
            before, (opener, own), report = await run_with(pool, tile_job(tile_of(image), plan))
            assert before in ((False, None), (True, own))
            assert opener == own != os.getpid()
            assert report.fault is None


async def run_with(pool, job):
    return await pool.run_politely("tile", modules_and_opener, job)


def test_the_fork_server_has_not_imported_obstore():
    code = (
        "import importlib, sys\n"
        "from handlers.workers.fork_server import PRELOADED\n"
        "for name in PRELOADED: importlib.import_module(name)\n"
        "sys.exit('obstore' in sys.modules or any(name.startswith('handlers.objects') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_process_that_is_forked_after_the_first_use_of_the_store_gets_a_fault_and_does_not_hang(output):
    code = f"""
import os, sys
from handlers.errors import BugFault
from handlers.place import parse_object, StoreAccess
from handlers.stores.bucket import BucketStore
place = parse_object({str(output)!r}, StoreAccess(endpoint={output.bucket.access.endpoint!r}))
assert BucketStore(place.bucket).stat(place / "a") is None
child = os.fork()
if child == 0:
    try:
        BucketStore(place.bucket).stat(place / "a")
    except BugFault as fault:
        os._exit(7 if "was forked from process" in str(fault) else 8)
    os._exit(9)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60).returncode == 7


# --- the daemon


def check_often(monkeypatch):
    """Check output stores often, and retry requests once."""
    monkeypatch.setattr("daemon.pipeline.gates.output_disks.BUSY_S", 0.05)
    monkeypatch.setattr("daemon.pipeline.gates.output_disks.IDLE_S", 0.05)
    monkeypatch.setattr("handlers.objects.connection.MAX_RETRIES", 1)


def in_store(output, **others):
    access = {"endpoint": output.bucket.access.endpoint, "region": "us-east-1"}
    url = f"{output.bucket.access.endpoint}/{output.bucket.name}/{output.key}"
    return {"output_dir": str(output), "url": url, "levels": 2, "store": access, **others}


async def test_a_montage_in_a_store_is_complete_and_a_lost_level_is_found_by_verify(tmp_path, output):
    async with bench(tmp_path, mipmaps=in_store(output)) as running:
        metafile = running.write(tiles=3)
        await running.notice(metafile)
        montage = await running.reaches(metafile, MontageState.COMPLETE)
        assert montage.output_dir == str(output)
        shown = await running.assembly.client.resolved_tiles(MIPS, montage.z)
        urls = [spec["mipmapLevels"]["2"]["imageUrl"] for spec in shown.tile_id_to_spec_map.values()]
        assert len(urls) == 3
        assert all(url.startswith(f"{output.bucket.access.endpoint}/{output.bucket.name}/mips/2/") for url in urls)
        assert await verified(running, montage) == []
        lost = output / urls[0].partition("/mips/")[2]
        BucketStore(output.bucket).delete(lost)
        assert [(each.kind, each.where) for each in await verified(running, montage)] == [
            (Kind.LEVEL_MISSING, str(lost))
        ]


async def verified(running, montage):
    with ThreadPoolExecutor(2) as threads:
        verifier = Verifier(
            running.assembly.settings(), running.assembly.journal, running.assembly.client, threads, deep=True
        )
        return list((await verifier.verify(await running.assembly.journal.montage(montage.id))).differences)


@pytest.mark.parametrize("answer", [object_store.EXPIRED, object_store.FULL, "reset"], ids=["expired", "full", "reset"])
async def test_an_outage_of_the_store_is_reported_and_the_montage_is_complete_after_it(
    tmp_path, output, layer, answer, monkeypatch
):
    check_often(monkeypatch)
    async with bench(tmp_path, mipmaps=in_store(output)) as running:
        first = running.write(tiles=2)
        await running.notice(first)
        await running.reaches(first, MontageState.COMPLETE)
        layer.rule = lambda request: answer if request.method == "PUT" else None
        second = running.write(1051, tiles=3)
        await running.notice(second)
        disks = running.assembly.disks
        await running.until(lambda: not disks.is_usable(output))
        (disk,) = disks.facts()
        assert str(output) in disk.directory
        assert "cannot be used: could not write it" in disk.problem
        assert (await running.montage(second)).state is MontageState.INGESTED
        layer.rule = lambda request: None
        await running.reaches(second, MontageState.COMPLETE)
        assert disks.is_usable(output)
        assert await verified(running, await running.montage(second)) == []


async def test_a_missing_bucket_is_reported_and_waited_for(tmp_path, layer, server, monkeypatch):
    check_often(monkeypatch)
    output = place_at(layer.url, "later-made", "mips")
    async with bench(tmp_path, mipmaps=in_store(output)) as running:
        metafile = running.write()
        await running.notice(metafile)
        await running.until(lambda: not running.assembly.disks.is_usable(output))
        (disk,) = running.assembly.disks.facts()
        assert "cannot be used: could not write it: NoSuchBucket" in disk.problem
        assert "create the bucket, or correct mipmaps.output_dir" in disk.problem
        object_store.make_bucket(server, "later-made")
        await running.reaches(metafile, MontageState.COMPLETE)
        events = [line["event"] for line in running.log_lines]
        assert (events.count("disk.unusable"), events.count("disk.usable")) == (1, 1)


@pytest.mark.parametrize("marker", [None, b""], ids=["by temwatch", "empty, by an operator"])
async def test_a_store_with_truncated_answers_is_not_usable_until_they_are_complete(
    tmp_path, output, layer, monkeypatch, marker
):
    check_often(monkeypatch)
    async with bench(tmp_path, mipmaps=in_store(output)) as running:
        metafile = running.write()
        await running.notice(metafile)
        await running.reaches(metafile, MontageState.COMPLETE)
        if marker is not None:
            BucketStore(output.bucket).write(output / ".temwatch", marker, "text/plain")
            await running.until(lambda: any(each.method == "GET" for each in layer.requests[-20:]))
        disks = running.assembly.disks
        assert disks.is_usable(output)
        layer.rule = lambda request: "cut" if request.method == "GET" else None
        await running.until(lambda: not disks.is_usable(output))
        assert "cannot be used: could not read it" in disks.facts()[0].problem
        layer.rule = lambda request: None
        await running.until(lambda: disks.is_usable(output))


async def test_a_store_without_the_marker_is_not_written_to(tmp_path, output, monkeypatch):
    check_often(monkeypatch)
    store = BucketStore(output.bucket)
    async with bench(tmp_path, mipmaps=in_store(output)) as running:
        first = running.write()
        await running.notice(first)
        await running.reaches(first, MontageState.COMPLETE)
        store.delete(output / ".temwatch")
        await running.until(lambda: not running.assembly.disks.is_usable(output))
        assert "lacks the marker object" in running.assembly.disks.facts()[0].problem
        second = running.write(1051)
        await running.notice(second)
        await running.reaches(second, MontageState.INGESTED)
        store.write(output / ".temwatch", b"", "application/octet-stream")
        await running.reaches(second, MontageState.COMPLETE)


def test_a_store_that_refuses_access_is_one_fault_before_the_first_tile(monkeypatch):
    class Refusing:
        def list(self, directory):
            raise StoreFault(str(directory), "could not list it: AccessDenied", "allow these credentials to list there")

    monkeypatch.setattr(generate_mipmaps, "store_of", lambda _: Refusing())
    with pytest.raises(StoreFault, match="s3://em/mips: could not list it"):
        generate_mipmaps._opened(MipmapPlan(parse_object("s3://em/mips"), levels=1))
