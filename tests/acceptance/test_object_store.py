"""The daemon and its commands with the mipmaps in an object store."""

import functools
import html
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from daemon.simulator.temca import write_section
from handlers.place import ObjectPlace
from handlers.stores.bucket import BucketStore
from tests import object_store
from tests.acceptance import stores
from tests.acceptance.conftest import section_plan
from tests.acceptance.facility import APPLY, MIPMAPS, TILESPECS, import_command
from tests.acceptance.rig import Rig, fetch, running, temwatch, wait_for
from tests.object_store import FaultLayer, place_at


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    object_store.require_moto()
    with object_store.environment(), object_store.moto() as url:
        yield url


@pytest.fixture
def layer(server: str) -> Iterator[FaultLayer]:
    with FaultLayer(server).running() as layer:
        yield layer


@pytest.fixture
def output(layer: FaultLayer, request: pytest.FixtureRequest) -> ObjectPlace:
    name = f"b{abs(hash(request.node.nodeid)):x}"
    object_store.make_bucket(layer.target, name)
    return place_at(layer.url, name, "mips")


def rig_for(root: Path, output: ObjectPlace) -> Rig:
    endpoint = output.bucket.access.endpoint
    settings = {
        "watch.mipmaps.output_dir": str(output),
        "watch.mipmaps.url": f"{endpoint}/{output.bucket.name}/{output.key}",
        "watch.mipmaps.store.endpoint": endpoint,
        "watch.mipmaps.levels": 3,
    }
    return Rig(root, settings)


def run(rig: Rig, *words: str) -> tuple[int, str]:
    done = temwatch(*words, "--config", str(rig.config()))
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_probe_tests_the_store_and_render_ws_and_names_the_wrong_setting(tmp_path, output, layer):
    rig = rig_for(tmp_path, output)
    try:
        rig.start_standin()
        code, said = run(rig, "check-config", "--probe")
        assert code == 0, said
        assert f"{output.bucket} accepts, returns and lists objects" in said
        assert f"render-ws shows the pixels of {output}/temwatch-probe-" in said
        assert f"which it sees at {rig.settings['watch.mipmaps.url']}/temwatch-probe-" in said
        assert "/probe%2B1.tif" in said
        rig.settings["watch.mipmaps.url"] = f"{layer.url}/{output.bucket.name}/elsewhere"
        code, said = run(rig, "check-config", "--probe")
        assert code == 1
        assert "wrong watch[0].mipmaps.url: render-ws cannot read" in said
        layer.rule = lambda request: object_store.EXPIRED if request.method == "PUT" else None
        code, said = run(rig, "check-config", "--probe")
        assert code == 1
        assert "wrong watch[0].mipmaps.output_dir:" in said
        assert "ExpiredToken" in said
        assert list(BucketStore(output.bucket).list(output)) == []
    finally:
        rig.close()


@pytest.mark.slow
def test_an_outage_of_the_store_is_reported_everywhere_until_it_ends(tmp_path, output, layer):
    rig = rig_for(tmp_path, output)
    with running(rig):
        first = written(rig, 1050)
        rig.wait_until("complete", first)
        assert 'temwatch_disk_usable{directory="' + str(output) + '"} 1.0' in page(rig, "/metrics")
        layer.rule = lambda request: object_store.EXPIRED
        second = written(rig, 1051)
        (reason,) = wait_for(lambda: rig.ready().get("reasons"), 60, "a reason")
        assert reason.startswith(f"{output} cannot be used: could not ")
        assert "403 Forbidden" in reason
        assert "renew the credentials" in reason
        metrics = page(rig, "/metrics")
        assert 'temwatch_disk_usable{directory="' + str(output) + '"} 0.0' in metrics
        assert "temwatch_ready 0.0" in metrics
        for words, code in ((("status",), 0), (("health", "--url", rig.url), 1)):
            done = temwatch(*words, *(("--config", str(rig.config())) if words[0] == "status" else ()))
            assert (done.returncode, reason in " ".join(done.stdout.split())) == (code, True), done.stdout + done.stderr
        overview = page(rig, "/")
        assert reason in overview
        assert f'not usable</span> <code class="path">{output}' in overview
        rig.wait_until("ingested", second)
        row = wait_for(lambda: (found := rig.montage_of(second))["waiting_for"] and found, 60, "what it waits for")
        assert row["waiting_for"].startswith(f"{output} cannot be used: could not ")
        assert f"<dt>Waits for</dt><dd>{output} cannot be used: " in page(rig, f"/montages/{row['id']}")
        done = temwatch("status", "--config", str(rig.config()))
        shown = re.findall(f"{re.escape(str(output))}:? cannot be used: ", done.stdout)  # as a reason, or as a fault
        assert len(shown) > 1, done.stdout  # for the daemon and for the montage
        layer.rule = lambda request: None
        rig.wait_until("complete", first, second)
        wait_for(lambda: rig.ready().get("ready"), 60, "ready")
        assert 'temwatch_disk_usable{directory="' + str(output) + '"} 1.0' in page(rig, "/metrics")
        assert run(rig, "verify", "--deep")[0] == 0


