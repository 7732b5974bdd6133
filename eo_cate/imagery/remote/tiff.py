"""The first directory of a remote TIFF: checked before async-tiff parses it, so that no header can exhaust memory."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import Any

import async_tiff
import numpy as np

from eo_cate.errors import ImageryError
from eo_cate.imagery.files import MAX_BLOCK_PIXELS, MAX_PIXELS
from eo_cate.imagery.remote.client import Purpose, RangeClient
from eo_cate.imagery.remote.hosts import describe
from eo_cate.types import IntArray

PREFETCH_BYTES = 2**15
MAX_HEADER_BYTES = 2**26
MAX_CALL_BYTES = 2**30
"""Most bytes of JPEG 2000 blocks that one call reads."""
MAX_HEADER_VALUES = 2**22
"""Most values of a directory: offsets and sizes of two million blocks."""
MAX_BANDS = 512
_MAX_TAGS = 1024
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_KINDS = {1: "u", 2: "i", 3: "f"}
_USER_DEFINED = 32767


class HeaderBytes:
    """Bytes of a file, fetched in growing pieces and kept while the file is in use.

    async-tiff takes it as a store and GDAL as a file, so that neither opens an address itself. ``blank`` is a span that
    reads as zeros: the link to the next directory.
    """

    def __init__(
        self, client: RangeClient, href: str, *, purpose: Purpose = "header", limit: int = MAX_HEADER_BYTES
    ) -> None:
        self._client = client
        self._purpose = purpose
        self._limit = limit
        self.href = href
        self.total: int | None = None
        self.blank = (0, 0)
        self.error: ImageryError | None = None
        self._pieces: list[tuple[int, bytes]] = []
        self._held = 0
        self._lock = asyncio.Lock()

    def copy_for_blocks(self) -> HeaderBytes:
        """What is held, and room for blocks beside it that goes when the copy goes."""
        copy = HeaderBytes(self._client, self.href, purpose="block", limit=MAX_CALL_BYTES)
        copy.total, copy._pieces = self.total, list(self._pieces)
        return copy

    def peek(self, start: int, end: int) -> bytes | None:
        """The bytes when they are held, cut at the file's end; None when they must be fetched."""
        if self.total is not None:
            end = min(end, self.total)
        if start >= end:
            return b""
        for offset, piece in self._pieces:
            if offset <= start and end <= offset + len(piece):
                return piece[start - offset : end - offset]
        return None

    async def get(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``, cut at the file's end.

        Raises
        ------
        ImageryError
            When they cannot be fetched, or the header is larger than `MAX_HEADER_BYTES`.
        """
        async with self._lock:
            found = self.peek(start, end)
            if found is not None:
                return found
            grow = min(self._held, 2**22) if self._purpose == "header" else 0
            size = max(end - start, PREFETCH_BYTES, grow)
            if self._held + size > self._limit:
                raise ImageryError(f"{describe(self.href)}: its {self._purpose} needs more than {self._limit} bytes")
            reply = await self._client.fetch(self.href, start, start + size, purpose=self._purpose)
            self.total = reply.total if reply.total is not None else self.total
            self._pieces.append((start, reply.data))
            self._held += len(reply.data)
            return reply.data[: end - start]

    async def get_range_async(
        self, path: str, *, start: int, end: int | None = None, length: int | None = None
    ) -> bytes:
        """One range, as obspec defines it, with the link to the next directory blanked."""
        stop = end if end is not None else start + (length or 0)
        try:
            data = await self.get(start, stop)
        except ImageryError as error:
            self.error = error
            raise
        low, high = max(self.blank[0], start), min(self.blank[1], start + len(data))
        return data if low >= high else data[: low - start] + bytes(high - low) + data[high - start :]

    async def get_ranges_async(
        self, path: str, *, starts: list[int], ends: list[int] | None = None, lengths: list[int] | None = None
    ) -> list[bytes]:
        """Several ranges, as obspec defines it."""
        stops = ends if ends is not None else [s + n for s, n in zip(starts, lengths or (), strict=True)]
        return [await self.get_range_async(path, start=s, end=e) for s, e in zip(starts, stops, strict=True)]


@dataclass(frozen=True)
class TiffLayout:
    """Where the blocks of a TIFF's first image lie, and how they are stored.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of pixels.
    count : int
        Bands.
    block_shape : (int, int)
        Rows and columns of a whole block (a strip is a block as wide as the image).
    dtype : dtype or None
        Of a value, in the file's byte order; None for one that only GDAL unpacks.
    tiled : bool
        Whether blocks at the edges are stored whole; strips are stored cut.
    planar : bool
        Whether each band has blocks of its own.
    compression, predictor : int
        The TIFF tags.
    offsets, sizes : (band or 1, block row, block column) int
        Bytes of the blocks; size 0: not in the file.
    nodata : float or None
    epsg : int or None
        None when the file has no EPSG code.
    transform : tuple of 6 floats or None
        None when the file is not georeferenced, or not north-up.
    """

    shape: tuple[int, int]
    count: int
    block_shape: tuple[int, int]
    dtype: np.dtype[Any] | None
    tiled: bool
    planar: bool
    compression: int
    predictor: int
    offsets: IntArray
    sizes: IntArray
    nodata: float | None
    epsg: int | None
    transform: tuple[float, float, float, float, float, float] | None

    def block_extent(self, row: int, column: int) -> tuple[int, int]:
        """Rows and columns of the block's part inside the image."""
        return (
            min(self.block_shape[0], self.shape[0] - row * self.block_shape[0]),
            min(self.block_shape[1], self.shape[1] - column * self.block_shape[1]),
        )


async def read_layout(header: HeaderBytes) -> TiffLayout:
    """Parse the first directory.

    Raises
    ------
    ImageryError
        When the header cannot be fetched, is damaged, or declares more than is read.
    """
    name = describe(header.href)
    header.blank = await _check_directory(header, name)
    try:
        tiff = await async_tiff.TIFF.open("", store=header, prefetch=PREFETCH_BYTES)
        return _layout(tiff.ifd(0), name, big_endian=int(tiff.endianness) == 1, total=header.total)
    except ImageryError:
        raise
    except Exception as error:  # async-tiff: its own error type, a panic, or an error from the store that it wrapped
        raise header.error or ImageryError(f"{name}: its header is damaged; fetch or write the file again") from error


async def _check_directory(header: HeaderBytes, name: str) -> tuple[int, int]:
    """Span of the link to the next directory, after the size of every value of the first one was checked."""
    damaged = ImageryError(f"{name}: its header is damaged; fetch or write the file again")
    magic = await header.get(0, 16)
    order = {b"II": "<", b"MM": ">"}.get(magic[:2])
    if order is None or len(magic) < 16:
        raise damaged
    big = struct.unpack_from(order + "H", magic, 2)[0] == 43
    first: int = struct.unpack_from(order + ("Q" if big else "I"), magic, 8 if big else 4)[0]
    number, entry, link = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    head = struct.calcsize(order + number)
    raw = await header.get(first, first + head)
    tags: int = struct.unpack(order + number, raw)[0] if len(raw) == head else 0
    size = struct.calcsize(order + entry)
    end = first + head + tags * size
    if not 0 < tags <= _MAX_TAGS:
        raise damaged
    table = await header.get(first + head, end)
    if len(table) < tags * size:
        raise damaged
    fields = list(struct.iter_unpack(order + entry, table))
    values = sum(count for _, _, count, _ in fields)
    if values > MAX_HEADER_VALUES:
        raise ImageryError(f"{name}: declares {values:.3g} header values, more than the {MAX_HEADER_VALUES:.3g} read")
    for _, kind, count, value in fields:
        long = _TYPE_BYTES.get(kind, 8) * count
        if long > (8 if big else 4) and header.total is not None and value + long > header.total:
            raise damaged
    return end, end + struct.calcsize(order + link)


def _layout(image: Any, name: str, *, big_endian: bool, total: int | None) -> TiffLayout:
    shape, count = (image.image_height, image.image_width), image.samples_per_pixel
    if image.tile_width:
        block_shape, offsets, sizes = (image.tile_height, image.tile_width), image.tile_offsets, image.tile_byte_counts
    else:
        rows = min(image.rows_per_strip or shape[0], shape[0])
        block_shape, offsets, sizes = (rows, shape[1]), image.strip_offsets, image.strip_byte_counts
    check_size(name, shape, count, block_shape)
    planar = int(image.planar_configuration) == 2 and count > 1
    table = (count if planar else 1, -(-shape[0] // block_shape[0]), -(-shape[1] // block_shape[1]))
    if not offsets or not sizes or not len(offsets) == len(sizes) == table[0] * table[1] * table[2]:
        raise ImageryError(f"{name}: its header does not list its {table[1] * table[2]} blocks; write the file again")
    dtype = _find_dtype(image, big_endian=big_endian)
    nodata = (image.gdal_nodata or "").strip("\x00 ")
    return TiffLayout(
        shape=shape,
        count=count,
        block_shape=block_shape,
        dtype=dtype,
        tiled=bool(image.tile_width),
        planar=planar,
        compression=int(image.compression),
        predictor=int(image.predictor or 1),
        offsets=np.array(offsets, dtype=np.int64).reshape(table),
        sizes=_check_sizes(name, np.array(sizes, dtype=np.int64).reshape(table), block_shape, count),
        nodata=float(nodata) if nodata else None,
        epsg=_find_epsg(image.geo_key_directory),
        transform=_find_transform(image),
    )


def check_size(name: str, shape: tuple[int, int], count: int, block_shape: tuple[int, int]) -> None:
    """Refuse a file that declares more than is read.

    Raises
    ------
    ImageryError
        See `eo_cate.imagery.files` for the limits.
    """
    pixels, block = shape[0] * shape[1] * count, block_shape[0] * block_shape[1]
    if min(*shape, *block_shape, count) < 1:
        raise ImageryError(f"{name}: declares an image without pixels; fetch or write the file again")
    if pixels > MAX_PIXELS or block * count > MAX_BLOCK_PIXELS or count > MAX_BANDS:
        raise ImageryError(
            f"{name}: declares {pixels:.3g} pixels x bands ({count} bands) in blocks of {block:.3g} pixels, more than "
            f"the {MAX_PIXELS:.3g} ({MAX_BANDS}) and {MAX_BLOCK_PIXELS:.3g} that are read; cut the scene, or write it "
            "tiled"
        )


def _check_sizes(name: str, sizes: IntArray, block_shape: tuple[int, int], count: int) -> IntArray:
    """No codec in use makes a block much longer than its pixels: a longer one is a damaged header or an attack."""
    most = block_shape[0] * block_shape[1] * count * 16 + 2**16
    if sizes.min() < 0 or sizes.max() > most:
        raise ImageryError(f"{name}: its header declares a block of {sizes.max()} bytes; fetch or write the file again")
    return sizes


def _find_dtype(image: Any, *, big_endian: bool) -> np.dtype[Any] | None:
    formats = {int(f) for f in image.sample_format} or {1}
    bits = set(image.bits_per_sample)
    if len(formats) > 1 or len(bits) > 1:
        return None
    kind, width = _KINDS.get(formats.pop()), bits.pop()
    if kind is None or width not in ((32, 64) if kind == "f" else (8, 16, 32, 64)):
        return None
    return np.dtype(f"{'>' if big_endian else '<'}{kind}{width // 8}")


def _find_epsg(keys: Any) -> int | None:
    if keys is None:
        return None
    code = {1: keys.projected_type, 2: keys.geographic_type}.get(keys.model_type)
    return code if code and code != _USER_DEFINED else None


def _find_transform(image: Any) -> tuple[float, float, float, float, float, float] | None:
    """North-up affine coefficients; a tie point at a pixel's centre (PixelIsPoint) moves to its corner, as in GDAL."""
    keys, matrix = image.geo_key_directory, image.model_transformation
    half = 0.5 if keys is not None and keys.raster_type == 2 else 0.0
    if matrix:
        a, b, c, d, e, f = matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7]
    elif image.model_pixel_scale and image.model_tiepoint:
        (a, e), tie = image.model_pixel_scale[:2], image.model_tiepoint
        e, b, d = -e, 0.0, 0.0
        c, f = tie[3] - tie[0] * a, tie[4] - tie[1] * e
    else:
        return None
    return (a, 0.0, c - half * a, 0.0, e, f - half * e) if b == d == 0.0 and a > 0 > e else None
