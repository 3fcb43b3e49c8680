"""Reloads: every key is applied or refused, reloads run one after the other, and the newest file is used."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.config.errors import ConfigError
from daemon.config.reload import APPLIED, FIXED, Reloader, fixed_keys
from daemon.config.settings import Settings
from daemon.config.text import plain_fields, sections
from daemon.system.sd_notify import SystemdNotifier

CHANGED: dict[str, Any] = {
    "render.url": "http://other/render-ws/v1",
    "render.owner": "other",
    "render.project": "other",
    "render.username": "other",
    "render.password_file": Path("/etc/password"),
    "render.token_file": Path("/etc/token"),
    "render.headers_file": Path("/etc/headers"),
    "render.ca_file": Path("/etc/ca.pem"),
    "render.client_certificate_file": Path("/etc/client.pem"),
    "render.client_key_file": Path("/etc/client.key"),
    "journal.path": Path("/var/lib/other.sqlite"),
    "http.host": "::1",
    "http.token_file": Path("/etc/token"),
    "http.allowed_hosts": ("other",),
    "http.base_path": "/other",
    "http.trusted_proxies": ("127.0.0.1",),
    "http.user_header": "X-User",
    "workers.executor": "dask",
    "workers.dask_scheduler": "tcp://other:8786",
    "workers.dask_ca_file": Path("/etc/ca.pem"),
    "workers.dask_certificate_file": Path("/etc/client.pem"),
    "workers.dask_key_file": Path("/etc/client.key"),
}
"""Key -> another valid value, for keys whose value is neither a number nor a boolean."""


def settings(**sections: Any) -> Settings:
    watch = {"name": "temca2", "directory": "/data", "z": {"rule": "grid"}, "mipmaps": {"output_dir": "/mips"}}
    render = {"url": "http://render/render-ws/v1", "owner": "em", "project": "v1"}
    return Settings(**{"render": render, "watch": [watch], **sections})


def keys_of_fixed_sections() -> Iterator[str]:
    for section, _, model in sections(Settings):
        if section in FIXED:
            yield from (f"{section}.{key}" for key, _ in plain_fields(model))


def test_every_section_is_applied_or_needs_a_restart() -> None:
    assert set(Settings.model_fields) == APPLIED | FIXED
    assert not APPLIED & FIXED


@pytest.mark.parametrize("key", list(keys_of_fixed_sections()))
def test_a_changed_key_that_needs_a_restart_is_named(key: str) -> None:
    before = settings()
    section, _, name = key.partition(".")
    part = getattr(before, section)
    present = getattr(part, name)
    other = CHANGED[key] if key in CHANGED else not present if isinstance(present, bool) else present + 1
    after = before.model_copy(update={section: part.model_copy(update={name: other})})
    assert list(fixed_keys(before, after)) == [key]


@pytest.mark.parametrize("section", ["log", "watch", "links"])
def test_changes_of_log_watch_and_links_need_no_restart(section: str) -> None:
    watch = {"name": "other", "directory": "/other", "z": {"rule": "header"}, "mipmaps": {"output_dir": "/mips2"}}
    links = {"catmaid": "https://catmaid/{z}"}
    changed = {"log": {"level": "debug", "format": "console"}, "watch": [watch], "links": links}
    after = settings(**{section: changed[section]})
    assert list(fixed_keys(settings(), after)) == []


class File:
    """A configuration file, and stand-ins for the functions of the daemon that a reload calls."""

    def __init__(self) -> None:
        self.content: Settings | Exception = settings()
        self.in_force = settings()
        self.loads = 0
        self.adopting = 0
        self.max_adopting = 0
        self.may_adopt = asyncio.Event()
        self.may_adopt.set()
        self.reloader = Reloader(self.load, lambda: self.in_force, self.adopt, SystemdNotifier())

    def load(self) -> Settings:
        self.loads += 1
        if isinstance(self.content, Exception):
            raise self.content
        return self.content

    async def adopt(self, settings: Settings) -> None:
        self.adopting += 1
        self.max_adopting = max(self.max_adopting, self.adopting)
        await self.may_adopt.wait()
        self.in_force = settings
        self.adopting -= 1

    async def reloaded(self) -> dict[str, Any]:
        """Wait until all requested reloads are done; return the result."""
        await until(lambda: self.reloader.to_json()["answered"] == self.reloader.to_json()["asked"])
        return self.reloader.to_json()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0.001)


def watching(name: str) -> Settings:
    watch = {"name": name, "directory": f"/{name}", "z": {"rule": "grid"}, "mipmaps": {"output_dir": "/mips"}}
    return settings(watch=[watch])


@pytest.fixture
async def file() -> Any:
    file, started = File(), asyncio.Event()
    started.set()
    running = asyncio.create_task(file.reloader.run(started))
    yield file
    running.cancel()


async def test_reloads_run_one_after_the_other_and_the_newest_file_is_used(file: File) -> None:
    file.may_adopt.clear()
    file.content = watching("first")
    file.reloader.ask()
    await until(lambda: file.adopting == 1)
    for name in ("second", "newest"):
        file.content = watching(name)
        file.reloader.ask()
        await asyncio.sleep(0.01)
    assert (file.loads, file.adopting) == (1, 1)
    file.may_adopt.set()
    await file.reloaded()
    assert file.in_force.watch[0].name == "newest"
    assert (file.loads, file.max_adopting) == (2, 1)


async def test_a_refused_file_changes_nothing_and_the_next_valid_one_is_applied(file: File) -> None:
    before = file.in_force
    for refused, problems in (
        (ConfigError(("watch[0].z: is required",)), ["watch[0].z: is required"]),
        (settings(log={"level": "debug"}, http={"port": 1}), ["http.port: needs a restart"]),
        (ZeroDivisionError("division"), ["a bug in temwatch; please report it: ZeroDivisionError: division"]),
    ):
        file.content = refused
        file.reloader.ask()
        assert (await file.reloaded())["problems"] == problems
        assert file.in_force is before
    file.content = watching("next")
    file.reloader.ask()
    assert (await file.reloaded())["problems"] == []
    assert file.in_force.watch[0].name == "next"


async def test_nothing_is_reloaded_before_the_daemon_has_started() -> None:
    file, started = File(), asyncio.Event()
    running = asyncio.create_task(file.reloader.run(started))
    file.reloader.ask()
    await asyncio.sleep(0.01)
    assert file.loads == 0
    started.set()
    await file.reloaded()
    assert file.loads == 1
    running.cancel()
