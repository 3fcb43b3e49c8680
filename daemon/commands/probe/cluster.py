"""Probe a dask cluster: the scheduler, versions, and the workers' access to each watch."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

from daemon.commands.check_config import Finding
from daemon.commands.probe.images import some_image
from daemon.config.settings import Settings
from daemon.config.watch_settings import WatchSettings
from handlers.errors import SettingsFault, WorkersUnavailable
from handlers.workers.cluster.access import ClusterAccess
from handlers.workers.cluster.preflight import Trial, ask_cluster
from handlers.workers.cluster.shared_directories import Ground
from handlers.workers.crew import Crew

ANSWER_S = 60.0
"""Time-out of the search for an image in a watched directory."""
SCHEDULER = "workers.dask_scheduler"


async def probe_cluster(settings: Settings) -> tuple[list[str], list[Finding]]:
    """Return what was proved, and the problems; both empty without a scheduler."""
    access = settings.workers.cluster
    if access is None:
        return [], []
    trials = [await _trial(watch) for watch in settings.watch]
    try:
        asked = await ask_cluster(access, settings.workers.worker_paths, trials)
    except (SettingsFault, WorkersUnavailable) as fault:
        key = fault.subject if fault.subject.startswith("workers.") else SCHEDULER
        return [], [Finding(key, fault.problem + (f" ({fault.hint})" if fault.hint else ""))]
    proved = [*_of_scheduler(access, asked.crew)]
    findings = [Finding(SCHEDULER, note) for note in asked.crew.notes]
    for watch, trial, problems in zip(settings.watch, trials, asked.problems, strict=True):
        findings += [
            Finding(SCHEDULER, f"watch {watch.name}: workers on {host} get no tiles: {problem}")
            for host, problem in problems.items()
            if problem
        ]
        proved += _of_watch(watch, trial, problems)
    return proved, findings


async def _trial(watch: WatchSettings) -> Trial:
    """Return the trial of the workers for a watch. Without an image they only write."""
    level0 = watch.directory / "no image"
    try:
        async with asyncio.timeout(ANSWER_S):
            if found := await asyncio.to_thread(some_image, watch.directory):
                level0 = found.path
    except TimeoutError:
        pass  # the probe of the watch reports it
    return Trial(Ground(watch.directory, watch.mipmaps.output_dir), level0, watch.mipmap_plan().sharing)


def _of_scheduler(access: ClusterAccess, crew: Crew) -> Iterator[str]:
    yield f"{access.scheduler} answers{', and its certificate verifies' * access.is_tls}"
    if not crew.members:
        yield f"{access.scheduler} has no worker now: the workers' access to files is not tested"
        return
    if not crew.notes:
        yield f"{access.scheduler} and its workers have the versions of this machine"
    threads = sum(member.threads for member in crew.members)
    hosts = ", ".join(f"{host.host} {host.workers + host.refused}" for host in crew.hosts())
    yield f"{access.scheduler} has workers on: {hosts}; threads: {threads}"


def _of_watch(watch: WatchSettings, trial: Trial, problems: Mapping[str, str]) -> Iterator[str]:
    passed = [host for host, problem in problems.items() if not problem]
    if not passed:
        return
    has_image = isinstance(trial.level0, Path) and trial.level0.exists()
    read = f"read {watch.directory} and " * has_image
    unknown = "" if has_image else f"; {watch.directory} contains no image yet, so reading it was not tested"
    yield f"{watch.name}: workers on {', '.join(passed)} {read}write {watch.mipmaps.output_dir}{unknown}"
