"""Rasters with one pixel per cell: made, written as Cloud-Optimised GeoTIFF, and looked up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
import xarray as xr
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.io import MemoryFile
from rasterio.windows import Window

from eo_cate.errors import EstimationError, ImageryError
from eo_cate.store import write_atomic
from eo_cate.types import FloatArray, Grid, IntArray

MAX_LOOKUP_PIXELS = 400_000_000
"""Pixels decoded at most for one look-up: a small file can unfold to any size."""

_TIE = 1e-6
"""Pixels: a point this close to a border counts as on it, so rounding in projections cannot break ties."""


def map_grid(grid: Grid, cells: pd.DataFrame, *, spacing_px: int) -> Grid:
    """The smallest raster of spacing x spacing pixels, each centred on a cell's centre, that holds all cells."""
    a, b, c, d, e, f = grid.transform
    top, left = (int(cells[axis].min()) - spacing_px / 2 for axis in ("row", "col"))
    shape = tuple(int(np.ptp(cells[axis])) // spacing_px + 1 for axis in ("row", "col"))
    corner_x, corner_y = a * left + b * top + c, d * left + e * top + f
    transform = (a * spacing_px, b * spacing_px, corner_x, d * spacing_px, e * spacing_px, corner_y)
    return Grid(grid.crs, transform, (shape[0], shape[1]))


def raster_from_cells(
    values: Mapping[str, NDArray[Any]], cells: pd.DataFrame, grid: Grid, *, spacing_px: int
) -> xr.Dataset:
    """Lay values of cells on their map.

    Parameters
    ----------
    values : mapping of str to (cell,)
        Floating-point variables.
    cells : DataFrame
        Columns row, col (pixel corners on ``grid``).

    Returns
    -------
    Dataset (y, x)
        The variables, NaN outside the cells; coordinates are the cells' centres in projected metres; attributes crs
        and transform (six affine coefficients).

    Raises
    ------
    EstimationError
        When a variable does not have one value per cell.
    """
    for name, value in values.items():
        if value.shape != (len(cells),):
            raise EstimationError(
                f"the map has {len(cells)} cells, but {name} has shape {value.shape}: give one value per cell"
            )
    target = map_grid(grid, cells, spacing_px=spacing_px)
    y, x = (((cells[axis] - cells[axis].min()) // spacing_px).to_numpy() for axis in ("row", "col"))
    layers = {}
    for name, value in values.items():
        layer = np.full(target.shape, np.nan, dtype=value.dtype)
        layer[y, x] = value
        layers[name] = (("y", "x"), layer)
    a, _, c, _, e, f = target.transform
    return xr.Dataset(
        layers,
        coords={"y": f + e * (np.arange(target.shape[0]) + 0.5), "x": c + a * (np.arange(target.shape[1]) + 0.5)},
        attrs={"crs": target.crs, "transform": target.transform},
    )


def write_cog(dataset: xr.Dataset, path: Path, *, overviews: str = "AVERAGE") -> None:
    """Write a map as a Cloud-Optimised GeoTIFF: one band per variable, described by its name, nodata NaN.

    Parameters
    ----------
    dataset : Dataset (y, x)
        As `raster_from_cells` makes it; all variables of one floating-point type. A variable's attribute ``units``
        becomes its band's unit, its other attributes that band's metadata; those of the dataset (but crs and transform)
        the file's.
    overviews : str
        How GDAL makes coarser copies; ``NEAREST`` where a band holds codes.

    Raises
    ------
    ImageryError
        When a variable is not floating point, or the coordinates are not the centres that the transform says (a
        flipped or cut map would lie in the wrong place).
    """
    layers = [dataset[name].transpose("y", "x").to_numpy() for name in dataset.data_vars]
    dtypes = {layer.dtype for layer in layers}
    if len(dtypes) != 1 or not np.issubdtype(next(iter(dtypes)), np.floating):
        raise ImageryError(
            f"{path}: a map needs variables of one floating-point type, found {sorted(map(str, dtypes))}"
        )
    height, width = layers[0].shape
    a, _, c, _, e, f = dataset.attrs["transform"]
    y, x = f + e * (np.arange(height) + 0.5), c + a * (np.arange(width) + 0.5)
    if not (
        np.allclose(dataset["y"], y, rtol=0, atol=1e-6 * abs(e))
        and np.allclose(dataset["x"], x, rtol=0, atol=1e-6 * abs(a))
    ):
        raise ImageryError(
            f"{path}: the map's y and x are not the pixel centres of its transform; was it cut or turned?"
        )
    profile = {
        "driver": "COG",
        "height": height,
        "width": width,
        "count": len(layers),
        "dtype": next(iter(dtypes)),
        "crs": dataset.attrs["crs"],
        "transform": rasterio.Affine(*dataset.attrs["transform"]),
        "nodata": np.nan,
        "compress": "DEFLATE",
        "predictor": "FLOATING_POINT",
        "overview_resampling": overviews,
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as sink:
            for band, (name, layer) in enumerate(zip(dataset.data_vars, layers, strict=True), start=1):
                sink.write(layer, band)
                sink.set_band_description(band, str(name))
                attrs = {str(k): str(v) for k, v in dataset[name].attrs.items()}
                sink.set_band_unit(band, attrs.pop("units", ""))
                sink.update_tags(band, **attrs)
            sink.update_tags(**{str(k): str(v) for k, v in dataset.attrs.items() if k not in ("crs", "transform")})
        content = memory.read()
    write_atomic(path, content)


def write_mask(cells: pd.DataFrame, grid: Grid, path: Path, *, spacing_px: int) -> None:
    """Write a GeoTIFF of one pixel per cell of the map's rectangle: 1 where a cell is, else 0."""
    ones = {"mask": np.ones(len(cells))}
    mask = raster_from_cells(ones, cells, grid, spacing_px=spacing_px)
    profile = {
        "driver": "GTiff",
        "height": mask.sizes["y"],
        "width": mask.sizes["x"],
        "count": 1,
        "dtype": "uint8",
        "crs": grid.crs,
        "transform": rasterio.Affine(*mask.attrs["transform"]),
        "compress": "deflate",
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as sink:
            sink.write((mask["mask"].to_numpy() == 1).astype(np.uint8), 1)
        content = memory.read()
    write_atomic(path, content)


def read_raster_at(path: Path, cells: pd.DataFrame, grid: Grid) -> FloatArray:
    """The first band of a GeoTIFF, on any grid, at cell centres; shape (cell,), NaN at nodata and outside.

    A centre on the border of pixels takes the one to the lower right.

    Raises
    ------
    ImageryError
        When the file is not a GeoTIFF with a coordinate system, or the area looked up is too large to decode.
    """
    try:
        # The driver is named: GDAL reads any local file through a VRT, whatever its extension.
        with rasterio.open(path, driver="GTiff") as source:
            row, col = _pixels_at(source, path, cells, grid)
            inside = (row >= 0) & (row < source.height) & (col >= 0) & (col < source.width)
            values = np.full(len(cells), np.nan)
            if inside.any():
                row, col = row[inside], col[inside]
                window = Window(col.min(), row.min(), np.ptp(col) + 1, np.ptp(row) + 1)
                if window.width * window.height > MAX_LOOKUP_PIXELS:
                    raise ImageryError(
                        f"{path}: {window.height} x {window.width} pixels lie between the cells; at most "
                        f"{MAX_LOOKUP_PIXELS:,} are read: coarsen the raster"
                    )
                found = source.read(1, window=window, masked=True)[row - row.min(), col - col.min()]
                values[inside] = found.astype(np.float64).filled(np.nan)
    except rasterio.errors.RasterioError as error:
        raise ImageryError(f"{path}: cannot be read as a GeoTIFF ({error})") from error
    return values


def _pixels_at(source: Any, path: Path, cells: pd.DataFrame, grid: Grid) -> tuple[IntArray, IntArray]:
    if source.crs is None:
        raise ImageryError(f"{path}: has no coordinate system; write one into the file (gdal_edit.py -a_srs)")
    a, b, c, d, e, f = grid.transform
    row, col = cells["row"].to_numpy(), cells["col"].to_numpy()
    to_raster = Transformer.from_crs(grid.crs, source.crs.to_wkt(), always_xy=True)
    x, y = to_raster.transform(a * col + b * row + c, d * col + e * row + f)
    a, b, c, d, e, f = tuple(~source.transform)[:6]
    x, y = np.asarray(x), np.asarray(y)
    at_col, at_row = a * x + b * y + c, d * x + e * y + f
    finite = np.isfinite(at_row) & np.isfinite(at_col)
    at_row, at_col = (np.where(finite, np.clip(v, -2, 2**53), -1) for v in (at_row, at_col))
    return np.floor(at_row + _TIE).astype(np.int64), np.floor(at_col + _TIE).astype(np.int64)
