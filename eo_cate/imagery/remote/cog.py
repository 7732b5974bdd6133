"""Blocks of remote Cloud-Optimised GeoTIFFs: each fetched and decoded once per call, or said to have failed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from eo_cate.errors import ImageryError
from eo_cate.imagery.remote import gdal
from eo_cate.imagery.remote.client import MAX_IN_FLIGHT, RangeClient, merge_ranges
from eo_cate.imagery.remote.counts import ReadCounts
from eo_cate.imagery.remote.decode import DecodeError, decode_block, decodes
from eo_cate.imagery.remote.hosts import HostPolicy, describe
from eo_cate.imagery.remote.retry import RetryPolicy
from eo_cate.imagery.remote.signing import Signer
from eo_cate.imagery.remote.tiff import HeaderBytes, TiffLayout, read_layout
from eo_cate.imagery.scenes import Block, RasterHeader, ReadFailure
from eo_cate.types import Grid


class _Piece(NamedTuple):
    """Consecutive bytes of a file that hold a block, or one band of it."""

    block: Block
    band: int
    start: int
    end: int


@dataclass(frozen=True)
class _File:
    header: HeaderBytes
    raster: RasterHeader
    driver: str
    layout: TiffLayout | None
    native: bool


_Fetched = dict[_Piece, "memoryview | ImageryError"]
_Pixels = NDArray[Any]


class RemoteBlocks:
    """A `BlockSource` over HTTP; an `async with` block is its life.

    TIFFs compressed with DEFLATE or ZSTD, or not at all, are decoded here, on threads; other codecs (LZW, JPEG,
    LERC, ...) and JPEG 2000 by GDAL, from bytes that this class fetched. What a server or a file does wrong is a
    `ReadFailure`, never an exception; check addresses beforehand with `HostPolicy.check`, which raises.

    A flipped bit is noticed in DEFLATE (Adler-32). LZW, ZSTD as GDAL writes it, JPEG, JPEG 2000 and uncompressed blocks
    carry no checksum: a flip there that still decodes cannot be noticed.

    Parameters
    ----------
    policy : HostPolicy
        Hosts that may be read from.
    signer : Signer or None
        None: links are used as they are.
    retry : RetryPolicy or None
        Backoff and timeouts.
    max_in_flight : int
        Requests at one time.
    threads : int or None
        That decode; None: one per core.
    """

    def __init__(
        self,
        policy: HostPolicy,
        *,
        signer: Signer | None = None,
        retry: RetryPolicy | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        threads: int | None = None,
    ) -> None:
        self._client = RangeClient(policy, signer=signer, retry=retry, max_in_flight=max_in_flight)
        self._threads = threads or os.cpu_count() or 1
        self._files: dict[str, asyncio.Task[_File | ReadFailure]] = {}

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._files.values():
            task.cancel()
        await asyncio.gather(*self._files.values(), return_exceptions=True)
        # in a thread: those of the pool that read for GDAL wait for this loop
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        await self._client.__aexit__(kind, error, trace)

    @property
    def counts(self) -> ReadCounts:
        """The counters now."""
        return self._client.counts

    async def open(self, href: str) -> RasterHeader | ReadFailure:
        """A file's header, read once however many ask; a failure stays for the life of this object."""
        file = await self._file(href)
        return file if isinstance(file, ReadFailure) else file.raster

    async def read_blocks(self, href: str, blocks: Sequence[Block]) -> dict[Block, _Pixels | ReadFailure]:
        """Fetch and decode blocks: (band, rows, columns) in the file's type, cut at the file's edges.

        A block that is not in the file (sparse) is all nodata, without a request. A block that failed after all retries
        is a `ReadFailure`; the others stand.
        """
        file = await self._file(href)
        wanted = list(dict.fromkeys(blocks))
        if isinstance(file, ReadFailure):
            return dict.fromkeys(wanted, file)
        shape = file.raster.block_bytes.shape
        inside = [(r, c) for r, c in wanted if 0 <= r < shape[0] and 0 <= c < shape[1]]
        outside = ReadFailure(f"{describe(href)}: has {shape[0]} x {shape[1]} blocks; the one asked for is outside")
        needed = [block for block in inside if file.raster.block_bytes[block]]
        found: dict[Block, _Pixels | ReadFailure] = dict.fromkeys(wanted, outside)
        found.update({block: _fill(file.raster, block) for block in inside if not file.raster.block_bytes[block]})
        self._client.count(blocks_needed=len(inside), blocks_sparse=len(inside) - len(needed))
        if needed and file.layout is None:
            found.update(await self._read_jpeg2000(file, needed))
        elif needed and file.native:
            found.update(await self._read_native(file, needed))
        elif needed:
            found.update(await self._read_through_gdal(file, needed))
        failed = sum(isinstance(found[block], ReadFailure) for block in needed)
        self._client.count(blocks_decoded=len(needed) - failed, blocks_failed=failed)
        return found

    async def _file(self, href: str) -> _File | ReadFailure:
        if href not in self._files:
            self._files[href] = asyncio.create_task(self._open(href))
        return await asyncio.shield(self._files[href])

    async def _open(self, href: str) -> _File | ReadFailure:
        header = HeaderBytes(self._client, href)
        try:
            driver = gdal.require_driver(await header.get(0, 12), href)
            layout = await read_layout(header) if driver == "GTiff" else None
            etag = self._client.etag(href)
            if layout is not None and decodes(layout) and layout.epsg and layout.transform:
                return _File(header, _describe_tiff(layout, layout.epsg, layout.transform, etag), driver, layout, True)
            if header.total is None:
                return ReadFailure(f"{describe(href)}: the server does not say how long the file is")
            raster = await self._run(gdal.read_header, self._staged(header, ()), driver, etag)
            if layout is not None:
                raster = replace(raster, block_bytes=layout.sizes.sum(axis=0))
            return _File(header, raster, driver, layout, layout is not None and decodes(layout))
        except ImageryError as error:
            return ReadFailure(str(error))

    async def _read_native(self, file: _File, blocks: list[Block]) -> dict[Block, _Pixels | ReadFailure]:
        """Decode each request's pieces as soon as it arrives; put the bands of planar files together at the end."""
        assert file.layout is not None
        pieces = _list_pieces(file.layout, blocks)
        groups = [[pieces[k] for k in group] for group in merge_ranges([(p.start, p.end) for p in pieces])]
        decoded: dict[_Piece, _Pixels | ReadFailure] = {}
        for part in await asyncio.gather(*(self._read_group(file, group) for group in groups)):
            decoded.update(part)
        self._client.count(blocks_fetched=len(blocks), needed_bytes=sum(p.end - p.start for p in pieces))
        if not file.layout.planar:
            return {piece.block: pixels for piece, pixels in decoded.items()}
        return {block: _stack_bands(file, block, decoded) for block in blocks}

    async def _read_group(self, file: _File, group: list[_Piece]) -> dict[_Piece, _Pixels | ReadFailure]:
        fetched = await self._fetch_group(file, group)
        decoded = await self._run(_decode_pieces, file, fetched)
        again = 0
        while again < self._client.retry.decodes:
            damaged = [piece for piece, pixels in decoded.items() if isinstance(pixels, DecodeError)]
            if not damaged:
                break
            again += 1
            self._client.count(retries=len(damaged), blocks_fetched=len(damaged))
            for piece in damaged:
                decoded.update(await self._run(_decode_pieces, file, await self._fetch_group(file, [piece])))
        return {
            piece: pixels if isinstance(pixels, np.ndarray) else ReadFailure(_say(file, piece, pixels, again))
            for piece, pixels in decoded.items()
        }

    async def _fetch_group(self, file: _File, group: list[_Piece]) -> _Fetched:
        """Bytes of neighbouring pieces by one request; each its own error where the file ends too early."""
        low, high = min(p.start for p in group), max(p.end for p in group)
        try:
            data = memoryview((await self._client.fetch(file.header.href, low, high)).data)
        except ImageryError as error:
            return dict.fromkeys(group, error)
        short = ImageryError(f"{describe(file.header.href)}: ends inside a block; fetch or write the file again")
        return {p: data[p.start - low : p.end - low] if p.end - low <= len(data) else short for p in group}

    async def _read_through_gdal(self, file: _File, blocks: list[Block]) -> dict[Block, _Pixels | ReadFailure]:
        """Fetch the blocks as for our own decoders, and let GDAL decode them from memory; what fails again, alone."""
        assert file.layout is not None
        found: dict[Block, _Pixels | ReadFailure] = {}
        pending = blocks
        for again in range(self._client.retry.decodes + 1):
            pieces = _list_pieces(file.layout, pending)
            groups = [[pieces[k] for k in group] for group in merge_ranges([(p.start, p.end) for p in pieces])]
            fetched: _Fetched = {}
            for part in await asyncio.gather(*(self._fetch_group(file, group) for group in groups)):
                fetched.update(part)
            self._client.count(blocks_fetched=len(pending), retries=len(pending) if again else 0)
            self._client.count(needed_bytes=0 if again else sum(p.end - p.start for p in pieces))
            failed = {p.block: data for p, data in fetched.items() if isinstance(data, ImageryError)}
            found.update({block: ReadFailure(str(error)) for block, error in failed.items()})
            staged = sorted(
                ((p.start, data) for p, data in fetched.items() if not isinstance(data, ImageryError)),
                key=lambda piece: piece[0],
            )
            pixels = await self._run(
                gdal.read_windows,
                self._staged(file.header, staged),
                file.driver,
                file.raster.block_shape,
                [block for block in pending if block not in failed],
            )
            found.update({b: ReadFailure(str(a)) if isinstance(a, ImageryError) else a for b, a in pixels.items()})
            pending = [block for block, array in pixels.items() if isinstance(array, ImageryError)]
            if not pending:
                break
        return found

    async def _read_jpeg2000(self, file: _File, blocks: list[Block]) -> dict[Block, _Pixels | ReadFailure]:
        """GDAL finds the bytes of JPEG 2000 blocks itself; they are kept for this call only."""
        found: dict[Block, _Pixels | ReadFailure] = {}
        pending = blocks
        for again in range(self._client.retry.decodes + 1):
            body = file.header.copy_for_blocks()
            self._client.count(blocks_fetched=len(pending), retries=len(pending) if again else 0)
            staged = self._staged(body, ())
            pixels = await self._run(gdal.read_windows, staged, file.driver, file.raster.block_shape, pending)
            found.update({b: ReadFailure(str(a)) if isinstance(a, ImageryError) else a for b, a in pixels.items()})
            pending = [block for block, array in pixels.items() if isinstance(array, ImageryError)]
            if not pending:
                break
        return found

    def _staged(self, header: HeaderBytes, staged: Sequence[tuple[int, bytes | memoryview]]) -> gdal.StagedFile:
        return gdal.StagedFile(header, staged, asyncio.get_running_loop())

    async def _run(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)


