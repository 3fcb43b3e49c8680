"""Raw images and masks as render-ws serves them, and its checks that files are there."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.contract.conftest import OWNER, Answer, Service, StackUnderTest, ref, tile

GREY = np.random.default_rng(7).integers(0, 256, (11, 14), dtype=np.uint8)
"""(H, W), odd in y."""


def pixels(answer: Answer) -> np.ndarray[Any, Any]:
    assert answer.status == 200, answer
    with Image.open(io.BytesIO(answer.body)) as image:
        return np.asarray(image)


def halved(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """2 x 2 means, cut off to integers; odd rows and columns dropped."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    blocks = image[: 2 * height, : 2 * width].astype(int).reshape(height, 2, width, 2)
    means: np.ndarray[Any, Any] = blocks.sum(axis=(1, 3)) // 4
    return means


async def put_image(stack: StackUnderTest, directory: Path, image: np.ndarray[Any, Any], **levels: Any) -> Path:
    """Tile `a` with this image, and further levels as given."""
    path = directory / "a b.tif"
    Image.fromarray(image).save(path)
    url = path.as_uri()
    spec = tile("a", width=image.shape[1], height=image.shape[0], mipmapLevels={"0": {"imageUrl": url}, **levels})
    await stack.put(spec)
    return path


async def test_a_raw_image_comes_whole_and_in_colour(stack: StackUnderTest, visible: Path) -> None:
    await put_image(stack, visible, GREY)
    for name, kind, channels in (("png", "image/png", 4), ("tiff", "image/tiff", 3)):
        answer = await stack.ask("GET", f"/tile/a/source/{name}-image")
        assert answer.kind == kind
        shown = pixels(answer)
        assert shown.shape == (*GREY.shape, channels)
        assert (shown[..., 0] == GREY).all()
        assert (shown[..., 1] == shown[..., 2]).all()
    jpeg = pixels(await stack.ask("GET", "/tile/a/source/jpeg-image?scale=1.0"))
    assert jpeg.shape == (*GREY.shape, 3)
    assert (await stack.ask("GET", "/tile/a/source/gif-image")).said == (404, "text/html")


@pytest.mark.parametrize("level", [1, 2])
async def test_a_reduced_raw_image_has_a_black_first_row_and_column(
    stack: StackUnderTest, visible: Path, level: int
) -> None:
    await put_image(stack, visible, GREY)
    shown = pixels(await stack.ask("GET", f"/tile/a/source/png-image?scale={2.0**-level}"))[..., 0]
    expected = GREY
    for _ in range(level):
        expected = halved(expected)
    assert shown.shape == expected.shape
    assert (shown[1:, 1:] == expected[1:, 1:]).all()
    assert (shown[0, :] == 0).all()
    assert (shown[:, 0] == 0).all()


async def test_16_bits_are_seen_through_a_window_of_8_unless_another_is_asked_for(
    stack: StackUnderTest, visible: Path
) -> None:
    deep = np.array([[0, 255, 256], [1000, 30000, 65535]], dtype=np.uint16)
    await put_image(stack, visible, deep)
    shown = pixels(await stack.ask("GET", "/tile/a/source/png-image"))[..., 0]
    assert shown.tolist() == [[0, 255, 255], [255, 255, 255]]
    shown = pixels(await stack.ask("GET", "/tile/a/source/png-image?minIntensity=0&maxIntensity=65535"))[..., 0]
    assert abs(shown.astype(int) - np.array([[0, 1, 1], [4, 117, 255]])).max() <= 1


async def test_a_mask_is_served_where_there_is_one(stack: StackUnderTest, visible: Path) -> None:
    path = await put_image(stack, visible, GREY)
    answer = await stack.ask("GET", "/tile/a/mask/png-image")
    assert answer.said == (400, "text/plain")
    assert "no imageUrl specified" in answer.text
    mask = visible / "mask.png"
    Image.fromarray(255 - GREY).save(mask)
    await stack.put(tile("a", mipmapLevels={"0": {"imageUrl": path.as_uri(), "maskUrl": mask.as_uri()}}))
    assert (pixels(await stack.ask("GET", "/tile/a/mask/png-image"))[..., 0] == 255 - GREY).all()


async def test_one_missing_file_at_any_level_breaks_the_tile_at_all_scales(
    stack: StackUnderTest, visible: Path
) -> None:
    missing = (visible / "not there.tif").as_uri()
    await put_image(stack, visible, GREY, **{"3": {"imageUrl": missing}})
    for path in ("/tile/a/source/png-image", "/tile/a/validation-info"):
        answer = await stack.ask("GET", path)
        assert answer.said == (400, "text/plain")
        assert f"cannot find imageUrl file '{missing}'" in answer.text
    (visible / "not there.tif").touch()
    assert (await stack.ask("GET", "/tile/a/source/png-image")).status == 400
    await put_image(stack, visible, GREY)
    assert (await stack.ask("GET", "/tile/a/validation-info")).status == 200


async def test_images_of_tiles_that_are_not_there_are_404_in_plain_text(
    stack: StackUnderTest, other: StackUnderTest
) -> None:
    for either in (stack, other):
        for path in ("/tile/T/source/png-image", "/tile/T/validation-info"):
            assert (await either.ask("GET", path)).said == (404, "text/plain")


async def test_the_tag_of_an_image_does_not_change_with_its_tile(stack: StackUnderTest, visible: Path) -> None:
    await put_image(stack, visible, GREY)
    before = await stack.ask("GET", "/tile/a/source/png-image")
    await put_image(stack, visible, 255 - GREY)
    after = await stack.ask("GET", "/tile/a/source/png-image")
    assert before.headers["ETag"] == after.headers["ETag"]
    assert "max-age=3600" in after.headers["Cache-Control"]


async def test_files_can_be_checked_before_tiles_are_put(service: Service, visible: Path) -> None:
    path = visible / "a.tif"
    Image.fromarray(GREY).save(path)
    good = tile("a", mipmapLevels={"0": {"imageUrl": path.as_uri()}})
    bad = tile("b", mipmapLevels={"0": {"imageUrl": path.with_name("b.tif").as_uri()}})
    for kind, body, status in (
        ("tile", good, 200),
        ("tile", bad, 400),
        ("tile-array", [good], 200),
        ("tile-array", [good, bad], 400),
        ("tile", {**good, "transforms": {"type": "list", "specList": [ref("lens")]}}, 400),
        ("tile-array", [{**good, "transforms": {"type": "list", "specList": [ref("lens")]}}], 200),
    ):
        answer = await service.ask("PUT", f"/owner/{OWNER}/validate-json/{kind}", body)
        assert answer.status == status, (kind, answer)
