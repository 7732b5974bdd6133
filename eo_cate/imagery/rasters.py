"""Chips as windows of local scenes on one pixel grid."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.windows import Window

from eo_cate.errors import ImageryError
from eo_cate.imagery.files import find_band, open_raster, read_window
from eo_cate.store import digest, file_digest
from eo_cate.types import BoolArray, Grid, IntArray

_TILE_PX = 1024
"""Chips that start in one tile of this size share a read: memory stays flat, whole scenes are never read."""
_FAR = 2**40
"""Row or column of a site that the projection cannot reach: off every grid, and safe to subtract from."""


class RasterReader:
    """Chips cut from scenes, each band in a file of its own or described by its name.

    Parameters
    ----------
    files : mapping of str to Path
        Band -> GeoTIFF, COG or JPEG 2000. The first file's grid is the grid of all; a band on another grid of the same
        CRS is interpolated onto it bilinearly.
    places : DataFrame, optional
        Index site_id (str), integer columns ``row`` and ``col``: the pixel CORNER nearest to the site. A chip of s px
        covers rows ``[row - s // 2, row - s // 2 + s)``, so that an even chip is centred on that corner.

    Attributes
    ----------
    bands, resolution_m, grid, digest
        As in `types.ChipReader`. ``resolution_m`` is None when the CRS is geographic.
    scene_grid : Grid
        ``grid``, which here always exists.
    places : DataFrame
        As given.

    Raises
    ------
    ImageryError
        When a file is unreadable, of another format or CRS, too large, or has no such band.
    """

    def __init__(self, files: Mapping[str, Path], places: pd.DataFrame | None = None) -> None:
        self.bands = tuple(files)
        self.paths = tuple(Path(path).resolve() for path in files.values())
        self.scene_grid, self.resolution_m = _check_files(self.bands, self.paths)
        self.grid: Grid | None = self.scene_grid
        hashes = {path: file_digest(path) for path in self.paths}
        self.contents = tuple(hashes[path] for path in self.paths)
        self.places = pd.DataFrame({"row": [], "col": []}, dtype=np.int64, index=pd.Index([], dtype="str"))
        self.digest = self._digest()
        if places is not None:
            self._place(places)

    def with_places(self, places: pd.DataFrame) -> RasterReader:
        """A reader that knows these places too: index site_id, columns row and col.

        Raises
        ------
        ImageryError
            When a site_id occurs twice.
        """
        reader = copy.copy(self)
        reader._place(places)
        return reader

    def with_points(self, points: pd.DataFrame) -> RasterReader:
        """A reader of the same pixels that knows these points only: index place_id, columns longitude and latitude.

        Coordinates are degrees (EPSG:4326); points may lie off the grid, where chips are NaN.

        Raises
        ------
        ImageryError
            When a place_id occurs twice.
        """
        frame = gpd.GeoDataFrame(
            geometry=gpd.points_from_xy(points["longitude"], points["latitude"]), index=points.index, crs="EPSG:4326"
        )
        reader = copy.copy(self)
        reader.places = self.places.iloc[:0]
        reader._place(place_sites(frame, self.scene_grid))
        return reader

    def read_chips(self, site_ids: Sequence[str], size_px: int) -> NDArray[np.float32]:
        """Chips of shape (site, band, y, x), float32; NaN off the grid and where there is no observation.

        Raises
        ------
        ImageryError
            When a site has no place or a file cannot be read.
        """
        top, left = self._corners(site_ids, size_px)
        chips = np.full((len(top), len(self.bands), size_px, size_px), np.nan, dtype=np.float32)
        rows, columns = self.scene_grid.shape
        on_grid = (top < rows) & (top + size_px > 0) & (left < columns) & (left + size_px > 0)
        for members in share_reads(top, left, size_px, on_grid):
            row0, col0 = max(int(top[members].min()), 0), max(int(left[members].min()), 0)
            row1 = min(int(top[members].max()) + size_px, rows)
            col1 = min(int(left[members].max()) + size_px, columns)
            window = Window(col0, row0, col1 - col0, row1 - row0)
            for j, pixels in enumerate(self._read_bands(window)):
                for i in members:
                    y0, x0 = max(int(top[i]), row0), max(int(left[i]), col0)
                    part = pixels[
                        y0 - row0 : int(top[i]) + size_px - row0,
                        x0 - col0 : int(left[i]) + size_px - col0,
                    ]
                    y, x = y0 - int(top[i]), x0 - int(left[i])
                    chips[i, j, y : y + part.shape[0], x : x + part.shape[1]] = part
        return chips

    def leaves_grid(self, site_ids: Sequence[str], size_px: int) -> BoolArray:
        """Whether a site's chip does not lie wholly on the grid, shape (site,)."""
        top, left = self._corners(site_ids, size_px)
        rows, columns = self.scene_grid.shape
        return np.asarray((top < 0) | (left < 0) | (top + size_px > rows) | (left + size_px > columns), dtype=np.bool_)

    def _read_bands(self, window: Window) -> Iterator[NDArray[np.float32]]:
        for band, path, content in zip(self.bands, self.paths, self.contents, strict=True):
            yield read_window(path, band, content, self.scene_grid, window)

    def _corners(self, site_ids: Sequence[str], size_px: int) -> tuple[IntArray, IntArray]:
        """First row and column of each site's chip."""
        if size_px < 1:
            raise ImageryError(f"size_px must be positive, got {size_px}")
        index = self.places.index.get_indexer(pd.Index(list(map(str, site_ids)), dtype="str"))
        if (index < 0).any():
            raise ImageryError(f"{(index < 0).sum()} of {len(index)} sites have no place on the scene's grid")
        places = self.places.iloc[index]
        half = size_px // 2
        return places["row"].to_numpy(np.int64) - half, places["col"].to_numpy(np.int64) - half

    def _place(self, places: pd.DataFrame) -> None:
        added = places[["row", "col"]].astype(np.int64)
        added.index = added.index.astype("str")
        together = pd.concat([self.places, added])
        if together.index.has_duplicates:
            raise ImageryError(f"{together.index.duplicated().sum()} site ids have more than one place")
        self.places = together
        self.digest = self._digest()

    def _digest(self) -> str:
        grid, places = self.scene_grid, self.places
        return digest(
            *("rasters", list(self.contents), list(self.bands), grid.crs, list(grid.transform), list(grid.shape)),
            *(places.index.tolist(), places["row"].to_numpy(), places["col"].to_numpy()),
        )


def place_sites(sites: gpd.GeoDataFrame, grid: Grid) -> pd.DataFrame:
    """The pixel corner nearest to each site: index site_id, int64 columns ``row`` and ``col``.

    A point (c, r) in fractional pixels goes to ``floor(c + 1/2)``, ``floor(r + 1/2)``; a millionth of a pixel is added
    so that the rounding of a projection does not move a point that lies on a pixel's centre. A site that the projection
    does not reach is placed off every grid.
    """
    transformer = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True)
    x, y = transformer.transform(sites.geometry.x.to_numpy(), sites.geometry.y.to_numpy())
    inverse = ~rasterio.Affine(*grid.transform)
    columns, rows = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
    nearest = [np.floor(np.nan_to_num(v, nan=_FAR, posinf=_FAR, neginf=-_FAR) + 0.5 + 1e-6) for v in (rows, columns)]
    row, col = (np.clip(v, -_FAR, _FAR).astype(np.int64) for v in nearest)
    return pd.DataFrame({"row": row, "col": col}, index=sites.index)


