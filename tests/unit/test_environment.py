"""Tests do not depend on the environment in which they are started."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OF_CALLER = {
    "TEMWATCH_RENDER__URL": "http://render.example/render-ws/v1",
    "temwatch_journal__path": "/site/journal.sqlite",
    "TEMWATCH_CONFIG": "/site/config.toml",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
    "NO_PROXY": ".example",
    "MAKEFLAGS": " -- VENV=/elsewhere",
    "COLUMNS": "40",
    "FORCE_COLOR": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONDEVMODE": "1",
}
KEPT = {
    "TEMWATCH_ACCEPTANCE_URL": "http://render.example/render-ws/v1",
    "TEMWATCH_AXE": "/axe.min.js",
    "PYTHONPATH": "/site/modules",
    "PYTHONUTF8": "1",
}


def test_tests_and_their_processes_do_not_get_the_settings_of_the_caller() -> None:
    code = (
        "import json, os, tests.conftest, tests.environment\n"
        "print(json.dumps([dict(os.environ), tests.environment.proxies_of_caller()]))"
    )
    given = {**os.environ, **OF_CALLER, **KEPT}
    done = subprocess.run([sys.executable, "-c", code], env=given, cwd=ROOT, capture_output=True, text=True)
    environment, proxies = json.loads(done.stdout)
    assert not OF_CALLER.keys() & environment.keys()
    assert KEPT.items() <= environment.items()
    assert proxies == {"http_proxy": "http://127.0.0.1:1", "NO_PROXY": ".example"}


def test_tests_started_in_the_background_with_a_strict_umask_can_be_interrupted_and_make_readable_files() -> None:
    code = (
        "import os, signal, tests.conftest\n"
        "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, oct(os.umask(0)))"
    )
    command = 'umask 077; trap "" INT; exec "$@"'
    shell = ["sh", "-c", command, "sh", sys.executable, "-c", code]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "0o22"], done.stderr
