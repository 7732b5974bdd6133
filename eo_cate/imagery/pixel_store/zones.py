"""UTM zones as pixel grids that never move: one grid per zone number, both hemispheres, aligned with the sensor's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import geopandas as gpd
import numpy as np
import pandas as pd
from pyproj import CRS
from pyproj.exceptions import CRSError

from eo_cate.errors import ImageryError
from eo_cate.imagery.rasters import place_sites
from eo_cate.types import BoolArray, Grid, IntArray

SHARD_PX = 1024
NO_ZONE = 0
"""Zone of a site beyond 84 degrees north or south."""

_SOUTHERN_SHIFT = 10_000_000.0
"""False northing of the southern zones: their coordinates less this are those of the northern zone, exactly."""
_EAST_M, _NORTH_M, _SOUTH_M = 1_000_000.0, 9_400_000.0, -9_400_000.0
_MAX_LATITUDE = 84.0
_SAME_PX = 1e-6


@dataclass(frozen=True)
class PixelGrid:
    """Where a sensor's pixels lie in every UTM zone: side of a pixel and coordinates of the edges modulo it, metres.

    The grid of a zone uses the northern CRS (EPSG:326zz), with negative northings south of the equator, as Landsat's
    own files do: a chip over the equator is one slice.
    """

    resolution: float
    phase_x: float
    phase_y: float

    def zone(self, zone: int) -> Grid:
        """The grid of the whole zone, a whole number of shards, so that nothing moves when sites are added."""
        r = self.resolution
        west = self.phase_x + r * math.floor((0.0 - self.phase_x) / r)
        north = self.phase_y + r * math.ceil((_NORTH_M - self.phase_y) / r)
        rows, columns = (SHARD_PX * math.ceil(extent / (r * SHARD_PX)) for extent in (north - _SOUTH_M, _EAST_M - west))
        return Grid(crs=f"EPSG:{zone_epsg(zone)}", transform=(r, 0.0, west, 0.0, -r, north), shape=(rows, columns))


def zone_epsg(zone: int) -> int:
    """EPSG code of the northern CRS of a zone."""
    return 32600 + zone


@lru_cache(maxsize=512)
def _utm(crs: str) -> tuple[int, bool] | None:
    """Zone number and whether southern; None for another CRS."""
    try:
        epsg = CRS.from_user_input(crs).to_epsg() or 0
    except CRSError:
        return None
    hemisphere, zone = divmod(epsg, 100)
    return (zone, hemisphere == 327) if hemisphere in (326, 327) and 1 <= zone <= 60 else None


def crs_zone(crs: str | None) -> int | None:
    """UTM zone of a CRS, None when it is absent or another."""
    utm = _utm(crs) if crs else None
    return utm[0] if utm else None


def northern(grid: Grid) -> Grid:
    """The same pixels in the northern CRS of their zone; a grid that is not UTM is returned as it is."""
    utm = _utm(grid.crs)
    if utm is None:
        return grid
    a, b, c, d, e, f = grid.transform
    return replace(
        grid, crs=f"EPSG:{zone_epsg(utm[0])}", transform=(a, b, c, d, e, f - _SOUTHERN_SHIFT if utm[1] else f)
    )


def find_pixel_grid(grids: Iterable[Grid], resolution_m: float | None) -> PixelGrid:
    """The alignment most of the sensor's own grids have at ``resolution_m`` (None: the finest of them).

    Raises
    ------
    ImageryError
        When no grid is in a UTM zone and no resolution was given.
    """
    utm = [northern(grid) for grid in grids if _utm(grid.crs)]
    if resolution_m is None:
        if not utm:
            raise ImageryError("no scene is in a UTM zone, so that imagery.resolution_m must be given")
        resolution_m = min(grid.transform[0] for grid in utm)
    r = float(resolution_m)
    phases = Counter(
        (_modulo(grid.transform[2], r), _modulo(grid.transform[5], r))
        for grid in utm
        if math.isclose(grid.transform[0], r, rel_tol=1e-9)
    )
    phase = min(phases, key=lambda p: (-phases[p], p), default=(0.0, 0.0))
    return PixelGrid(r, *phase)


def _modulo(value: float, step: float) -> float:
    rest = round(value % step, 6)
    return 0.0 if math.isclose(rest, step, abs_tol=1e-6) else rest


def pixel_offset(grid: Grid, target: Grid) -> tuple[int, int] | None:
    """(row, column) of ``target``'s first pixel in ``grid`` when both have the same pixels, else None."""
    if grid.crs != target.crs or any(
        not math.isclose(grid.transform[k], target.transform[k], rel_tol=1e-9) for k in (0, 4)
    ):
        return None
    column = (target.transform[2] - grid.transform[2]) / grid.transform[0]
    row = (target.transform[5] - grid.transform[5]) / grid.transform[4]
    if abs(column - round(column)) > _SAME_PX or abs(row - round(row)) > _SAME_PX:
        return None
    return round(row), round(column)


