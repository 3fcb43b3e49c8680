"""Reload a changed configuration in the running daemon. Reloads run one at a time, so the newest file wins."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import structlog
from pydantic import BaseModel

from daemon.config.errors import ConfigError
from daemon.config.settings import Settings
from daemon.montages.presentation import iso_time
from daemon.system.sd_notify import SystemdNotifier

log = structlog.get_logger()

APPLIED = frozenset({"alerts", "hook", "links", "log", "pictures", "watch"})
"""Sections that a reload can change."""
FIXED = frozenset({"render", "journal", "http", "workers"})
"""Sections that only a restart can change: a reload refuses a file in which they differ."""


class Reloader:
    """Reloads the configuration on request, and keeps the result of the last reload.

    Parameters
    ----------
    load : reads the configuration; raises ConfigError.
    current : returns the present configuration.
    adopt : applies a configuration.
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
        self._refused_at: float | None = None

    def ask(self) -> None:
        """Request a reload. A request during a reload leads to another one."""
        self._asked += 1
        self._wanted.set()

    def to_json(self) -> dict[str, Any]:
        """Return the body of GET /api/reload: reloads requested and done, why and when the last one failed."""
        return {
            "asked": self._asked,
            "answered": self._answered,
            "problems": list(self._problems),
            "refused_at": iso_time(self._refused_at),
        }

    async def run(self, started: asyncio.Event) -> None:
        """Perform requested reloads until cancelled; the first one waits until the daemon has started."""
        await started.wait()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            asked = self._asked
            self._problems = await self._reload()
            self._refused_at = time.time() if self._problems else None
            self._answered = asked

    async def _reload(self) -> tuple[str, ...]:
        """Apply the configuration of the file; return the problems that prevented it, empty if it was applied."""
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
        except Exception as error:  # a bug must not end the daemon
            log.exception("config.reload_bug")
            return (f"a bug in temwatch; please report it: {type(error).__name__}: {error}",)
        finally:
            self._notifier.ready()
        log.info("config.reloaded", watches=[watch.name for watch in settings.watch])
        return ()


def fixed_keys(before: Settings, after: Settings) -> Iterator[str]:
    """Yield the dotted keys that differ and that a reload cannot change."""
    for section in type(before).model_fields:
        if section not in APPLIED:
            yield from _differing(section, getattr(before, section), getattr(after, section))


def _differing(key: str, before: object, after: object) -> Iterator[str]:
    if isinstance(before, BaseModel) and isinstance(after, BaseModel):
        for name in type(before).model_fields:
            yield from _differing(f"{key}.{name}", getattr(before, name), getattr(after, name))
    elif before != after:
        yield key
