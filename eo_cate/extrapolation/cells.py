"""Cells of a map: places at regular distances on the grid of the pixels.

A cell's centre (row, col) is a pixel CORNER, so a chip of even side lies evenly around it.
"""

from __future__ import annotations

import math
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyproj import Transformer

from eo_cate.errors import ImageryError
from eo_cate.extrapolation.raster import read_raster_at
from eo_cate.types import BoolArray, FloatArray, Grid


def map_cells(grid: Grid, *, spacing_px: int, margin_px: int, mask: Path | None = None) -> pd.DataFrame:
    """Centres at multiples of the spacing, in row-major order.

    Parameters
    ----------
    grid : Grid
        Grid of the pixels.
    spacing_px : int
        Distance between centres, in pixels.
    margin_px : int
        Least distance of a centre to every edge: half of the largest chip.
    mask : Path, optional
        GeoTIFF on any grid; cells whose centre does not fall on a pixel of value 1 are left out. A centre on the
        border of mask pixels belongs to the one to the lower right; a mask whose pixels are the cells has no such ties.

    Returns
    -------
    DataFrame
        Index cell_id (cell_000001, ...); columns row, col (int64).

    Raises
    ------
    ImageryError
        When no cell is left, or the mask cannot be read.
    """
    rows, cols = (
        np.arange(math.ceil(margin_px / spacing_px) * spacing_px, size - margin_px + 1, spacing_px, dtype=np.int64)
        for size in grid.shape
    )
    cells = pd.DataFrame({"row": np.repeat(rows, len(cols)), "col": np.tile(cols, len(rows))})
    if cells.empty:
        raise ImageryError(
            f"no map cell lies {margin_px} px from every edge of {grid.shape[0]} x {grid.shape[1]} pixels"
        )
    if mask is not None:
        kept = read_raster_at(mask, cells, grid) == 1
        if not kept.any():
            raise ImageryError(f"{mask}: none of the {len(cells)} map cells falls on a pixel of value 1")
        cells = cells[kept]
    return number_cells(cells)


def number_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells under the index cell_000001, cell_000002, ... in their order."""
    return cells.set_axis(pd.Index([f"cell_{k:06d}" for k in range(1, len(cells) + 1)], name="cell_id"))


def cell_lonlat(cells: pd.DataFrame, grid: Grid) -> FloatArray:
    """Longitude and latitude (EPSG:4326, degrees) of cell centres, shape (cell, 2)."""
    a, b, c, d, e, f = grid.transform
    row, col = cells["row"].to_numpy(), cells["col"].to_numpy()
    to_degrees = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    return np.column_stack(to_degrees.transform(a * col + b * row + c, d * col + e * row + f))


def find_sampled(cells: pd.DataFrame, sites: gpd.GeoDataFrame, grid: Grid, *, spacing_px: int) -> BoolArray:
    """Which cells hold a trial site in their spacing x spacing box, shape (cell,)."""
    points = sites.geometry.to_crs(grid.crs)
    a, _, c, _, e, f = grid.transform
    lattice = {
        (int(row), int(col))
        for row, col in zip(
            _nearest(np.asarray((points.y - f) / e), spacing_px),
            _nearest(np.asarray((points.x - c) / a), spacing_px),
            strict=True,
        )
    }
    return np.array([(row, col) in lattice for row, col in zip(cells["row"], cells["col"], strict=True)], dtype=bool)


def _nearest(position: FloatArray, spacing: int) -> NDArray[np.int64]:
    return (np.floor(position / spacing + 0.5) * spacing).astype(np.int64)
