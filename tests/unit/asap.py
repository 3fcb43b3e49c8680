"""Two metafiles in the format of real ones, and the tile specs that asap-modules makes from them, computed by hand.

A position in pixels is x = X/px cos a + Y/py sin a, y = -X/px sin a + Y/py cos a: X, Y stage in nanometres, px and py
the pixel sizes for motion in x and y, a the angle. asap-modules truncates it toward zero, then subtracts the smallest
x and y.
"""

import json
from dataclasses import dataclass
from typing import Any

IMAGES = "/acquisitions/temca2"
_TEMCA, _CAMERA = "temca2", "44500428"


@dataclass(frozen=True)
class Tile:
    """A tile of a metafile, and its translations in the tile specs of asap-modules."""

    image: str
    col: int
    row: int
    stage: tuple[int, int]
    """X, Y in nanometres."""
    integer: tuple[str, str]
    """Translation with integer positions and the origin of the region, as the tile spec contains it; the default."""
    exact: tuple[str, str] = ("", "")
    """The same with exact positions."""
    on_stage: tuple[str, str] = ("", "")
    """With exact positions and the stage's origin."""


@dataclass(frozen=True)
class Region:
    """A metafile."""

    name: str
    grid: str
    session: str
    angle: float
    move: tuple[float, float]
    """Pixel sizes for motion in x and y."""
    overlap: float
    tiles: tuple[Tile, ...]
    z: int

    def document(self) -> list[dict[str, Any]]:
        """The metafile as JSON, with keys that asap-modules does not read."""
        highmag = {"nm_per_pix": 4.5, "x_nm_per_pix": 4.1, "y_nm_per_pix": 4.3, "angle": self.angle}
        lowmag = {"nm_per_pix": 213.0, "x_nm_per_pix": 213.0, "y_nm_per_pix": 213.0, "angle": 102.0}
        header = {
            "roi_index": 0,
            "roi_creation_time": self.name[10:24],
            "calibration": {"lowmag": lowmag, "highmag": highmag},
            "specimen_id": "17797_1R",
            "notes": "",
            "placement_id": "",
            "session_id": self.session,
            "camera_info": {
                "height": 800,
                "width": 1000,
                "camera_model": "Ximea CB200MG",
                "pixel_depth": 1,
                "camera_id": _CAMERA,
                "camera_bpp": 8,
            },
            "roi_center": [-447952, 260651],
            "grid": self.grid,
            "aperture_centroid": None,
            "autofocus_value": 22.789662043253582,
            "temca_id": _TEMCA,
            "overlap": self.overlap,
        }
        return [{"metadata": header}, {"data": [self._record(number, tile) for number, tile in enumerate(self.tiles)]}]

    def _record(self, number: int, tile: Tile) -> dict[str, Any]:
        return {
            "img_path": tile.image,
            "min": 14192,
            "max": 65520,
            "mean": 33191,
            "std_dev": 12,
            "focus_score": 20.628707885742188,
            "astig_score": 0,
            "astig_angle": 0,
            "img_meta": {
                "angle": self.angle,
                "pixel_size": 4.5,
                "pixel_size_x_move": self.move[0],
                "pixel_size_y_move": self.move[1],
                "fps": "2.88" if number else "0.00",
                "stage_pos": list(tile.stage),
                "raster_index": number,
                "raster_pos": [tile.col, tile.row],
            },
        }

    def raw(self) -> bytes:
        return json.dumps(self.document(), indent=1).encode()

    def expected(self, translation: str = "integer", **other: Any) -> list[dict[str, Any]]:
        """The tile specs with all their fields; `other` replaces values in each of them or in its layout."""
        return [self._expected(tile, getattr(tile, translation), other) for tile in self.tiles]

    def _expected(self, tile: Tile, translation: tuple[str, str], other: dict[str, Any]) -> dict[str, Any]:
        affine = f"1.0000000000 0.0000000000 0.0000000000 1.0000000000 {translation[0]} {translation[1]}"
        return {
            "tileId": f"{tile.image.removesuffix('.tif')}.{self.z}.0",
            "z": self.z,
            "width": 1000,
            "height": 800,
            "minIntensity": other.get("minIntensity", 0),
            "maxIntensity": other.get("maxIntensity", 255),
            "layout": {
                "sectionId": other.get("sectionId", f"{self.z}.0"),
                "temca": _TEMCA,
                "camera": _CAMERA,
                "imageRow": tile.row,
                "imageCol": tile.col,
                "stageX": tile.stage[0],
                "stageY": tile.stage[1],
                "rotation": self.angle,
                "pixelsize": 4.1,
            },
            "mipmapLevels": {"0": {"imageUrl": f"file://{IMAGES}/{tile.image}", **other.get("mask", {})}},
            "transforms": {
                "type": "list",
                "specList": [
                    {"type": "leaf", "className": "mpicbg.trakem2.transform.AffineModel2D", "dataString": affine}
                ],
            },
        }


