"""Where to search: whole-degree cells, so that no catalogue learns where a site is, and chips to filter by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import shapely
from shapely import affinity
from shapely.geometry.base import BaseGeometry

from eo_cate.errors import ImageryError
from eo_cate.imagery.scenes import Scene
from eo_cate.types import FloatArray

Cell = tuple[int, int]
"""South-west corner of a whole-degree cell: (longitude in -180..179, latitude in -90..89)."""
Rectangle = tuple[int, int, int, int]
"""West, south, east, north in whole degrees; never over the antimeridian."""

_METRES_PER_DEGREE = 110_500.0
"""Less than a degree of latitude or of the equator anywhere on the ellipsoid: bounds come out a little too wide."""


def chip_bounds(points: FloatArray, size_m: float) -> FloatArray:
    """West, south, east, north of boxes that hold a square chip of any orientation, shape (point, 4), degrees.

    West may be below -180 and east above 180. A box that reaches a pole has all longitudes.

    Parameters
    ----------
    points : (point, 2)
        Longitude and latitude of the centres.
    size_m : float
        Side of a chip.

    Raises
    ------
    ImageryError
        When a point is not on the globe.
    """
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    lon, lat = points[:, 0], points[:, 1]
    wrong = int((~((np.abs(lon) <= 180) & (np.abs(lat) <= 90))).sum())
    if wrong:
        raise ImageryError(f"{wrong} of {len(points)} places are not longitude and latitude in degrees")
    reach = size_m / np.sqrt(2) / _METRES_PER_DEGREE
    south, north = lat - reach, lat + reach
    widest = np.maximum(np.abs(south), np.abs(north))
    polar = widest >= 89.9
    across = np.where(polar, 180.0, reach / np.cos(np.radians(np.where(polar, 0.0, widest))))
    centre = np.where(polar, 0.0, lon)
    return np.column_stack([centre - across, np.maximum(south, -90), centre + across, np.minimum(north, 90)])


def degree_cells(points: FloatArray, size_m: float) -> frozenset[Cell]:
    """The whole-degree cells that the chips touch."""
    cells: set[Cell] = set()
    for west, south, east, north in np.floor(chip_bounds(points, size_m)).astype(np.int64).tolist():
        for lat in range(max(south, -90), min(north, 89) + 1):
            cells.update(((lon + 180) % 360 - 180, lat) for lon in range(west, min(east, west + 359) + 1))
    return frozenset(cells)


def merge_cells(cells: Iterable[Cell]) -> tuple[Rectangle, ...]:
    """Disjoint rectangles that cover the cells and nothing else; adjacent cells share one where they can."""
    runs: dict[int, list[tuple[int, int]]] = {}
    for lon, lat in sorted(set(cells), key=lambda cell: (cell[1], cell[0])):
        row = runs.setdefault(lat, [])
        if row and row[-1][1] == lon:
            row[-1] = (row[-1][0], lon + 1)
        else:
            row.append((lon, lon + 1))
    growing: dict[tuple[int, int], tuple[int, int]] = {}
    done: list[Rectangle] = []
    for lat in sorted(runs):
        kept = {run: growing[run] for run in runs[lat] if run in growing and growing[run][1] == lat}
        done += [(run[0], low, run[1], high) for run, (low, high) in growing.items() if run not in kept]
        growing = {run: (kept[run][0] if run in kept else lat, lat + 1) for run in runs[lat]}
    done += [(run[0], low, run[1], high) for run, (low, high) in growing.items()]
    return tuple(sorted(done))


def cells_area(cells: Iterable[Cell]) -> BaseGeometry:
    """The cells as one geometry in EPSG:4326."""
    return shapely.union_all([shapely.box(*rectangle) for rectangle in merge_cells(cells)])


def wrap_longitudes(geometry: BaseGeometry) -> BaseGeometry:
    """The geometry with all longitudes in [-180, 180], cut in two at the antimeridian."""
    west, south, east, north = geometry.bounds
    if west >= -180 and east <= 180:
        return geometry
    parts = []
    for turn in (-360, 0, 360):
        part = shapely.intersection(geometry, shapely.box(turn - 180, south - 1, turn + 180, north + 1))
        if part.area > 0:
            parts.append(affinity.translate(part, xoff=-turn))
    return shapely.union_all(parts)


def keep_touching(scenes: Sequence[Scene], points: FloatArray, size_m: float) -> tuple[Scene, ...]:
    """The scenes whose footprint touches a chip, in their order."""
    boxes = [wrap_longitudes(shapely.box(*bounds)) for bounds in chip_bounds(points, size_m)]
    tree = shapely.STRtree(boxes)
    footprints = np.array([scene.footprint for scene in scenes], dtype=object)
    touched = np.unique(tree.query(footprints, predicate="intersects")[0])
    return tuple(scenes[i] for i in touched)
