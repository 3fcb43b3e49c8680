"""The environment in which a workflow engine runs the import commands."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from daemon.commands.imports.commands import run_command
from daemon.simulator.delivery import Written
from daemon.simulator.section import plan_section
from daemon.simulator.temca import write_section
from tests.acceptance.rig import OWNER, PROJECT, Rig, control_url, fetch, temwatch

TILESPECS, MIPMAPS, APPLY = "generate_EM_tilespecs_from_metafile", "generate_mipmaps", "apply_mipmaps_to_render"


@dataclass
class Facility:
    """The environment of a workflow engine: a render-ws, a directory, input files."""

    root: Path
    render_url: str
    project: str
    capsys: pytest.CaptureFixture[str]
    errors: list[str] = field(default_factory=list)

    @property
    def render(self) -> dict[str, Any]:
        host, _, port = self.render_url.removeprefix("http://").partition("/")[0].partition(":")
        scripts = "/opt/render/render-ws-java-client/src/main/scripts"
        return {"host": host, "port": int(port), "owner": OWNER, "project": self.project, "client_scripts": scripts}

    def section(self, grid: int = 1050, tiles: int = 4, **options: Any) -> Written:
        plan = plan_section(tiles=tiles, size=options.pop("size", (128, 128)), grid=grid, **options)
        return write_section(plan, self.root / "acquisition", pixels="noise")

    def input(self, **values: Any) -> Path:
        path = self.root / "input.json"
        path.write_text(json.dumps({"render": self.render, **values}))
        return path

    def run(self, name: str, *flags: str, code: int = 0, **values: Any) -> dict[str, Any]:
        """Run a command, check its exit code, and return its result."""
        self.capsys.readouterr()
        ended = run_command(name, ["--input_json", str(self.input(**values)), *flags])
        shown = self.capsys.readouterr()
        self.errors = shown.err.splitlines()
        assert ended == code, shown.err
        assert "Traceback" not in shown.err
        return json.loads(shown.out) if shown.out else {}

    def ingest(self, section: Written, z: float = 1050, **values: Any) -> dict[str, Any]:
        return self.run(TILESPECS, metafile=str(section.metafile), stack="raw", z_index=z, **values)

    def make(self, *flags: str, code: int = 0, **values: Any) -> dict[str, Any]:
        given = {"input_stack": "raw", "output_dir": str(self.root / "mips"), "pool_size": 1, "levels": 2, "z": 1050}
        return self.run(MIPMAPS, *flags, code=code, **given | values)

    def apply(self, *flags: str, code: int = 0, **values: Any) -> dict[str, Any]:
        given = {"input_stack": "raw", "mipmap_dir": str(self.root / "mips"), "levels": 2, "z": 1050}
        return self.run(APPLY, *flags, code=code, **given | values)

    def stack_url(self, stack: str) -> str:
        return f"{self.render_url}/owner/{OWNER}/project/{self.project}/stack/{stack}"

    def state(self, stack: str) -> str:
        return str(fetch(self.stack_url(stack))["state"])

    def tiles(self, stack: str, z: float = 1050) -> dict[str, Any]:
        found = fetch(f"{self.stack_url(stack)}/z/{z}/resolvedTiles")
        return dict(found["tileIdToSpecMap"]) if isinstance(found, dict) else {}

    def misbehave(self, match: str, kind: str, **more: Any) -> None:
        assert fetch(self._control("faults"), method="POST", body={"match": match, "kind": kind, **more}) is not None

    def requests(self) -> list[str]:
        return [f"{entry['method']} {entry['path']}" for entry in fetch(self._control("requests"))]

    def behave(self) -> None:
        fetch(self._control("faults"), method="DELETE")

    def _control(self, what: str) -> str:
        return control_url(self.render_url, what)


def import_command(rig: Rig, name: str, *words: str, code: int = 0) -> str:
    """Run an import command as a process without a configuration file; return its output."""
    host, _, port = rig.render_url.removeprefix("http://").partition("/")[0].partition(":")
    render = ("--render.host", host, "--render.port", port, "--render.owner", OWNER, "--render.project", PROJECT)
    done = temwatch(name, *render, "--z", "1050", *words, timeout_s=300)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    return done.stderr if code else done.stdout