# cos a = 0.6, sin a = -0.8, px = 4, py = 5: x = 0.15 X - 0.16 Y, y = 0.2 X + 0.12 Y.
# The region has no tiles at two corners. Smallest x: -950, exactly -950.77. Smallest y: -700, exactly -700.72.
MONTAGE = Region(
    name="_metadata_20180601120000_17797_1R_151_001050_0_.json",
    grid="001050",
    session="17797_1R_151",
    angle=-53.13010235415598,
    move=(4.0, 5.0),
    overlap=0.1,
    z=1050,
    tiles=(
        Tile(  # x = -353.55 + 303.52 = -50.03, y = -471.4 - 227.64 = -699.04
            "20180601120105000_17797_1R_151_001050_0_1_0.tif",
            *(1, 0),
            stage=(-2357, -1897),
            integer=("900.0000000000", "1.0000000000"),  # -50 + 950, -699 + 700
            exact=("900.7400000000", "1.6800000000"),
            on_stage=("-50.0300000000", "-699.0400000000"),
        ),
        Tile(  # x = -30.45 + 880.16 = 849.71, y = -40.6 - 660.12 = -700.72
            "20180601120105350_17797_1R_151_001050_0_2_0.tif",
            *(2, 0),
            stage=(-203, -5501),
            integer=("1799.0000000000", "0.0000000000"),  # 849 + 950
            exact=("1800.4800000000", "0.0000000000"),
            on_stage=("849.7100000000", "-700.7200000000"),
        ),
        Tile(  # x = -332.85 - 617.92 = -950.77, y = -443.8 + 463.44 = 19.64
            "20180601120105700_17797_1R_151_001050_0_0_1.tif",
            *(0, 1),
            stage=(-2219, 3862),
            integer=("0.0000000000", "719.0000000000"),  # 19 + 700
            exact=("0.0000000000", "720.3600000000"),
            on_stage=("-950.7700000000", "19.6400000000"),
        ),
        Tile(  # x = -8.1 - 42.08 = -50.18, y = -10.8 + 31.56 = 20.76
            "20180601120106050_17797_1R_151_001050_0_1_1.tif",
            *(1, 1),
            stage=(-54, 263),
            integer=("900.0000000000", "720.0000000000"),  # -50 + 950, 20 + 700
            exact=("900.5900000000", "721.4800000000"),
            on_stage=("-50.1800000000", "20.7600000000"),
        ),
        Tile(  # x = 315.15 + 534.08 = 849.23, y = 420.2 - 400.56 = 19.64
            "20180601120106400_17797_1R_151_001050_0_2_1.tif",
            *(2, 1),
            stage=(2101, -3338),
            integer=("1799.0000000000", "719.0000000000"),  # 849 + 950, 19 + 700
            exact=("1800.0000000000", "720.3600000000"),
            on_stage=("849.2300000000", "19.6400000000"),
        ),
        Tile(  # x = 337.8 - 387.36 = -49.56, y = 450.4 + 290.52 = 740.92
            "20180601120106750_17797_1R_151_001050_0_1_2.tif",
            *(1, 2),
            stage=(2252, 2421),
            integer=("901.0000000000", "1440.0000000000"),  # -49 + 950, 740 + 700
            exact=("901.2100000000", "1441.6400000000"),
            on_stage=("-49.5600000000", "740.9200000000"),
        ),
    ),
)

# a = 180 degrees, px = py = 3.5: x = -X / 3.5, y = -Y / 3.5, except that the sine of 180 degrees is 1.2e-16 in doubles.
# So the first tile's x is -399.99999999999, truncated to -399. The smallest x is -399, the smallest y -100002.
LENS_SET = Region(
    name="_metadata_20180601115958_17797_1R_151_20180601115957_reference_0_.json",
    grid="20180601115957_reference",
    session="17797_1R_151",
    angle=180.0,
    move=(3.5, 3.5),
    overlap=0.6,
    z=7,
    tiles=(
        Tile(  # X / 3.5 = 400, Y / 3.5 = 100000
            "20180601120002000_17797_1R_151_20180601115957_reference_0_0_0.tif",
            *(0, 0),
            stage=(1400, 350000),
            integer=("0.0000000000", "2.0000000000"),  # -399 + 399, -100000 + 100002
        ),
        Tile(  # X / 3.5 = -1136, Y / 3.5 = 100002.857
            "20180601120002400_17797_1R_151_20180601115957_reference_0_1_0.tif",
            *(1, 0),
            stage=(-3976, 350010),
            integer=("1535.0000000000", "0.0000000000"),  # 1136 + 399
        ),
        Tile(  # X / 3.5 = 397.143, Y / 3.5 = 98464
            "20180601120002800_17797_1R_151_20180601115957_reference_0_0_1.tif",
            *(0, 1),
            stage=(1390, 344624),
            integer=("2.0000000000", "1538.0000000000"),  # -397 + 399, -98464 + 100002
        ),
        Tile(  # X / 3.5 = -1140, Y / 3.5 = 98460
            "20180601120003200_17797_1R_151_20180601115957_reference_0_1_1.tif",
            *(1, 1),
            stage=(-3990, 344610),
            integer=("1539.0000000000", "1542.0000000000"),  # 1140 + 399, -98460 + 100002
        ),
    ),
)
