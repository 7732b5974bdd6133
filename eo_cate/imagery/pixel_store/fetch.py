"""From frozen scenes to composites in the store: one shard after the other, the next one's blocks fetched meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import geopandas as gpd
import numpy as np
import pandas as pd
from tqdm import tqdm

from eo_cate.errors import ImageryError
from eo_cate.imagery.pixel_store.assemble import crop_grid, read_tile
from eo_cate.imagery.pixel_store.blocks import BlockCache, Part
from eo_cate.imagery.pixel_store.composite import (
    FAILED,
    NODATA,
    NOT_ASKED,
    VALID,
    Composite,
    Observation,
    empty_composite,
    reduce_observations,
)
from eo_cate.imagery.pixel_store.layout import (
    append_line,
    compact_manifest,
    create_group,
    lock_store,
    read_shard,
    write_description,
    write_shard,
)
from eo_cate.imagery.pixel_store.plan import (
    FetchPlan,
    Run,
    SceneUse,
    ShardWork,
    plan_run,
    scene_assets,
    use_scenes,
)
from eo_cate.imagery.pixel_store.states import describe_sites
from eo_cate.imagery.pixel_store.zones import SHARD_PX
from eo_cate.imagery.scenes import BlockSource, RasterHeader, ReadFailure, Scene
from eo_cate.imagery.stac.masks import clear_pixels
from eo_cate.store import digest
from eo_cate.types import BoolArray, Grid

TILE_PX = 256
CACHE_BYTES = 2**30
T = TypeVar("T")
ScenesByPeriod = Mapping[str, Sequence[Scene]]


@dataclass(frozen=True)
class FetchResult:
    """What a fetch did.

    Parameters
    ----------
    sites : DataFrame
        One row per site and period, as `states.describe_sites` gives it.
    plan : FetchPlan
        What was to be done.
    blocks_fetched, bytes_fetched, blocks_evicted : int
        Blocks asked of the source, their compressed bytes, and blocks dropped early for want of memory.
    failures : mapping of str to int
        Reason -> number of blocks that could not be read.
    etags : mapping of str to str
        Link -> what its server calls the version of the file that was read.
    """

    sites: pd.DataFrame
    plan: FetchPlan
    blocks_fetched: int
    bytes_fetched: int
    blocks_evicted: int
    failures: Mapping[str, int]
    etags: Mapping[str, str]


def plan_fetch(
    scenes_by_period: ScenesByPeriod,
    sites: gpd.GeoDataFrame,
    *,
    bands: Sequence[str],
    size_px: int,
    resolution_m: float | None = None,
    folder: Path,
    source: str,
    block_source: BlockSource,
) -> FetchPlan:
    """Count what `fetch_pixels` would do; headers are read, pixels are not, and nothing is written."""
    root = _root(folder, source, scenes_by_period)
    plan = plan_run(
        *(scenes_by_period, sites),
        bands=bands,
        size_px=size_px,
        resolution_m=resolution_m,
        root=root,
        block_source=block_source,
    )
    return _run_async(_within(block_source, plan)).summary()


def fetch_pixels(
    scenes_by_period: ScenesByPeriod,
    sites: gpd.GeoDataFrame,
    *,
    bands: Sequence[str],
    size_px: int,
    resolution_m: float | None = None,
    folder: Path,
    source: str,
    block_source: BlockSource,
    units: str = "reflectance",
    progress: bool = True,
    cache_bytes: int = CACHE_BYTES,
    etags: Mapping[str, str] | None = None,
) -> FetchResult:
    """Store the median of clear observations for every pixel of every site's chip; what is stored is not done again.

    Parameters
    ----------
    scenes_by_period : mapping of str to sequence of Scene
        Name of a period -> its frozen scenes. The list may grow between runs; a shard above whose stored pixels the
        scenes have changed is computed anew for the sites asked for now.
    sites : GeoDataFrame
        Index site_id (str), points in EPSG:4326.
    bands : sequence of str
        Keys of the scenes' assets.
    size_px : int
        Side of the largest chip.
    resolution_m : float, optional
        Side of a pixel; None: the finest of the bands' own.
    folder, source : Path, str
        The store, and the digest of what determines its pixels beside the scenes and sites (collection, bands, masks):
        pixels go to ``folder/source/period/epsg``.
    block_source : BlockSource
        Where the files' blocks come from; entered and left here when it is an asynchronous context.
    cache_bytes : int
        Decoded blocks kept for later shards.
    etags : mapping of str to str, optional
        Versions of the files that were read before.

    Raises
    ------
    ImageryError
        Before anything is written: when a file is another version than in ``etags``, scenes lack bands, files have
        several bands, or what is stored has other bands or another resolution.
    StoreError
        When the disk is full or another process fetches into the same folder; what is stored stands.

    Notes
    -----
    A scene that overlaps another counts as an observation of its own, also on the same date. The bytes of the store
    depend on scenes, sites and sizes alone, not on how often the run was broken off.
    """
    root = _root(folder, source, scenes_by_period)
    with lock_store(root):
        planning = plan_run(
            *(scenes_by_period, sites),
            bands=bands,
            size_px=size_px,
            resolution_m=resolution_m,
            root=root,
            block_source=block_source,
        )
        work = _fetch(
            planning, block_source, units=units, progress=progress, cache_bytes=cache_bytes, etags=etags or {}
        )
        return _run_async(_within(block_source, work))


async def _fetch(
    planning: Coroutine[Any, Any, Run],
    block_source: BlockSource,
    *,
    units: str,
    progress: bool,
    cache_bytes: int,
    etags: Mapping[str, str],
) -> FetchResult:
    run = await planning
    _refuse_changed(run, etags)
    write_description(run.root, run.grid, run.bands, units)
    zones = sorted({int(zone) for zone in run.places["zone"] if zone})
    groups = [(period, zone) for period in run.footprints for zone in zones]
    for period, zone in groups:
        folder = run.folder(period, zone)
        create_group(folder, run.grid.zone(zone), bands=run.bands, units=units, period=period, source=run.root.name)
        compact_manifest(folder)
    cache = BlockCache(block_source, run.files, run.needs, capacity=cache_bytes, extent=run.extent)
    await _work_off(run, cache, progress)
    for period, zone in groups:
        compact_manifest(run.folder(period, zone))
    return FetchResult(
        sites=describe_sites(run.root, run.places, run.footprints, run.grid, run.size_px),
        plan=run.summary(),
        blocks_fetched=cache.fetched,
        bytes_fetched=cache.fetched_bytes,
        blocks_evicted=cache.evicted,
        failures=dict(cache.failures.most_common()),
        etags={href: h.etag for href, h in run.files.headers.items() if isinstance(h, RasterHeader) and h.etag},
    )


def _refuse_changed(run: Run, etags: Mapping[str, str]) -> None:
    """Stop before pixels of two versions of a file come to lie in one store."""
    found = {href: h.etag for href, h in run.files.headers.items() if isinstance(h, RasterHeader) and h.etag}
    changed = sum(etags.get(href, etag) != etag for href, etag in found.items())
    if changed:
        raise ImageryError(
            f"{changed} of {len(found)} files changed on their server since they were first read; remove "
            f"{run.root.parent} and fetch again"
        )


async def _work_off(run: Run, cache: BlockCache, progress: bool) -> None:
    """Compute the shards in order; blocks of the next are fetched meanwhile when there is room for them."""
    last, start = len(run.works) - 1, time.monotonic()
    with tqdm(total=last + 1, desc="fetch", unit="shard", disable=not progress, dynamic_ncols=True) as bar:
        for k in range(last + 1):
            await cache.load(k)
            pinned = [k]
            ahead: asyncio.Task[None] | None = None
            if k < last and cache.held_bytes + cache.decoded_bytes(k + 1) <= cache.capacity:
                ahead = asyncio.create_task(cache.load(k + 1))
                pinned.append(k + 1)
            try:
                await asyncio.to_thread(_compute_shard, run, k, cache)
            finally:
                if ahead is not None:
                    await ahead
            cache.release(k, pinned=pinned[1:])
            rate = cache.fetched_bytes / 1e6 / max(time.monotonic() - start, 1e-9)
            bar.set_postfix_str(f"{rate:.1f} MB/s", refresh=False)
            bar.update()


def _compute_shard(run: Run, k: int, cache: BlockCache) -> None:
    """Reduce a shard tile by tile, write it, and say so in the manifest."""
    work = run.works[k]
    todo = run.todo(work)
    uses, failed, warped = use_scenes(run, work, todo)
    zone_grid, (zone, row, col) = run.grid.zone(work.shard[0]), work.shard
    folder = run.folder(work.period, zone)
    result = read_shard(folder, row, col) if work.keep else empty_composite(len(run.bands), todo.shape)
    aligned = all(run.extent(k, asset.href) for use in uses for asset in scene_assets(use.scene, run.bands))
    for where in _tiles(todo, cut=aligned):
        top, left, shape = where[0].start, where[1].start, todo[where].shape
        tile_grid = crop_grid(zone_grid, row * SHARD_PX + top, col * SHARD_PX + left, *shape)
        observations = [
            _observe(SceneUse(use.scene, use.pixels[where]), tile_grid, run, k, cache)
            for use in uses
            if use.pixels[where].any()
        ]
        tile = reduce_observations(
            observations, asked=todo[where], failed=failed[where], warped=warped[where], bands=len(run.bands)
        )
        for part in fields(Composite):
            stored, new = getattr(result, part.name)[..., *where], getattr(tile, part.name)
            np.copyto(stored, new, where=todo[where])
    _store_shard(run, work, result, cache.reasons(k) | run.header_reasons(work))


def _tiles(todo: BoolArray, *, cut: bool) -> Iterator[tuple[slice, slice]]:
    """The tiles of a shard that hold pixels to be computed.

    ``cut``: each as small as its pixels allow. Interpolated pixels are computed in whole tiles, so that their last bits
    do not depend on what else is asked for.
    """
    for top in range(0, SHARD_PX, TILE_PX):
        for left in range(0, SHARD_PX, TILE_PX):
            tile = todo[top : top + TILE_PX, left : left + TILE_PX]
            rows, columns = np.flatnonzero(tile.any(axis=1)), np.flatnonzero(tile.any(axis=0))
            if not len(rows):
                continue
            y, x = ((int(found[0]), int(found[-1]) + 1) if cut else (0, TILE_PX) for found in (rows, columns))
            yield slice(top + y[0], top + y[1]), slice(left + x[0], left + x[1])


def _store_shard(run: Run, work: ShardWork, composite: Composite, reasons: set[str]) -> None:
    (zone, row, col), index = work.shard, run.footprints[work.period]
    folder, asked = run.folder(work.period, zone), composite.state != NOT_ASKED
    over = index.over_cells(work.shard, run.grid.zone(zone))
    files = write_shard(folder, row, col, composite)
    counts = {name: int((composite.state == s).sum()) for name, s in _COUNTED.items()}
    line = {
        "row": row,
        "col": col,
        "asked": digest(np.packbits(asked)),
        "scenes": index.digest(over, asked),
        "files": files,
        "reasons": sorted(reasons)[:3] if counts["failed"] else [],
        **counts,
    }
    append_line(folder, line)


_COUNTED = {"valid": VALID, "nodata": NODATA, "failed": FAILED}


def _observe(use: SceneUse, tile: Grid, run: Run, k: int, cache: BlockCache) -> Observation:
    """A scene's scaled values and what its quality band says, on a tile."""
    scene, failed = use.scene, np.zeros(tile.shape, dtype=np.bool_)
    values = np.empty((len(run.bands), *tile.shape), dtype=np.float32)
    quality = None
    for j, asset in enumerate(scene_assets(scene, run.bands)):
        header = run.files.headers[asset.href]
        assert isinstance(header, RasterHeader)
        nodata = header.nodata if header.nodata is not None else asset.nodata
        is_mask = j == len(run.bands)
        stored, broken = read_tile(header, nodata, _BlocksOf(cache, asset.href, k), tile, nearest=is_mask)
        failed |= broken
        if is_mask:
            quality = stored
        else:
            values[j] = stored * np.float32(asset.scale) + np.float32(asset.offset)
    if quality is None:
        observed = np.asarray(np.isfinite(values).any(axis=0))
        clear = observed
    else:
        observed = ~np.isnan(quality)
        assert scene.mask_kind is not None
        mask = clear_pixels(np.where(observed, quality, 0).astype(np.uint16), scene.mask_kind)
        observed, clear = observed & mask.observed, mask.clear
    pixels = use.pixels
    return Observation(
        values=values, observed=observed & pixels, clear=clear & observed & pixels, failed=failed & pixels
    )


class _BlocksOf:
    """The blocks of one file that a shard needs, by row and column."""

    def __init__(self, cache: BlockCache, href: str, shard: int) -> None:
        header = cache.files.headers[href]
        assert isinstance(header, RasterHeader)
        self._cache, self._shard = cache, shard
        self._start, self._columns = cache.files.starts[href], header.block_bytes.shape[1]

    def __call__(self, row: int, column: int) -> Part | ReadFailure | None:
        return self._cache.get(self._start + row * self._columns + column, self._shard)


def _root(folder: Path, source: str, scenes_by_period: ScenesByPeriod) -> Path:
    for name in (source, *scenes_by_period):
        if not name or not all(letter.isalnum() or letter in "_-" for letter in name):
            raise ImageryError(f"{name[:40]!r} cannot name a folder: letters, digits, _ and - only")
    return Path(folder) / source


async def _within(source: BlockSource, work: Coroutine[Any, Any, T]) -> T:
    """Run while the source is open, where it is one that opens."""
    if not isinstance(source, AbstractAsyncContextManager):
        return await work
    async with source:
        return await work


def _run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, also where a loop runs already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
