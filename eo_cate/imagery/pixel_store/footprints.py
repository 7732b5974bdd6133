"""Which scenes lie over which cells and pixels of a shard, by the footprints that the catalogue gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.features import rasterize
from shapely import affinity

from eo_cate.imagery.pixel_store.zones import SHARD_PX, Shard
from eo_cate.imagery.scenes import Scene
from eo_cate.store import digest
from eo_cate.types import BoolArray, FloatArray, Grid, IntArray

CELL_PX = 64
CELLS = SHARD_PX // CELL_PX
_REMEMBERED_SHARDS = 1024
_TURNS = (-360.0, 0.0, 360.0)
_REACH_DEGREES = 60.0
"""A footprint farther than this from a zone's middle has no place in its projection."""
_DENSE_DEGREES = 0.25
"""Longest edge of a footprint that is taken as straight in the zone's projection."""


class Footprints:
    """The footprints of a period's scenes, indexed.

    A scene is used in a cell of 64 px when its footprint meets the cell: a pixel's scenes never depend on which other
    pixels are asked for.
    """

    def __init__(self, scenes: Sequence[Scene], bands: Sequence[str]) -> None:
        self.scenes = tuple(sorted(scenes, key=lambda scene: (scene.acquired, scene.scene_id)))
        self.shapes = shapely.make_valid(np.array([scene.footprint for scene in self.scenes], dtype=object))
        self.digests = [_scene_digest(scene, bands) for scene in self.scenes]
        self._tree = shapely.STRtree(self.shapes)
        self._over: dict[tuple[Shard, Grid], Mapping[int, BoolArray]] = {}

    def over_cells(self, shard: Shard, grid: Grid) -> Mapping[int, BoolArray]:
        """Scene -> the shard's cells that its footprint meets, shape (CELLS, CELLS); remembered for the last shards."""
        key = shard, grid
        if key not in self._over:
            if len(self._over) >= _REMEMBERED_SHARDS:
                del self._over[next(iter(self._over))]
            self._over[key] = self._find_over_cells(shard, grid)
        return self._over[key]

    def _find_over_cells(self, shard: Shard, grid: Grid) -> dict[int, BoolArray]:
        rows, columns = np.meshgrid(np.arange(CELLS + 1), np.arange(CELLS + 1), indexing="ij")
        longitude, latitude = to_degrees(
            grid, shard[2] * SHARD_PX + columns * CELL_PX, shard[1] * SHARD_PX + rows * CELL_PX
        )
        corners = np.stack([longitude, latitude], axis=-1)
        rings = np.stack([corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1]], axis=2)
        rings = rings.reshape(-1, 4, 2)
        cell, scene = self.over_rings(rings)
        found, which = np.unique(scene, return_inverse=True)
        hits = np.zeros((len(found), CELLS * CELLS), dtype=np.bool_)
        hits[which, cell] = True
        return dict(zip(found.tolist(), hits.reshape(-1, CELLS, CELLS), strict=True))

    def over_rings(self, rings: FloatArray) -> tuple[IntArray, IntArray]:
        """Pairs (ring, scene) that meet; rings of shape (n, 4, 2) in degrees, perhaps beyond +-180."""
        usable = np.isfinite(rings).all(axis=(1, 2))
        pairs = [np.empty((2, 0), dtype=np.int64)]
        for shift in _TURNS:  # footprints lie within +-180 degrees; a zone at the antimeridian does not
            moved = rings + np.array([shift, 0.0])
            near = np.flatnonzero(usable & (moved[..., 0].max(axis=1) >= -180) & (moved[..., 0].min(axis=1) <= 180))
            ring, scene = self._tree.query(shapely.polygons(moved[near]), predicate="intersects")
            pairs.append(np.stack([near[ring], scene]))
        found = np.unique(np.concatenate(pairs, axis=1), axis=1)
        return found[0], found[1]

    def digest(self, hits: Mapping[int, BoolArray], mask: BoolArray) -> str:
        """sha256 of the scenes that lie over a mask's cells."""
        cells = asked_cells(mask)
        return digest(*(self.digests[scene] for scene, over in hits.items() if (over & cells).any()))

    def pixels(self, scenes: Sequence[int], shard: Shard, grid: Grid) -> BoolArray:
        """The shard's pixels whose centre lies in any of these footprints, shape (SHARD_PX, SHARD_PX)."""
        middle, shapes = central_meridian(grid), []
        project: Any = transformer("EPSG:4326", grid.crs).transform
        for scene in scenes:
            dense = shapely.segmentize(self.shapes[scene], _DENSE_DEGREES)
            for shift in _TURNS:
                shape = affinity.translate(dense, shift)
                if shape.bounds[2] > middle - _REACH_DEGREES and shape.bounds[0] < middle + _REACH_DEGREES:
                    shapes.append(shapely.transform(shape, project, interleaved=False))
        if not shapes:
            return np.zeros((SHARD_PX, SHARD_PX), dtype=np.bool_)
        a, b, c, d, e, f = grid.transform
        transform = rasterio.Affine(a, b, c + a * shard[2] * SHARD_PX, d, e, f + e * shard[1] * SHARD_PX)
        return np.asarray(rasterize(shapes, (SHARD_PX, SHARD_PX), transform=transform, dtype="uint8")).astype(np.bool_)


def asked_cells(mask: BoolArray) -> BoolArray:
    """Cells with any pixel of a mask."""
    return np.asarray(mask.reshape(CELLS, CELL_PX, CELLS, CELL_PX).any(axis=(1, 3)))


def cells_to_pixels(cells: BoolArray) -> BoolArray:
    """The mask of whole cells."""
    return np.asarray(cells.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1))


def to_degrees(
    grid: Grid, columns: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude, continuous around the zone's central meridian (beyond +-180), and latitude of pixel corners."""
    a, _, c, _, e, f = grid.transform
    longitude, latitude = transformer(grid.crs, "EPSG:4326").transform(c + a * columns, f + e * rows)
    middle = central_meridian(grid)
    return middle + (longitude - middle + 180.0) % 360.0 - 180.0, latitude


@lru_cache(maxsize=256)
def transformer(source: str, target: str) -> Transformer:
    """Coordinates from one CRS to another, x before y."""
    return Transformer.from_crs(source, target, always_xy=True)


def central_meridian(grid: Grid) -> float:
    """Longitude of the middle of a zone's grid."""
    return 6.0 * int(grid.crs[-2:]) - 183.0


def _scene_digest(scene: Scene, bands: Sequence[str]) -> str:
    assets = [scene.assets[band] for band in bands] + ([scene.mask] if scene.mask else [])
    files = [[a.href, a.scale, a.offset, a.nodata, *([a.band] if a.band > 1 else [])] for a in assets]
    return digest(scene.scene_id, scene.acquired.isoformat(), files, scene.mask_kind, scene.crs)
