"""What a run has to do: which shards, which scenes above which of their pixels, which blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from eo_cate.errors import ImageryError
from eo_cate.imagery.pixel_store.assemble import covered_pixels, crop_grid, needed_blocks
from eo_cate.imagery.pixel_store.blocks import Extent, OpenFiles
from eo_cate.imagery.pixel_store.composite import FAILED, NOT_ASKED
from eo_cate.imagery.pixel_store.footprints import CELL_PX, Footprints, asked_cells, cells_to_pixels
from eo_cate.imagery.pixel_store.layout import (
    Manifest,
    read_description,
    read_manifest,
    read_shard,
    shard_matches,
)
from eo_cate.imagery.pixel_store.zones import (
    SHARD_PX,
    PixelGrid,
    Shard,
    Windows,
    crs_zone,
    find_pixel_grid,
    group_by_shard,
    northern,
    pixel_offset,
    place_in_zones,
    windows_mask,
    zone_epsg,
)
from eo_cate.imagery.scenes import Asset, BlockSource, RasterHeader, ReadFailure, Scene
from eo_cate.types import BoolArray, Grid, IntArray


@dataclass(frozen=True)
class SceneUse:
    """A scene and the shard's pixels that it is read for, (SHARD_PX, SHARD_PX) bool."""

    scene: Scene
    pixels: BoolArray


@dataclass(frozen=True)
class ShardWork:
    """A shard to be computed.

    Parameters
    ----------
    windows : first rows and first columns of the chips that touch it
    keep : bool
        Whether what is stored of it stays, and only pixels that are new or failed are computed.
    """

    period: str
    shard: Shard
    windows: Windows
    keep: bool


@dataclass(frozen=True)
class FetchPlan:
    """What a fetch will do: scenes to read, shards to compute and already stored, blocks and megabytes to fetch."""

    scenes: int
    shards: int
    shards_stored: int
    blocks: int
    megabytes: float


@dataclass(frozen=True)
class Run:
    """Everything that is known before the first pixel is fetched."""

    root: Path
    bands: tuple[str, ...]
    grid: PixelGrid
    size_px: int
    places: pd.DataFrame
    footprints: Mapping[str, Footprints]
    files: OpenFiles
    works: list[ShardWork]
    needs: list[IntArray]
    scenes: int
    stored: int

    def folder(self, period: str, zone: int) -> Path:
        """The group of a period and zone."""
        return group_folder(self.root, period, zone)

    def shard_grid(self, shard: Shard) -> Grid:
        """The grid of a shard's pixels."""
        zone, row, col = shard
        return crop_grid(self.grid.zone(zone), row * SHARD_PX, col * SHARD_PX, SHARD_PX, SHARD_PX)

    def todo(self, work: ShardWork) -> BoolArray:
        """The pixels of a shard that are to be computed."""
        asked = windows_mask(work.shard, work.windows, self.size_px)
        if not work.keep:
            return asked
        state = read_shard(self.folder(work.period, work.shard[0]), *work.shard[1:]).state
        return np.asarray((asked & (state == NOT_ASKED)) | (state == FAILED), dtype=np.bool_)

    def extent(self, k: int, href: str) -> Extent | None:
        """The part of a file that lies in a shard; None where it is interpolated, from pixels beyond the shard too."""
        header = self.files.headers[href]
        assert isinstance(header, RasterHeader)
        offset = pixel_offset(northern(header.grid), self.shard_grid(self.works[k].shard))
        if offset is None:
            return None
        return offset[0], offset[0] + SHARD_PX, offset[1], offset[1] + SHARD_PX

    def header_reasons(self, work: ShardWork) -> set[str]:
        """Why files above a shard could not be opened."""
        if not self.files.any_failed:
            return set()
        index = self.footprints[work.period]
        scenes = [index.scenes[k] for k in index.over_cells(work.shard, self.grid.zone(work.shard[0]))]
        headers = [self.files.headers.get(asset.href) for s in scenes for asset in scene_assets(s, self.bands)]
        return {header.reason for header in headers if isinstance(header, ReadFailure)}

    def summary(self) -> FetchPlan:
        """The plan in numbers."""
        numbers = np.unique(np.concatenate([*self.needs, np.empty(0, dtype=np.int64)]))
        megabytes = self.files.compressed_bytes(numbers) / 1e6
        return FetchPlan(self.scenes, len(self.works), self.stored, len(numbers), megabytes)


