"""What tests and the processes that they start do not get from their caller: variables, umask, ignored signals."""

import json
import os
import re
import signal
from collections.abc import MutableMapping

_NETWORK = "TEMWATCH_TESTS_NETWORK"
"""Variable with the removed proxies, as JSON, also for the processes of pytest-xdist."""
_PROXY = re.compile(r"\w+_proxy", re.IGNORECASE)
_OF_CALLER = re.compile(
    r"TEMWATCH_CONFIG|TEMWATCH_\w+?__\w+"  # settings of a site's daemon
    r"|(AWS|AZURE|GOOGLE|DASK)_\w+"  # its object stores and its cluster
    r"|NOTIFY_SOCKET|WATCHDOG_\w+|MAINPID"  # the service manager of the caller
    r"|MAKEFLAGS|MAKEOVERRIDES|MFLAGS|MAKELEVEL"  # would give VENV and TESTS to each `make` that a test runs
    r"|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|CLICOLOR\w*"  # its terminal
    r"|PYTHON(?!PATH$|HOME$|PYCACHEPREFIX$)\w+",  # its interpreter
    re.IGNORECASE,
)


def forget_caller(environ: MutableMapping[str, str]) -> None:
    """Remove the settings of the caller and of its site. Processes are started in UTF-8 mode, whatever the locale.

    A shell that starts the tests in the background makes them, and all processes that they start, ignore Ctrl-C.
    """
    os.umask(0o022)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if proxies := {name: environ.pop(name) for name in list(environ) if _PROXY.fullmatch(name)}:
        environ[_NETWORK] = json.dumps(proxies)
    for name in [name for name in environ if _OF_CALLER.fullmatch(name)]:
        del environ[name]
    environ["PYTHONUTF8"] = "1"


def proxies_of_caller() -> dict[str, str]:
    """Return the removed variables that name proxies, for tests that install packages."""
    found: dict[str, str] = json.loads(os.environ.get(_NETWORK, "{}"))
    return found
