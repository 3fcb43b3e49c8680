"""The text of a small settings file."""

from pathlib import Path

UNREACHABLE = "http://127.0.0.1:1/render-ws/v1"
"""URL on which no render-ws answers."""


def settings_text(
    directory: Path | str = "/data/temca2",
    output_dir: Path | str = "/data/mipmaps",
    *,
    url: str = "http://render:8080/render-ws/v1",
    name: str = "temca2",
) -> str:
    """Return settings with one watch and only the required keys. Tables can be appended.

    Parameters
    ----------
    directory : directory of the acquisitions.
    output_dir : directory of the mipmaps.
    url : URL of render-ws.
    name : name of the watch.
    """
    return f"""
[render]
url = "{url}"
owner = "em"
project = "v1"
[[watch]]
name = "{name}"
directory = "{directory}"
[watch.z]
rule = "grid"
[watch.mipmaps]
output_dir = "{output_dir}"
"""
