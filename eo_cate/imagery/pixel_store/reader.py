"""Chips out of the store."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eo_cate.errors import ImageryError, StoreError
from eo_cate.imagery.pixel_store.composite import FAILED, NOT_ASKED
from eo_cate.imagery.pixel_store.layout import Manifest, manifest_path, read_description, read_manifest, shard_matches
from eo_cate.imagery.pixel_store.run import group_folder
from eo_cate.imagery.pixel_store.windows import read_windows
from eo_cate.imagery.pixel_store.zones import NO_ZONE, Shard, group_by_shard, place_in_zones
from eo_cate.store import digest
from eo_cate.types import Grid, IntArray


class PixelStoreReader:
    """Chips of one period (a `types.ChipReader`); small to pickle: paths and places.

    Parameters
    ----------
    folder, source, period : Path, str, str
        As `fetch.fetch_pixels` was given them.
    sites : GeoDataFrame
        Index site_id, points in EPSG:4326.
    size_px : int
        Side of the largest chip that will be read; its pixels must have been fetched.
    failed : str
        What a failed pixel does: ``error``, or ``missing``: it is NaN, and its site therefore incomplete.

    Attributes
    ----------
    bands, resolution_m, grid, digest
        As in `types.ChipReader`; ``grid`` is None when the sites lie in several UTM zones.
    places : DataFrame
        Index site_id; columns zone (0: none), row, col.

    Raises
    ------
    ImageryError
        When the store holds nothing of this source, or not all shards that the sites' chips touch.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        period: str,
        sites: gpd.GeoDataFrame,
        *,
        size_px: int,
        failed: Literal["error", "missing"] = "error",
    ) -> None:
        self.root, self.period, self.size_px, self.failed = Path(folder) / source, period, size_px, failed
        description = read_description(self.root)
        if description is None:
            raise ImageryError(f"{self.root}: holds no pixels yet; run eo-cate fetch")
        self._pixel_grid, self.bands = description
        self.resolution_m: float | None = self._pixel_grid.resolution
        self.places = pd.DataFrame({"zone": [], "row": [], "col": []}, dtype=np.int64, index=pd.Index([], dtype="str"))
        self._place(sites)

    def with_points(self, points: pd.DataFrame) -> PixelStoreReader:
        """A reader of the same pixels that knows these points only: index place_id, longitude and latitude in degrees.

        Raises
        ------
        ImageryError
            When a place_id occurs twice, or the points' pixels were not fetched.
        """
        reader = copy.copy(self)
        reader.places = self.places.iloc[:0]
        geometry = gpd.points_from_xy(points["longitude"], points["latitude"], crs="EPSG:4326")
        reader._place(gpd.GeoDataFrame(index=points.index, geometry=geometry))
        return reader

    def read_chips(self, site_ids: Sequence[str], size_px: int) -> NDArray[np.float32]:
        """Chips of shape (site, band, y, x), float32; NaN where there is no clear observation, and without a zone.

        Raises
        ------
        ImageryError
            When a site has no place, when pixels were not fetched (a larger chip than was asked for) or failed.
        StoreError
            When a shard's files are not those of its manifest line.
        """
        if size_px < 1:
            raise ImageryError(f"size_px must be positive, got {size_px}")
        index = self.places.index.get_indexer(pd.Index(list(map(str, site_ids)), dtype="str"))
        if (index < 0).any():
            raise ImageryError(f"{(index < 0).sum()} of {len(index)} sites have no place in the pixel store")
        places = self.places.iloc[index]
        self._check_shards(places, size_px)
        zones = places["zone"].to_numpy(np.int64)
        chips = np.full((len(index), len(self.bands), size_px, size_px), np.nan, dtype=np.float32)
        for zone in np.unique(zones[zones != NO_ZONE]).tolist():
            members = np.flatnonzero(zones == zone)
            top, left = (places[name].to_numpy(np.int64)[members] - size_px // 2 for name in ("row", "col"))
            folder = group_folder(self.root, self.period, zone)
            missing = np.zeros(len(members), dtype=np.bool_)
            for i, slabs in read_windows(folder, ("pixels",), top, left, size_px):
                chips[members[i]] = slabs["pixels"]
                missing[i] = np.isnan(slabs["pixels"]).any()
            self._check_states(folder, top[missing], left[missing], size_px)
        return chips

    def _check_states(self, folder: Path, top: IntArray, left: IntArray, size_px: int) -> None:
        """NaN is for nodata alone: pixels that nobody fetched, or that failed, are errors."""
        failed = absent = 0
        for _, slabs in read_windows(folder, ("state",), top, left, size_px):
            failed += int((slabs["state"] == FAILED).any())
            absent += int((slabs["state"] == NOT_ASKED).any())
        if absent:
            raise ImageryError(f"{absent} chips of {size_px} px hold pixels that were never fetched; run eo-cate fetch")
        if failed and self.failed == "error":
            raise ImageryError(
                f"{failed} chips of {size_px} px hold pixels whose read failed; run eo-cate fetch again, or allow them "
                "with imagery.max_failed_share"
            )

    def _check_shards(self, places: pd.DataFrame, size_px: int) -> None:
        for zone, row, col in group_by_shard(places, size_px):
            folder = group_folder(self.root, self.period, zone)
            line = _manifest(folder, _version(folder)).get((row, col))
            if line is None:
                raise ImageryError(f"chips of {size_px} px reach pixels that were never fetched; run eo-cate fetch")
            if not _checked(folder, row, col, tuple(sorted(line["files"].items()))):
                raise StoreError(
                    f"{folder}: a shard's files are not those that were stored; run eo-cate fetch to renew it"
                )

    def _place(self, sites: gpd.GeoDataFrame) -> None:
        together = pd.concat([self.places, place_in_zones(sites, self._pixel_grid)])
        if not together.index.is_unique:
            raise ImageryError(f"{together.index.duplicated().sum()} site_ids have two places")
        self.places = together
        zones = np.unique(together["zone"].to_numpy(np.int64))
        zones = zones[zones != NO_ZONE]
        self.grid: Grid | None = self._pixel_grid.zone(int(zones[0])) if len(zones) == 1 else None
        self.digest = self._digest(group_by_shard(together, self.size_px))

    def _digest(self, shards: Mapping[Shard, Any]) -> str:
        lines: list[Any] = []
        for zone, row, col in shards:
            folder = group_folder(self.root, self.period, zone)
            line = _manifest(folder, _version(folder)).get((row, col))
            if line is None:
                raise ImageryError(
                    f"period {self.period}: a chip of {self.size_px} px reaches pixels that were never fetched; run "
                    "eo-cate fetch"
                )
            lines.append([zone, row, col, line["files"]])
        places, grid = self.places, self._pixel_grid
        return digest(
            *("pixel_store", list(self.bands), [grid.resolution, grid.phase_x, grid.phase_y], lines),
            *(places.index.tolist(), places[["zone", "row", "col"]].to_numpy(np.int64)),
        )


def _version(folder: Path) -> tuple[int, int]:
    """What changes when a manifest does."""
    try:
        stat = manifest_path(folder).stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=32)
def _manifest(folder: Path, version: tuple[int, int]) -> Manifest:
    return read_manifest(folder)


@lru_cache(maxsize=4096)
def _checked(folder: Path, row: int, col: int, files: tuple[tuple[str, str], ...]) -> bool:
    """Whether the shard's files were those of its line when they were first touched."""
    return shard_matches(folder, row, col, {"files": dict(files)})
