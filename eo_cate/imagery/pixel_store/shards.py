"""The work on one shard: the own zone's scenes reduced, what they leave filled from other zones, all of it stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields

import numpy as np

from eo_cate.imagery.pixel_store.assemble import GetBlock, crop_grid, read_tile
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
from eo_cate.imagery.pixel_store.layout import append_line, read_shard, write_shard
from eo_cate.imagery.pixel_store.plan import SceneUse, list_blocks, narrow_uses, use_scenes
from eo_cate.imagery.pixel_store.run import Run, ShardWork, scene_assets, scene_files
from eo_cate.imagery.pixel_store.zones import SHARD_PX
from eo_cate.imagery.scenes import RasterHeader, ReadFailure
from eo_cate.imagery.stac.masks import clear_pixels
from eo_cate.store import digest
from eo_cate.types import BoolArray, Grid

TILE_PX = 256
GetNumbered = Callable[[int], Part | ReadFailure | None]
"""Number of a block among a run's -> its pixels, why they could not be read, or None when nobody asked for them."""


async def compute_shard(run: Run, k: int, cache: BlockCache) -> None:
    """Reduce the own zone's scenes, then others' where these leave no clear observation; write, and say so."""
    work = run.works[k]
    todo, folder = run.todo(work), run.folder(work.period, work.shard[0])
    result = read_shard(folder, *work.shard[1:]) if work.keep else empty_composite(len(run.bands), todo.shape)
    scenes = await asyncio.to_thread(use_scenes, run, work, todo)
    reasons = run.header_reasons(work)

    def get(number: int) -> Part | ReadFailure | None:
        return cache.get(number, k)

    await asyncio.to_thread(_reduce, run, k, scenes.own, get, result, asked=todo, failed=scenes.failed)
    blank = todo & (result.state == NODATA)
    others, failed = narrow_uses(scenes.others, blank), scenes.others_failed & blank
    if others or failed.any():
        reasons |= await _fill(run, k, others, cache, result, asked=blank, failed=failed)
    await asyncio.to_thread(_store_shard, run, work, result, cache.reasons(k) | reasons)


async def _fill(
    run: Run,
    k: int,
    others: Sequence[SceneUse],
    cache: BlockCache,
    result: Composite,
    *,
    asked: BoolArray,
    failed: BoolArray,
) -> set[str]:
    """See pixels from other zones; why blocks failed.

    Blocks that no footprint foretold are fetched now, and kept for this shard only.
    """
    numbers = await asyncio.to_thread(list_blocks, run, run.works[k].shard, others)
    lacking = np.array([n for n in numbers.tolist() if cache.get(n, k) is None], dtype=np.int64)
    late = BlockCache(cache.source, run.files, [lacking], capacity=cache.capacity, extent=lambda _, href: None)
    await late.load(0)

    def get(number: int) -> Part | ReadFailure | None:
        return late.get(number, 0) or cache.get(number, k)

    seen = result.observation_count * asked
    await asyncio.to_thread(_reduce, run, k, others, get, result, asked=asked, failed=failed, warped=True)
    result.observation_count[...] += seen * (result.state != FAILED)
    cache.fetched += late.fetched
    cache.fetched_bytes += late.fetched_bytes
    cache.failures.update(late.failures)
    return late.reasons(0)


def _reduce(
    run: Run,
    k: int,
    uses: Sequence[SceneUse],
    get: GetNumbered,
    result: Composite,
    *,
    asked: BoolArray,
    failed: BoolArray,
    warped: bool = False,
) -> None:
    """Reduce some scenes over a shard's pixels into its composite, tile by tile."""
    zone, row, col = run.works[k].shard
    zone_grid = run.grid.zone(zone)
    newest_first = sorted(uses, key=lambda use: (use.scene.acquired, use.scene.scene_id), reverse=True)
    aligned = all(run.extent(k, href) for use in uses for href in scene_files(use.scene, run.bands))
    for where in _tiles(asked, cut=aligned):
        top, left, shape = where[0].start, where[1].start, asked[where].shape
        tile_grid = crop_grid(zone_grid, row * SHARD_PX + top, col * SHARD_PX + left, *shape)
        observations = [
            _observe(SceneUse(use.scene, use.pixels[where]), tile_grid, run, get)
            for use in newest_first
            if use.pixels[where].any()
        ]
        tile = reduce_observations(
            observations,
            asked=asked[where],
            failed=failed[where],
            warped=np.full(shape, warped),
            bands=len(run.bands),
            reduction=run.reduction,
        )
        for part in fields(Composite):
            stored, new = getattr(result, part.name)[..., *where], getattr(tile, part.name)
            np.copyto(stored, new, where=asked[where])


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


def _observe(use: SceneUse, tile: Grid, run: Run, get: GetNumbered) -> Observation:
    """A scene's scaled values and what its quality band says, on a tile."""
    scene, failed = use.scene, np.zeros(tile.shape, dtype=np.bool_)
    values = np.empty((len(run.bands), *tile.shape), dtype=np.float32)
    quality = None
    for j, asset in enumerate(scene_assets(scene, run.bands)):
        header = run.files.headers[asset.href]
        assert isinstance(header, RasterHeader)
        nodata = header.nodata if header.nodata is not None else asset.nodata
        is_mask = j == len(run.bands)
        nearest = is_mask or run.reduction == "newest"
        blocks = _blocks_of(run, asset.href, get)
        stored, broken = read_tile(header, nodata, blocks, tile, nearest=nearest, band=asset.band)
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


def _blocks_of(run: Run, href: str, get: GetNumbered) -> GetBlock:
    """The blocks of one file by row and column."""
    header = run.files.headers[href]
    assert isinstance(header, RasterHeader)
    start, columns = run.files.starts[href], header.block_bytes.shape[1]
    return lambda row, column: get(start + row * columns + column)
