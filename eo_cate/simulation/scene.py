"""Scenes held in memory: reflectance bands on one grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.warp import Resampling, reproject

from eo_cate.errors import ImageryError
from eo_cate.types import Grid

Band = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """Bands on one grid.

    Parameters
    ----------
    bands : mapping of str to (y, x) float32
        Digital numbers by band name; NaN where a coarser band does not reach.
    grid : Grid
        The grid of every band.

    Raises
    ------
    ImageryError
        When a band does not have the grid's shape.
    """

    bands: Mapping[str, Band]
    grid: Grid

    def __post_init__(self) -> None:
        wrong = {name: band.shape for name, band in self.bands.items() if band.shape != self.grid.shape}
        if wrong:
            raise ImageryError(f"the grid has {self.grid.shape} pixels, but these bands differ: {wrong}")


def read_scene(files: Mapping[str, Path]) -> Scene:
    """Read bands onto the grid of the first file, coarser ones bilinearly through their transforms.

    Resampling is done on float32, not on the stored integers, so nothing is rounded. The files are opened as GeoTIFF
    whatever their extension says (those of the demo scene are named .jp2).

    Raises
    ------
    ImageryError
        When no file is named, or one cannot be read as a GeoTIFF or has no coordinate system.
    """
    if not files:
        raise ImageryError("no band is named: give at least one band -> file")
    grid: Grid | None = None
    bands: dict[str, Band] = {}
    for name, path in files.items():
        try:
            with rasterio.open(path, driver="GTiff") as source:
                own, band = _grid_of(source, path), source.read(1).astype(np.float32)
        except rasterio.errors.RasterioError as error:
            raise ImageryError(f"{path}: band {name} cannot be read as a GeoTIFF ({error})") from error
        grid = grid or own
        bands[name] = band if own == grid else _onto(band, own, grid)
    assert grid is not None
    return Scene(bands, grid)


def _grid_of(source: Any, path: Path) -> Grid:
    if source.crs is None:
        raise ImageryError(f"{path}: has no coordinate system; write one into the file (gdal_edit.py -a_srs)")
    return Grid(source.crs.to_string(), tuple(source.transform)[:6], (int(source.height), int(source.width)))


def _onto(band: Band, own: Grid, target: Grid) -> Band:
    out = np.full(target.shape, np.nan, dtype=np.float32)
    reproject(
        band,
        out,
        src_transform=rasterio.Affine(*own.transform),
        src_crs=own.crs,
        dst_transform=rasterio.Affine(*target.transform),
        dst_crs=target.crs,
        dst_nodata=np.nan,
        resampling=Resampling.bilinear,
        num_threads=1,
    )
    return out


def write_scene(scene: Scene, folder: Path) -> dict[str, Path]:
    """Write each band as a tiled float32 GeoTIFF ``BAND.tif``; returns band -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.tif" for name in scene.bands}
    for name, path in files.items():
        profile = {
            "driver": "GTiff",
            "height": scene.grid.shape[0],
            "width": scene.grid.shape[1],
            "count": 1,
            "dtype": "float32",
            "crs": scene.grid.crs,
            "transform": rasterio.Affine(*scene.grid.transform),
            "nodata": np.nan,
            "tiled": True,
            "blockxsize": 128,
            "blockysize": 128,
            "compress": "deflate",
        }
        with rasterio.open(path, "w", **profile) as sink:
            sink.write(scene.bands[name], 1)
    return files
