"""Authorities that certificates of receivers are verified against: those of the system."""

import asyncio
import functools
import ssl

_context = functools.cache(ssl.create_default_context)


async def system_authorities() -> ssl.SSLContext:
    """Return the context of TLS; it is made at the first call, in a thread, because it reads many files."""
    return await asyncio.to_thread(_context)
