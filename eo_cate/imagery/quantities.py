"""Simple quantities of a site's pixels, at several scales: what a person can name in an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eo_cate.config.imagery import COMMON_NAMES
from eo_cate.errors import ImageryError
from eo_cate.executor import Executor
from eo_cate.imagery.stac.presets import COLLECTIONS
from eo_cate.shards import Arrays, compute_stored
from eo_cate.store import Store, digest
from eo_cate.types import ChipReader, FloatArray

VERSION = 2
INDICES: Mapping[str, tuple[str, str]] = {
    "NDVI": ("nir", "red"),
    "NDBI": ("swir16", "nir"),
    "NDWI": ("green", "nir"),
}
"""Normalised differences (a - b) / (a + b) by the STAC common names of a and b: vegetation, built-up land, water."""

_BLOCK_VALUES = 2**22
_SHARD_SITES = 256


def find_bands(
    bands: Sequence[str], *, common_names: Mapping[str, str] | None = None, collection: str | None = None
) -> dict[str, str]:
    """STAC common name -> band, of those of `COMMON_NAMES` that the imagery has.

    Parameters
    ----------
    bands : sequence of str
        The imagery's.
    common_names : mapping of str to str, optional
        Common name -> band, as the user knows them; they come first.
    collection : str, optional
        A collection whose preset knows other names of its bands.
    """
    preset = COLLECTIONS.get(collection or "")
    known = {name: preset.names_of(name) if preset else frozenset({name}) for name in COMMON_NAMES}
    found = {name: band for name, names in known.items() for band in bands if band in names}
    return found | dict(common_names or {})


def measure_chips(
    chips: NDArray[np.float32], *, bands: Sequence[str], shown: Sequence[str], named: Mapping[str, str]
) -> dict[str, FloatArray]:
    """Means over the pixels of each chip that are known.

    Parameters
    ----------
    chips : (site, band, y, x)
        Values that are not finite are missing.
    bands : sequence of str
        Names of the chips' bands, in their order.
    shown : sequence of str
        Bands that make up brightness.
    named : mapping of str to str
        Common name -> band (`find_bands`).

    Returns
    -------
    dict of str to (site,) float64
        Those of `INDICES` whose two bands are named, of each pixel before the mean, clipped to [-1, 1] and missing
        where a + b is not positive; ``brightness``, the mean of the shown bands in units of the pixels; ``texture``,
        the mean length of its gradient per pixel (central differences, one-sided at the edges). NaN where no pixel of
        a chip is known.

    Raises
    ------
    ImageryError
        When a band is not among the chips'.
    """
    unknown = [band for band in (*shown, *named.values()) if band not in bands]
    if unknown or not shown:
        raise ImageryError(f"bands {unknown} are not among the imagery's {list(bands)}; shown: {list(shown)}")
    values = np.where(np.isfinite(chips), chips, np.nan).astype(np.float64)
    place = {band: j for j, band in enumerate(bands)}
    found = {
        index: _mean_known(_normalised_difference(*(values[:, place[named[name]]] for name in pair)))
        for index, pair in INDICES.items()
        if all(name in named for name in pair)
    }
    light = values[:, [place[band] for band in shown]].mean(axis=1)
    return found | {"brightness": _mean_known(light), "texture": _mean_known(_gradient_length(light))}


def measure_sites(
    reader: ChipReader,
    site_ids: Sequence[str],
    *,
    scales: Sequence[int],
    shown: Sequence[str],
    named: Mapping[str, str],
    store: Store,
    executor: Executor,
    progress: bool = True,
) -> xr.DataArray:
    """`measure_chips` of unique sites at several scales, stored.

    Parameters
    ----------
    reader : ChipReader
    site_ids : sequence of str
    scales : sequence of int
        Sides of the chips in pixels.
    shown, named
        As in `measure_chips`.

    Returns
    -------
    DataArray (site, scale, feature) float64
    """
    ids = tuple(site_ids)
    parts = [ids[i : i + _SHARD_SITES] for i in range(0, len(ids), _SHARD_SITES)]
    shards = [_Shard(reader, part, tuple(scales), tuple(shown), dict(named)) for part in parts]
    keys = [
        Store.key("quantities", VERSION, _digest_pixels(s), list(reader.bands), list(s.scales), list(s.shown), s.named)
        for s in shards
    ]
    stored = compute_stored(
        _measure, shards, keys, "quantities",
        store=store, executor=executor, description="image quantities", progress=progress,
    )  # fmt: skip
    return xr.DataArray(
        np.concatenate([one["values"] for one in stored]),
        dims=("site", "scale", "feature"),
        coords={"site": list(ids), "scale": list(scales), "feature": stored[0]["names"].tolist()},
        name="quantity",
    )


@dataclass(frozen=True)
class _Shard:
    reader: ChipReader
    site_ids: tuple[str, ...]
    scales: tuple[int, ...]
    shown: tuple[str, ...]
    named: dict[str, str]


def _measure(shard: _Shard) -> Arrays:
    by_scale = [_measure_scale(shard, size_px) for size_px in shard.scales]
    values = np.stack([np.column_stack(list(found.values())) for found in by_scale], axis=1)
    return {"values": values, "names": np.array(list(by_scale[0]))}


def _digest_pixels(shard: _Shard) -> str:
    """Of the largest chips, which hold the others: what was fetched since around them changes nothing."""
    return digest(*(digest(chips) for chips in _read_blocks(shard, max(shard.scales))))


def _read_blocks(shard: _Shard, size_px: int) -> Iterator[NDArray[np.float32]]:
    """The shard's chips, a block of them in memory at a time."""
    block = max(1, _BLOCK_VALUES // (len(shard.reader.bands) * size_px**2))
    for i in range(0, len(shard.site_ids), block):
        yield shard.reader.read_chips(shard.site_ids[i : i + block], size_px)


def _measure_scale(shard: _Shard, size_px: int) -> dict[str, FloatArray]:
    """Quantities at one scale."""
    parts = [
        measure_chips(chips, bands=shard.reader.bands, shown=shard.shown, named=shard.named)
        for chips in _read_blocks(shard, size_px)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _normalised_difference(a: FloatArray, b: FloatArray) -> FloatArray:
    total = a + b
    ratio = np.divide(a - b, total, out=np.full_like(total, np.nan), where=total > 0)
    return np.asarray(np.clip(ratio, -1.0, 1.0))


def _gradient_length(images: FloatArray) -> FloatArray:
    """Length of the gradient of (site, y, x) images; NaN beside a missing pixel, and everywhere below 2 px."""
    if min(images.shape[1:]) < 2:
        return np.full(images.shape, np.nan)
    down, right = np.gradient(images, axis=(1, 2))
    return np.asarray(np.hypot(down, right))


def _mean_known(images: FloatArray) -> FloatArray:
    """Mean over the finite pixels of (site, y, x) images; NaN where there are none."""
    known = np.isfinite(images)
    count = known.sum(axis=(1, 2))
    total = np.where(known, images, 0.0).sum(axis=(1, 2))
    return np.asarray(total / np.where(count > 0, count, np.nan))
