"""--dry_run of the import commands: report what a command would process and write. Only reads."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from daemon.commands.imports.parameters import ApplyParameters, CommandParameters, MipmapParameters, TilespecsParameters
from daemon.commands.imports.results import DryRunResult
from handlers.render.failures import plain_z
from handlers.render.names import StackId, ZRange
from handlers.text import z_text
from handlers.uris import without_userinfo

if TYPE_CHECKING:
    from handlers.render.client import RenderClient


def values_of(parameters: CommandParameters) -> dict[str, Any]:
    """Return all parameters as JSON values, without passwords."""
    values = parameters.model_dump(mode="json")
    values["render"]["host"] = without_userinfo(values["render"]["host"])
    return values


async def plan_tilespecs(parameters: TilespecsParameters) -> DryRunResult:
    """Check the metafile and its images, and count its tiles. Raises the same faults as the command."""
    from handlers.generate_tilespecs import examine_metafile

    montage, warnings = await examine_metafile(
        parameters.metafile, parameters.one_z, parameters.image_directory, parameters.options
    )
    return DryRunResult(
        parameters=values_of(parameters),
        zs=[plain_z(parameters.one_z)],
        tile_count=len(montage.tiles),
        targets=[f"stack {parameters.stack_id(parameters.stack)}"],
        warnings=list(warnings),
    )


async def plan_mipmaps(client: "RenderClient", parameters: MipmapParameters) -> DryRunResult:
    """Count the tiles of the layers. Raises RenderFault if none of the layers exists."""
    targets = [f"files {parameters.output_dir}/{{1 to {parameters.levels}}}"]
    stack = parameters.stack_id(parameters.input_stack)
    return await _plan_layers(client, stack, parameters.wanted_zs, values_of(parameters), targets)


async def plan_apply(client: "RenderClient", parameters: ApplyParameters) -> DryRunResult:
    """Count the tiles of the layers. Raises RenderFault if none of the layers exists."""
    targets = [f"stack {parameters.stack_id(parameters.output_stack or parameters.input_stack)}"]
    stack = parameters.stack_id(parameters.input_stack)
    return await _plan_layers(client, stack, parameters.wanted_zs, values_of(parameters), targets)


async def _plan_layers(
    client: "RenderClient", stack: StackId, zs: Collection[float] | ZRange, values: dict[str, Any], targets: list[str]
) -> DryRunResult:
    from handlers.render.z_values import find_z, no_tiles_fault

    found = await find_z(client, stack, zs)
    if not found.present:
        raise no_tiles_fault(stack, zs)
    counts = [len(await client.tile_bounds(stack, z)) for z in found.present]
    return DryRunResult(
        parameters=values,
        zs=[plain_z(z) for z in found.present],
        tile_count=sum(counts),
        targets=targets,
        warnings=[f"{stack} has no tiles at z {z_text(z)}" for z in found.absent],
    )
