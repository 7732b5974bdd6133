"""A run: everything that is known before its first pixel is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from eo_cate.imagery.pixel_store.assemble import crop_grid
from eo_cate.imagery.pixel_store.blocks import Extent, OpenFiles
from eo_cate.imagery.pixel_store.composite import FAILED, NOT_ASKED, Reduction
from eo_cate.imagery.pixel_store.footprints import Footprints
from eo_cate.imagery.pixel_store.layout import read_shard
from eo_cate.imagery.pixel_store.zones import (
    SHARD_PX,
    PixelGrid,
    Shard,
    Windows,
    northern,
    pixel_offset,
    windows_mask,
    zone_epsg,
)
from eo_cate.imagery.scenes import Asset, RasterHeader, ReadFailure, Scene
from eo_cate.types import BoolArray, Grid, IntArray


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
    """What a fetch will do: scenes to read, shards to compute and already stored, blocks and megabytes to fetch.

    Blocks of another zone's scenes are counted where no footprint of the own zone reaches; those that fill pixels which
    own scenes turn out to leave without a clear observation come on top.

    ``files_changed`` and ``files_unread``: files above the sites that are another version than the one they were read
    from, and those that could not be asked; both only when this was to be found out.
    """

    scenes: int
    shards: int
    shards_stored: int
    blocks: int
    megabytes: float
    files_changed: int = 0
    files_unread: int = 0


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
    reduction: Reduction = "median"
    changed: frozenset[str] = frozenset()
    unread: int = 0

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

    def has_changed(self, period: str, shard: Shard) -> bool:
        """Whether a file above a shard is known to be another version than the one that was read."""
        index = self.footprints[period]
        over = index.over_cells(shard, self.grid.zone(shard[0])) if self.changed else ()
        return any(href in self.changed for k in over for href in scene_files(index.scenes[k], self.bands))

    def header_reasons(self, work: ShardWork) -> set[str]:
        """Why files above a shard could not be opened."""
        if not self.files.any_failed:
            return set()
        index = self.footprints[work.period]
        scenes = [index.scenes[k] for k in index.over_cells(work.shard, self.grid.zone(work.shard[0]))]
        headers = [self.files.headers.get(href) for s in scenes for href in scene_files(s, self.bands)]
        return {header.reason for header in headers if isinstance(header, ReadFailure)}

    def summary(self) -> FetchPlan:
        """The plan in numbers."""
        numbers = np.unique(np.concatenate([*self.needs, np.empty(0, dtype=np.int64)]))
        megabytes = self.files.compressed_bytes(numbers) / 1e6
        return FetchPlan(
            *(self.scenes, len(self.works), self.stored, len(numbers), megabytes), len(self.changed), self.unread
        )


def group_folder(root: Path, period: str, zone: int) -> Path:
    """The group of a period and zone."""
    return root / period / str(zone_epsg(zone))


def stored_groups(root: Path) -> list[tuple[Path, int]]:
    """The groups of a source that hold shards, of all periods, each with its zone."""
    return [(path.with_suffix(""), int(path.stem) % 100) for path in sorted(root.glob("*/*.jsonl"))]


def scene_assets(scene: Scene, bands: Sequence[str]) -> list[Asset]:
    """What is read of a scene: its bands, then its quality band where it has one."""
    return [scene.assets[band] for band in bands] + ([scene.mask] if scene.mask else [])


def scene_files(scene: Scene, bands: Sequence[str]) -> list[str]:
    """Links of a scene's files, each once however many of its bands are read."""
    return list(dict.fromkeys(asset.href for asset in scene_assets(scene, bands)))
