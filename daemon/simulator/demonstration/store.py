"""The object store of the demonstration: moto's S3 server, and its images as the stand-in for render-ws shows them."""

import asyncio
import contextlib
import hashlib
import importlib.util
import io
import json
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from daemon.simulator.demonstration.processes import first_line, process
from handlers.errors import SettingsFault
from handlers.images.reduction import level_size
from handlers.uris import uri_to_path

BUCKET, PREFIX = "demo", "mipmaps"
_PACKAGES = ("obstore", "moto", "flask", "flask_cors")
_SERVER = """
import threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://127.0.0.1:%d" % server.get_host_and_port()[1], flush=True)
threading.Event().wait()
"""
_KEYS = "[default]\naws_access_key_id = demo\naws_secret_access_key = demo\n"


def require_packages() -> None:
    """Raise SettingsFault if a package for the store is not installed."""
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        hint = "pip install 'temwatch[object-store]' 'moto[s3]' flask flask-cors"
        raise SettingsFault("--store", f"s3 needs {', '.join(absent)}", hint)


@contextlib.asynccontextmanager
async def demo_store(output: Path) -> AsyncIterator[str]:
    """Run the store with an empty bucket; yield the lines of its configuration."""
    async with process("store", output, "-c", _SERVER) as (_, log):
        url = await first_line(log, lambda line: line.strip() if line.startswith("http") else None)
        await asyncio.to_thread(_make_bucket, url)
        keys = output / "s3-credentials"
        keys.touch(0o600)
        keys.write_text(_KEYS, encoding="ascii")
        yield (
            f'output_dir = "s3://{BUCKET}/{PREFIX}"\n'
            f'url = "{url}/{BUCKET}/{PREFIX}"\n'
            f'store = {{ endpoint = "{url}", credentials_file = {json.dumps(str(keys))} }}'
        )


def _make_bucket(url: str) -> None:
    headers = {"x-amz-acl": "public-read"}  # the stand-in reads without a login, as render-ws does
    request = urllib.request.Request(f"{url}/{BUCKET}", headers=headers, method="PUT")  # noqa: S310  of our own store
    with urllib.request.urlopen(request):  # noqa: S310  as above
        return


@dataclass(slots=True)
class ServedLevels:
    """Provides the images of a stack as files, for pictures. Images in a store are fetched from the stand-in.

    Parameters
    ----------
    render_url : URL of the stand-in.
    owner : owner of the stacks.
    directory : directory of the fetched files.
    """

    render_url: str
    owner: str
    directory: Path
    _sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add_sizes(self, resolved: Mapping[str, Any]) -> None:
        """Remember the sizes of all levels of a section."""
        for spec in resolved["tileIdToSpecMap"].values():
            for level, entry in spec["mipmapLevels"].items():
                size = level_size(int(spec["width"]), int(spec["height"]), int(level))
                self._sizes[entry["imageUrl"]] = size

    def to_path(self, url: str) -> Path:
        """Return a file with the pixels of a URL. Raises OSError if the stand-in cannot show them."""
        if not is_http(url):
            return uri_to_path(url)
        path = self.directory / f"{hashlib.sha256(url.encode()).hexdigest()}.png"
        if not path.exists():
            self.directory.mkdir(exist_ok=True)
            with Image.open(io.BytesIO(self._painted(url))) as image:
                image.getchannel("R").save(path)
        return path

    def _painted(self, url: str) -> bytes:
        width, height = self._sizes[url]
        spec = {"mipmapLevels": {"0": {"imageUrl": url}}, "transforms": {"type": "list", "specList": []}}
        body = json.dumps({"x": 0, "y": 0, "width": width, "height": height, "scale": 1.0, "tileSpecs": [spec]})
        request = urllib.request.Request(  # noqa: S310  of the stand-in
            f"{self.render_url}/owner/{self.owner}/png-image",
            body.encode(),
            {"Content-Type": "application/json"},
            method="PUT",
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  as above
            content: bytes = answer.read()
        return content


def is_http(url: str) -> bool:
    """Whether a URL has the scheme http or https."""
    return url.startswith(("http://", "https://"))
