"""Blocks of raster files on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Interleaving
from rasterio.windows import Window

from eo_cate.errors import ImageryError
from eo_cate.imagery.files import gdal_env, open_raster
from eo_cate.imagery.rasters import grid_of
from eo_cate.imagery.scenes import Block, RasterHeader, ReadFailure
from eo_cate.types import IntArray


class LocalBlocks:
    """A `scenes.BlockSource` over GeoTIFF and JPEG 2000 files.

    Parameters
    ----------
    root : Path
        The catalogue's folder. An href is a path, absolute or below it; a file that lies elsewhere is not opened.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).resolve()

    async def open(self, href: str) -> RasterHeader | ReadFailure:
        """Read a file's header."""
        return await asyncio.to_thread(self._open, href)

    async def read_blocks(self, href: str, blocks: Sequence[Block]) -> dict[Block, NDArray[Any] | ReadFailure]:
        """Decode blocks: (band, rows, columns) in the file's type, cut at the file's edges."""
        return await asyncio.to_thread(self._read, href, blocks)

    def _path(self, href: str) -> Path:
        path = (self.root / href).resolve()
        if not path.is_relative_to(self.root):
            raise ImageryError(f"{href}: lies outside the catalogue's folder")
        return path

    def _open(self, href: str) -> RasterHeader | ReadFailure:
        try:
            path = self._path(href)
            with open_raster(path) as source:
                if source.crs is None:
                    return ReadFailure(f"{path}: has no CRS")
                return RasterHeader(
                    grid=grid_of(source, path),
                    block_shape=source.block_shapes[0],
                    count=source.count,
                    dtype=source.dtypes[0],
                    nodata=source.nodata,
                    block_bytes=_block_bytes(source),
                )
        except ImageryError as error:
            return ReadFailure(str(error))

    def _read(self, href: str, blocks: Sequence[Block]) -> dict[Block, NDArray[Any] | ReadFailure]:
        result: dict[Block, NDArray[Any] | ReadFailure] = {}
        try:
            path = self._path(href)
            with open_raster(path) as source:
                height, width = source.block_shapes[0]
                for i, j in blocks:
                    row, column = i * height, j * width
                    window = Window(column, row, min(width, source.width - column), min(height, source.height - row))
                    try:
                        with gdal_env(path):
                            result[i, j] = source.read(window=window)
                    except ImageryError as error:
                        result[i, j] = ReadFailure(str(error))
        except ImageryError as error:
            return {block: result.get(block, ReadFailure(str(error))) for block in blocks}
        return result


def _block_bytes(source: Any) -> IntArray:
    """Compressed bytes of each block, from a TIFF's own directory; of JPEG 2000 the whole file shared among them.

    Where each band has blocks of its own, those at one place are one block.
    """
    height, width = source.block_shapes[0]
    shape = -(-source.height // height), -(-source.width // width)
    if source.driver != "GTiff":
        size = Path(source.name).stat().st_size
        return np.full(shape, max(size // (shape[0] * shape[1]), 1), dtype=np.int64)
    planes = source.indexes if source.interleaving == Interleaving.band else (1,)
    sizes = [
        [
            sum(int(source.get_tag_item(f"BLOCK_SIZE_{j}_{i}", "TIFF", bidx=plane) or 0) for plane in planes)
            for j in range(shape[1])
        ]
        for i in range(shape[0])
    ]
    return np.array(sizes, dtype=np.int64)
