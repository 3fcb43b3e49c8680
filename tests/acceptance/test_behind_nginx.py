"""The daemon as a process behind a real nginx with a login, a certificate and tight limits."""

from collections.abc import Callable
from typing import Any

import pytest

from daemon.simulator.delivery import Written
from tests.acceptance.rig import Rig, require_seen_files, temwatch, verify_levels, wait_for

SPECIMEN = "20314_2L"


@pytest.mark.slow
def test_a_section_becomes_complete_through_nginx_although_its_limits_are_too_tight(
    rig: Rig, write: Callable[..., Written]
) -> None:
    """Uploads are larger than nginx allows, and closing a stack takes longer than its time-out."""
    rig.is_behind_nginx = True
    rig.start_standin()
    rig.put_nginx_in_front()
    assert rig.nginx is not None
    rig.nginx.start(rules="client_max_body_size 5k; proxy_read_timeout 2s;")
    rig.tell_standin(match="PUT .*/state/COMPLETE", kind="late", seconds=4)
    rig.start()
    section = write(tiles=16)
    rig.wait_until("complete", section.metafile)
    tiles = rig.tiles(f"{SPECIMEN}_mips", 1050.0)
    assert verify_levels(tiles) == 6 * len(section.images) > 90
    assert "/state/COMPLETE 504" in rig.nginx.log
    refused = rig.nginx.log.count(" 413 ")
    assert refused > 0
    warned = wait_for(lambda: rig.ready().get("warnings"), 60, "a warning")
    assert any(
        "a proxy in front of render-ws refused an upload, so tiles are uploaded in parts of" in each for each in warned
    )
    later = write(grid=1051, tiles=16)
    rig.wait_until("complete", later.metafile)
    stopped: Any = rig.daemon
    assert stopped.stop() == 0
    assert rig.nginx.log.count(" 413 ") <= refused + 1, "the limit is not remembered"
    done = temwatch("verify", "--config", str(rig.config()))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_daemon_with_a_wrong_password_works_after_the_file_is_corrected(
    rig: Rig, write: Callable[..., Written]
) -> None:
    rig.is_behind_nginx = True
    rig.start_standin()
    rig.put_nginx_in_front()
    assert rig.nginx is not None
    rig.nginx.set_password("right", known_to_client=False)
    section = write()
    rig.start()
    begins = (
        f"render-ws cannot be used until an operator acts: {rig.nginx.url}: tried to ask for its version, and the proxy"
    )
    wait_for(lambda: [each for each in rig.ready()["reasons"] if each.startswith(begins)], 60, lambda: str(rig.ready()))
    asked = rig.nginx.log.count(" 401 ")
    wait_for(lambda: (rig.montage_of(section.metafile) or {}).get("state") == "settled", 60, "settled")
    assert rig.nginx.log.count(" 401 ") == asked, "a refused login is retried as if it were an outage"
    rig.nginx.set_password("right")
    rig.wait_until("complete", section.metafile)
    wait_for(lambda: rig.ready().get("ready"), 60, lambda: f"ready; {rig.ready()}")


def test_workers_do_not_send_a_refused_login_for_every_tile(rig: Rig, write: Callable[..., Written]) -> None:
    rig.settings |= {"watch.mipmaps.method": "render", "workers.count": 1}
    rig.start_standin()
    require_seen_files(rig.render_url)
    rig.tell_standin(match="GET .*/png-image", kind="status", status=401)
    rig.start()
    section = write(tiles=24)
    wait_for(lambda: "asks for a login" in str(rig.ready()), 60, lambda: f"a refused login; {rig.ready()}")
    wait_for(lambda: (rig.montage_of(section.metafile) or {}).get("fault"), 60, "the end of the attempt")
    assert rig.montage_of(section.metafile)["state"] == "ingested"  # type: ignore[index]
    asked = [each for each in rig.requests() if "/png-image" in each["path"]]
    assert 1 <= len(asked) <= 12, len(asked)
    rig.tell_standin()
    assert temwatch("reload", "--config", str(rig.config())).returncode == 0
    rig.wait_until("complete", section.metafile)
