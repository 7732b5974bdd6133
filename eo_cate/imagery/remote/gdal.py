"""Files that only GDAL decodes, read through our client: GDAL is given bytes, never an address."""

from __future__ import annotations

import asyncio
import io
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.abc import FileContainer
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from eo_cate.errors import ImageryError
from eo_cate.imagery.files import find_driver, gdal_env
from eo_cate.imagery.remote.hosts import describe
from eo_cate.imagery.remote.tiff import HeaderBytes, check_size
from eo_cate.imagery.scenes import Block, RasterHeader
from eo_cate.types import Grid

_NAME = "remote"
"""The only file there is, to GDAL."""


def require_driver(head: bytes, href: str) -> str:
    """GDAL's driver for a file's first bytes, by the same list as for local files.

    Raises
    ------
    ImageryError
        For any other format: a VRT may point to any other file or host.
    """
    driver = find_driver(head)
    if driver is None:
        raise ImageryError(f"{describe(href)}: neither a GeoTIFF (COG) nor JPEG 2000 by its first bytes")
    return driver


@dataclass(frozen=True)
class StagedFile:
    """What GDAL may read: bytes already fetched (blocks), and others through ``header``, on the client's event loop.

    ``staged`` is sorted by offset.
    """

    header: HeaderBytes
    staged: Sequence[tuple[int, bytes | memoryview]]
    loop: asyncio.AbstractEventLoop

    def get(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``; called from GDAL's thread, never from the loop's."""
        at = bisect_right(self.staged, start, key=lambda piece: piece[0]) - 1
        if at >= 0:
            offset, piece = self.staged[at]
            if end <= offset + len(piece):
                return bytes(piece[start - offset : end - offset])
        found = self.header.peek(start, end)
        if found is not None:
            return found
        return asyncio.run_coroutine_threadsafe(self.header.get(start, end), self.loop).result()


class _Stream(io.RawIOBase):
    """A file-like object over a `StagedFile`.

    An error must not leave `read`, which GDAL calls: it is kept for `_open`, and the read is empty.
    """

    def __init__(self, file: StagedFile, keep: Callable[[ImageryError], None]) -> None:
        super().__init__()
        self._file = file
        self._keep = keep
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._file.header.total or 0)[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._file.header.total or 0 if size < 0 else self._at + size
        try:
            data = self._file.get(self._at, end)[: max(0, end - self._at)]
        except ImageryError as error:
            self._keep(error)
            return b""
        self._at += len(data)
        return data


class _Container(FileContainer):  # type: ignore[misc]
    """A file system of one file."""

    def __init__(self, file: StagedFile) -> None:
        self._file = file
        self.error: ImageryError | None = None

    def _keep(self, error: ImageryError) -> None:
        self.error = error

    def open(self, path: str, mode: str = "r", **kwds: Any) -> _Stream:
        if path != _NAME or "w" in mode or "+" in mode:
            raise FileNotFoundError(path)
        return _Stream(self._file, self._keep)

    def isdir(self, path: str) -> bool:
        return False

    def isfile(self, path: str) -> bool:
        return path == _NAME

    def ls(self, path: str) -> list[str]:
        return [_NAME]

    def mtime(self, path: str) -> int:
        return 0

    def rm(self, path: str) -> None:
        raise PermissionError(path)

    def size(self, path: str) -> int:
        if path != _NAME:
            raise FileNotFoundError(path)
        return self._file.header.total or 0


@contextmanager
def _open(file: StagedFile, driver: str) -> Iterator[tuple[Any, _Container]]:
    container = _Container(file)
    try:
        with gdal_env(Path(describe(file.header.href))), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(_NAME, driver=driver, opener=container) as source:
                yield source, container
    except ImageryError as error:
        raise container.error or error from None


def read_header(file: StagedFile, driver: str, etag: str) -> RasterHeader:
    """The header as GDAL reads it; ``block_bytes`` is the file's size spread evenly, for the caller to replace.

    Raises
    ------
    ImageryError
        When it cannot be read, declares too much, or has no place on the ground.
    """
    name = describe(file.header.href)
    with _open(file, driver) as (source, _):
        block_shape = source.block_shapes[0]
        check_size(name, source.shape, source.count, block_shape)
        if len(set(source.block_shapes)) > 1 or len(set(source.dtypes)) > 1:
            raise ImageryError(f"{name}: its bands are of several types or block sizes; write one file per band")
        if source.crs is None or source.transform.is_identity:
            raise ImageryError(f"{name}: has no coordinate reference system or transform; it cannot be placed")
        epsg = source.crs.to_epsg()
        grid = Grid(
            crs=f"EPSG:{epsg}" if epsg else source.crs.to_wkt(),
            transform=tuple(source.transform)[:6],
            shape=source.shape,
        )
        blocks = (-(-source.height // block_shape[0]), -(-source.width // block_shape[1]))
        each = max(1, (file.header.total or 0) // (blocks[0] * blocks[1]))
        return RasterHeader(
            grid=grid,
            block_shape=block_shape,
            count=source.count,
            dtype=source.dtypes[0],
            nodata=source.nodata,
            block_bytes=np.full(blocks, each, dtype=np.int64),
            etag=etag,
        )


def read_windows(
    file: StagedFile, driver: str, block_shape: tuple[int, int], blocks: Sequence[Block]
) -> dict[Block, NDArray[Any] | ImageryError]:
    """Pixels of blocks, (band, rows, columns), cut at the file's edges; an error only for the block that has it."""
    found: dict[Block, NDArray[Any] | ImageryError] = {}
    try:
        with _open(file, driver) as (source, container):
            whole = Window(0, 0, source.width, source.height)
            for row, column in blocks:
                window = Window(column * block_shape[1], row * block_shape[0], block_shape[1], block_shape[0])
                try:
                    found[row, column] = source.read(window=window.intersection(whole))
                except (RasterioError, CPLE_BaseError):
                    found[row, column] = container.error or ImageryError(
                        f"{describe(file.header.href)}: block ({row}, {column}) does not decode"
                    )
                    container.error = None
    except ImageryError as error:
        found.update({block: error for block in blocks if block not in found})
    return found
