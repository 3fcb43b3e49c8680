"""Commands import only the modules that they use, so that they start sooner and need less memory."""

import os
import ssl
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from benchmarks import sections
from benchmarks.startup import HEAVY, NEVER, WORK
from daemon.commands.imports.command_names import IMPORT_COMMANDS
from daemon.simulator.pytemca import TileStatistics, metafile_bytes
from daemon.simulator.section import plan_section
from tests.certificates import Authority
from tests.settings_text import UNREACHABLE, settings_text


def modules_after(code: str) -> set[str]:
    """Run Python code in a process; return the names of the modules that are imported afterwards."""
    command = [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def imported_by(*arguments: str, exit_code: int = 0) -> list[str]:
    """Run `python -m daemon`; return the names of the modules that it imports, in their order."""
    command = [sys.executable, "-X", "importtime", "-m", "daemon", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == exit_code, done.stderr
    return [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]


@pytest.mark.parametrize("module", WORK)
def test_the_modules_of_a_command_import_nothing_that_it_does_not_use(module: str) -> None:
    assert not set(WORK[module]) & modules_after(f"import daemon.commands.imports.commands, {module}")


def test_a_command_without_a_terminal_imports_no_progress_bar_and_no_structured_log(tmp_path: Path) -> None:
    section = sections.plan(4, (64, 64), 0)
    sections.link_images(section, tmp_path, sections.write_image(tmp_path / "image.tif", (64, 64)))
    metafile = sections.put_metafile(section, tmp_path)
    render = ("--render.host=h", "--render.port=1", "--render.owner=o", "--render.project=p")
    arguments = ("--metafile", str(metafile), "--stack=s", "--z_index=1", "--dry_run=true")
    imported = imported_by("generate_EM_tilespecs_from_metafile", *render, *arguments)
    assert "asyncio" in imported
    assert not set(NEVER) & set(imported)


@pytest.mark.parametrize(("flag", "starts"), [("--levels=none", True), ("--dry_run=none", False), ("--help", False)])
def test_the_server_of_workers_starts_before_the_parameters_are_read_if_the_command_needs_workers(
    flag: str, starts: bool
) -> None:
    imported = imported_by("generate_mipmaps", flag, exit_code=0 if flag == "--help" else 2)
    before_parameters = imported[: imported.index("daemon.commands.imports.commands")]
    assert ("multiprocessing.forkserver" in before_parameters) == starts


@pytest.mark.parametrize("name", IMPORT_COMMANDS)
def test_an_import_command_imports_neither_the_other_commands_nor_their_parser(name: str) -> None:
    imported = imported_by(name, "--help")
    assert "daemon.commands.imports.commands" in imported
    assert not {"click", "daemon.temwatch", "aiohttp", "asyncio"} & set(imported)


@pytest.mark.parametrize("is_set", [False, True])
def test_importing_the_http_client_loads_no_certificates_and_other_connections_have_them(
    tmp_path: Path, is_set: bool
) -> None:
    code = """
import os, ssl
from daemon.system.lean_imports import import_http_client
before = dict(os.environ)
import_http_client()
import aiohttp.connector
client = aiohttp.connector._SSL_CONTEXT_VERIFIED
assert (client.verify_mode, client.check_hostname) == (ssl.CERT_REQUIRED, True)
assert dict(os.environ) == before
print(len(client.get_ca_certs()), len(ssl.create_default_context().get_ca_certs()))
"""
    environment = {name: value for name, value in os.environ.items() if name != "SSL_CERT_FILE"}
    if is_set:
        environment["SSL_CERT_FILE"] = str(Authority(tmp_path).ca.file)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    expected = 1 if is_set else len(ssl.create_default_context().get_ca_certs())
    assert [int(each) for each in done.stdout.split()] == [0, expected], done.stderr


def test_the_daemon_starts_without_certificates_and_without_rich(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    watch = settings_text(tmp_path / "watched", "/mips", url=UNREACHABLE)
    config.write_text(f'{watch}[journal]\npath = "{tmp_path}/absent/journal.sqlite"\n')
    code = """
import ssl, sys, daemon.__main__ as program
sys.argv = ["temwatch", "run", "--config", sys.argv[1]]
try:
    program.main()
except SystemExit as end:
    import aiohttp.connector, gc
    authorities = aiohttp.connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509_ca"]
    print(end.code, "rich" in sys.modules, "structlog" in sys.modules, authorities, gc.isenabled())
"""
    environment = {**os.environ, "SSL_CERT_FILE": str(Authority(tmp_path).ca.file)}
    done = subprocess.run([sys.executable, "-c", code, str(config)], capture_output=True, text=True, env=environment)
    assert done.stdout.split()[-5:] == ["2", "False", "True", "0", "True"], done.stdout + done.stderr


@pytest.mark.parametrize("module", ["status.screen", "check_config", "reload"])
def test_commands_about_the_daemon_import_neither_client_nor_journal_before_they_need_them(module: str) -> None:
    assert not {"aiohttp", "numpy", "sqlite3", "structlog", "watchdog"} & modules_after(
        f"import daemon.commands.{module}"
    )


def test_no_command_imports_an_http_server() -> None:
    code = """
import pkgutil, daemon.commands
for module in pkgutil.walk_packages(daemon.commands.__path__, "daemon.commands."):
    __import__(module.name)
"""
    assert not {"aiohttp.web", "daemon.web"} & modules_after(code)


def test_the_help_imports_nothing_heavy() -> None:
    assert not set(HEAVY) & modules_after("import daemon.temwatch")


def test_a_section_is_judged_without_the_masked_arrays_of_numpy(tmp_path: Path) -> None:
    path = tmp_path / "metafile.json"
    section = plan_section(tiles=4, size=(64, 64))
    path.write_bytes(metafile_bytes(section, [TileStatistics(0, 65535, 30000, 30, 22.0)] * 4))
    code = f"""
from handlers.acquisition.formats.pytemca_parse import parse_metafile
from handlers.quality.from_metafile import tile_numbers
from handlers.quality.medians import trend_of
from handlers.quality.rules import Limits
from handlers.quality.verdict import judge, median_focus

metafile = parse_metafile(open({str(path)!r}, "rb").read(), "metafile")
numbers = tile_numbers(metafile, [tile.basename for tile in metafile.tiles])
assert judge(numbers, Limits()).findings
assert median_focus(numbers) == trend_of(numbers, 4.0).focus == 22.0
"""
    assert "numpy.ma" not in modules_after(code)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports within functions count, too."""
    graph = grimp.build_graph("daemon", "handlers", exclude_type_checking_imports=True)
    order = TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    order.prepare()  # raises CycleError, which names a circle
