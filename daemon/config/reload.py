"""A changed configuration, taken up by the running daemon: one reload after the other, so that the newest file wins."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import structlog
from pydantic import BaseModel

from daemon.config.load import ConfigError, Settings
from daemon.system.service import SystemdNotifier

log = structlog.get_logger()

APPLIED = frozenset({"log", "watch"})
"""Sections whose keys take effect by a reload."""
FIXED = frozenset({"render", "journal", "http", "workers"})
"""Sections whose keys a restart alone changes: a file that changes one is refused."""


class Reloader:
    """Reloads when it is asked to, and remembers how the last reload ended.

    Parameters
    ----------
    load : reads the configuration; raises ConfigError.
    current : the configuration in force.
    adopt : puts another one in force.
    """

    def __init__(
        self,
        load: Callable[[], Settings],
        current: Callable[[], Settings],
        adopt: Callable[[Settings], Awaitable[None]],
        notifier: SystemdNotifier,
    ) -> None:
        self._load = load
        self._current = current
        self._adopt = adopt
        self._notifier = notifier
        self._wanted = asyncio.Event()
        self._asked = 0
        self._answered = 0
        self._problems: tuple[str, ...] = ()

    def ask(self) -> None:
        """The file may have changed. One that changes while it is read is read again."""
        self._asked += 1
        self._wanted.set()

    def to_json(self) -> dict[str, Any]:
        """How many reloads were asked for and answered, and the problems of the last one; for GET /api/reload."""
        return {"asked": self._asked, "answered": self._answered, "problems": list(self._problems)}

    async def run(self, started: asyncio.Event) -> None:
        """Reload for as long as the daemon runs; during the start nothing is reloaded."""
        await started.wait()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            asked = self._asked
            self._problems = await self._reload()
            self._answered = asked

    async def _reload(self) -> tuple[str, ...]:
        """Check the configuration and put it in force, or keep the one in force; the problems that it has."""
        self._notifier.reloading()
        try:
            settings = await asyncio.to_thread(self._load)
            problems = tuple(f"{key}: needs a restart" for key in fixed_keys(self._current(), settings))
            if problems:
                raise ConfigError(problems)
            await self._adopt(settings)
        except ConfigError as error:
            for problem in error.problems:
                log.error("config.refused", problem=problem)
            return error.problems
        except Exception as error:  # it would end the daemon
            log.exception("config.reload_bug")
            return (f"a bug in temwatch; please report it: {type(error).__name__}: {error}",)
        finally:
            self._notifier.ready()
        log.info("config.reloaded", watches=[watch.name for watch in settings.watch])
        return ()


def fixed_keys(before: Settings, after: Settings) -> Iterator[str]:
    """Keys that differ and that a reload cannot change, dotted."""
    for section in type(before).model_fields:
        if section not in APPLIED:
            yield from _differing(section, getattr(before, section), getattr(after, section))


def _differing(key: str, before: object, after: object) -> Iterator[str]:
    if isinstance(before, BaseModel) and isinstance(after, BaseModel):
        for name in type(before).model_fields:
            yield from _differing(f"{key}.{name}", getattr(before, name), getattr(after, name))
    elif before != after:
        yield key
