"""Passwords and other secrets appear in no output."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.rig import Rig, command_lines, fetch, temwatch, wait_for
from tests.nginx import Nginx

PASSWORD = "pw4711"


def test_the_password_of_the_url_is_in_no_output_of_the_daemon_and_its_commands(rig: Rig, write: Any) -> None:
    rig.start_standin()
    served = rig.render_url
    rig.render_url = "http://em:pw4711@127.0.0.1:1/render-ws/v1"
    rig.settings = {"log.level": "debug"}
    section = write()
    rig.start()
    wait_for(lambda: "cannot be reached" in str(rig.ready()), 60, "render-ws is unavailable")
    wait_for(lambda: (rig.montage_of(section.metafile) or {}).get("state") == "settled", 60)
    config = ("--config", str(rig.config()))
    url = rig.url
    outputs = {
        "readyz": str(rig.ready()),
        "metrics": str(fetch(f"{url}/metrics")),
        "montages": str(rig.montages()),
        "montage": str(fetch(f"{url}/api/montages/1")),
        "replay over HTTP": str(fetch(f"{url}/api/replay", method="POST", body={"state": "all", "dry_run": True})),
    }
    commands: dict[str, tuple[str, ...]] = {
        "status": (),
        "status as JSON": ("--json",),
        "health": ("--url", url),
        "check-config": (),
        "verify": (),
        "replay": ("--dry-run",),
    }
    for name, arguments in commands.items():
        options = arguments if name == "health" else (*arguments, *config)
        done = temwatch(name.split()[0], *options)
        outputs[name] = done.stdout + done.stderr
    rig.daemon.stop()  # type: ignore[union-attr]
    rebuilt = temwatch("journal", "rebuild", *config)
    outputs["rebuild"] = rebuilt.stdout + rebuilt.stderr
    outputs["log"] = "\n".join(rig.daemon.lines())  # type: ignore[union-attr]
    assert "127.0.0.1:1/render-ws/v1" in outputs["readyz"]
    assert "127.0.0.1:1/render-ws/v1" in outputs["rebuild"]
    assert "127.0.0.1:1/render-ws/v1" in outputs["check-config"]
    assert [name for name, text in outputs.items() if PASSWORD in text] == []
    rig.render_url = served.replace("//", "//em:pw4711@")  # the stand-in accepts any log-in
    rig.start()
    rig.wait_until("complete", section.metafile)
    assert PASSWORD not in "\n".join(rig.daemon.lines())  # type: ignore[union-attr]


def plant_secrets(rig: Rig, nginx: Nginx) -> None:
    """Configure a password, a secret header and a client certificate with its key."""
    headers = rig.root / "headers"
    headers.write_text(f"X-Api-Key: {PASSWORD}-header\n")
    headers.chmod(0o600)
    settings = {**nginx.settings, "headers_file": str(headers)}
    rig.settings |= {f"render.{key}": value for key, value in settings.items() if key != "url"}
    rig.settings["log.level"] = "debug"
    rig.render_url = nginx.url


def test_planted_secrets_are_in_no_log_fault_page_metric_journal_or_process_list(rig: Rig, write: Any) -> None:
    rig.is_warm = False
    rig.start_standin()
    nginx = Nginx(rig.root / "nginx", rig.render_url)
    try:
        nginx.start()
        plant_secrets(rig, nginx)
        section = write()
        nginx.set_password("other", known_to_client=False)
        rig.start()
        wait_for(lambda: "asks for a login" in str(rig.ready()), 60, lambda: f"a refused login; {rig.ready()}")
        wait_for(lambda: (rig.montage_of(section.metafile) or {}).get("state") == "settled", 60)
        config, url = ("--config", str(rig.config())), rig.url
        pages = ("readyz", "metrics", "api/montages", "api/montages/1", "")
        outputs = {page: str(fetch(f"{url}/{page}")) for page in pages}
        outputs["ps"] = "\n".join(command_lines())
        for command in (("status",), ("check-config", "--probe"), ("verify",)):
            done = temwatch(*command, *config)
            outputs[command[0]] = done.stdout + done.stderr
        assert "an operator acts" in outputs["readyz"]
        assert "asks for a login" in outputs["status"]
        assert "asks for a login" in outputs["check-config"]
        nginx.set_password(PASSWORD)  # also writes the daemon's file again, which ends the fault
        rig.wait_until("complete", section.metafile)
        outputs["ps at work"] = "\n".join(command_lines())
        outputs["log"] = "\n".join(rig.daemon.lines())  # type: ignore[union-attr]
        rig.daemon.stop()  # type: ignore[union-attr]
        for path in rig.root.glob("daemon.sqlite*"):
            outputs[path.name] = path.read_bytes().decode("latin-1")
        key = nginx.client.key.read_text().splitlines()[1]
        assert [name for name, text in outputs.items() if PASSWORD in text or key in text] == []
        assert "asks for a login" in outputs["log"]
    finally:
        nginx.stop()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://em:pw4711@render/v1",
        "http://em:x/pw4711@render/v1",
        "em:pw4711@render/v1",
        "http://em:pw4711@render:x/v1",
    ],
)
def test_an_invalid_url_is_shown_without_its_password(tmp_path: Path, url: str) -> None:
    rig = Rig(tmp_path, render_url=url)
    done = temwatch("check-config", "--config", str(rig.config()))
    assert done.returncode == 2
    assert "render.url: " in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_the_import_commands_show_no_password(tmp_path: Path) -> None:
    metafile = tmp_path / "_metadata_x_.json"
    metafile.write_text("[]")
    parameters: dict[str, Any] = {
        "render": {"host": "http://em:pw4711@127.0.0.1", "port": 1, "owner": "em", "project": "v1"},
        "metafile": str(metafile), "stack": "raw", "z": 1, "input_stack": "raw", "output_dir": str(tmp_path),
        "mipmap_dir": str(tmp_path),
    }  # fmt: skip
    keys = {
        "generate_EM_tilespecs_from_metafile": ("metafile", "stack"),
        "generate_mipmaps": ("input_stack", "output_dir"),
        "apply_mipmaps_to_render": ("input_stack", "mipmap_dir"),
    }
    for command, own in keys.items():
        given = {key: parameters[key] for key in ("render", "z", *own)}
        source = tmp_path / "input.json"
        for variant in (given, {**given, "render": given["render"]["host"]}, {**given, "render": [given["render"]]}):
            source.write_text(json.dumps(variant))
            options = ("--input_json", str(source), "--log_level", "DEBUG", "--output_json", str(tmp_path / "out.json"))
            done = temwatch(command, *options)
            assert done.returncode in (1, 2), done.stdout + done.stderr
            assert PASSWORD not in done.stdout + done.stderr
        unknown = temwatch(command, "--render.hots", "http://em:pw4711@127.0.0.1", "--no_such=http://em:pw4711@h")
        assert PASSWORD not in unknown.stdout + unknown.stderr
