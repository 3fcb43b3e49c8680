"""Imports of libraries without parts that temwatch does not use and that take longer than the rest."""

import os
import sys
from types import ModuleType
from typing import cast

CERTIFICATES = "SSL_CERT_FILE"
"""Variable that names OpenSSL the file of the system's certificates."""


def import_http_client() -> None:
    """Import aiohttp without the certificates of the system, which it would read twice.

    To be called while the process has one thread: meanwhile the environment names an empty file. `RenderHttp` and
    `daemon.notify` load certificates where they need them; nothing uses the contexts that aiohttp creates.
    docs/decisions/command-start.md has what else was tried.
    """
    before = os.environ.get(CERTIFICATES)
    os.environ[CERTIFICATES] = os.devnull
    try:
        import aiohttp  # noqa: F401
    finally:
        if before is None:
            del os.environ[CERTIFICATES]
        else:
            os.environ[CERTIFICATES] = before


def import_log_library() -> None:
    """Import structlog without rich, which it would draw tracebacks with if it were not configured."""
    before = sys.modules.get("rich")
    sys.modules["rich"] = cast(ModuleType, None)  # `import rich` raises ImportError, which structlog expects
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
        if before is not None:
            sys.modules["rich"] = before
