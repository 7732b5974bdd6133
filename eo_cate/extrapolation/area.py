"""The region to extrapolate to: polygons that are what they say, and equal-area cells over them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS

from eo_cate.errors import ImageryError
from eo_cate.extrapolation.cells import cell_lonlat, number_cells
from eo_cate.types import FloatArray, Grid, IntArray

_MAGIC = {b"SQLite format 3\x00": "GeoPackage", b"\x00\x00\x27\x0a": "shapefile", b"PAR1": "GeoParquet"}
_ROW_BLOCK = 2**20
"""Candidate centres tested against one polygon at a time."""
MAX_CELLS = 2_000_000


@dataclass(frozen=True)
class RegionCells:
    """Cells of equal area over the polygons of a region.

    Parameters
    ----------
    cells : DataFrame
        Index cell_000001, ..., in row-major order; columns row, col (whole numbers on ``grid``, where the CENTRES lie),
        longitude, latitude (EPSG:4326, degrees) and region (the polygon's name).
    grid : Grid
        Lambert azimuthal equal-area, centred on the region; corner (row, col) of it is the centre of that cell.
    resolution_m : float
        Side of a cell in metres.
    """

    cells: pd.DataFrame
    grid: Grid
    resolution_m: float


def read_region(path: Path, *, id_column: str = "id") -> gpd.GeoDataFrame:
    """Polygons of a GeoPackage, shapefile, GeoJSON or GeoParquet file, indexed by their names (str).

    Parameters
    ----------
    path : Path
    id_column : str
        Names of the polygons; may be absent when there is a single one, which is then called ``region``.

    Raises
    ------
    ImageryError
        When the file is unreadable or of another format, has no CRS, no names, repeated names, or geometries that are
        not polygons, are empty or cross themselves.
    """
    path = Path(path)
    table = _read_table(path)
    if table.crs is None:
        raise ImageryError(f"{path}: has no CRS, so its polygons have no place; set one (QGIS: Layer > Set CRS)")
    wrong = int((~table.geometry.geom_type.isin(["Polygon", "MultiPolygon"]) | table.geometry.is_empty).sum())
    if not len(table) or wrong:
        raise ImageryError(f"{path}: {wrong} of {len(table)} rows are not polygons; give one polygon per region")
    crossing = int((~table.geometry.is_valid).sum())
    if crossing:
        raise ImageryError(
            f"{path}: {crossing} of {len(table)} polygons cross themselves; repair them (QGIS: Fix geometries, or "
            "geopandas: table.geometry = table.geometry.make_valid())"
        )
    return gpd.GeoDataFrame(geometry=table.geometry.to_numpy(), index=_names(table, path, id_column), crs=table.crs)


def _read_table(path: Path) -> gpd.GeoDataFrame:
    """The file's rows; its kind is told by its first bytes, so that a VRT cannot point to other files."""
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise ImageryError(f"{path}: the region cannot be read ({error.strerror})") from error
    kind = next((k for magic, k in _MAGIC.items() if head.startswith(magic)), None)
    if kind is None and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        kind = "GeoJSON"
    if kind is None:
        raise ImageryError(f"{path}: neither GeoPackage, shapefile (.shp), GeoJSON nor GeoParquet by its first bytes")
    try:
        return gpd.read_parquet(path) if kind == "GeoParquet" else gpd.read_file(path)
    except Exception as error:  # every driver has errors of its own
        raise ImageryError(f"{path}: cannot be read as {kind} ({error})") from error


def _names(table: gpd.GeoDataFrame, path: Path, id_column: str) -> pd.Index[Any]:
    if id_column not in table.columns:
        if len(table) == 1:
            return pd.Index(["region"], name="region")
        columns = [str(c) for c in table.columns if c != table.geometry.name]
        raise ImageryError(
            f"{path}: has no column {id_column!r} with the regions' names; set extrapolate.id to one of {columns}"
        )
    missing = int(table[id_column].isna().sum())
    names: pd.Index[Any] = pd.Index(table[id_column].astype(str), name="region")
    repeated = int(names.duplicated(keep=False).sum())
    if missing or repeated:
        raise ImageryError(
            f"{path}: column {id_column!r} has {missing} empty and {repeated} repeated names among {len(table)} "
            "polygons; give each its own (or dissolve those of one region)"
        )
    return names


def lay_cells(region: gpd.GeoDataFrame, *, resolution_m: float, max_cells: int = MAX_CELLS) -> RegionCells:
    """Cells whose centres lie in the polygons; a centre in two polygons belongs to the first.

    Parameters
    ----------
    region : GeoDataFrame
        As `read_region` gives it.
    resolution_m : float
        Side of a cell.
    max_cells : int

    Raises
    ------
    ImageryError
        When there would be more cells than that, or no centre lies in a polygon.
    """
    crs = equal_area_crs(region)
    polygons = region.geometry.to_crs(crs)
    expected = float(polygons.area.sum()) / resolution_m**2
    if expected > max_cells:
        coarser = math.ceil(math.sqrt(float(polygons.area.sum()) / max_cells))
        raise ImageryError(
            f"{expected:,.0f} cells of {resolution_m:g} m lie in the region, more than extrapolate.max_cells "
            f"({max_cells:,}); from {coarser:,} m on it fits, or raise max_cells"
        )
    left, bottom, right, top = (float(v) for v in polygons.total_bounds)
    grid = Grid(
        crs.to_wkt(),
        (resolution_m, 0.0, left + resolution_m / 2, 0.0, -resolution_m, top - resolution_m / 2),
        (max(1, math.ceil((top - bottom) / resolution_m)), max(1, math.ceil((right - left) / resolution_m))),
    )
    row, col, owner = _inside(polygons, grid)
    if not len(row):
        raise ImageryError(
            f"no cell of {resolution_m:g} m has its centre in the region's {len(region)} polygon(s): choose a finer "
            "extrapolate.resolution_m"
        )
    cells = pd.DataFrame({"row": row, "col": col})
    lonlat = cell_lonlat(cells, grid)
    cells = cells.assign(longitude=lonlat[:, 0], latitude=lonlat[:, 1], region=region.index.to_numpy()[owner])
    return RegionCells(number_cells(cells), grid, resolution_m)


def equal_area_crs(region: gpd.GeoDataFrame) -> CRS:
    """Lambert azimuthal equal-area around the middle of the region's bounds, in metres."""
    west, south, east, north = (float(v) for v in region.to_crs("EPSG:4326").total_bounds)
    lon, lat = round((west + east) / 2, 4), round((south + north) / 2, 4)
    return CRS.from_proj4(f"+proj=laea +lat_0={lat} +lon_0={lon} +datum=WGS84 +units=m +no_defs")


def _inside(polygons: gpd.GeoSeries, grid: Grid) -> tuple[IntArray, IntArray, IntArray]:
    """Row, column and polygon of every centre inside, in row-major order."""
    a, _, c, _, e, f = grid.transform
    width = grid.shape[1]
    found, owners = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for number, polygon in enumerate(polygons):
        shapely.prepare(polygon)
        west, south, east, north = polygon.bounds
        cols = np.arange(max(0, math.ceil((west - c) / a)), min(width - 1, math.floor((east - c) / a)) + 1)
        rows = np.arange(max(0, math.ceil((north - f) / e)), min(grid.shape[0] - 1, math.floor((south - f) / e)) + 1)
        step = max(1, _ROW_BLOCK // max(1, len(cols)))
        for start in range(0, len(rows), step):
            y, x = np.meshgrid(rows[start : start + step], cols, indexing="ij")
            within = shapely.contains_xy(polygon, c + a * x, f + e * y)
            found.append((y[within] * width + x[within]).astype(np.int64))
            owners.append(np.full(int(within.sum()), number, dtype=np.int64))
    place, first = np.unique(np.concatenate(found), return_index=True)
    return place // width, place % width, np.concatenate(owners)[first]


def find_polygons(places: gpd.GeoDataFrame, polygons: gpd.GeoDataFrame) -> pd.Series[Any]:
    """Name of the polygon that each place lies in (the first of several), NaN outside all; indexed as the places."""
    joined = gpd.sjoin(places[["geometry"]], polygons.to_crs(places.crs), how="left", predicate="intersects")
    owner: pd.Series[Any] = joined[~joined.index.duplicated()][joined.columns[-1]]
    return owner.reindex(places.index)


def tile_blocks(cells: pd.DataFrame, *, num_tiles: int = 6) -> IntArray:
    """Spatial blocks of cells (n,): tiles of a square lattice with that many along the longer side of their bounds."""
    row, col = (cells[axis].to_numpy(np.int64) - int(cells[axis].min()) for axis in ("row", "col"))
    side = max(1.0, (max(int(row.max()), int(col.max())) + 1) / num_tiles)
    tile: FloatArray = np.floor(row / side) * (num_tiles + 1) + np.floor(col / side)
    return tile.astype(np.int64)
