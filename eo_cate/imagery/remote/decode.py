"""Blocks of a TIFF from their bytes: never more memory than the block's pixels, whatever the bytes say.

What a flipped bit does: DEFLATE carries an Adler-32 of the pixels, which is checked here, so that it is noticed. ZSTD
as GDAL writes it carries no checksum: most flips change pixels silently. Uncompressed blocks carry nothing at all.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numcodecs import zstd  # type: ignore[import-untyped]
from numpy.typing import NDArray

from eo_cate.imagery.remote.tiff import TiffLayout

_NONE, _DEFLATE, _OLD_DEFLATE, _ZSTD = 1, 8, 32946, 50000
COMPRESSIONS = frozenset({_NONE, _DEFLATE, _OLD_DEFLATE, _ZSTD})

Bytes = bytes | memoryview


class DecodeError(Exception):
    """The bytes of a block are not what they should be."""


def decodes(layout: TiffLayout) -> bool:
    """Whether `decode_block` knows the file's compression, predictor and type; GDAL is asked for the others."""
    if layout.dtype is None or layout.compression not in COMPRESSIONS:
        return False
    return layout.predictor in (1, 2) or (layout.predictor == 3 and layout.dtype.kind == "f")


def decode_block(data: Bytes, layout: TiffLayout, row: int, column: int) -> NDArray[Any]:
    """Pixels of a block, (band, rows, columns) in native byte order, cut at the image's edge; one band if planar.

    Source of the predictors: TIFF 6.0, section 14, and Adobe Photoshop TIFF Technical Note 3.

    Raises
    ------
    DecodeError
        When the bytes are damaged, or hold more or fewer pixels than the block.
    """
    assert layout.dtype is not None
    rows, columns = layout.block_extent(row, column)
    bands = 1 if layout.planar else layout.count
    stored = (layout.block_shape[0] if layout.tiled else rows, layout.block_shape[1], bands)
    raw = _unpack(data, layout.compression, stored[0] * stored[1] * stored[2] * layout.dtype.itemsize)
    values = _unpredict(raw, layout, stored)
    return np.ascontiguousarray(np.moveaxis(values[:rows, :columns], 2, 0))


def _unpack(data: Bytes, compression: int, size: int) -> Any:
    """Exactly ``size`` bytes."""
    if compression == _NONE:
        if len(data) != size:
            raise DecodeError(f"{len(data)} bytes where {size} belong")
        return data
    if compression == _ZSTD:
        out = np.empty(size, dtype=np.uint8)
        try:
            return zstd.decompress(data, out)
        except (RuntimeError, ValueError) as error:
            raise DecodeError("its ZSTD stream is damaged") from error
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, size)
        rest = b"" if stream.eof else stream.decompress(stream.unconsumed_tail, 1)  # the checksum, when it is all there
    except zlib.error as error:
        raise DecodeError("its DEFLATE stream is damaged") from error
    if len(raw) != size or rest or not stream.eof:
        raise DecodeError("its DEFLATE stream is cut short, too long or of another size")
    return raw


def _unpredict(raw: Any, layout: TiffLayout, stored: tuple[int, int, int]) -> NDArray[Any]:
    dtype = layout.dtype
    assert dtype is not None
    native = dtype.newbyteorder("=")
    if layout.predictor == 3:
        rows, columns, bands = stored
        steps = np.frombuffer(raw, dtype=np.uint8).reshape(rows, -1, bands)
        planes = np.cumsum(steps, axis=1, dtype=np.uint8).reshape(rows, dtype.itemsize, columns * bands)
        big = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(dtype.newbyteorder(">"))
        return big.reshape(stored).astype(native)
    values = np.frombuffer(raw, dtype=dtype).reshape(stored)
    if layout.predictor == 2:
        whole = np.dtype(f"=u{dtype.itemsize}")
        steps = values.view(whole.newbyteorder(dtype.byteorder)).astype(whole, copy=False)
        return np.cumsum(steps, axis=1, dtype=whole).view(native)
    return values.astype(native, copy=False)
