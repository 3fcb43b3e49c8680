"""Raw images and masks as render-ws serves them, and its checks that files exist."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.contract.conftest import OWNER, Answer, Service, StackUnderTest, ref, tile

GREY = np.random.default_rng(7).integers(0, 256, (11, 14), dtype=np.uint8)
"""(H, W); H is odd."""


def pixels(answer: Answer) -> np.ndarray[Any, Any]:
    assert answer.status == 200, answer
    with Image.open(io.BytesIO(answer.body)) as image:
        return np.asarray(image)


def halved(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return 2 x 2 means, truncated to integers; odd rows and columns are dropped."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    blocks = image[: 2 * height, : 2 * width].astype(int).reshape(height, 2, width, 2)
    means: np.ndarray[Any, Any] = blocks.sum(axis=(1, 3)) // 4
    return means


async def put_image(stack: StackUnderTest, directory: Path, image: np.ndarray[Any, Any], **levels: Any) -> Path:
    """Put tile `a` with this image and the given further levels."""
    path = directory / "a b.tif"
    Image.fromarray(image).save(path)
    url = path.as_uri()
    spec = tile("a", width=image.shape[1], height=image.shape[0], mipmapLevels={"0": {"imageUrl": url}, **levels})
    await stack.put(spec)
    return path


async def test_a_raw_image_is_served_in_full_size_and_in_colour(stack: StackUnderTest, shared_directory: Path) -> None:
    await put_image(stack, shared_directory, GREY)
    for name, media_type, channels in (("png", "image/png", 4), ("tiff", "image/tiff", 3)):
        answer = await stack.send("GET", f"/tile/a/source/{name}-image")
        assert answer.media_type == media_type
        shown = pixels(answer)
        assert shown.shape == (*GREY.shape, channels)
        assert (shown[..., 0] == GREY).all()
        assert (shown[..., 1] == shown[..., 2]).all()
    jpeg = pixels(await stack.send("GET", "/tile/a/source/jpeg-image?scale=1.0"))
    assert jpeg.shape == (*GREY.shape, 3)
    assert (await stack.send("GET", "/tile/a/source/gif-image")).outcome == (404, "")


@pytest.mark.parametrize("level", [1, 2])
async def test_a_reduced_raw_image_has_a_black_first_row_and_column(
    stack: StackUnderTest, shared_directory: Path, level: int
) -> None:
    large = np.random.default_rng(8).integers(0, 256, (67, 75), dtype=np.uint8)
    await put_image(stack, shared_directory, large)
    shown = pixels(await stack.send("GET", f"/tile/a/source/png-image?scale={2.0**-level}"))[..., 0]
    expected = large
    for _ in range(level):
        expected = halved(expected)
    assert shown.shape == expected.shape
    assert (shown[1:, 1:] == expected[1:, 1:]).all()
    assert (shown[0, :] == 0).all()
    assert (shown[:, 0] == 0).all()


@pytest.mark.parametrize("shape", [(64, 75), (75, 64), (11, 14)])
async def test_a_raw_image_of_64_pixels_or_less_is_decimated_and_has_no_border(
    stack: StackUnderTest, shared_directory: Path, shape: tuple[int, int]
) -> None:
    small = np.random.default_rng(8).integers(0, 256, shape, dtype=np.uint8)
    await put_image(stack, shared_directory, small)
    shown = pixels(await stack.send("GET", "/tile/a/source/png-image?scale=0.5"))[..., 0]
    height, width = shape[0] // 2, shape[1] // 2
    assert shown.shape == (height, width)
    assert (shown == small[::2, ::2][:height, :width]).all()


@pytest.mark.parametrize(("wider", "higher"), [(3, -2), (-3, 2), (3, 2), (-3, -2), (22, 0)])
async def test_a_raw_image_and_a_mask_are_cropped_and_padded_to_the_size_of_the_tile_spec(
    stack: StackUnderTest, shared_directory: Path, wider: int, higher: int
) -> None:
    """render-ws does not report it: a client that needs the size of the file must read the file."""
    url = (await put_image(stack, shared_directory, GREY)).as_uri()
    levels = {"0": {"imageUrl": url, "maskUrl": url}}
    height, width = GREY.shape[0] + higher, GREY.shape[1] + wider
    await stack.put(tile("a", width=width, height=height, mipmapLevels=levels))
    expected = np.zeros((height, width), np.uint8)
    part = GREY[:height, :width]
    expected[: part.shape[0], : part.shape[1]] = part
    for path in ("source/png-image", "mask/png-image", "source/tiff-image"):
        shown = pixels(await stack.send("GET", f"/tile/a/{path}"))[..., 0]
        assert shown.tolist() == expected.tolist(), path
    jpeg = await stack.send("GET", "/tile/a/source/jpeg-image")
    assert pixels(jpeg).shape == (height, width, 3)


@pytest.mark.parametrize(("wider", "higher"), [(0, 0), (1, 0), (0, 1), (-1, 0), (0, -1)])
async def test_a_mask_of_another_size_than_its_image_is_dropped_whatever_the_size_of_the_tile_spec(
    service: Service, stack: StackUnderTest, shared_directory: Path, wider: int, higher: int
) -> None:
    """So a client can measure an image that only render-ws can read."""
    url = (await put_image(stack, shared_directory, GREY)).as_uri()
    await stack.put(tile("a", width=99, height=99, mipmapLevels={"0": {"imageUrl": url}}))
    parameters = (await stack.send("GET", "/tile/a/source/scale/1.0/render-parameters")).json
    assert (parameters["width"], parameters["height"]) == (99, 99)
    (spec,) = parameters["tileSpecs"]
    levels = spec["channels"][0]["mipmapLevels"] if spec.get("channels") else spec["mipmapLevels"]
    assert levels["0"]["imageUrl"] == url
    width, height = GREY.shape[1] + wider, GREY.shape[0] + higher
    mask = f"mask://outside-box?minX=0&minY=0&maxX=0&maxY=0&width={width}&height={height}"
    levels["0"] |= {"maskUrl": mask, "maskLoaderType": "DYNAMIC_MASK"}
    answer = await service.send("PUT", f"/owner/{OWNER}/png-image", {**parameters, "width": 8, "height": 8})
    shown = pixels(answer)
    assert shown.shape == (8, 8, 4)
    assert (shown[..., 3] == (0 if (wider, higher) == (0, 0) else 255)).all()


async def test_a_file_rewritten_in_place_is_served_as_it_was_until_the_image_cache_is_cleared(
    service: Service, stack: StackUnderTest, shared_directory: Path
) -> None:
    await put_image(stack, shared_directory, GREY)
    assert (pixels(await stack.send("GET", "/tile/a/source/png-image"))[..., 0] == GREY).all()
    await put_image(stack, shared_directory, 255 - GREY)
    assert (pixels(await stack.send("GET", "/tile/a/source/png-image"))[..., 0] == GREY).all()
    cleared = await service.send("DELETE", "/imageProcessorCache/allEntries")
    assert (cleared.status, cleared.text) == (200, "")
    assert (pixels(await stack.send("GET", "/tile/a/source/png-image"))[..., 0] == 255 - GREY).all()


async def test_16_bit_values_above_255_are_served_as_255_unless_a_window_is_requested(
    stack: StackUnderTest, shared_directory: Path
) -> None:
    deep = np.array([[0, 255, 256], [1000, 30000, 65535]], dtype=np.uint16)
    await put_image(stack, shared_directory, deep)
    shown = pixels(await stack.send("GET", "/tile/a/source/png-image"))[..., 0]
    assert shown.tolist() == [[0, 255, 255], [255, 255, 255]]


@pytest.mark.parametrize(("low", "high"), [(0, 65535), (1000, 50000), (0, 255), (255, 256)])
async def test_a_window_of_16_bit_values_is_divided_into_256_equal_steps(
    stack: StackUnderTest, shared_directory: Path, low: int, high: int
) -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    await put_image(stack, shared_directory, every)
    query = f"?minIntensity={low}&maxIntensity={high}"
    shown = pixels(await stack.send("GET", f"/tile/a/source/png-image{query}"))[..., 0]
    expected = np.floor((every.astype(float) - low) * 256 / (high - low + 1) + 0.5)
    assert (shown == np.clip(expected, 0, 255)).all()


async def test_a_mask_is_served_if_the_tile_has_one(stack: StackUnderTest, shared_directory: Path) -> None:
    path = await put_image(stack, shared_directory, GREY)
    answer = await stack.send("GET", "/tile/a/mask/png-image")
    assert answer.outcome == (400, "text/plain")
    assert "no imageUrl specified" in answer.text
    mask = shared_directory / "mask.png"
    Image.fromarray(255 - GREY).save(mask)
    levels = {"0": {"imageUrl": path.as_uri(), "maskUrl": mask.as_uri()}}
    await stack.put(tile("a", width=GREY.shape[1], height=GREY.shape[0], mipmapLevels=levels))
    assert (pixels(await stack.send("GET", "/tile/a/mask/png-image"))[..., 0] == 255 - GREY).all()


async def test_a_missing_or_empty_file_of_any_level_prevents_every_rendering_of_the_tile_but_not_its_raw_image(
    stack: StackUnderTest, shared_directory: Path
) -> None:
    missing = shared_directory / "not there.tif"
    await put_image(stack, shared_directory, GREY, **{"3": {"imageUrl": missing.as_uri()}})
    rendering = (
        "/tile/a/png-image",
        "/tile/a/png-image?scale=0.125",
        "/z/1.0/box/0,0,9,9,1.0/png-image",
        "/tile/a/validation-info",
    )
    for path in rendering:
        answer = await stack.send("GET", path)
        assert (*answer.outcome, answer.text) == (400, "text/plain", f"cannot find imageUrl file '{missing}'")
    assert (await stack.send("GET", "/tile/a/source/png-image")).status == 200
    missing.touch()
    for path in rendering:
        answer = await stack.send("GET", path)
        assert answer.outcome == (400, "text/plain")
        assert f"'{missing}' is empty" in answer.text
    await put_image(stack, shared_directory, GREY)
    assert (await stack.send("GET", "/tile/a/validation-info")).status == 200


async def test_a_raw_image_needs_the_file_of_the_lowest_level(stack: StackUnderTest, shared_directory: Path) -> None:
    path = shared_directory / "not there.tif"
    await stack.put(tile("a", mipmapLevels={"0": {"imageUrl": path.as_uri()}}))
    answer = await stack.send("GET", "/tile/a/source/png-image")
    assert (*answer.outcome, answer.text) == (400, "text/plain", f"cannot find imageUrl file '{path}'")


async def test_requests_for_images_of_missing_tiles_are_answered_with_404_in_plain_text(
    stack: StackUnderTest, other: StackUnderTest
) -> None:
    for either in (stack, other):
        for path in ("/tile/T/source/png-image", "/tile/T/validation-info"):
            assert (await either.send("GET", path)).outcome == (404, "text/plain")


async def test_the_etag_of_an_image_stays_the_same_after_its_file_has_changed(
    stack: StackUnderTest, shared_directory: Path
) -> None:
    await put_image(stack, shared_directory, GREY)
    before = await stack.send("GET", "/tile/a/source/png-image")
    await put_image(stack, shared_directory, 255 - GREY)
    after = await stack.send("GET", "/tile/a/source/png-image")
    assert before.headers["ETag"] == after.headers["ETag"]
    assert "max-age=3600" in after.headers["Cache-Control"]


async def test_files_can_be_checked_before_tiles_are_put(service: Service, shared_directory: Path) -> None:
    path = shared_directory / "a.tif"
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
        answer = await service.send("PUT", f"/owner/{OWNER}/validate-json/{kind}", body)
        assert answer.status == status, (kind, answer)