def written(rig: Rig, grid: int) -> Path:
    plan = section_plan(grid, 4, size=(256, 256), seed=grid)
    return write_section(plan, rig.acquisition, pixels="noise").metafile


def page(rig: Rig, path: str) -> str:
    request = urllib.request.Request(rig.url + path, headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return html.unescape(answer.read().decode())


def test_the_import_commands_use_a_store_that_the_environment_configures(server, rig, monkeypatch):
    object_store.make_bucket(server, "commands")
    rig.start_standin()
    plan = section_plan(1050, 4, size=(256, 256), seed=1)
    metafile = write_section(plan, rig.acquisition, pixels="noise").metafile
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    command = functools.partial(import_command, rig)
    command(TILESPECS, "--metafile", str(metafile), "--stack", "raw")
    make = (MIPMAPS, "--input_stack", "raw", "--pool_size", "1", "--levels", "2", "--output_prefix")
    planned = json.loads(command(*make, "s3://commands/a+b", "--dry_run"))
    assert planned["parameters"]["output_dir"] == "s3://commands/a+b"
    assert planned["targets"] == ["files s3://commands/a+b/{1 to 2}"]
    said = command(*make, "s3://nobody/mips", code=1)
    assert said.count("\n") == 1, said
    assert "NoSuchBucket" in said
    made = json.loads(command(*make, "s3://commands/a+b"))
    assert (made["tile_count"], made["output_prefix"]) == (4, "s3://commands/a%2Bb")

    apply = (APPLY, "--input_stack", "raw", "--output_stack", "mips", "--levels", "2", "--mipmap_prefix")
    said = command(*apply, "s3://commands/a+b", code=2)
    assert said == "--mipmap_url: is required with an endpoint: render-ws reads s3:// of AWS alone\n"
    applied = json.loads(command(*apply, "s3://commands/a+b", "--mipmap_url", f"{server}/commands/a%2Bb/"))
    assert (applied["tile_count"], applied["missing_ts_zs"]) == (4, [])
    for spec in rig.tiles("mips", 1050.0).values():
        for level, side in ((1, 128), (2, 64)):
            url = spec["mipmapLevels"][str(level)]["imageUrl"]
            with urllib.request.urlopen(url) as answer, Image.open(answer) as image:
                assert (answer.headers["Content-Type"], image.size) == ("image/tiff", (side, side))


def test_level_0_in_a_store_gives_the_same_levels_as_level_0_in_a_file(server, rig, monkeypatch):
    object_store.make_bucket(server, "raw")
    rig.start_standin()
    plan = section_plan(1050, 2, size=(256, 256), seed=1)
    section = write_section(plan, rig.acquisition, pixels="noise")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    ingest = ("--metafile", str(section.metafile), "--stack", "of_files")
    import_command(rig, TILESPECS, *ingest)
    import_command(rig, TILESPECS, *ingest[:-1], "of_objects")
    raw = place_at(server, "raw", "tape 7+8")
    for image in section.images:
        stores.overwrite(raw / image.name, image.read_bytes())
    url = f"{rig.stack_url('of_objects')}/z/1050.0/resolvedTiles"
    tiles = fetch(url)
    for spec in tiles["tileIdToSpecMap"].values():
        name = spec["mipmapLevels"]["0"]["imageUrl"].rpartition("/")[2]
        spec["mipmapLevels"]["0"]["imageUrl"] = (raw / name).url
    fetch(url, method="PUT", body=tiles)
    for stack in ("of_files", "of_objects"):
        output = str(tmp_directory(rig, stack))
        made = import_command(
            rig, MIPMAPS, "--input_stack", stack, "--levels", "2", "--pool_size", "1", "--output_dir", output
        )
        assert json.loads(made)["tile_count"] == 2
    levels = [
        sorted((path.name, path.read_bytes()) for path in tmp_directory(rig, stack).rglob("*.tif"))
        for stack in ("of_files", "of_objects")
    ]
    assert len(levels[0]) == 4
    assert levels[0] == levels[1]
    below = sorted(str(path.relative_to(rig.root / "of_objects")) for path in (rig.root / "of_objects").rglob("*.tif"))
    assert below[0] == f"1/raw/tape 7+8/{min(image.name for image in section.images)}.tif"


def tmp_directory(rig: Rig, name: str) -> Path:
    (rig.root / name).mkdir(exist_ok=True)
    return rig.root / name


@pytest.mark.slow
def test_the_demonstration_makes_its_picture_from_the_store(tmp_path):
    object_store.require_moto()
    words = ("--store", "s3", "--sections", "1", "--tiles", "4", "--size", "1536x1536")
    done = temwatch("demo", *words, "--output", str(tmp_path / "demo"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all verified" in done.stdout
    assert not (tmp_path / "demo" / "mipmaps").exists()
    assert len(list((tmp_path / "demo" / "served").iterdir())) >= 4