def _describe_tiff(
    layout: TiffLayout, epsg: int, transform: tuple[float, float, float, float, float, float], etag: str
) -> RasterHeader:
    assert layout.dtype is not None
    return RasterHeader(
        grid=Grid(crs=f"EPSG:{epsg}", transform=transform, shape=layout.shape),
        block_shape=layout.block_shape,
        count=layout.count,
        dtype=layout.dtype.name,
        nodata=layout.nodata,
        block_bytes=layout.sizes.sum(axis=0),
        etag=etag,
    )


def _list_pieces(layout: TiffLayout, blocks: Sequence[Block]) -> list[_Piece]:
    """Where the blocks' bytes lie; none for bands that are not in the file."""
    return [
        _Piece(block, band, start, start + size)
        for block in blocks
        for band in range(len(layout.sizes))
        if (size := int(layout.sizes[(band, *block)]))
        for start in [int(layout.offsets[(band, *block)])]
    ]


def _decode_pieces(file: _File, fetched: _Fetched) -> dict[_Piece, _Pixels | DecodeError | ImageryError]:
    assert file.layout is not None
    decoded: dict[_Piece, _Pixels | DecodeError | ImageryError] = {}
    for piece, data in fetched.items():
        try:
            decoded[piece] = data if isinstance(data, ImageryError) else decode_block(data, file.layout, *piece.block)
        except DecodeError as error:
            decoded[piece] = error
    return decoded


def _stack_bands(file: _File, block: Block, decoded: dict[_Piece, _Pixels | ReadFailure]) -> _Pixels | ReadFailure:
    """A planar block from its bands; those that are not in the file are nodata."""
    pixels = _fill(file.raster, block)
    for piece, band in decoded.items():
        if piece.block == block:
            if isinstance(band, ReadFailure):
                return band
            pixels[piece.band] = band[0]
    return pixels


def _fill(raster: RasterHeader, block: Block) -> _Pixels:
    """What a block that is not in the file holds: nodata cut to the type's range, or 0, as in GDAL."""
    rows, columns = (
        min(size, whole - k * size) for k, size, whole in zip(block, raster.block_shape, raster.grid.shape, strict=True)
    )
    dtype = np.dtype(raster.dtype)
    value = 0.0 if raster.nodata is None else raster.nodata
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        value = 0 if np.isnan(value) else int(min(max(value, limits.min), limits.max))
    return np.full((raster.count, rows, columns), value, dtype=dtype)


def _say(file: _File, piece: _Piece, error: ReadFailure | Exception, again: int) -> str:
    if isinstance(error, DecodeError):
        return f"{describe(file.header.href)}: block {piece.block} does not decode, fetched {again + 1} times ({error})"
    return str(error)
