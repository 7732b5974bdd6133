"""Where the scenes of a simulated archive lie: Landsat's slanted scenes, Sentinel-2's tiles, each in its UTM zone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import shapely
from pyproj import Transformer
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from eo_cate.imagery.stac.areas import wrap_longitudes
from eo_cate.types import FloatArray, Grid

HEADING = np.radians(10.0)
"""Angle between the descending track and due south."""
ALONG = np.array([-np.sin(HEADING), -np.cos(HEADING)])
ACROSS = np.array([np.cos(HEADING), -np.sin(HEADING)])
_OVERLAP = 0.08
_TILE_OVERLAP = 10_980 / 10_000


@dataclass(frozen=True)
class Place:
    """Where one scene lies, whatever its date.

    Parameters
    ----------
    name : str
        Path and row, or tile.
    grid : Grid
        Of its finest bands.
    centre : (float, float)
        On the plane, metres; the middle of a slanted scene.
    half_m : float
        Half the side of a slanted scene; 0: the scene fills its grid.
    """

    name: str
    grid: Grid
    centre: tuple[float, float] = (0.0, 0.0)
    half_m: float = 0.0


@dataclass(frozen=True)
class Swath:
    """The side of a line on which a date's pixels lie, across the track: ``sign * across <= sign * edge_m``."""

    edge_m: float = np.inf
    sign: int = 1

    def holds(self, x: FloatArray, y: FloatArray) -> np.ndarray:
        """Whether places of the plane lie in it."""
        return np.asarray(self.sign * (ACROSS[0] * x + ACROSS[1] * y) <= self.sign * self.edge_m)


def plane_crs(centre: tuple[float, float]) -> str:
    """Azimuthal equidistant around a (longitude, latitude)."""
    return f"+proj=aeqd +lon_0={centre[0]} +lat_0={centre[1]} +datum=WGS84 +units=m +no_defs"


def landsat_places(centre: tuple[float, float], extent_m: float, scene_px: int) -> Iterator[Place]:
    """Slanted scenes of ``scene_px`` x 30 m that cover a square around the centre, with 8 % in common with the next.

    Each is in the UTM zone of its middle, in Landsat's way: the north zones south of the equator too (negative
    northings), edges of pixels at 15 m off the multiples of 30 m.
    """
    side = scene_px * 30.0
    area = shapely.box(-extent_m / 2, -extent_m / 2, extent_m / 2, extent_m / 2)
    step, reach = side * (1 - _OVERLAP), int(np.ceil(extent_m / side)) + 1
    from_plane = Transformer.from_crs(plane_crs(centre), "EPSG:4326", always_xy=True)
    for row, path in product(range(-reach, reach + 1), repeat=2):
        middle = step * (row * ALONG + path * ACROSS)
        corners = slanted_corners(middle, side / 2)
        if not shapely.Polygon(corners).intersects(area):
            continue
        crs = f"EPSG:326{_zone(from_plane.transform(*middle)[0]):02d}"
        x, y = Transformer.from_crs(plane_crs(centre), crs, always_xy=True).transform(*corners.T)
        west, north = np.floor((x.min() - 15) / 30) * 30 + 15, np.ceil((y.max() - 15) / 30) * 30 + 15
        shape = int(np.ceil((north - y.min()) / 30)), int(np.ceil((x.max() - west) / 30))
        name = f"{(170 - path) % 233 + 1:03d}{(59 + row) % 248 + 1:03d}"
        yield Place(name, Grid(crs, (30.0, 0.0, west, 0.0, -30.0, north), shape), (middle[0], middle[1]), side / 2)


def slanted_corners(middle: FloatArray, half: float) -> FloatArray:
    """Corners of a square along the track, shape (4, 2)."""
    return np.array([middle + half * (i * ALONG + j * ACROSS) for i, j in ((-1, -1), (-1, 1), (1, 1), (1, -1))])


