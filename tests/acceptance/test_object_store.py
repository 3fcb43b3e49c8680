"""The daemon and its commands with the mipmaps in an object store."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daemon.simulator.temca import write_section
from handlers.place import ObjectPlace
from handlers.stores.bucket import BucketStore
from tests import object_store
from tests.acceptance.conftest import section_plan
from tests.acceptance.facility import APPLY, MIPMAPS, TILESPECS
from tests.acceptance.rig import OWNER, PROJECT, Rig, running, temwatch
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


def rig_for(root: Path, output: ObjectPlace, **others: object) -> Rig:
    endpoint = output.bucket.access.endpoint
    settings = {
        "watch.mipmaps.output_dir": str(output),
        "watch.mipmaps.url": f"{endpoint}/{output.bucket.name}/{output.key}",
        "watch.mipmaps.store.endpoint": endpoint,
        "watch.mipmaps.levels": 3,
    }
    return Rig(root, {**settings, **others})


def run(rig: Rig, *words: str) -> tuple[int, str]:
    done = temwatch(*words, "--config", str(rig.config()))
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_the_probe_proves_both_ends_and_names_the_end_that_is_wrong(tmp_path, output, layer):
    rig = rig_for(tmp_path, output)
    try:
        rig.start_standin()
        code, said = run(rig, "check-config", "--probe")
        assert code == 0, said
        assert f"{output.bucket} takes, shows and lists objects" in said
        assert f"render-ws shows the pixels of {output}/temwatch-probe-" in said
        assert f"which it sees at {rig.settings['watch.mipmaps.url']}/temwatch-probe-" in said
        assert "/probe%2B1.tif" in said
        rig.settings["watch.mipmaps.url"] = f"{layer.url}/{output.bucket.name}/elsewhere"
        code, said = run(rig, "check-config", "--probe")
        assert code == 1
        assert "wrong watch[0].mipmaps.url: render-ws cannot show" in said
        layer.rule = lambda request: object_store.EXPIRED if request.method == "PUT" else None
        code, said = run(rig, "check-config", "--probe")
        assert code == 1
        assert "wrong watch[0].mipmaps.output_dir:" in said
        assert "ExpiredToken" in said
        assert list(BucketStore(output.bucket).list(output)) == []
    finally:
        rig.close()


def test_every_command_reads_the_levels_in_the_store(tmp_path, output):
    rig = rig_for(tmp_path, output)
    with running(rig):
        plan = section_plan(1050, 6, size=(256, 256), seed=1)
        metafile = write_section(plan, rig.acquisition, pixels="noise").metafile
        rig.wait_until("complete", metafile)
        (montage,) = rig.montages()
        assert run(rig, "verify", "--deep")[0] == 0
        code, lines = run(rig, "manifest")
        assert (code, lines.count(f"  {output}/3/")) == (0, 6)
        picture = tmp_path / "section.png"
        stack = montage["mipmapped_stack"]
        code, said = run(rig, "picture", stack, str(montage["z"]), "-o", str(picture), "--max-px", "128")
        assert code == 0, said
        with Image.open(picture) as image:
            assert max(image.size) <= 128
            assert len(np.unique(np.asarray(image))) > 50
        lost = next(name for name, _ in BucketStore(output.bucket).list(directory_of(output, metafile)))
        BucketStore(output.bucket).delete(directory_of(output, metafile) / lost)
        code, said = run(rig, "verify")
        assert code == 1
        assert f"{directory_of(output, metafile) / lost}" in said
        assert run(rig, "replay", str(metafile), "--state", "all", "--from", "mipmaps")[0] == 0
        rig.wait_until("complete", metafile)
        assert run(rig, "verify")[0] == 0
        rig.daemon.stop()
        Path(rig.root, f"{rig.name}.sqlite").unlink()
        code, said = run(rig, "journal", "rebuild")
        assert code == 0, said
        assert "1 complete" in said.lower(), said


def test_the_import_commands_put_and_apply_mipmaps_in_a_store_that_the_environment_names(server, rig, monkeypatch):
    object_store.make_bucket(server, "commands")
    rig.start_standin()
    plan = section_plan(1050, 4, size=(256, 256), seed=1)
    metafile = write_section(plan, rig.acquisition, pixels="noise").metafile
    host, _, port = rig.render_url.removeprefix("http://").partition("/")[0].partition(":")
    render = ("--render.host", host, "--render.port", port, "--render.owner", OWNER, "--render.project", PROJECT)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)

    def command(name: str, *words: str, code: int = 0) -> str:
        done = temwatch(name, *render, "--z", "1050", *words)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if code else done.stdout

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


def directory_of(output: ObjectPlace, metafile: Path) -> ObjectPlace:
    return output / f"1{metafile.parent}"


@pytest.mark.slow
def test_the_demonstration_makes_its_picture_from_the_store(tmp_path):
    object_store.require_moto()
    words = ("--store", "s3", "--sections", "1", "--tiles", "4", "--size", "1536x1536")
    done = temwatch("demo", *words, "--output", str(tmp_path / "demo"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all verified" in done.stdout
    assert not (tmp_path / "demo" / "mipmaps").exists()
    assert len(list((tmp_path / "demo" / "served").iterdir())) >= 4
