"""Script and style of the pages: read once and served under a versioned path, so that browsers can cache them."""

import hashlib
from pathlib import Path

import aiofiles
import aiofiles.os
from aiohttp import web

DIRECTORY = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FOREVER = "public, max-age=31536000, immutable"


class StaticFiles:
    """The files of the pages, in memory.

    The version, a digest of all files, is part of the path. So modules that a script imports by relative paths have it,
    too.
    """

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self.version = ""

    async def read(self) -> None:
        """Read the files."""
        for name in sorted(await aiofiles.os.listdir(DIRECTORY)):
            if Path(name).suffix in _TYPES:
                async with aiofiles.open(DIRECTORY / name, "rb") as file:
                    self._files[name] = await file.read()
        self.version = hashlib.sha256(b"".join(self._files.values())).hexdigest()[:12]

    def path(self, name: str) -> str:
        """Return the path of a file below the base. Raises KeyError if there is no such file."""
        self._files[name]
        return f"/static/{self.version}/{name}"

    async def answer(self, request: web.Request) -> web.Response:
        """Return a file. Only the present version may be cached."""
        body = self._files.get(request.match_info["name"])
        if body is None:
            raise web.HTTPNotFound(reason="no such file")
        is_current = request.match_info["version"] == self.version
        headers = {"Cache-Control": FOREVER} if is_current else {}
        kind = _TYPES[Path(request.match_info["name"]).suffix]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)
