"""What a run has to do: which shards, which scenes above which of their pixels, which blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from eo_cate.errors import ImageryError
from eo_cate.imagery.pixel_store.assemble import covered_pixels, needed_blocks
from eo_cate.imagery.pixel_store.blocks import OpenFiles
from eo_cate.imagery.pixel_store.composite import FAILED, NOT_ASKED
from eo_cate.imagery.pixel_store.footprints import CELL_PX, Footprints, asked_cells, cells_to_pixels
from eo_cate.imagery.pixel_store.layout import (
    Manifest,
    read_description,
    read_manifest,
    read_shard,
    shard_matches,
)
from eo_cate.imagery.pixel_store.run import Run, ShardWork, scene_assets, scene_files
from eo_cate.imagery.pixel_store.zones import (
    PixelGrid,
    Shard,
    Windows,
    crs_zone,
    find_pixel_grid,
    group_by_shard,
    place_in_zones,
    windows_mask,
)
from eo_cate.imagery.scenes import Asset, BlockSource, RasterHeader, ReadFailure, Scene
from eo_cate.types import BoolArray, IntArray


@dataclass(frozen=True)
class SceneUse:
    """A scene and the shard's pixels that it is read for, (SHARD_PX, SHARD_PX) bool."""

    scene: Scene
    pixels: BoolArray


@dataclass(frozen=True)
class ShardScenes:
    """The scenes above a shard; masks have shape (SHARD_PX, SHARD_PX).

    Parameters
    ----------
    own, others : list of SceneUse
        Scenes of the shard's own zone, and of other zones, where these lie over pixels to be computed.
    reached : bool array
        Pixels under a footprint of an own scene; filled in only where there are others.
    failed, others_failed : bool array
        Pixels under an own scene, and under another zone's, that has a file whose header could not be read.
    """

    own: list[SceneUse]
    others: list[SceneUse]
    reached: BoolArray
    failed: BoolArray
    others_failed: BoolArray


async def plan_run(
    scenes_by_period: Mapping[str, Sequence[Scene]],
    sites: gpd.GeoDataFrame,
    *,
    bands: Sequence[str],
    size_px: int,
    resolution_m: float | None,
    root: Path,
    block_source: BlockSource,
    renewed: Mapping[str, str] | None = None,
) -> Run:
    """Place the sites, look at what is stored, open the files that are needed, list their blocks.

    ``renewed``: the files' noted ETags, when every file above the sites is to be opened, and shards under those that
    have another one now are to be computed anew.
    """
    _check_bands(scenes_by_period, bands)
    files = OpenFiles()
    grid = await _pixel_grid(scenes_by_period, bands, resolution_m, root, files, block_source)
    places = place_in_zones(sites, grid)
    groups = group_by_shard(places, size_px)
    footprints = {period: Footprints(scenes, bands) for period, scenes in scenes_by_period.items()}
    run = Run(root, tuple(bands), grid, size_px, places, footprints, files, [], [], 0, 0)
    if renewed is not None:
        run = await _find_changed(run, groups, renewed, block_source)
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
    await files.open(block_source, [asset for scene in wanted for asset in scene_assets(scene, bands)])
    needs = [_needs(run, work) for work in works]
    return replace(run, works=works, needs=needs, scenes=len(used), stored=stored)


def use_scenes(run: Run, work: ShardWork, todo: BoolArray) -> ShardScenes:
    """The scenes above a shard's pixels, by zone, and the pixels that fail for want of a header."""
    index, shard = run.footprints[work.period], work.shard
    zone_grid, shard_grid = run.grid.zone(shard[0]), run.shard_grid(shard)
    over = {scene: todo & cells_to_pixels(cells) for scene, cells in index.over_cells(shard, zone_grid).items()}
    over = {scene: pixels for scene, pixels in over.items() if pixels.any()}
    headers = {scene: _first_header(run, index.scenes[scene]) for scene in over}
    own = [scene for scene in over if _in_zone(index.scenes[scene], headers[scene], shard[0])]
    others = [scene for scene in over if scene not in own]
    found = ShardScenes([], [], *(np.zeros_like(todo) for _ in range(3)))
    for scene in own:
        header = headers[scene]
        inside = np.ones_like(todo) if header is None else covered_pixels(header, shard_grid)
        if header is None or others:
            under = index.pixels([scene], shard, zone_grid) & inside
            found.reached[under] = True
            if header is None:
                found.failed[under & todo] = True
        pixels = over[scene] & inside
        if header is not None and pixels.any():
            found.own.append(SceneUse(index.scenes[scene], pixels))
    for scene in others:
        if headers[scene] is None:
            found.others_failed[over[scene] & index.pixels([scene], shard, zone_grid)] = True
        else:
            found.others.append(SceneUse(index.scenes[scene], over[scene]))
    return found


