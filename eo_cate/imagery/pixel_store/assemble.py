"""A file's pixels on a tile of the zone's grid: copied where the grids agree, interpolated where they do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from eo_cate.imagery.pixel_store.blocks import Part
from eo_cate.imagery.pixel_store.footprints import transformer
from eo_cate.imagery.pixel_store.zones import northern, pixel_offset
from eo_cate.imagery.scenes import RasterHeader, ReadFailure
from eo_cate.types import BoolArray, FloatArray, Grid, IntArray

GetBlock = Callable[[int, int], Part | ReadFailure | None]
"""(row, column) of a block -> its pixels, why they could not be read, or None when nobody asked for them."""

_UNREACHED = -float(2**31)
"""Row and column of a pixel that the projection does not reach."""
_MARGIN_PX = 2
"""Source pixels around an interpolated tile: a bilinear kernel reaches one, rounding never the second."""


def read_tile(
    header: RasterHeader,
    nodata: float | None,
    get_block: GetBlock,
    target: Grid,
    *,
    nearest: bool,
    band: int = 1,
) -> tuple[NDArray[np.float32], BoolArray]:
    """Stored numbers of a file on ``target``, float32 with NaN where it has none, and whether they failed, (y, x).

    ``band`` counts from 1.

    Notes
    -----
    Interpolation is bilinear among the neighbours that have data; a pixel is missing where the source pixel under its
    centre is. A file of finer pixels is averaged over bilinear values on a regular lattice in each target pixel (where
    the grids nest: over exactly its source pixels), and a pixel is missing where any of these is. ``nearest`` takes the
    source pixel under the centre. The positions are exact, and do not depend on where the tile ends.
    """
    grid = northern(header.grid)
    offset = pixel_offset(grid, target)
    if offset is not None:
        return _gather(header, band, nodata, get_block, offset, target.shape)
    lattice = 1 if nearest else math.ceil(_ratio(grid, target) - 0.01)
    rows, columns = _positions(grid, target, lattice)
    window = _window(grid, rows, columns)
    if window is None:
        return np.full(target.shape, np.nan, dtype=np.float32), np.zeros(target.shape, dtype=np.bool_)
    top, left, height, width = window
    values, failed = _gather(header, band, nodata, get_block, (top, left), (height, width))
    where = [rows - top, columns - left]
    if nearest:
        return _nearest(values, where, np.nan), _nearest(failed.astype(np.float32), where, 0.0) > 0
    return _interpolate(values, where, lattice), _mean_of(_bilinear(failed.astype(float), where), lattice) > 0


def needed_blocks(header: RasterHeader, target: Grid, mask: BoolArray, cell_px: int) -> BoolArray:
    """The blocks that a mask's pixels of ``target`` need, (block row, block column); it depends on the layout alone."""
    grid = northern(header.grid)
    offset = pixel_offset(grid, target)
    needed = np.zeros(header.block_bytes.shape, dtype=np.bool_)
    if offset is not None:
        edges = [_block_edges(offset[k], mask.shape[k], header, k) for k in (0, 1)]
        corners = _summed(mask)[np.ix_(edges[0], edges[1])]
        needed = (corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]) > 0
    else:
        margin = _MARGIN_PX + math.ceil(_ratio(grid, target))
        height, width = header.block_shape
        for row, column in _cells(mask, cell_px):
            window = _window(grid, *_lattice(grid, _corners(target, row, column, cell_px), 1), margin=margin)
            if window is not None:
                top, left, rows, columns = window
                i, j = (
                    slice(top // height, (top + rows - 1) // height + 1),
                    slice(left // width, (left + columns - 1) // width + 1),
                )
                needed[i, j] = True
    return needed


def covered_pixels(header: RasterHeader, target: Grid) -> BoolArray:
    """Pixels of ``target`` whose centre lies in the file's grid, for a file of the same CRS."""
    grid = northern(header.grid)
    inside = []
    for axis, (step, start) in enumerate(((4, 5), (0, 2))):
        centre = target.transform[start] + target.transform[step] * (np.arange(target.shape[axis]) + 0.5)
        position = (centre - grid.transform[start]) / grid.transform[step]
        inside.append((position >= 0) & (position < grid.shape[axis]))
    return np.logical_and.outer(inside[0], inside[1])


def crop_grid(grid: Grid, row: int, column: int, rows: int, columns: int) -> Grid:
    """A window of a grid."""
    a, b, c, d, e, f = grid.transform
    return Grid(crs=grid.crs, transform=(a, b, c + a * column, d, e, f + e * row), shape=(rows, columns))


def _gather(
    header: RasterHeader,
    band: int,
    nodata: float | None,
    get_block: GetBlock,
    offset: tuple[int, int],
    shape: tuple[int, int],
) -> tuple[NDArray[np.float32], BoolArray]:
    """A window of a file, from its blocks; NaN beyond its edges and in blocks that nobody asked for."""
    values = np.full(shape, np.nan, dtype=np.float32)
    failed = np.zeros(shape, dtype=np.bool_)
    stops = [min(offset[k] + shape[k], header.grid.shape[k]) for k in (0, 1)]
    starts = [max(offset[k], 0) for k in (0, 1)]
    height, width = header.block_shape
    for i in range(starts[0] // height, -(-stops[0] // height)):
        for j in range(starts[1] // width, -(-stops[1] // width)):
            block = get_block(i, j)
            if block is None:
                continue
            y, x = (
                slice(*_overlap(i * height, height, starts[0], stops[0])),
                slice(*_overlap(j * width, width, starts[1], stops[1])),
            )
            into = slice(y.start - offset[0], y.stop - offset[0]), slice(x.start - offset[1], x.stop - offset[1])
            if isinstance(block, ReadFailure):
                failed[into] = True
                continue
            top, left = i * height + block.top, j * width + block.left
            part = block.pixels[band - 1, y.start - top : y.stop - top, x.start - left : x.stop - left]
            missing = part == part.dtype.type(nodata) if _representable(nodata, part.dtype) else False
            values[into] = np.where(missing, np.float32(np.nan), part.astype(np.float32))
    return values, failed


def _representable(nodata: float | None, dtype: np.dtype[Any]) -> bool:
    if nodata is None or math.isnan(nodata):  # NaN in a file of floats is missing as it is
        return False
    if not np.issubdtype(dtype, np.integer):
        return True
    return float(nodata).is_integer() and np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max


def _overlap(start: int, size: int, low: int, high: int) -> tuple[int, int]:
    return max(start, low), min(start + size, high)


def _block_edges(offset: int, size: int, header: RasterHeader, axis: int) -> IntArray:
    """Edges of a file's blocks, in pixels of a mask that starts at ``offset`` in the file, cut to the mask."""
    block, blocks = header.block_shape[axis], header.block_bytes.shape[axis]
    edges = np.minimum(np.arange(blocks + 1) * block, header.grid.shape[axis]) - offset
    return np.asarray(np.clip(edges, 0, size), dtype=np.int64)


def _cells(mask: BoolArray, cell_px: int) -> list[tuple[int, int]]:
    rows, columns = mask.shape[0] // cell_px, mask.shape[1] // cell_px
    cells = mask.reshape(rows, cell_px, columns, cell_px).any(axis=(1, 3))
    return [(int(i) * cell_px, int(j) * cell_px) for i, j in zip(*np.nonzero(cells), strict=True)]


def _summed(mask: BoolArray) -> IntArray:
    """Number of a mask's pixels above and left of every pixel corner, one row and column more than the mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int64)
    if len(rows):
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        part = mask[top:bottom, left:right].cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
        total[top + 1 : bottom + 1, left + 1 : right + 1] = part
        total[bottom + 1 :, left + 1 : right + 1] = part[-1]
        total[:, right + 1 :] = total[:, right, None]
    return total


def _corners(target: Grid, row: int, column: int, cell_px: int) -> Grid:
    """A grid whose 5 x 5 pixel centres lie on the corners, edges and inside of a cell."""
    a, b, c, d, e, f = target.transform
    x, y = a * cell_px / 4, e * cell_px / 4
    return Grid(crs=target.crs, transform=(x, b, c + a * column - x / 2, d, y, f + e * row - y / 2), shape=(5, 5))


@lru_cache(maxsize=4)
def _positions(grid: Grid, target: Grid, lattice: int) -> tuple[FloatArray, FloatArray]:
    """As `_lattice`, remembered while the bands of a scene are read."""
    return _lattice(grid, target, lattice)


def _lattice(grid: Grid, target: Grid, lattice: int) -> tuple[FloatArray, FloatArray]:
    """Rows and columns in ``grid`` (0 = centre of the first pixel) of the lattice points of ``target``'s pixels."""
    a, _, c, _, e, f = target.transform
    x, y = np.meshgrid(
        c + a * (np.arange(target.shape[1] * lattice) + 0.5) / lattice,
        f + e * (np.arange(target.shape[0] * lattice) + 0.5) / lattice,
    )
    if grid.crs != target.crs:
        x, y = transformer(target.crs, grid.crs).transform(x, y)
    rows, columns = (y - grid.transform[5]) / grid.transform[4] - 0.5, (x - grid.transform[2]) / grid.transform[0] - 0.5
    reached = np.isfinite(rows) & np.isfinite(columns)
    return np.where(reached, rows, _UNREACHED), np.where(reached, columns, _UNREACHED)


@lru_cache(maxsize=1024)
def _ratio(grid: Grid, target: Grid) -> float:
    """Side of a pixel of ``target`` in pixels of ``grid``."""
    middle = crop_grid(target, target.shape[0] // 2, target.shape[1] // 2, 2, 2)
    rows, columns = _lattice(grid, middle, 1)
    return max(float(np.hypot(np.diff(rows[:, 0])[0], np.diff(columns[:, 0])[0])), 1.0)


def _window(
    grid: Grid, rows: FloatArray, columns: FloatArray, margin: int = _MARGIN_PX
) -> tuple[int, int, int, int] | None:
    """Top, left, height and width of the part of a file around some positions; None off the file."""
    reached = rows > _UNREACHED
    if not reached.any():
        return None
    rows, columns = rows[reached], columns[reached]
    top, left = (max(math.floor(v.min()) - margin, 0) for v in (rows, columns))
    bottom = min(math.ceil(rows.max()) + margin + 1, grid.shape[0])
    right = min(math.ceil(columns.max()) + margin + 1, grid.shape[1])
    return (top, left, bottom - top, right - left) if bottom > top and right > left else None


def _nearest(values: NDArray[np.float32], where: list[FloatArray], outside: float) -> NDArray[np.float32]:
    rows, columns = (np.floor(v + 0.5).astype(np.int64) for v in where)
    inside = (rows >= 0) & (columns >= 0) & (rows < values.shape[0]) & (columns < values.shape[1])
    result = np.full(rows.shape, outside, dtype=np.float32)
    result[inside] = values[rows[inside], columns[inside]]
    return result


def _bilinear(values: FloatArray, where: list[FloatArray]) -> FloatArray:
    return np.asarray(map_coordinates(values, where, order=1, mode="nearest", output=np.float64))


def _interpolate(values: NDArray[np.float32], where: list[FloatArray], lattice: int) -> NDArray[np.float32]:
    present = np.isfinite(values)
    weight = _bilinear(present.astype(float), where)
    total = _bilinear(np.where(present, values, 0.0).astype(float), where)
    under = ~np.isnan(_nearest(values, where, np.nan))
    points = np.divide(total, weight, out=np.full(total.shape, np.nan), where=under & (weight > 0))
    return _mean_of(points, lattice).astype(np.float32)


def _mean_of(points: FloatArray, lattice: int) -> FloatArray:
    rows, columns = points.shape
    return np.asarray(points.reshape(rows // lattice, lattice, columns // lattice, lattice).mean(axis=(1, 3)))