def sentinel_places(centre: tuple[float, float], extent_m: float, scene_px: int) -> Iterator[Place]:
    """Upright tiles of ``scene_px`` x 10 m, 9.8 % in common with the next, of every zone that the square reaches.

    South of the equator in the south zones. Next to a zone's edge tiles of both zones lie over each other.
    """
    step = round(scene_px / _TILE_OVERLAP / 6) * 60.0
    ring = shapely.segmentize(shapely.box(*(np.array([-1, -1, 1, 1]) * extent_m / 2)), extent_m / 16).exterior
    lon, lat = Transformer.from_crs(plane_crs(centre), "EPSG:4326", always_xy=True).transform(*np.array(ring.coords).T)
    lon = centre[0] + np.mod(lon - centre[0] + 180, 360) - 180  # of one piece at the antimeridian
    area = Polygon(np.column_stack([lon, lat]))
    hemisphere = "6" if centre[1] >= 0 else "7"
    for low in np.arange(np.floor(lon.min() / 6) * 6, lon.max(), 6):
        part = area.intersection(shapely.box(low, -90, low + 6, 90))
        if part.area == 0:
            continue
        crs = f"EPSG:32{hemisphere}{_zone(low + 3):02d}"
        to_utm = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
        zone = _project(part, to_utm)
        west, south, east, north = (np.floor(np.array(zone.bounds) / step)).astype(int)
        for i, j in product(range(west, east + 1), range(south, north + 1)):
            core = shapely.box(i * step, j * step, (i + 1) * step, (j + 1) * step)
            if core.intersection(zone).area > 0:
                grid = Grid(crs, (10.0, 0.0, i * step, 0.0, -10.0, (j + 1) * step), (scene_px, scene_px))
                yield Place(f"{crs[-2:]}{'N' if hemisphere == '6' else 'S'}{i:03d}{j:04d}", grid)


def footprint(place: Place, swath: Swath, centre: tuple[float, float]) -> BaseGeometry | None:
    """The true outline of a scene's pixels in EPSG:4326, cut at the antimeridian; None: it has none on this date."""
    if place.half_m:
        outline: BaseGeometry = shapely.Polygon(slanted_corners(np.array(place.centre), place.half_m))
    else:
        a, _, west, _, e, north = place.grid.transform
        rows, columns = place.grid.shape
        box = shapely.segmentize(shapely.box(west, north + rows * e, west + columns * a, north), columns * a / 8)
        to_plane = Transformer.from_crs(place.grid.crs, plane_crs(centre), always_xy=True)
        outline = _project(box, to_plane)
    if np.isfinite(swath.edge_m):
        far = 4e7
        edge, outer = swath.edge_m * ACROSS, swath.edge_m * ACROSS - swath.sign * far * ACROSS
        outline &= shapely.Polygon([edge + far * ALONG, edge - far * ALONG, outer - far * ALONG, outer + far * ALONG])
    if outline.area == 0:
        return None
    outline = shapely.segmentize(outline, max(outline.length / 32, 1.0))
    to_degrees = Transformer.from_crs(plane_crs(centre), "EPSG:4326", always_xy=True)

    def unwrapped(xy: FloatArray) -> FloatArray:
        lon, lat = to_degrees.transform(*xy.T)
        return np.column_stack([centre[0] + np.mod(lon - centre[0] + 180, 360) - 180, lat])

    return wrap_longitudes(shapely.transform(outline, unwrapped))


def _project(geometry: BaseGeometry, transformer: Transformer) -> BaseGeometry:
    return shapely.transform(geometry, lambda xy: np.column_stack(transformer.transform(*xy.T)))


def slc_is_off(platform: str, day: dt.date) -> bool:
    """Landsat 7 after its scan line corrector failed."""
    return platform == "landsat-7" and day > dt.date(2003, 5, 31)


def _zone(lon: float) -> int:
    return int(np.floor((lon + 180) / 6)) % 60 + 1