def narrow_uses(uses: Sequence[SceneUse], pixels: BoolArray) -> list[SceneUse]:
    """The scenes that are read for some of these pixels, and for no others."""
    narrowed = (SceneUse(use.scene, use.pixels & pixels) for use in uses)
    return [use for use in narrowed if use.pixels.any()]


def _first_header(run: Run, scene: Scene) -> RasterHeader | None:
    """The header of the scene's first band, None when any of its files could not be opened."""
    headers = [run.files.headers[href] for href in scene_files(scene, run.bands)]
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
    if line is None or run.has_changed(period, shard) or not shard_matches(folder, *shard[1:], line):
        return ShardWork(period, shard, windows, keep=False)
    state = read_shard(folder, *shard[1:]).state
    over = index.over_cells(shard, run.grid.zone(shard[0]))
    if line["scenes"] != index.digest(over, state != NOT_ASKED):
        return ShardWork(period, shard, windows, keep=False)
    asked = windows_mask(shard, windows, run.size_px)
    done = not (asked & (state == NOT_ASKED)).any() and not (state == FAILED).any()
    return None if done else ShardWork(period, shard, windows, keep=True)


async def _find_changed(
    run: Run, groups: Mapping[Shard, Windows], noted: Mapping[str, str], block_source: BlockSource
) -> Run:
    """Open every file above the sites, and remember those whose ETag is not the one noted."""
    above: dict[str, Asset] = {}
    for index in run.footprints.values():
        for shard, windows in groups.items():
            cells = asked_cells(windows_mask(shard, windows, run.size_px))
            over = index.over_cells(shard, run.grid.zone(shard[0]))
            scenes = [index.scenes[k] for k, hit in over.items() if (hit & cells).any()]
            above |= {a.href: a for scene in scenes for a in scene_assets(scene, run.bands)}
    await run.files.open(block_source, list(above.values()))
    unread = sum(isinstance(run.files.headers[href], ReadFailure) for href in above)
    return replace(run, changed=find_changed(run.files, noted), unread=unread)


def find_changed(files: OpenFiles, noted: Mapping[str, str]) -> frozenset[str]:
    """Open files that are another version than the one noted; where there is no ETag nothing is known."""
    return frozenset(
        href
        for href, header in files.headers.items()
        if isinstance(header, RasterHeader) and header.etag and noted.get(href, header.etag) != header.etag
    )


def _needs(run: Run, work: ShardWork) -> IntArray:
    """Numbers of the blocks that a shard is known to need before its pixels are read, sorted."""
    scenes = use_scenes(run, work, run.todo(work))
    return list_blocks(run, work.shard, [*scenes.own, *narrow_uses(scenes.others, ~scenes.reached)])


def list_blocks(run: Run, shard: Shard, uses: Sequence[SceneUse]) -> IntArray:
    """Numbers of the blocks that scenes' pixels need, sorted."""
    shard_grid = run.shard_grid(shard)
    numbers = [np.empty(0, dtype=np.int64)]
    needed: dict[tuple[Any, ...], BoolArray] = {}
    for use in uses:
        pixels = np.packbits(use.pixels).tobytes()
        for href in scene_files(use.scene, run.bands):
            header = run.files.headers[href]
            assert isinstance(header, RasterHeader)
            layout = header.grid, header.block_shape, pixels  # most files of a scene have one, often those of all dates
            if layout not in needed:
                needed[layout] = needed_blocks(header, shard_grid, use.pixels, CELL_PX)
            blocks = np.nonzero(needed[layout] & (header.block_bytes > 0))  # an absent block is nodata
            numbers.append(run.files.number(href, *blocks))
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
    await files.open(block_source, [scene.assets[band] for scene in scenes for band in bands])
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
