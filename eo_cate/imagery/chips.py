"""Chips cut beforehand: an array, or a folder of GeoTIFFs. They have no common grid, so there is no map."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eo_cate.errors import ImageryError
from eo_cate.imagery.files import gdal_env, open_raster
from eo_cate.store import digest, file_digest
from eo_cate.types import Grid


def centre_crop(shape: tuple[int, int], size_px: int) -> tuple[slice, slice]:
    """Rows and columns of the centre crop: it starts at ``(full - size_px) // 2``.

    When the margin is odd, the spare row and column are left below and to the right.

    Raises
    ------
    ImageryError
        When the crop is larger than the chip.
    """
    if not 1 <= size_px <= min(shape):
        raise ImageryError(f"chips of {size_px} px were asked for, but the chips are {shape[0]} x {shape[1]} px (y, x)")
    y, x = ((full - size_px) // 2 for full in shape)
    return slice(y, y + size_px), slice(x, x + size_px)


class ChipArray:
    """Chips in one .npy file, memory-mapped.

    Parameters
    ----------
    path : Path
        Array of shape (chip, y, x, band), integer or floating point; NaN and infinite values are missing.
    bands : sequence of str
        Names of the bands, in the array's order.
    keys : Path, optional
        CSV with the columns ``row`` (from 0) and ``key`` (the site_id); absent: the site_id is the row number.
    resolution_m : float, optional
        Ground size of a pixel.

    Raises
    ------
    ImageryError
        When the array or the keys are unreadable or do not fit each other.
    """

    def __init__(
        self, path: Path, *, bands: Sequence[str], keys: Path | None = None, resolution_m: float | None = None
    ) -> None:
        self.path, self.bands, self.resolution_m = Path(path).resolve(), tuple(bands), resolution_m
        self.grid: Grid | None = None
        self._content = _hash(self.path)
        array = self._array()
        if array.ndim != 4 or array.shape[3] != len(self.bands) or array.dtype.kind not in "buif":
            raise ImageryError(
                f"{path}: expected numbers of shape (chip, y, x, {len(self.bands)} bands), found {array.dtype} of "
                f"shape {array.shape}; name every band in imagery.bands, or transpose the array"
            )
        self.rows = {str(row): row for row in range(len(array))} if keys is None else _read_keys(keys, len(array))
        self.digest = digest("chips", self._content, list(self.bands), self.rows)

    @property
    def site_ids(self) -> frozenset[str]:
        """Sites that have a chip."""
        return frozenset(self.rows)

    def read_chips(self, site_ids: Sequence[str], size_px: int) -> NDArray[np.float32]:
        """Centre crops, (site, band, y, x) float32; NaN where there is no observation."""
        _refuse_unknown(site_ids, self.rows)
        array = self._array()
        y, x = centre_crop(array.shape[1:3], size_px)
        rows = np.asarray([self.rows[site] for site in site_ids], dtype=np.int64)
        return _finite(array[rows, y, x].transpose(0, 3, 1, 2))

    def _array(self) -> NDArray[Any]:
        try:
            return _map_array(os.getpid(), self.path, self._content)
        except (OSError, ValueError, EOFError) as error:
            raise ImageryError(f"{self.path}: not a readable .npy array ({error})") from error


class ChipFolder:
    """Chips as GeoTIFFs of equal shape, named SITE.tif.

    Parameters
    ----------
    path : Path
        Folder of .tif or .tiff files.
    bands : sequence of str
        Names of the bands, in the files' order.
    resolution_m : float, optional
        Ground size of a pixel.

    Raises
    ------
    ImageryError
        When there are no files, a file is unreadable, two files name one site, or shapes differ.
    """

    def __init__(self, path: Path, *, bands: Sequence[str], resolution_m: float | None = None) -> None:
        self.path, self.bands, self.resolution_m = Path(path).resolve(), tuple(bands), resolution_m
        self.grid: Grid | None = None
        found = sorted(p for p in self.path.iterdir() if p.suffix.lower() in (".tif", ".tiff"))
        self.files = {p.stem: p for p in found}
        if not found or len(self.files) < len(found):
            raise ImageryError(f"{path}: {len(found)} GeoTIFFs for {len(self.files)} sites; one file SITE.tif per site")
        self.shape = _common_shape(found, len(self.bands))
        contents = {site: _hash(file) for site, file in self.files.items()}
        self.digest = digest("chip folder", contents, list(self.bands))

    @property
    def site_ids(self) -> frozenset[str]:
        """Sites that have a chip."""
        return frozenset(self.files)

    def read_chips(self, site_ids: Sequence[str], size_px: int) -> NDArray[np.float32]:
        """Centre crops, (site, band, y, x) float32; NaN where there is no observation."""
        _refuse_unknown(site_ids, self.files)
        y, x = centre_crop(self.shape, size_px)
        chips = np.empty((len(site_ids), len(self.bands), size_px, size_px), dtype=np.float32)
        for i, site in enumerate(site_ids):
            file = self.files[site]
            with open_raster(file) as source, gdal_env(file):
                pixels = source.read(window=((y.start, y.stop), (x.start, x.stop)), masked=True)
            chips[i] = _finite(pixels.astype(np.float32).filled(np.nan))
        return chips


@lru_cache(maxsize=8)
def _map_array(process: int, path: Path, content: str) -> NDArray[Any]:
    """The array on disk; keyed by its sha256, so that a mapping of an older file of this name is never used."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ImageryError(f"{path}: an archive of several arrays; save the one array with numpy.save")
    return array


def _hash(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise ImageryError(f"{path}: cannot be read ({error.strerror})") from error


def _read_keys(path: Path, chips: int) -> dict[str, int]:
    try:
        table = pd.read_csv(path, dtype="str")
    except (OSError, ValueError) as error:
        raise ImageryError(f"{path}: the keys cannot be read ({error})") from error
    if not {"row", "key"} <= set(table.columns):
        raise ImageryError(f"{path}: needs the columns row and key, found {list(table.columns)}")
    rows, keys = pd.to_numeric(table["row"], errors="coerce"), table["key"].str.strip()
    wrong = int((~(rows.between(0, chips - 1) & (rows % 1 == 0))).sum())
    if wrong:
        raise ImageryError(f"{path}: {wrong} rows are not whole numbers from 0 to {chips - 1} (rows count from 0)")
    if keys.isna().any() or keys.duplicated().any():
        raise ImageryError(f"{path}: {keys.isna().sum()} keys are missing, {keys.dropna().duplicated().sum()} repeated")
    return {str(key): int(row) for key, row in zip(keys, rows, strict=True)}


def _common_shape(files: Sequence[Path], bands: int) -> tuple[int, int]:
    shapes = set()
    for file in files:
        with open_raster(file) as source:
            if source.count != bands:
                raise ImageryError(f"{file}: has {source.count} bands, imagery.bands names {bands}")
            shapes.add((source.height, source.width))
    if len(shapes) > 1:
        raise ImageryError(f"{files[0].parent}: chips have {len(shapes)} different shapes; cut them to one")
    return shapes.pop()


def _refuse_unknown(site_ids: Sequence[str], known: dict[str, Any]) -> None:
    absent = sum(site not in known for site in site_ids)
    if absent:
        raise ImageryError(f"{absent} of {len(site_ids)} sites have no chip")


def _finite(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """float32 in C order, with infinite values as missing."""
    with np.errstate(over="ignore"):
        chips = np.ascontiguousarray(pixels, dtype=np.float32)
    chips[~np.isfinite(chips)] = np.nan
    return chips
