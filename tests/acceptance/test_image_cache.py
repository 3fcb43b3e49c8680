"""render-ws caches images by URL, so the daemon empties its cache after it has replaced mipmaps."""

import io
import itertools
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.acceptance.rig import OWNER, PROJECT, Rig, fetch, require_seen_files, running, temwatch, wait_for

CACHE_PATH = "imageProcessorCache/allEntries"


def cache_answers(rig: Rig) -> list[int | None]:
    """Return the status of each request to empty the cache; a request that a proxy repeated counts once."""
    found = [each["status"] for each in rig.requests() if each["path"].endswith(CACHE_PATH)]
    return [status for status, _ in itertools.groupby(found)] if rig.is_behind_nginx else found


def served(rig: Rig, stack: str, tile_id: str) -> np.ndarray[Any, Any]:
    """Return the raw image of a tile as render-ws serves it."""
    require_seen_files(rig.render_url)
    with urllib.request.urlopen(f"{rig.stack_url(stack)}/tile/{tile_id}/source/png-image", timeout=30) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())))[..., 0]


def complete(rig: Rig, write: Callable[..., Any]) -> tuple[Any, str, str]:
    """Write a section and wait until it is COMPLETE; return it, its raw stack and one of its tiles."""
    section = write()
    rig.wait_until("complete", section.metafile)
    stack = rig.montage_of(section.metafile)["raw_stack"].rpartition("/")[2]
    return section, stack, min(rig.tiles(stack, 1050.0))


def replay(rig: Rig, section: Any) -> None:
    done = temwatch("replay", str(section.metafile), "--config", str(rig.config()))
    assert done.returncode == 0, done.stdout + done.stderr


def events(rig: Rig, name: str) -> list[str]:
    return [line for line in rig.daemon.lines() if f'"{name}"' in line]


def test_a_new_section_does_not_empty_the_cache(running_rig: Rig, write):
    complete(running_rig, write)
    assert cache_answers(running_rig) == []


def test_a_replay_empties_the_cache_once_and_render_ws_serves_the_new_pixels(rig: Rig, write):
    rig.settings["watch.recheck_images_for_s"] = 0  # the daemon might notice the new image before the replay
    with running(rig):
        section, stack, tile_id = complete(rig, write)
        before = served(rig, stack, tile_id)
        image = next(path for path in section.metafile.parent.glob("*.tif") if tile_id.startswith(path.stem))
        Image.fromarray(255 - before).save(image)
        assert (served(rig, stack, tile_id) == before).all(), "the stand-in caches images, as render-ws does"
        replay(rig, section)
        assert cache_answers(rig) == [200]
        assert (served(rig, stack, tile_id) == 255 - before).all()
        assert len(events(rig, "render.image_cache_emptied")) == 1


@pytest.mark.slow
def test_levels_by_the_method_render_have_the_new_pixels_after_a_replay(rig: Rig, write):
    """With the method "render", levels are made from images of render-ws, which may come from its cache."""
    rig.settings["watch.mipmaps.method"] = "render"
    with running(rig):
        section, stack, tile_id = complete(rig, write)
        before = served(rig, stack, tile_id)
        image = next(path for path in section.metafile.parent.glob("*.tif") if tile_id.startswith(path.stem))
        Image.fromarray(np.full_like(before, 7)).save(image)
        replay(rig, section)
        level = next(rig.mipmaps.rglob(f"1/**/{image.name}*"))
        with Image.open(level) as reduced:
            assert (np.asarray(reduced) == 7).all()


def test_a_render_ws_that_cannot_empty_its_cache_is_reported_once_and_is_no_fault(running_rig: Rig, write):
    rig = running_rig
    section, _, _ = complete(rig, write)
    for status in (404, 403):
        rig.tell_standin()
        rig.tell_standin(match=CACHE_PATH, kind="status", status=status)
        replay(rig, section)
    assert cache_answers(rig) == [404, 403]
    assert len(events(rig, "render.image_cache_stays")) == 1
    assert rig.ready()["ready"]


def test_the_cache_is_emptied_after_an_outage_during_which_the_daemon_was_killed(rig: Rig, write):
    with running(rig):
        section, _, _ = complete(rig, write)
        rig.tell_standin(match=CACHE_PATH, kind="status", status=503)
        assert fetch(f"{rig.url}/api/replay", method="POST", body={"paths": [str(section.metafile)], "state": "all"})
        wait_for(lambda: 503 in cache_answers(rig), 60, "a request to empty the cache")
        rig.daemon.kill()
        rig.tell_standin()
        rig.start()
        rig.wait_until("complete", section.metafile)
        assert cache_answers(rig)[-1] == 200


def test_the_cache_is_not_emptied_if_the_configuration_disables_it(rig: Rig, write):
    rig.settings["render.clear_image_cache"] = False
    with running(rig):
        section, _, _ = complete(rig, write)
        replay(rig, section)
        assert cache_answers(rig) == []


@pytest.mark.parametrize("wanted", [True, False])
def test_the_command_empties_the_cache_if_it_replaces_levels(running_rig: Rig, write, tmp_path, wanted: bool):
    rig = running_rig
    _, stack, _ = complete(rig, write)
    host, port = rig.render_url.split("/render-ws")[0].removeprefix("http://").split(":")
    parameters = {
        "render": {"host": host, "port": int(port), "owner": OWNER, "project": PROJECT, "client_scripts": ""},
        "input_stack": stack,
        "output_dir": str(tmp_path / "levels"),
        "z": 1050,
        "levels": 2,
        "pool_size": 1,
        "clear_image_cache": wanted,
    }
    for times in (0, 1):
        (tmp_path / "levels").mkdir(exist_ok=True)
        arguments = [f"--{key}={value}" for key, value in parameters.items() if key != "render"]
        arguments += [f"--render.{key}={value}" for key, value in parameters["render"].items()]
        done = temwatch("generate_mipmaps", *arguments)
        assert done.returncode == 0, done.stderr
        assert len(cache_answers(rig)) == (times if wanted else 0)
