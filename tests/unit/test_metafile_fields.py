"""Every value of a metafile: whether it is required, and the effect of a missing or invalid value."""

import dataclasses
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasPath
from pydantic.fields import FieldInfo
from sections import NAME, flat, key_of, put

from handlers.acquisition.formats.pytemca import acquisition_of
from handlers.acquisition.formats.pytemca_consistency import Severity, check_metafile
from handlers.acquisition.formats.pytemca_parse import parse_metafile
from handlers.acquisition.metafile import Calibration, Camera, EdgeMatch, Header, Metafile, TileRecord
from handlers.acquisition.tilespec import TileSpecOptions, tile_ids_for, tile_specs_for
from handlers.errors import MetafileFault
from tests.uploads import upload_bodies

COMPATIBILITY = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
ROI = Path("/data/roi")

NEEDED = {
    "metadata": {"temca_id", "camera_info", "calibration.highmag"},
    "metadata.camera_info": {"width", "height", "camera_id"},
    "metadata.calibration.highmag": {"x_nm_per_pix"},
    "data[7]": {
        "img_path",
        *("img_meta.stage_pos[0]", "img_meta.stage_pos[1]", "img_meta.raster_pos[0]", "img_meta.raster_pos[1]"),
        *("img_meta.angle", "img_meta.pixel_size_x_move", "img_meta.pixel_size_y_move"),
    },
    "data[7].matcher[0]": set[str](),
}
"""Path of a record -> its required values. A tile spec needs no other value."""
RECORDS = dict(zip(NEEDED, (Header, Camera, Calibration, TileRecord, EdgeMatch), strict=True))
TEXTS = {
    *("metadata.roi_creation_time", "metadata.session_id", "metadata.grid", "metadata.temca_id"),
    *("metadata.specimen_id", "metadata.media", "metadata.media_id", "metadata.lims_specimen_id"),
    *("metadata.placement_id", "metadata.tape_id"),
    "metadata.camera_info.camera_id",
}
COUNTS = {
    *("metadata.roi_index", "metadata.z_index"),
    *(f"metadata.camera_info.{key}" for key in ("width", "height")),
    *(f"data[7].img_meta.{key}" for key in ("raster_pos[0]", "raster_pos[1]", "raster_index")),
    *("data[7].min", "data[7].max"),
    *(f"data[7].matcher[0].{key}" for key in ("position", "row", "col", "match_quality")),
}


def model_fields(record: type) -> Iterator[tuple[str, str]]:
    """Yield attribute and key of each field of a record, such as ("stage_x_nm", "img_meta.stage_pos[0]")."""
    hints = typing.get_type_hints(record, include_extras=True)
    for field in dataclasses.fields(record):
        infos = [info for info in getattr(hints[field.name], "__metadata__", ()) if isinstance(info, FieldInfo)]
        alias = next((info.validation_alias for info in infos if info.validation_alias), field.name)
        yield field.name, key_of(tuple(alias.path)) if isinstance(alias, AliasPath) else str(alias)


FIELDS = {
    f"{place}.{key}": (place, attribute) for place, record in RECORDS.items() for attribute, key in model_fields(record)
}
NEEDED_FIELDS = sorted(f"{place}.{key}" for place, keys in NEEDED.items() for key in keys)
OTHER_FIELDS = sorted(FIELDS.keys() - set(NEEDED_FIELDS))


def whole_document() -> dict[str, Any]:
    """Return a metafile with a value for every field, as JSON."""
    document = flat()
    document["metadata"] |= {"tape_id": "T1", "aperture_centroid": {"x": 1.5, "y": -2}}
    return document


def read(document: Any) -> Metafile:
    return parse_metafile(json.dumps(document).encode(), NAME)


def value_of(found: Metafile, key: str) -> object:
    """Return the value of a key in a parsed metafile."""
    place, attribute = FIELDS[key]
    matcher = found.tiles[7].matcher
    records: dict[str, Any] = {
        "metadata": found.header,
        "metadata.camera_info": found.header.camera,
        "metadata.calibration.highmag": found.header.highmag,
        "data[7]": found.tiles[7],
        "data[7].matcher[0]": matcher[0] if matcher else None,
    }
    return getattr(records[place], attribute)


def document_with(key: str, value: object) -> dict[str, Any]:
    """Return a metafile with another value of a key; `...` deletes the key."""
    document = whole_document()
    put(document, key, value)
    return document


def test_every_listed_key_is_a_field_with_a_value() -> None:
    assert set(NEEDED_FIELDS) < FIELDS.keys()
    assert FIELDS.keys() >= TEXTS | COUNTS
    plain = read(whole_document())
    assert [key for key in FIELDS if value_of(plain, key) is None] == []


