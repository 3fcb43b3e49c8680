"""Prometheus metrics: counted while the daemon works, or set from its facts when they are requested."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from daemon.montages.states import MontageState, Step
from daemon.pipeline.health import INACCESSIBLE, Facts, reasons_not_ready
from daemon.watching.roots import RootHealth
from handlers.text import printable
from handlers.workers.crew import Crew


class Metrics:
    """The daemon's metrics in their own registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.tiles = Counter(
            "temwatch_tiles_mipmapped", "Tiles whose mipmaps were made and verified", registry=registry
        )
        self.files = Counter("temwatch_mipmap_files", "Mipmap files written and verified", registry=registry)
        self.bytes = Counter("temwatch_mipmap_bytes", "Bytes of mipmap files written", registry=registry)
        self.worker_deaths = Counter(
            "temwatch_worker_deaths", "Worker processes that died, alone or killed from outside", registry=registry
        )
        self.attempts = Counter(
            "temwatch_attempts", "Attempts at a step, by outcome", ["step", "outcome"], registry=registry
        )
        self.step_seconds = Histogram(
            "temwatch_step_seconds",
            "Duration of a successful step",
            ["step"],
            buckets=(0.05, 0.2, 1, 5, 20, 60, 300, 1200, 3600),
            registry=registry,
        )
        self.complete_seconds = Histogram(
            "temwatch_complete_seconds",
            "Time from noticing a metafile to its montage being COMPLETE",
            buckets=(5, 20, 60, 120, 300, 600, 1800, 3600, 14400, 86400),
            registry=registry,
        )
        self.hook_events = Counter(
            "temwatch_hook_attempts",
            "Attempts to deliver an event: delivered, failed, dead (given up)",
            ["hook", "outcome"],
            registry=registry,
        )
        self.verdicts = Counter(
            "temwatch_verdicts", "Verdicts of quality control's rules", ["watch", "verdict"], registry=registry
        )
        self._alerts = Gauge(
            "temwatch_alerts_deliverable", "1 unless the last message to people was not delivered", registry=registry
        )
        self._hook_waiting = Gauge("temwatch_hook_waiting", "Events to deliver", ["hook"], registry=registry)
        self._hook_dead = Gauge("temwatch_hook_dead", "Events that were given up", ["hook"], registry=registry)
        self._hook_oldest = Gauge(
            "temwatch_hook_oldest_seconds", "Age of the oldest event to deliver", ["hook"], registry=registry
        )
        self._montages = Gauge("temwatch_montages", "Montages by state", ["watch", "state"], registry=registry)
        self._oldest = Gauge(
            "temwatch_oldest_unfinished_seconds", "Age of the oldest unfinished montage", registry=registry
        )
        self._ready = Gauge("temwatch_ready", "1 if ready", registry=registry)
        self._render = Gauge("temwatch_render_up", "1 if render-ws is available", registry=registry)
        self._directories = Gauge(
            "temwatch_watch_directories",
            "Directories seen by scans, and directories watched for events",
            ["watch", "kind"],
            registry=registry,
        )
        self._found = Gauge(
            "temwatch_watch_metafiles_found",
            "Metafiles found since the start, by event or by scan",
            ["watch", "by"],
            registry=registry,
        )
        self._overflows = Gauge(
            "temwatch_watch_overflows", "Overflows of the event queue since the start", ["watch"], registry=registry
        )
        self._scan = Gauge("temwatch_watch_scan_seconds", "Duration of the last scan", ["watch"], registry=registry)
        self._observable = Gauge(
            "temwatch_watch_observable", "1 if the directory can be accessed", ["watch"], registry=registry
        )
        self._free = Gauge("temwatch_disk_free_bytes", "Free space for mipmaps", ["directory"], registry=registry)
        self._workers = Gauge(
            "temwatch_workers",
            "Workers by host: ready, or refused because they cannot make tiles",
            ["host", "state"],
            registry=registry,
        )
        self._threads = Gauge(
            "temwatch_worker_threads", "Tiles that ready workers make at once", ["host"], registry=registry
        )
        self._in_flight = Gauge(
            "temwatch_tiles_in_flight", "Tiles that workers make now, by host", ["host"], registry=registry
        )
        self._submitted = Gauge(
            "temwatch_tiles_submitted",
            "Tiles given to the workers and not done, with those that wait",
            registry=registry,
        )
        self._scheduler = Gauge(
            "temwatch_scheduler_up", "1 if the dask scheduler can be used, or none is configured", registry=registry
        )
        self._full = Gauge(
            "temwatch_disk_full_seconds",
            "Time until the disk is full at the rate of the last hours; absent while it does not fill",
            ["directory"],
            registry=registry,
        )
        self._usable = Gauge(
            "temwatch_disk_usable", "1 if mipmaps can be written there", ["directory"], registry=registry
        )

    def attempt_ended(self, step: Step, outcome: str, seconds: float) -> None:
        """Count an attempt."""
        self.attempts.labels(step, outcome).inc()
        if outcome == "done":
            self.step_seconds.labels(step).observe(seconds)

    def hook_attempted(self, hook: str, outcome: str) -> None:
        """Count an attempt at a delivery."""
        self.hook_events.labels(hook, outcome).inc()

    def text(self, facts: Facts, counts: Mapping[tuple[str, MontageState], int]) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        self._montages.clear()
        for watch in {watch for watch, _ in counts} | {root.name for root in facts.roots}:
            for state in MontageState:
                self._montages.labels(watch, state).set(counts.get((watch, state), 0))
        self._oldest.set(facts.oldest_unfinished_s or 0)
        self._ready.set(not reasons_not_ready(facts))
        self._render.set(facts.render_fault is None)
        for root in facts.roots:
            self._describe_root(root)
        self._alerts.set(not facts.alert_problem)
        self._full.clear()
        for disk in facts.disks:
            directory = printable(disk.directory)
            if disk.needed_bytes or disk.free_bytes is not None:  # an object store has no free space
                self._free.labels(directory).set(disk.free_bytes or 0)
            if disk.full_in_s is not None:
                self._full.labels(directory).set(disk.full_in_s)
            self._usable.labels(directory).set(not disk.problem)
        self._describe_crew(facts.crew)
        for gauge in (self._hook_waiting, self._hook_dead, self._hook_oldest):
            gauge.clear()
        for hook in facts.hooks:
            self._hook_waiting.labels(hook.name).set(hook.waiting)
            self._hook_dead.labels(hook.name).set(hook.dead)
            self._hook_oldest.labels(hook.name).set(hook.oldest_s or 0)
        return generate_latest(self.registry)

    def _describe_root(self, root: RootHealth) -> None:
        self._directories.labels(root.name, "seen").set(root.directories_seen)
        self._directories.labels(root.name, "watched").set(root.directories_watched)
        self._found.labels(root.name, "event").set(root.found_by_event)
        self._found.labels(root.name, "scan").set(root.found_only_by_scan)
        self._overflows.labels(root.name).set(root.overflows)
        self._scan.labels(root.name).set(root.last_scan_s or 0)
        self._observable.labels(root.name).set(root.status not in INACCESSIBLE)

    def _describe_crew(self, crew: Crew) -> None:
        for gauge in (self._workers, self._threads, self._in_flight):
            gauge.clear()
        for each in crew.hosts():
            host = printable(each.host)
            self._workers.labels(host, "ready").set(each.workers)
            self._workers.labels(host, "refused").set(each.refused)
            self._threads.labels(host).set(each.threads)
            self._in_flight.labels(host).set(each.tiles)
        self._submitted.set(crew.tiles)
        self._scheduler.set(not crew.fault)
