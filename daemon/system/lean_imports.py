"""Imports of libraries without parts that temwatch does not use and that take longer than the rest."""

import ssl
import sys
from types import ModuleType
from typing import cast


def import_http_client() -> None:
    """Import aiohttp without the certificates of the system.

    The client's own context then trusts no authority. `RenderHttp` and `daemon.notify` load certificates where they
    need them.
    """
    ssl.SSLContext.set_default_verify_paths = lambda _: None  # type: ignore[method-assign,assignment]
    try:
        import aiohttp  # noqa: F401
    finally:
        del ssl.SSLContext.set_default_verify_paths  # what is inherited counts again


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