def group_folder(root: Path, period: str, zone: int) -> Path:
    """The group of a period and zone."""
    return root / period / str(zone_epsg(zone))


def scene_assets(scene: Scene, bands: Sequence[str]) -> list[Asset]:
    """The files of a scene that are read: its bands, then its quality band where it has one."""
    return [scene.assets[band] for band in bands] + ([scene.mask] if scene.mask else [])


async def plan_run(
    scenes_by_period: Mapping[str, Sequence[Scene]],
    sites: gpd.GeoDataFrame,
    *,
    bands: Sequence[str],
    size_px: int,
    resolution_m: float | None,
    root: Path,
    block_source: BlockSource,
) -> Run:
    """Place the sites, look at what is stored, open the files that are needed, list their blocks."""
    _check_bands(scenes_by_period, bands)
    files = OpenFiles()
    grid = await _pixel_grid(scenes_by_period, bands, resolution_m, root, files, block_source)
    places = place_in_zones(sites, grid)
    groups = group_by_shard(places, size_px)
    footprints = {period: Footprints(scenes, bands) for period, scenes in scenes_by_period.items()}
    run = Run(root, tuple(bands), grid, size_px, places, footprints, files, [], [], 0, 0)
    works, used, stored = [], set(), 0
    for period, index in footprints.items():
        manifests = {zone: read_manifest(run.folder(period, zone)) for zone in {shard[0] for shard in groups}}
        for shard, windows in groups.items():
            work = _assess(run, index, period, shard, windows, manifests[shard[0]])
            if work is None:
                stored += 1
                continue
            works.append(work)
            cells = asked_cells(run.todo(work))
            over = index.over_cells(shard, grid.zone(shard[0]))
            used |= {(period, scene) for scene, hit in over.items() if (hit & cells).any()}
    wanted = [footprints[period].scenes[scene] for period, scene in sorted(used)]
    await files.open(block_source, [asset.href for scene in wanted for asset in scene_assets(scene, bands)])
    needs = [_needs(run, work) for work in works]
    return replace(run, works=works, needs=needs, scenes=len(used), stored=stored)


def use_scenes(run: Run, work: ShardWork, todo: BoolArray) -> tuple[list[SceneUse], BoolArray, BoolArray]:
    """The scenes above a shard, its pixels that fail for want of a header, and those seen from another zone.

    Scenes of another zone are used only where no footprint of the shard's own zone reaches. A file whose header could
    not be read fails all pixels under its scene's footprint.
    """
    index, shard = run.footprints[work.period], work.shard
    zone_grid, shard_grid = run.grid.zone(shard[0]), run.shard_grid(shard)
    over = {scene: todo & cells_to_pixels(cells) for scene, cells in index.over_cells(shard, zone_grid).items()}
    over = {scene: pixels for scene, pixels in over.items() if pixels.any()}
    headers = {scene: _first_header(run, index.scenes[scene]) for scene in over}
    own = [scene for scene in over if _in_zone(index.scenes[scene], headers[scene], shard[0])]
    others = [scene for scene in over if scene not in own]
    uses, failed, covered, warped = [], *(np.zeros_like(todo) for _ in range(3))
    for scene in own:
        header = headers[scene]
        inside = np.ones_like(todo) if header is None else covered_pixels(header, shard_grid)
        if header is None or others:
            under = index.pixels([scene], shard, zone_grid) & inside
            covered |= under
            failed |= under & todo if header is None else False
        if header is not None:
            uses.append(SceneUse(index.scenes[scene], over[scene] & inside))
    for scene in others:
        pixels = over[scene] & ~covered
        if headers[scene] is None:
            failed |= pixels & index.pixels([scene], shard, zone_grid)
        else:
            uses.append(SceneUse(index.scenes[scene], pixels))
            warped |= pixels
    return [use for use in uses if use.pixels.any()], failed, warped


def _first_header(run: Run, scene: Scene) -> RasterHeader | None:
    """The header of the scene's first band, None when any of its files could not be opened."""
    headers = [run.files.headers[asset.href] for asset in scene_assets(scene, run.bands)]
    if any(isinstance(header, ReadFailure) for header in headers):
        return None
    first = headers[0]
    return first if isinstance(first, RasterHeader) else None


