"""From frozen scenes to composites in the store: one shard after the other, the next one's blocks fetched meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import geopandas as gpd
import pandas as pd
from tqdm import tqdm

from eo_cate.errors import ImageryError
from eo_cate.imagery.pixel_store.blocks import BlockCache
from eo_cate.imagery.pixel_store.composite import Reduction
from eo_cate.imagery.pixel_store.footprints import Footprints
from eo_cate.imagery.pixel_store.layout import (
    append_line,
    compact_manifest,
    create_group,
    lock_store,
    read_description,
    read_manifest,
    write_description,
)
from eo_cate.imagery.pixel_store.plan import find_changed, plan_run
from eo_cate.imagery.pixel_store.run import FetchPlan, Run, scene_files, stored_groups
from eo_cate.imagery.pixel_store.shards import compute_shard
from eo_cate.imagery.pixel_store.states import describe_sites
from eo_cate.imagery.pixel_store.zones import SHARD_PX
from eo_cate.imagery.scenes import BlockSource, RasterHeader, Scene

CACHE_BYTES = 2**30
_SHARD_BYTES = 2**27
"""A composite up to this size (32 bands) takes nothing from the cache."""
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
    etags: Mapping[str, str] | None = None,
    renew: bool = False,
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
        renewed=(etags or {}) if renew else None,
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
    reduction: Reduction = "median",
    progress: bool = True,
    cache_bytes: int = CACHE_BYTES,
    etags: Mapping[str, str] | None = None,
    renew: bool = False,
) -> FetchResult:
    """Store a composite of clear observations for every pixel of every site's chip; what is stored is not done again.

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
    units : str
        What the pixels are, written beside them.
    reduction : {"median", "newest"}
        As in `composite.reduce_observations`; pixels on another grid are interpolated for a median, and are those of
        the nearest source pixel for the newest.
    cache_bytes : int
        Decoded blocks kept for later shards.
    etags : mapping of str to str, optional
        Versions of the files that were read before.
    renew : bool
        Read the header of every file above the sites, also where all pixels are stored, and compute anew what lies
        under those that are another version than in ``etags``; else such files are an error.

    Raises
    ------
    ImageryError
        Before anything is written: when a file is another version than in ``etags`` (unless they are renewed), scenes
        lack bands, files have other bands than their catalogue says, or what is stored has other bands or another
        resolution.
    StoreError
        When the disk is full or another process fetches into the same folder; what is stored stands.

    Notes
    -----
    A scene that overlaps another counts as an observation of its own, also on the same date. The bytes of the store
    depend on scenes, sites and sizes alone, not on how often the run was broken off.

    A pixel is reduced from its own zone's scenes. Only where these give no clear observation in the period (beyond
    their edges, in gaps of the sensor, always under cloud) are other zones' scenes warped to it, and it is reduced from
    those alone. Where one of its own zone's scenes could not be read it has failed, and is not filled. This is decided
    pixel by pixel, so that it depends neither on other sites nor on the order of shards.
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
            renewed=(etags or {}) if renew else None,
        )
        work = _fetch(
            *(planning, block_source),
            units=units,
            reduction=reduction,
            progress=progress,
            cache_bytes=cache_bytes,
            etags=etags or {},
        )
        return _run_async(_within(block_source, work))


async def _fetch(
    planning: Coroutine[Any, Any, Run],
    block_source: BlockSource,
    *,
    units: str,
    reduction: Reduction,
    progress: bool,
    cache_bytes: int,
    etags: Mapping[str, str],
) -> FetchResult:
    run = replace(await planning, reduction=reduction)
    if run.changed:
        _forget_changed(run)
    elif changed := find_changed(run.files, etags):
        raise ImageryError(
            f"{len(changed)} of {len(run.files.hrefs)} files changed on their server since they were first read; "
            f"remove {run.root.parent} and fetch again, or let eo-cate fetch --refresh fetch what lies under them again"
        )
    write_description(run.root, run.grid, run.bands, units)
    zones = sorted({int(zone) for zone in run.places["zone"] if zone})
    groups = [(period, zone) for period in run.footprints for zone in zones]
    for period, zone in groups:
        folder = run.folder(period, zone)
        create_group(folder, run.grid.zone(zone), bands=run.bands, units=units, period=period, source=run.root.name)
        compact_manifest(folder)
    room = _room(cache_bytes, len(run.bands))
    cache = BlockCache(block_source, run.files, run.needs, capacity=room, extent=run.extent)
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


def _room(cache_bytes: int, bands: int) -> int:
    """Bytes for decoded blocks: fewer beside a shard of many bands, so that both together stay in bounds."""
    shard = bands * SHARD_PX**2 * 4
    return min(cache_bytes, max(CACHE_BYTES + _SHARD_BYTES - shard, _SHARD_BYTES))


def _forget_changed(run: Run) -> None:
    """Mark what is stored under changed files, for other sites and sources too: next time it is computed anew."""
    every = [scene for index in run.footprints.values() for scene in index.scenes]
    changed = Footprints([s for s in every if run.changed.intersection(scene_files(s, run.bands))], run.bands)
    for root in sorted(path.parent for path in run.root.parent.glob("*/source.json")):
        with nullcontext() if root == run.root else lock_store(root):
            _mark_under(changed, root)


def _mark_under(changed: Footprints, root: Path) -> None:
    """Shards under some scenes lose their files and scenes in the manifest, so that nothing reads or keeps them."""
    description = read_description(root)
    assert description is not None
    for folder, zone in stored_groups(root):
        grid = description[0].zone(zone)
        for shard, line in read_manifest(folder).items():
            if changed.over_cells((zone, *shard), grid):
                append_line(folder, {**line, "scenes": "", "files": {}})


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
                await compute_shard(run, k, cache)
            finally:
                if ahead is not None:
                    await ahead
            cache.release(k, pinned=pinned[1:])
            rate = cache.fetched_bytes / 1e6 / max(time.monotonic() - start, 1e-9)
            bar.set_postfix_str(f"{rate:.1f} MB/s", refresh=False)
            bar.update()


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
