"""The report of `temwatch status` as text: FAILED montages grouped by cause, then unfinished ones. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from daemon.commands.daemon_client import START_HINT
from daemon.commands.status.causes import Cause, Montage, by_cause, cause_of, z_ranges
from daemon.commands.status.report import Report, watch_names
from daemon.montages.presentation import present_fault
from daemon.montages.states import STEP_OF_STATE, UNFINISHED, MontageState
from handlers.text import byte_size, counted, fitted, z_text

INDENT = 12
MAX_GROUPS = 10
MAX_MONTAGES = 20
MAX_PROBLEMS = 5
MAX_HOSTS = 20
_STATES = (MontageState.FAILED, *(state for state in MontageState if state is not MontageState.FAILED))


@dataclass(frozen=True, slots=True)
class View:
    """Selection and layout of a report."""

    now: datetime
    """Local time, with its zone."""
    width: int | None = None
    """Columns of a line; None does not wrap."""
    watch: str | None = None
    """Name of the only watch to show; None shows all."""
    failed: bool = False
    """Whether every FAILED montage is shown, and no others."""
    by_cause: bool = False
    """Whether unfinished montages are grouped, too, and all groups are shown."""


def status_text(report: Report, view: View) -> str:
    """Return the report as lines of text."""
    lines = [*_daemon_lines(report, view), *_config_lines(report, view), *_watch_lines(report, view)]
    lines += [
        *_disk_lines(report, view),
        *_worker_lines(report, view),
        *_progress_lines(report, view),
        *_montage_lines(report, view),
    ]
    return "\n".join(lines) + "\n"


def _daemon_lines(report: Report, view: View) -> Iterator[str]:
    if report["running"]:
        yield from _entry("daemon", f"{'ready' if report['ready'] else 'not ready'} at {report['url']}", view)
        for line in [*report["reasons"], *report["warnings"]]:
            yield from _entry("", line, view)
    elif report["pid"] is not None:
        holder = f"process {report['pid']} holds its journal: {report['unresponsive_because']}"
        text = f"does not answer at {report['url']}, but {holder}"
        yield from _entry("daemon", text, view)
        yield from _entry(
            "", "from the journal:" if report["journal_is_read"] else "the journal cannot be read now", view
        )
    else:
        yield from _entry("daemon", f"not running (no daemon answers at {report['url']})", view)
        yield from _entry("", START_HINT, view)
        yield from _entry("", "from the journal:", view)


def _config_lines(report: Report, view: View) -> Iterator[str]:
    config, reload = report["config"], report.get("reload", {})
    if config["problems"]:
        changed = f", changed {_time(config['changed_at'], view)}," if config["changed_at"] else ""
        keeps = "; the daemon keeps its present configuration" if report["running"] else ""
        yield from _entry("config", f"{config['file']}{changed} is invalid{keeps}:", view)
        yield from _first(config["problems"], MAX_PROBLEMS, "temwatch check-config lists them", view)
    if reload.get("problems") and reload.get("refused_at"):
        yield from _entry("reload", f"refused {_time(reload['refused_at'], view)}:", view)
        yield from _first(reload["problems"], MAX_PROBLEMS, "see config.refused in the log", view)


def _first(texts: Sequence[str], most: int, rest: str, view: View) -> Iterator[str]:
    for text in texts[:most]:
        yield from _entry("", text, view)
    if len(texts) > most:
        yield from _entry("", f"and {len(texts) - most} more: {rest}", view)


def _watch_lines(report: Report, view: View) -> Iterator[str]:
    statuses = {watch["name"]: watch["status"] for watch in report.get("watches", ())}
    names = watch_names(report)
    for name in names:
        if view.watch in (None, name):
            states = report["counts"].get(name, {})
            counts = ", ".join(f"{states[state]:,} {state}" for state in _STATES if states.get(state)) or "no montage"
            status = f"{statuses[name].replace('_', ' ')}; " if name in statuses else ""
            yield from _entry("watch", f"{name}: {status}{counts}", view)
    if not names and (report["running"] or report["pid"] is None):
        yield from _entry("montages", "none yet", view)


def _disk_lines(report: Report, view: View) -> Iterator[str]:
    for disk in report.get("disks", ()):
        if disk["free_bytes"] is None and not disk["problem"]:  # an object store has no free space
            yield from _entry("store", f"{disk['directory']}: usable", view)
        if disk["free_bytes"] is not None:
            needed = byte_size(disk["needed_bytes"])
            yield from _entry(
                "disk", f"{disk['directory']}: {byte_size(disk['free_bytes'])} free; mipmaps stop below {needed}", view
            )


def _worker_lines(report: Report, view: View) -> Iterator[str]:
    """Yield the totals of the workers, and those of each host if there are several."""
    workers = report.get("workers")
    if workers is None:
        return
    hosts = workers["hosts"]
    where = f" of {workers['scheduler']}" if workers["scheduler"] else ""
    total = {key: sum(host[key] for host in hosts) for key in ("workers", "refused", "threads", "tiles_in_flight")}
    tiles = f"{workers['tiles_submitted']:,} tiles queued or running"
    text = f"{_worker_counts(total)} on {counted(len(hosts), 'host')}{where}; {tiles}"
    yield from _entry("workers", text, view)
    if len(hosts) > 1:
        for host in hosts[:MAX_HOSTS]:
            yield from _entry("", f"{host['host']}: {_worker_counts(host)}", view)
        if len(hosts) > MAX_HOSTS:
            yield from _entry("", f"and {len(hosts) - MAX_HOSTS} more hosts: see temwatch status --json", view)


def _worker_counts(counts: Mapping[str, int]) -> str:
    refused = f" ({counts['refused']:,} refused)" if counts["refused"] else ""
    return f"{counted(counts['workers'], 'worker')}{refused}, {counted(counts['tiles_in_flight'], 'tile')} in flight"


def _progress_lines(report: Report, view: View) -> Iterator[str]:
    last = report["last_complete"]
    if last is not None and view.watch in (None, last["watch"]):
        yield from _entry(
            "last", f"z {z_text(last['z'])} of {last['watch']} complete {_since(last['complete_at'], view)}", view
        )
    unfinished = _unfinished(report, view)
    if not unfinished and report["counts"]:
        yield from _entry("backlog", "none", view)
    elif unfinished:
        count = sum(
            states.get(state, 0)
            for watch, states in report["counts"].items()
            for state in UNFINISHED
            if view.watch in (None, watch)
        )
        oldest = min(montage["noticed_at"] for montage in unfinished)
        yield from _entry("backlog", f"{counted(count, 'montage')}, the oldest noticed {_since(oldest, view)}", view)


def _montage_lines(report: Report, view: View) -> Iterator[str]:
    failed = [each for each in report["montages"] if each["state"] == MontageState.FAILED and _is_shown(each, view)]
    if failed:
        yield from ["", f"FAILED: {counted(len(failed), 'montage')}, by cause"]
        yield from _groups(by_cause(failed), view)
    unfinished = _unfinished(report, view)
    if view.failed or not unfinished:
        return
    if view.by_cause:
        yield from ["", f"UNFINISHED: {counted(len(unfinished), 'montage')}, by cause"]
        yield from _groups(by_cause(unfinished), view)
    else:
        yield from ["", f"UNFINISHED: {counted(len(unfinished), 'montage')}, the oldest first"]
        yield from _oldest(unfinished, view)


def _groups(causes: Sequence[Cause], view: View) -> Iterator[str]:
    shown = causes if view.failed or view.by_cause else causes[:MAX_GROUPS]
    for cause in shown:
        yield from _group(cause, view)
    if len(shown) < len(causes):
        rest = sum(len(cause.montages) for cause in causes[MAX_GROUPS:])
        more = f"and {len(causes) - len(shown)} more causes of {counted(rest, 'montage')}"
        yield f"  {more}: temwatch status --by-cause shows all"


def _group(cause: Cause, view: View) -> Iterator[str]:
    montages = cause.montages
    kind = f"{fault['kind']}, " if (fault := present_fault(montages[0])) else ""
    tiles = f", {counted(cause.tiles, 'tile')}" if cause.tiles else ""
    yield from _wrapped(f"{len(montages)} x {kind}{z_ranges(montages)}{tiles}", view, 2)
    if view.failed:
        for montage in montages:
            yield from _wrapped(f"montage {montage['id']}: {_line(montage, view)}", view, 4)
            yield from _wrapped(montage["metafile"], view, 8)
            yield from _wrapped(cause_of(montage), view, 8)
        return
    yield from _wrapped(_times(montages, view), view, 6)
    yield from _wrapped(cause.text, view, 6)
    if len(montages) > 1:
        yield from _wrapped(f"and {len(montages) - 1} more with this cause", view, 6)
    else:
        yield from _wrapped(f"montage {montages[0]['id']}: {montages[0]['metafile']}", view, 6)


def _oldest(unfinished: Sequence[Montage], view: View) -> Iterator[str]:
    """Yield the oldest montages. Consecutive montages with the same cause are below one line with the cause."""
    oldest = sorted(unfinished, key=lambda montage: (montage["noticed_at"], montage["id"]))
    cause = ""
    for montage in oldest[:MAX_MONTAGES]:
        if cause_of(montage) != cause:
            cause = cause_of(montage)
            yield from _wrapped(f"{cause}:", view, 2)
        yield from _wrapped(f"{montage['id']}: {_line(montage, view)}", view, 4)
        if montage["z"] is None:
            yield from _wrapped(montage["metafile"], view, 8)
    if len(oldest) > MAX_MONTAGES:
        yield f"  and {len(oldest) - MAX_MONTAGES} more: temwatch status --by-cause groups them"


def _line(montage: Montage, view: View) -> str:
    tiles = f", {counted(montage['tiles'], 'tile')}" if montage["tiles"] else ""
    state = "" if montage["state"] == MontageState.FAILED else f", {montage['state']}"
    return f"z {z_text(montage['z'])}{tiles}{state}, {_times([montage], view)}"


def _times(montages: Sequence[Montage], view: View) -> str:
    """Return when montages failed, or since when they wait and when the next attempt is."""
    if montages[0]["state"] == MontageState.FAILED:
        failed_in = {montage["failed_in"] for montage in montages}
        steps = [STEP_OF_STATE[state] for state in MontageState if state in failed_in and state in STEP_OF_STATE]
        step = f" in step {' or '.join(steps)}" if steps else ""
        attempt = max(montage["attempt"] for montage in montages)
        attempts = f" after {counted(attempt, 'attempt')}" if attempt else ""
        return f"failed {_span([montage['changed_at'] for montage in montages], view)}{step}{attempts}"
    since = [montage["noticed_at"] for montage in montages]
    next_tries = [montage["next_try_at"] for montage in montages if montage.get("next_try_at")]
    next_try = f", next attempt {_time(min(next_tries), view, beside=max(since))}" if next_tries else ""
    return f"since {_span(since, view)}{next_try}"


def _span(times: Sequence[str], view: View) -> str:
    first, last = _time(min(times), view), _time(max(times), view, beside=min(times))
    return first if first.endswith(last) else f"{first} to {last}"


def _time(text: str, view: View, beside: str = "") -> str:
    """Return a time in local time; with the date unless it is today or that of the time `beside` it."""
    time, other = _local(text, view), _local(beside, view) if beside else view.now
    return f"{time:%H:%M}" if time.date() == other.date() else f"{time:%Y-%m-%d %H:%M}"


def _local(text: str, view: View) -> datetime:
    return datetime.fromisoformat(text).astimezone(view.now.tzinfo)


def _since(text: str, view: View) -> str:
    """Return a time, with its age if that is less than a day."""
    seconds = (view.now - datetime.fromisoformat(text)).total_seconds()
    if not 0 <= seconds < 86400:
        return _time(text, view)
    minutes = int(seconds // 60)
    ago = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes or 'less than 1'} min"
    return f"{_time(text, view)} ({ago} ago)"


def _unfinished(report: Report, view: View) -> list[Montage]:
    """Return the shown unfinished montages. One without a reason gets that of a daemon that is not ready."""
    idle = None
    if not report["running"]:
        idle = "waits until the daemon runs"
    elif not report["ready"]:
        idle = "waits for its next step: the reason why the daemon is not ready is shown above"
    return [
        each if each["fault"] or each["waiting_for"] else {**each, "waiting_for": idle}
        for each in report["montages"]
        if each["state"] in UNFINISHED and _is_shown(each, view)
    ]


def _is_shown(montage: Montage, view: View) -> bool:
    return view.watch in (None, montage["watch"])


def _entry(label: str, text: str, view: View) -> Iterable[str]:
    return _wrapped(text, view, INDENT, f"{label:<{INDENT}}")


def _wrapped(text: str, view: View, indent: int, first: str | None = None) -> list[str]:
    """Wrap a text behind an indent. A path that is longer than a line is broken after slashes."""
    first = " " * indent if first is None else first
    if view.width is None:
        return [first + text]
    rest = " " * (indent + (0 if first.strip() else 2))
    return fitted(text, view.width, first, rest)