def _in_zone(scene: Scene, header: RasterHeader | None, zone: int) -> bool:
    """Whether a scene is in a zone; one that neither the catalogue nor a header places is taken to be."""
    if header is not None:
        return crs_zone(header.grid.crs) == zone
    return scene.crs is None or crs_zone(scene.crs) == zone


def _assess(
    run: Run, index: Footprints, period: str, shard: Shard, windows: Windows, manifest: Manifest
) -> ShardWork | None:
    """What a shard needs; None when all that is asked for is stored and no pixel of it failed."""
    line, folder = manifest.get(shard[1:]), run.folder(period, shard[0])
    if line is None or not shard_matches(folder, *shard[1:], line):
        return ShardWork(period, shard, windows, keep=False)
    state = read_shard(folder, *shard[1:]).state
    over = index.over_cells(shard, run.grid.zone(shard[0]))
    if line["scenes"] != index.digest(over, state != NOT_ASKED):
        return ShardWork(period, shard, windows, keep=False)
    asked = windows_mask(shard, windows, run.size_px)
    done = not (asked & (state == NOT_ASKED)).any() and not (state == FAILED).any()
    return None if done else ShardWork(period, shard, windows, keep=True)


def _needs(run: Run, work: ShardWork) -> IntArray:
    """Numbers of the blocks that a shard needs, sorted."""
    shard_grid = run.shard_grid(work.shard)
    numbers = [np.empty(0, dtype=np.int64)]
    needed: dict[tuple[Any, ...], BoolArray] = {}
    for use in use_scenes(run, work, run.todo(work))[0]:
        pixels = np.packbits(use.pixels).tobytes()
        for asset in scene_assets(use.scene, run.bands):
            header = run.files.headers[asset.href]
            assert isinstance(header, RasterHeader)
            layout = header.grid, header.block_shape, pixels  # most files of a scene have one, often those of all dates
            if layout not in needed:
                needed[layout] = needed_blocks(header, shard_grid, use.pixels, CELL_PX)
            blocks = np.nonzero(needed[layout] & (header.block_bytes > 0))  # an absent block is nodata
            numbers.append(run.files.number(asset.href, *blocks))
    return np.unique(np.concatenate(numbers))


async def _pixel_grid(
    scenes_by_period: Mapping[str, Sequence[Scene]],
    bands: Sequence[str],
    resolution_m: float | None,
    root: Path,
    files: OpenFiles,
    block_source: BlockSource,
) -> PixelGrid:
    """The grid that is stored, or that of the scenes' files on the first fetch."""
    stored = read_description(root)
    if stored is not None:
        grid, stored_bands = stored
        if stored_bands != tuple(bands) or resolution_m not in (None, grid.resolution):
            raise ImageryError(
                f"{root}: holds bands {list(stored_bands)} at {grid.resolution} m, but {list(bands)} at "
                f"{resolution_m} m are asked for; fetch them into another source's folder"
            )
        return grid
    scenes = [scene for period in scenes_by_period.values() for scene in period]
    await files.open(block_source, [scene.assets[band].href for scene in scenes for band in bands])
    opened = []
    for band in bands:
        headers = [files.headers[scene.assets[band].href] for scene in scenes]
        found = [header.grid for header in headers if isinstance(header, RasterHeader)]
        if not found:
            reasons = sorted({header.reason for header in headers if isinstance(header, ReadFailure)})
            raise ImageryError(f"band {band}: none of {len(headers)} files could be opened: {'; '.join(reasons[:3])}")
        opened += found
    return find_pixel_grid(opened, resolution_m)


def _check_bands(scenes_by_period: Mapping[str, Sequence[Scene]], bands: Sequence[str]) -> None:
    scenes = [scene for period in scenes_by_period.values() for scene in period]
    if not scenes:
        raise ImageryError("no scenes were found for any period; widen imagery.periods or max_cloud_cover")
    for band in bands:
        lacking = sum(band not in scene.assets for scene in scenes)
        if lacking:
            raise ImageryError(f"{lacking} scenes have no band {band!r}; imagery.bands takes the catalogue's names")
    unknown = sum(scene.mask is not None and scene.mask_kind is None for scene in scenes)
    if unknown:
        raise ImageryError(f"{unknown} scenes have a quality band that nothing says how to read")
