"""What is known of a scene before its pixels are read, and where blocks of pixels come from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from eo_cate.types import Grid, IntArray

Block = tuple[int, int]
"""(row, column) of a block among the blocks of a file."""

MaskKind = Literal["landsat_qa", "sentinel2_scl"]


@dataclass(frozen=True)
class Asset:
    """A band of one file of a scene: value = stored number x scale + offset.

    ``nodata`` is the catalogue's; a file's own wins. The href is not signed. ``band`` counts from 1; ``count``: bands
    that the file must have, 0 where the catalogue does not say.
    """

    href: str
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    band: int = 1
    count: int = 1


@dataclass(frozen=True)
class Scene:
    """One item of a catalogue, frozen: what a second run reads instead of searching again.

    Parameters
    ----------
    scene_id, collection, platform, licence : str
        As the catalogue has them. An id is text, never part of a path.
    acquired : datetime
        In UTC.
    footprint : geometry
        In EPSG:4326; in two parts where it crosses the antimeridian.
    assets : mapping of str to Asset
        Band, by its name in the configuration -> where it is. Several may lie in one file.
    mask, mask_kind : Asset or None, str or None
        The quality band, and how to read it.
    crs : str or None
        As the catalogue has it (``EPSG:32618``); the files' own wins.
    cloud_cover : float or None
        Percent.
    """

    scene_id: str
    collection: str
    acquired: dt.datetime
    footprint: BaseGeometry
    assets: Mapping[str, Asset]
    mask: Asset | None = None
    mask_kind: MaskKind | None = None
    crs: str | None = None
    platform: str = ""
    licence: str = ""
    cloud_cover: float | None = None


@dataclass(frozen=True)
class RasterHeader:
    """The header of a raster file.

    Parameters
    ----------
    grid : Grid
        Of its pixels.
    block_shape : (int, int)
        Rows and columns of a whole block.
    count, dtype, nodata
        Bands, numpy's name of their type, and the file's own nodata.
    block_bytes : (block rows, block columns) int
        Compressed bytes of each block; 0: the block is not in the file (all nodata).
    etag : str
        What the server calls this version of the file; empty when it does not say.
    """

    grid: Grid
    block_shape: tuple[int, int]
    count: int
    dtype: str
    nodata: float | None
    block_bytes: IntArray
    etag: str = ""


@dataclass(frozen=True)
class ReadFailure:
    """Why a block could not be read, after all retries. It is neither nodata nor zero."""

    reason: str


class BlockSource(Protocol):
    """Where blocks of raster files come from."""

    async def open(self, href: str) -> RasterHeader | ReadFailure:
        """Read a file's header, once per file."""
        ...

    async def read_blocks(self, href: str, blocks: Sequence[Block]) -> dict[Block, NDArray[Any] | ReadFailure]:
        """Fetch and decode blocks: (band, rows, columns) in the file's type, cut at the file's edges."""
        ...
