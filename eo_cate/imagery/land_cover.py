"""Shares of land-cover classes in the squares that chips show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.windows import Window

from eo_cate.errors import ImageryError
from eo_cate.imagery.files import gdal_env, open_raster
from eo_cate.types import BoolArray, FloatArray

POINTS = 32
"""Points per side at which a square is looked up: a share is known to about 1 / 32 of the side's outline."""
MAX_CLASSES = 64

_MAX_WINDOW = 2**27
_EQUATOR_M, _ECCENTRICITY_2 = 6_378_137.0, 0.00669437999014  # WGS 84


def check_land_cover(path: Path) -> None:
    """Refuse what is not a raster of classes with a place.

    Raises
    ------
    ImageryError
        When it is unreadable, has several bands, no CRS, or values that are not whole numbers.
    """
    with open_raster(path) as source:
        if source.count != 1 or source.crs is None or np.dtype(source.dtypes[0]).kind not in "ui":
            raise ImageryError(
                f"{path}: has {source.count} band(s) of {source.dtypes[0]}, CRS {source.crs}; land cover needs one "
                "band of whole numbers, and a CRS"
            )


def land_cover_shares(
    path: Path, sites: gpd.GeoDataFrame, *, sides_m: Sequence[float], names: Mapping[int, str] | None = None
) -> xr.DataArray:
    """Share of each class in squares centred on sites, among the points of the square that are known.

    Parameters
    ----------
    path : Path
        GeoTIFF of one band of classes, on any grid; nodata is unknown.
    sites : GeoDataFrame
        Index site_id, points in EPSG:4326.
    sides_m : sequence of float
        Sides of the squares in metres; north is up.
    names : mapping of int to str, optional
        Names of classes; ``class 40`` where absent.

    Returns
    -------
    DataArray (site, scale, feature) float64
        ``scale`` is the side in metres, ``feature`` the classes that occur, by number; NaN where the raster says
        nothing of a square.

    Raises
    ------
    ImageryError
        As `check_land_cover`; and when there are more than `MAX_CLASSES` classes, or no square touches the raster.
    """
    check_land_cover(path)
    classes, known = _look_up(path, sites, sides_m)
    codes = np.unique(classes[known])
    if not 1 <= len(codes) <= MAX_CLASSES:
        raise ImageryError(
            f"{path}: {len(codes)} different classes lie around the {len(sites)} sites; from 1 to {MAX_CLASSES} are "
            "expected: does it cover the sites, and does it hold classes?"
        )
    count = known.sum(axis=2)
    total = np.where(count > 0, count, np.nan)
    shares = np.stack([((classes == code) & known).sum(axis=2) / total for code in codes], axis=2)
    labels = [(names or {}).get(int(code), f"class {code}") for code in codes]
    coords = {"site": list(sites.index), "scale": list(sides_m), "feature": labels}
    return xr.DataArray(shares, dims=("site", "scale", "feature"), coords=coords, name="land_cover")


def _look_up(path: Path, sites: gpd.GeoDataFrame, sides_m: Sequence[float]) -> tuple[NDArray[np.int64], BoolArray]:
    """Classes at the points of every square, and whether they are known, (site, scale, POINTS^2)."""
    classes = np.zeros((len(sites), len(sides_m), POINTS**2), dtype=np.int64)
    known = np.zeros(classes.shape, dtype=np.bool_)
    with open_raster(path) as source, gdal_env(path):
        to_raster = Transformer.from_crs("EPSG:4326", source.crs.to_wkt(), always_xy=True)
        for i, (lon, lat) in enumerate(zip(sites.geometry.x, sites.geometry.y, strict=True)):
            at = np.concatenate([_square_points(lon, lat, side) for side in sides_m])
            found, inside = _read_points(source, path, *to_raster.transform(at[:, 0], at[:, 1]))
            classes[i], known[i] = found.reshape(classes.shape[1:]), inside.reshape(classes.shape[1:])
    return classes, known


def _square_points(lon: float, lat: float, side_m: float) -> FloatArray:
    """Longitude and latitude of a square's lattice of points, (POINTS^2, 2), by the radii of WGS 84 at its centre."""
    offsets = ((np.arange(POINTS) + 0.5) / POINTS - 0.5) * side_m
    north, east = (axis.ravel() for axis in np.meshgrid(-offsets, offsets, indexing="ij"))
    squared = 1 - _ECCENTRICITY_2 * np.sin(np.radians(lat)) ** 2
    meridian = _EQUATOR_M * (1 - _ECCENTRICITY_2) / squared**1.5
    parallel = _EQUATOR_M / np.sqrt(squared) * np.cos(np.radians(lat))
    return np.column_stack([lon + np.degrees(east / parallel), lat + np.degrees(north / meridian)])


def _read_points(source: Any, path: Path, x: FloatArray, y: FloatArray) -> tuple[NDArray[np.int64], BoolArray]:
    """Classes of the pixels that hold some points, and whether there are any."""
    a, b, c, d, e, f = tuple(~source.transform)[:6]
    at = np.stack([d * x + e * y + f, a * x + b * y + c])
    at = np.floor(np.where(np.isfinite(at), np.clip(at, -1, 2**40), -1)).astype(np.int64)
    inside = np.asarray(((at >= 0) & (at < np.array(source.shape)[:, None])).all(axis=0))
    classes, known = np.zeros(len(inside), dtype=np.int64), np.zeros(len(inside), dtype=np.bool_)
    if not inside.any():
        return classes, known
    row, column = at[:, inside]
    height, width = int(np.ptp(row)) + 1, int(np.ptp(column)) + 1
    if height * width > _MAX_WINDOW:
        raise ImageryError(f"{path}: {height} x {width} pixels lie in one square: coarsen the raster")
    window = Window(int(column.min()), int(row.min()), width, height)
    pixels = source.read(1, window=window, masked=True)[row - row.min(), column - column.min()]
    classes[inside], known[inside] = pixels.filled(0), ~np.ma.getmaskarray(pixels)
    return classes, known
