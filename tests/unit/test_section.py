"""Sections: the data of a montage and its metafile that the steps use, and the jobs that make its mipmaps."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.config.settings import Settings
from daemon.pipeline.pictures import mosaic_job
from daemon.pipeline.steps import section as section_module
from daemon.pipeline.steps.mipmap_step import _is_any_level_present, _jobs
from daemon.pipeline.steps.section import MetafileChanged, MetafileGone, Section, SectionReader, section_from_content
from handlers.container import Containers
from handlers.errors import Evidence, MetafileFault, Waiting
from handlers.render.names import StackId
from tests.unit.sections import NAME, metafile, section

LENS = {"type": "leaf", "className": "a.Lens", "dataString": "1 2"}


def watch_settings(root: Path, **tilespecs: Any) -> Any:
    watch = {
        "name": "w",
        "directory": str(root),
        "arrival_timeout_s": 60.0,
        "z": {"rule": "grid"},
        "stacks": {"raw": "r", "mipmapped": "m", "resolution_z": 45.0},
        "tilespecs": tilespecs,
        "mipmaps": {"output_dir": str(root.parent / f"{root.name}_mipmaps"), "levels": 1},
    }
    url = "http://render:8080/render-ws/v1"
    return Settings.model_validate({"render": {"url": url, "owner": "em", "project": "v1"}, "watch": [watch]}).watch[0]


def montage_of(root: Path, content: bytes = b"") -> Any:
    return SimpleNamespace(
        id=1,
        z=42.0,
        raw_stack="em/v1/r",
        mipmapped_stack="em/v1/m",
        metafile=root / NAME,
        digest=hashlib.sha256(content).hexdigest(),
    )


def section_in(root: Path, *, lens: bool = False, **tilespecs: Any) -> Section:
    head, data = section()
    document = [head, data, {"sharedTransform": LENS}] if lens else [head, data]
    return section_from_content(montage_of(root), watch_settings(root, **tilespecs), json.dumps(document).encode())


def test_a_section_has_the_stacks_z_and_resolution_of_its_montage(tmp_path: Path) -> None:
    found = section_in(tmp_path)
    assert (found.raw, found.mipmapped, found.z) == (StackId("em", "v1", "r"), StackId("em", "v1", "m"), 42.0)
    assert found.resolution_nm == (4.0, 4.0, 45.0)
    assert found.transform is None


def test_tiles_share_the_lens_correction_if_the_watch_uses_it(tmp_path: Path) -> None:
    used, unused = section_in(tmp_path, lens=True, shared_transform=True), section_in(tmp_path, lens=True)
    assert used.transform is not None
    assert used.transform["className"] == "a.Lens"
    assert all(used.transform["id"] in json.dumps(spec["transforms"]) for spec in used.specs)
    assert unused.transform is None
    assert not any("refId" in json.dumps(spec["transforms"]) for spec in unused.specs)


@pytest.mark.parametrize("apply", ["tiles", "path_builder"])
def test_a_mosaic_is_drawn_from_the_files_of_this_machine_and_not_from_the_paths_of_render(
    tmp_path: Path, apply: str
) -> None:
    mask, mips = tmp_path / "mask.png", tmp_path.parent / f"{tmp_path.name}_mipmaps"
    watch = watch_settings(tmp_path, mask=str(mask)).model_dump()
    watch["mipmaps"]["apply"] = apply
    entries = [{"local": str(local), "render": f"/there/{local.name}"} for local in (tmp_path, mips)]
    render = {"url": "http://render:8080/render-ws/v1", "owner": "em", "project": "v1", "path_map": entries}
    settings = Settings.model_validate({"render": render, "watch": [watch]})
    found = section_from_content(montage_of(tmp_path), settings.watch[0], json.dumps(section()).encode())
    assert all(f"/there/{tmp_path.name}/" in spec["mipmapLevels"]["0"]["imageUrl"] for spec in found.specs)
    seen = tmp_path if apply == "tiles" else Path("/there", tmp_path.name)
    for spec, tile in zip(mosaic_job(found).resolved_tiles["tileIdToSpecMap"].values(), found.level0(), strict=True):
        assert spec["mipmapLevels"] == {
            "1": {
                "imageUrl": Path(f"{mips}/1{seen}/{tile.image.name}.tif"),
                "maskUrl": Path(f"{mips}/1{seen}/mask.png.tif"),
            },
        }


def test_an_invalid_lens_correction_is_a_fault_of_the_file_and_not_of_the_names_in_its_header(tmp_path: Path) -> None:
    document = [*section(lambda head, _: head.update(grid="000777")), {"sharedTransform": {**LENS, "type": 7}}]
    with pytest.raises(MetafileFault) as failed:
        section_from_content(
            montage_of(tmp_path), watch_settings(tmp_path, shared_transform=True), json.dumps(document).encode()
        )
    assert failed.value.subject == str(tmp_path / NAME)


def test_two_tiles_with_one_id_are_a_fault_of_the_file_and_not_of_the_names_in_its_header(tmp_path: Path) -> None:
    content = json.dumps(section(lambda head, _: head.update(grid="000777"))).encode()
    watch = watch_settings(tmp_path, tile_id="{grid}")
    with pytest.raises(MetafileFault, match="several tiles") as failed:
        section_from_content(montage_of(tmp_path), watch, content)
    assert failed.value.subject == str(tmp_path / NAME)


def test_level_0_of_every_tile_is_named_with_its_size_and_mask(tmp_path: Path) -> None:
    tiles = section_in(tmp_path, mask=str(tmp_path / "mask.png"), maximum_intensity=200).level0()
    names = [tile.img_path for tile in metafile().tiles]
    assert [tile.image for tile in tiles] == [tmp_path / name for name in names]
    assert [tile.tile_id for tile in tiles] == [f"{name.removesuffix('.tif')}.42.0" for name in names]
    assert {(tile.mask, tile.width, tile.height, tile.maximum_intensity) for tile in tiles} == {
        (tmp_path / "mask.png", 5504, 5504, 200)
    }
    assert {tile.mask for tile in section_in(tmp_path).level0()} == {None}


def test_each_tile_and_the_mask_have_a_job_unless_it_is_recorded_as_made(tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    found = section_in(tmp_path, mask=str(mask))
    plan = found.watch.mipmap_plan()
    jobs = _jobs(found, plan, (), Containers())
    ids = [tile.tile_id for tile in found.level0()]
    assert [job.tile_id for job in jobs] == [*ids, str(mask)]
    assert {job.root and job.root.path for job in jobs[:-1]} == {tmp_path}
    assert {(job.measure, job.neighbours) for job in jobs[:-1]} == {(True, ())}
    assert [job.tile_id for job in _jobs(found, plan, {ids[0], str(mask)}, Containers())] == ids[1:]
    without = section_in(tmp_path)
    assert [job.tile_id for job in _jobs(without, plan, ids[1:], Containers())] == ids[:1]


def test_a_level_is_present_as_soon_as_the_first_level_of_any_tile_is(tmp_path: Path) -> None:
    found = section_in(tmp_path)
    jobs = _jobs(found, found.watch.mipmap_plan(), (), Containers())
    assert not _is_any_level_present(jobs)
    _, path = jobs[-1].outputs[0]
    path.parent.mkdir(parents=True)
    path.touch()
    assert _is_any_level_present(jobs)


async def test_a_metafile_is_read_again_and_must_have_the_content_that_settled(tmp_path: Path) -> None:
    content = json.dumps(section()).encode()
    montage, watch, reader = montage_of(tmp_path, content), watch_settings(tmp_path), SectionReader()
    montage.metafile.write_bytes(content)
    assert (await reader.read(montage, watch)).specs == section_in(tmp_path).specs
    montage.metafile.write_bytes(content + b"\n")
    with pytest.raises(MetafileChanged, match="changed after it settled") as caught:
        await reader.read(montage, watch)
    assert caught.value.waiting_helps is Waiting.ALWAYS
    assert caught.value.subject == str(montage.metafile)


async def test_a_missing_metafile_is_waited_for_until_the_arrival_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(section_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    content = json.dumps(section()).encode()
    montage, watch, reader = montage_of(tmp_path, content), watch_settings(tmp_path), SectionReader()
    for now[0] in (1_000.0, 1_060.0):
        with pytest.raises(MetafileGone, match="was moved, renamed or deleted after it settled") as caught:
            await reader.read(montage, watch)
        assert caught.value.waiting_helps is Waiting.ALWAYS
    montage.metafile.write_bytes(content)
    await reader.read(montage, watch)
    montage.metafile.unlink()
    now[0] = 2_000.0
    with pytest.raises(MetafileGone):
        await reader.read(montage, watch)
    now[0] = 2_060.5
    with pytest.raises(MetafileFault, match="has been missing for more than 60 s") as failed:
        await reader.read(montage, watch)
    assert type(failed.value) is MetafileFault
    assert failed.value.evidence == Evidence(montage.metafile, None)
    with pytest.raises(MetafileGone):
        await reader.read(montage, watch)
