"""Raster files that are what they say: allow-listed formats, capped sizes, errors that name the file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import Interleaving, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from eo_cate.errors import ImageryError
from eo_cate.types import Grid

MAX_PIXELS = 2**33
"""Most declared pixels x bands of a file: a country at 10 m passes, a file that unpacks to 160 GB does not."""
MAX_BLOCK_PIXELS = 2**27
"""Most pixels x bands of one internal block, the least that GDAL decodes: an untiled Sentinel-2 tile passes, and
1,024 x 1,024 pixels of 128 bands."""

_MAGIC = {
    b"II*\x00": "GTiff",
    b"MM\x00*": "GTiff",
    b"II+\x00": "GTiff",
    b"MM\x00+": "GTiff",
    b"\x00\x00\x00\x0cjP  ": "JP2OpenJPEG",
    b"\xff\x4f\xff\x51": "JP2OpenJPEG",
}


@contextmanager
def gdal_env(path: Path) -> Iterator[None]:
    """GDAL without side files (what is read is what was hashed), its errors as ImageryError naming the file."""
    with gdal_errors(path), rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED="NO"):
        yield


@contextmanager
def gdal_errors(path: Path) -> Iterator[None]:
    """GDAL's errors as ImageryError naming the file: enough to read an open file, where an Env doubles the time."""
    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:
        raise ImageryError(f"{path}: pixels could not be read ({error}); fetch or write the file again") from error


def sniff_driver(path: Path) -> str:
    """GDAL's driver for the file's first bytes, whatever its name says.

    Raises
    ------
    ImageryError
        When the file cannot be opened or is neither a GeoTIFF (COG) nor JPEG 2000. A VRT is refused: it may point to
        any other file or host.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(12)
    except OSError as error:
        raise ImageryError(f"{path}: cannot be read ({error.strerror})") from error
    driver = find_driver(head)
    if driver is None:
        raise ImageryError(f"{path}: neither a GeoTIFF (COG) nor JPEG 2000 by its first bytes; convert it to a GeoTIFF")
    return driver


def find_driver(head: bytes) -> str | None:
    """GDAL's driver for the first 12 bytes of a file; None for any other format than is read."""
    return next((driver for magic, driver in _MAGIC.items() if head.startswith(magic)), None)


def open_raster(path: Path) -> Any:
    """Open a raster file for reading, after its declared size was checked; the caller closes it.

    Raises
    ------
    ImageryError
        When the file is unreadable, of another format, or declares too many pixels.
    """
    driver = sniff_driver(path)
    with gdal_env(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # chips need no place; scenes are checked for theirs
        source = rasterio.open(path, driver=driver)
    pixels = source.width * source.height * source.count
    together = source.count if source.interleaving == Interleaving.pixel else 1
    block = together * max(rows * columns for rows, columns in source.block_shapes)
    if pixels > MAX_PIXELS or block > MAX_BLOCK_PIXELS:
        source.close()
        raise ImageryError(
            f"{path}: declares {pixels:.3g} pixels x bands in blocks of {block:.3g} pixels, more than the "
            f"{MAX_PIXELS:.3g} and {MAX_BLOCK_PIXELS:.3g} that are read; cut the scene, or write it tiled"
        )
    return source


def find_band(source: Any, band: str, path: Path) -> int:
    """Index (from 1) of a band: the only one of the file, or the one described by that name.

    Raises
    ------
    ImageryError
        When the file has several bands and none, or more than one, is described so.
    """
    if source.count == 1:
        return 1
    if list(source.descriptions).count(band) == 1:
        return list(source.descriptions).index(band) + 1
    raise ImageryError(
        f"{path}: has {source.count} bands, described as {list(source.descriptions)}; give files of one band, or name "
        f"the band {band!r} in its description"
    )


def read_window(path: Path, band: str, content: str, grid: Grid, window: Window) -> NDArray[np.float32]:
    """Pixels of a window of ``grid``, (y, x) float32, NaN where the file has no observation.

    ``content`` is the file's sha256, so that a handle on an older file of this name is never used. A band on another
    grid is interpolated bilinearly through the transforms, in float32 (not rounded to the file's type); a pixel is
    missing where the source pixel under its centre is.

    Raises
    ------
    ImageryError
        When the read fails: a failed read never becomes a missing pixel.
    """
    dataset, index = _open_on_grid(os.getpid(), path, band, content, grid)
    with gdal_errors(path):
        pixels = dataset.read(index, window=window, masked=True)
    return np.asarray(pixels.astype(np.float32).filled(np.nan), dtype=np.float32)


@lru_cache(maxsize=64)
def _open_on_grid(process: int, path: Path, band: str, content: str, grid: Grid) -> tuple[Any, int]:
    """An open dataset on the grid and the band's index; keyed by process, for GDAL's handles do not survive a fork."""
    source = open_raster(path)
    index = find_band(source, band, path)
    if source.shape == grid.shape and tuple(source.transform)[:6] == grid.transform:
        return source, index
    nodata = source.nodata
    if nodata is None and np.issubdtype(np.dtype(source.dtypes[index - 1]), np.floating):
        nodata = np.nan
    with gdal_env(path):
        warped = WarpedVRT(
            source,
            crs=source.crs,
            transform=rasterio.Affine(*grid.transform),
            width=grid.shape[1],
            height=grid.shape[0],
            resampling=Resampling.bilinear,
            src_nodata=nodata,
            nodata=np.nan,
            dtype="float32",
        )
    return warped, index