def find_zones(longitude: np.ndarray, latitude: np.ndarray) -> IntArray:
    """UTM zone number of points, `NO_ZONE` beyond 84 degrees north or south or where a coordinate is missing."""
    known = np.isfinite(longitude) & np.isfinite(latitude) & (np.abs(latitude) <= _MAX_LATITUDE)
    zones = np.floor((np.nan_to_num(longitude) + 180.0) / 6.0).astype(np.int64) % 60 + 1
    return np.where(known, zones, NO_ZONE)


def place_in_zones(sites: gpd.GeoDataFrame, grid: PixelGrid) -> pd.DataFrame:
    """Zone, and pixel corner nearest to each site in it: index site_id, int64 columns ``zone``, ``row``, ``col``."""
    zones = find_zones(sites.geometry.x.to_numpy(), sites.geometry.y.to_numpy())
    places = pd.DataFrame({"zone": zones, "row": 0, "col": 0}, index=sites.index.astype("str"), dtype=np.int64)
    for zone in np.unique(zones[zones != NO_ZONE]):
        members = zones == zone
        placed = place_sites(gpd.GeoDataFrame(sites.loc[members]), grid.zone(int(zone)))
        places.loc[members, ["row", "col"]] = placed[["row", "col"]].to_numpy()
    return places


Shard = tuple[int, int, int]
"""Zone, and row and column of the shard in the zone's grid."""
Windows = tuple[IntArray, IntArray]
"""First rows and first columns of chips."""


def group_by_shard(places: pd.DataFrame, size_px: int) -> dict[Shard, Windows]:
    """The distinct chips of ``size_px`` that touch each shard, in the order of a Hilbert curve through each zone."""
    half = size_px // 2
    inside = places.loc[places["zone"] != NO_ZONE, ["zone", "row", "col"]].to_numpy(np.int64)
    touching: dict[Shard, list[tuple[int, int]]] = {}
    for zone, row, col in np.unique(inside, axis=0).tolist():
        top, left = row - half, col - half
        for i in range(top // SHARD_PX, (top + size_px - 1) // SHARD_PX + 1):
            for j in range(left // SHARD_PX, (left + size_px - 1) // SHARD_PX + 1):
                touching.setdefault((zone, i, j), []).append((top, left))
    ordered = sorted(touching, key=hilbert_order)
    corners: Mapping[Shard, IntArray] = {shard: np.array(touching[shard], dtype=np.int64) for shard in ordered}
    return {shard: (corners[shard][:, 0], corners[shard][:, 1]) for shard in ordered}


def windows_mask(shard: Shard, windows: Windows, size_px: int) -> BoolArray:
    """The shard's pixels that lie in any of the windows, shape (SHARD_PX, SHARD_PX)."""
    mask = np.zeros((SHARD_PX, SHARD_PX), dtype=np.bool_)
    for top, left in zip(windows[0] - shard[1] * SHARD_PX, windows[1] - shard[2] * SHARD_PX, strict=True):
        mask[max(top, 0) : max(top + size_px, 0), max(left, 0) : max(left + size_px, 0)] = True
    return mask


def hilbert_order(shard: Shard) -> tuple[int, int]:
    """Sort key: zone, then the place along a Hilbert curve, on which neighbours are shards that share blocks."""
    zone, y, x = shard
    distance, side = 0, 1 << 15
    while side:
        right, lower = int(bool(x & side)), int(bool(y & side))
        distance += side * side * ((3 * right) ^ lower)
        if not lower:
            if right:
                x, y = (side - 1) ^ (x & (side - 1)), (side - 1) ^ (y & (side - 1))
            x, y = y, x
        x, y, side = x & (side - 1), y & (side - 1), side >> 1
    return zone, distance