def _check_files(bands: Sequence[str], paths: Sequence[Path]) -> tuple[Grid, float | None]:
    """The grid and resolution of the first file, after every file's header was checked."""
    first: tuple[Grid, Any] | None = None
    for band, path in zip(bands, paths, strict=True):
        with open_raster(path) as source:
            find_band(source, band, path)
            if source.crs is None:
                raise ImageryError(
                    f"{path}: has no CRS, so that its pixels have no place; write it with gdal_edit -a_srs"
                )
            if first is None:
                first = grid_of(source, path), source.crs
            elif source.crs != first[1]:
                raise ImageryError(
                    f"{path}: its CRS {source.crs.to_string()[:60]} is not that of the first file, "
                    f"{first[1].to_string()[:60]}; reproject it (gdalwarp -t_srs)"
                )
    if first is None:
        raise ImageryError("no raster files were given; imagery.files maps band names to files")
    grid, crs = first
    width, height = abs(grid.transform[0]), abs(grid.transform[4])
    return grid, None if crs.is_geographic else float(np.sqrt(width * height) * crs.linear_units_factor[1])


def grid_of(source: Any, path: Path) -> Grid:
    """The pixel grid of an open file.

    Raises
    ------
    ImageryError
        When it is rotated or not north up.
    """
    a, b, c, d, e, f = tuple(source.transform)[:6]
    if not (a > 0 and e < 0 and b == 0 and d == 0):
        raise ImageryError(f"{path}: the first file's grid is rotated or not north up; rewrite it with gdalwarp")
    epsg = source.crs.to_epsg()
    crs = f"EPSG:{epsg}" if epsg else source.crs.to_wkt()
    return Grid(crs=crs, transform=(a, b, c, d, e, f), shape=(source.height, source.width))


def share_reads(top: IntArray, left: IntArray, size_px: int, on_grid: BoolArray) -> Iterator[IntArray]:
    """Chips that are read at once: those of one tile, unless that would read twice what they cover or more."""
    index = np.flatnonzero(on_grid)
    tiles = np.stack([top[index] // _TILE_PX, left[index] // _TILE_PX])
    label = np.unique(tiles, axis=1, return_inverse=True)[1].reshape(-1)
    for tile in range(label.max(initial=-1) + 1):
        members = index[label == tile]
        covered = (np.ptp(top[members]) + size_px) * (np.ptp(left[members]) + size_px)
        if covered < 2 * len(members) * size_px**2:
            yield members
        else:
            yield from np.split(members, len(members))
