"""Small real GeoTIFFs, and an independent reading of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import Affine, from_origin
from rasterio.vrt import WarpedVRT

UTM = "EPSG:32636"
WEST, NORTH = 500_000.0, 100_000.0


def write_raster(
    path: Path,
    pixels: np.ndarray,
    *,
    resolution: float = 10,
    west: float = WEST,
    north: float = NORTH,
    crs: str | None = UTM,
    transform: Affine | None = None,
    **options: Any,
) -> Path:
    """Write (y, x), or (band, y, x), as a GeoTIFF whose upper left corner is (west, north)."""
    stack = pixels if pixels.ndim == 3 else pixels[None]
    profile = {
        "driver": "GTiff",
        "count": len(stack),
        "height": stack.shape[1],
        "width": stack.shape[2],
        "dtype": stack.dtype,
        "crs": crs,
        "transform": transform or from_origin(west, north, resolution, resolution),
    }
    with rasterio.open(path, "w", **{**profile, **options}) as target:
        target.write(stack)
    return path


def coded_pixels(band: int, rows: int, columns: int) -> np.ndarray:
    """Pixels whose value tells band, row and column: no swap of axes can hide."""
    y, x = np.mgrid[:rows, :columns]
    return (band * 1_000_000 + y * 1_000 + x).astype(np.float32)


def read_whole(path: Path, like: Path) -> np.ndarray:
    """The whole first band on the grid of ``like``, float32 with NaN: bilinear through rasterio, in one read."""
    with rasterio.open(like) as grid, rasterio.open(path) as source:
        if source.transform == grid.transform and source.shape == grid.shape:
            return source.read(1, masked=True).astype(np.float32).filled(np.nan)
        with WarpedVRT(
            source,
            crs=grid.crs,
            transform=grid.transform,
            width=grid.width,
            height=grid.height,
            resampling=Resampling.bilinear,
            dtype="float32",
            nodata=np.nan,
        ) as warped:
            return warped.read(1)


def cut(whole: np.ndarray, row: int, col: int, size: int) -> np.ndarray:
    """The chip by definition: NaN beyond the edge, pixel by pixel."""
    chip = np.full((size, size), np.nan, dtype=np.float32)
    for i in range(size):
        for j in range(size):
            y, x = row - size // 2 + i, col - size // 2 + j
            if 0 <= y < whole.shape[0] and 0 <= x < whole.shape[1]:
                chip[i, j] = whole[y, x]
    return chip


def make_places(points: list[tuple[int, int]]) -> pd.DataFrame:
    return pd.DataFrame(points, columns=["row", "col"], index=[f"s{i}" for i in range(len(points))])
