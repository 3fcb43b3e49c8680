"""Asking a scheduler and its workers once, for `check-config --probe`: versions, and the files that workers see."""

import asyncio
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from handlers.errors import SettingsFault, WorkersUnavailable
from handlers.place import Place
from handlers.sharing import Sharing
from handlers.workers.cluster.access import ClusterAccess, WorkerPath
from handlers.workers.cluster.connection import Connection, SchedulerAway
from handlers.workers.cluster.importing import import_distributed
from handlers.workers.cluster.members import Members
from handlers.workers.cluster.shared_directories import Ground
from handlers.workers.crew import Crew


@dataclass(frozen=True, slots=True)
class Trial:
    """A ground for which workers must give a proof."""

    ground: Ground
    level0: Place
    """An image on the ground, which need not exist."""
    sharing: Sharing


@dataclass(frozen=True, slots=True)
class Asked:
    """Answers of a scheduler and its workers."""

    crew: Crew
    problems: tuple[dict[str, str], ...]
    """For each trial: the problem of each host that was asked; an empty text if its workers pass."""


async def ask_cluster(access: ClusterAccess, paths: tuple[WorkerPath, ...], trials: Sequence[Trial]) -> Asked:
    """Connect to a scheduler, and have each of its workers give the proofs.

    Raises
    ------
    SettingsFault
        If dask is not installed.
    WorkersUnavailable
        If the scheduler does not answer, or a file of TLS cannot be used.
    """
    if importlib.util.find_spec("distributed") is None:
        raise SettingsFault("workers.executor", "dask is not installed", "pip install 'temwatch[dask]'")
    await asyncio.to_thread(import_distributed)
    await asyncio.to_thread(access.security)
    members = Members(paths, lambda: None)
    try:
        async with Connection.connect(access) as connection:
            members.begin(connection)
            for trial in trials:
                members.learn(trial.ground, trial.level0, trial.sharing)
            await members.look()
            await members.asked()
            crew = Crew(members.described(), scheduler=access.scheduler, notes=members.notes())
            return Asked(crew, tuple(members.problems(trial.ground) for trial in trials))
    except SchedulerAway as away:
        raise WorkersUnavailable("workers.dask_scheduler", str(away)) from None
