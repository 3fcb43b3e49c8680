"""Differences between the versions of daemon, scheduler and workers, and whether they forbid jobs. Pure."""

from collections import defaultdict
from collections.abc import Mapping

from handlers.text import abbreviate

Versions = Mapping[str, str]


def refusal(here: Versions, there: Versions) -> str:
    """Return why a worker with these versions gets no jobs; empty if it may get jobs.

    Another version of temwatch could make other levels under the same names.

    >>> refusal({"temwatch": "0.2.0"}, {"temwatch": "0.1.0"})
    'has temwatch 0.1.0 and the daemon 0.2.0: install the same version there'
    """
    found, wanted = there.get("temwatch", "none"), here.get("temwatch", "none")
    if found == wanted:
        return ""
    return f"has temwatch {found} and the daemon {wanted}: install the same version there"


def differences(here: Versions, scheduler: Versions, workers: Mapping[str, Versions]) -> str:
    """Return one line about the versions that differ from the daemon's; empty if none does.

    Only the first two numbers of Python's version are compared.

    Parameters
    ----------
    scheduler : versions of the scheduler, which does not need temwatch.
    workers : versions of the workers by host.

    >>> here = {"python": "3.12.1", "distributed": "2025.1.0"}
    >>> differences(here, here, {"node7": {"python": "3.11.9", "distributed": "2025.1.0"}, "node8": here})
    'python is 3.12.1 here, 3.11.9 on node7'
    """
    texts = []
    for package in here:
        others: dict[str, list[str]] = defaultdict(list)
        everyone = {"the scheduler": scheduler, **workers} if package != "temwatch" else workers
        for name, versions in everyone.items():
            found = versions.get(package)
            if found is not None and _compared(package, found) != _compared(package, here[package]):
                others[found].append(name)
        if others:
            parts = [f"{found} on {abbreviate(names)}" for found, names in sorted(others.items())]
            texts.append(f"{package} is {here[package]} here, " + ", ".join(parts))
    return "; ".join(texts)


def _compared(package: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if package == "python" else version