WRONG = {
    "missing": ...,
    "null": None,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
    "true": True,
    "a list": [[]],
    "an object": {"a": 1},
    "huge": 10**400,
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("key", NEEDED_FIELDS)
def test_a_missing_or_invalid_required_value_is_refused_and_named(key: str, wrong: str) -> None:
    if wrong == "huge" and key in TEXTS:
        assert value_of(read(document_with(key, WRONG[wrong])), key) == str(WRONG[wrong])
        return
    with pytest.raises(MetafileFault) as caught:
        read(document_with(key, WRONG[wrong]))
    named = key.removesuffix("[0]") if wrong == "missing" else key  # without its first value, a list lacks its second
    assert caught.value.problem.startswith(named)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("key", OTHER_FIELDS)
def test_an_invalid_optional_value_counts_as_absent_and_changes_no_tile_spec(key: str, wrong: str) -> None:
    document = document_with(key, WRONG[wrong])
    found = read(document)
    whole = read(whole_document())
    assert tile_specs_for(acquisition_of(found), 42, ROI) == tile_specs_for(acquisition_of(whole), 42, ROI)
    if wrong == "huge" and key in TEXTS:
        assert value_of(found, key) == str(WRONG[wrong])
    elif wrong == "an object" and key == "metadata.beam_centering":
        assert value_of(found, key) == WRONG[wrong]
    else:
        assert value_of(found, key) is None
    assert Severity.ERROR not in {finding.severity for finding in check_metafile(found, NAME)}


@pytest.mark.parametrize("key", sorted(TEXTS))
@pytest.mark.parametrize(("number", "text"), [(594089217, "594089217"), (151.0, "151"), (2.5, "2.5"), (0, "0")])
def test_a_number_in_place_of_a_text_is_converted(key: str, number: float, text: str) -> None:
    found = read(document_with(key, number))
    assert value_of(found, key) == text
    assert Severity.ERROR not in {finding.severity for finding in check_metafile(found, NAME)}
    specs = tile_specs_for(acquisition_of(found), 42, ROI)
    assert {type(specs[0]["layout"][name]) for name in ("camera", "temca")} == {str}
    assert upload_bodies(specs, {})


@pytest.mark.parametrize("key", sorted(COUNTS))
def test_a_float_without_fraction_is_converted_to_an_integer(key: str) -> None:
    usual = value_of(read(whole_document()), key)
    assert isinstance(usual, int)
    found = value_of(read(document_with(key, float(usual))), key)
    assert (found, type(found)) == (usual, int)


@pytest.mark.parametrize("key", sorted(COUNTS))
def test_a_fraction_in_place_of_an_integer_is_invalid(key: str) -> None:
    document = document_with(key, 1.5)
    if key in NEEDED_FIELDS:
        with pytest.raises(MetafileFault, match=re.escape(f"{key}: should be a valid integer, found 1.5")):
            read(document)
    else:
        assert value_of(read(document), key) == (1.5 if key == "metadata.z_index" else None)


def test_nan_in_nested_optional_values_becomes_null() -> None:
    document = whole_document()
    nan = float("nan")
    document["metadata"]["beam_centering"]["offset"] = [0.5, nan]
    document |= {"tile_qc": [{"score": nan}], "sharedTransform": {"className": "x", "metaData": {"error": nan}}}
    found = read(document)
    assert found.shared_transform == {"className": "x", "metaData": {"error": None}}
    assert found.header.beam_centering is not None
    assert found.header.beam_centering["offset"] == [0.5, None]


def test_the_documentation_lists_every_value_as_required_or_optional() -> None:
    rows = re.findall(r"^\| (`.+?`(?:, `.+?`)*) \| (yes|no)\b", COMPATIBILITY.read_text(), re.MULTILINE)
    documented = {key.strip("`"): needed == "yes" for keys, needed in rows for key in keys.split(", ")}
    fields = {re.sub(r"\[\d]", "[]", re.sub(r"(_pos)\[\d]$", r"\1", key)): key in NEEDED_FIELDS for key in FIELDS}
    assert documented == fields


def test_a_number_in_the_header_is_compared_with_names_without_leading_zeros() -> None:
    assert check_metafile(read(document_with("metadata.grid", 42)), NAME) == ()
    found = check_metafile(read(document_with("metadata.grid", 43)), NAME)
    assert {finding.severity for finding in found} == {Severity.WARNING}
    assert any("the name should be" in finding.text for finding in found)


@pytest.mark.parametrize("key", ["session_id", "grid", "roi_index"])
def test_names_that_cannot_be_compared_with_the_header_are_a_warning(key: str) -> None:
    texts = [finding.text for finding in check_metafile(read(document_with(f"metadata.{key}", ...)), NAME)]
    assert f"names cannot be compared with the header: it lacks {key}" in texts


def test_a_missing_raster_index_is_a_warning_that_the_order_cannot_be_checked() -> None:
    texts = [
        finding.text for finding in check_metafile(read(document_with("data[7].img_meta.raster_index", ...)), NAME)
    ]
    assert texts == ["the order of the tiles cannot be checked: 1 of 11 have no raster_index"]


@pytest.mark.parametrize(
    ("key", "template"),
    [
        ("data[7].img_meta.raster_index", "{grid}.{raster_index:03d}"),
        *((f"metadata.{key}", f"{{basename}}_{{{key}}}") for key in ("session_id", "grid", "roi_index")),
    ],
)
def test_a_tile_id_template_names_the_value_that_the_metafile_lacks(key: str, template: str) -> None:
    found = read(document_with(key, ...))
    with pytest.raises(MetafileFault, match=rf"{re.escape(key.replace('[7]', '[]'))}: missing") as caught:
        tile_ids_for(acquisition_of(found), 42, TileSpecOptions(tile_id=template))
    assert caught.value.hint == "check tilespecs.tile_id"
    assert tile_ids_for(acquisition_of(found), 42, TileSpecOptions(tile_id="{basename}"))
