"""The import commands by name."""

from collections.abc import Mapping

MAKES_MIPMAPS = "generate_mipmaps"
IMPORT_COMMANDS: Mapping[str, str] = {
    "generate_EM_tilespecs_from_metafile": "Put the tile specs of one metafile into a stack.",
    MAKES_MIPMAPS: "Make the mipmaps of given z values of a stack.",
    "apply_mipmaps_to_render": "Write mipmap levels into the tile specs of a stack.",
}
"""Name -> description in one sentence."""
