"""Real chips with planted marks: four devices that can be on or off at a site, and a second sensor (METHODS.md, 11)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eo_cate.config import RunConfig
from eo_cate.embeddings import embed_sites
from eo_cate.errors import ImageryError
from eo_cate.executor import Executor
from eo_cate.store import Store, digest
from eo_cate.types import ChipReader, FloatArray, Grid

Chips = NDArray[np.float32]

DEVICES = ("square", "fade", "contrast", "cloud")
PATTERNS = tuple("".join(bits) for bits in itertools.product("01", repeat=len(DEVICES)))
"""Which devices are on, in the order of `DEVICES`: 0000, 0001, ..., 1111."""

SQUARE_M = 40.0
FADE_BEYOND_M, FADE = 240.0, 0.5
CONTRAST = 0.6
CLOUD_M, CLOUD_AT_M = 320.0, (-450.0, 450.0)
"""Diameter of the cloud, and its centre's distance south and east of the site."""

SEPARATOR = "@"


class Change(Protocol):
    """What is done to chips (site, band, y, x) of a resolution; ``codes`` says what to each."""

    def __call__(self, chips: Chips, codes: Sequence[str], *, resolution_m: float) -> Chips:
        """Changed chips."""
        ...


@dataclass(frozen=True)
class Devices:
    """Marks on chips, each drawn over those before it.

    ``contrast`` brings every pixel to .6 of its distance from the middle of the stretch; ``fade`` brings pixels whose
    centre is more than 240 m from the site half-way to that middle; ``cloud`` is a disk of 320 m, 450 m north and east
    of the site, of the upper end of the stretch; ``square`` is a square of 40 m around the site, of that value too. A
    code has one character per device of `DEVICES`, ``1`` where it is on.

    Parameters
    ----------
    stretch : tuple of (low, high)
        Per band of the chips.
    """

    stretch: tuple[tuple[float, float], ...]

    def __call__(self, chips: Chips, codes: Sequence[str], *, resolution_m: float) -> Chips:
        """Chips with the marks of their codes, on a copy."""
        low, high = np.array(self.stretch, dtype=np.float32).T[:, None, :, None, None]
        middle = (low + high) / 2
        on = np.array([[bit == "1" for bit in code] for code in codes]).reshape(len(chips), len(DEVICES))
        square, fade, contrast, cloud = on.T[..., None, None, None]
        y, x = _offsets(chips.shape[-1], resolution_m)
        far = np.hypot(y, x) > FADE_BEYOND_M
        inside = (np.maximum(np.abs(y), np.abs(x)) < SQUARE_M / 2) & square
        under = (np.hypot(y - CLOUD_AT_M[0], x - CLOUD_AT_M[1]) < CLOUD_M / 2) & cloud
        kept = np.where(contrast, np.float32(CONTRAST), 1) * np.where(far & fade, np.float32(FADE), 1)
        return np.asarray(np.where(inside | under, high, middle + kept * (chips - middle)), dtype=np.float32)


@dataclass(frozen=True)
class SecondSensor:
    """Chips of code ``1`` as another sensor would give them: gain and offset by band, the same for all of its chips."""

    gain: tuple[float, ...]
    offset: tuple[float, ...]

    def __call__(self, chips: Chips, codes: Sequence[str], *, resolution_m: float) -> Chips:
        """Chips as their sensors give them."""
        del resolution_m
        gain, offset = (np.array(v, dtype=np.float32)[:, None, None] for v in (self.gain, self.offset))
        second = np.array([code == "1" for code in codes])[:, None, None, None]
        return np.asarray(np.where(second, gain * chips + offset, chips), dtype=np.float32)


class ChangedReader:
    """A reader whose site ids are ``SITE@CODE``: chips of SITE after what the code says has been done to them.

    Parameters
    ----------
    reader : ChipReader
        Pixels above the sites, of known resolution.
    change : Change
        A frozen dataclass, so that it can be sent to workers and its text tells what it does.
    """

    def __init__(self, reader: ChipReader, change: Change) -> None:
        if reader.resolution_m is None:
            raise ImageryError("devices are measured in metres: the imagery needs a resolution (a projected CRS)")
        self.reader, self.change = reader, change
        self.bands: tuple[str, ...] = reader.bands
        self.resolution_m: float | None = reader.resolution_m
        self.grid: Grid | None = reader.grid
        self.digest = digest("changed", reader.digest, repr(change))

    def read_chips(self, site_ids: Sequence[str], size_px: int) -> Chips:
        """Changed chips, (site, band, y, x) float32."""
        assert self.resolution_m is not None
        sites, codes = zip(*(site.rsplit(SEPARATOR, 1) for site in site_ids), strict=True)
        return self.change(self.reader.read_chips(sites, size_px), codes, resolution_m=self.resolution_m)


def _offsets(size_px: int, resolution_m: float) -> tuple[FloatArray, FloatArray]:
    """Metres south (y, 1) and east (1, x) of the site of each pixel's centre."""
    offset = np.asarray((np.arange(size_px) + 0.5 - size_px // 2) * resolution_m, dtype=np.float64)
    return offset[:, None], offset[None, :]


def embed_patterns(
    reader: ChipReader,
    site_ids: Sequence[str],
    config: RunConfig,
    *,
    encoder: str,
    scales: Sequence[int],
    store: Store,
    executor: Executor,
    shard_size: int = 50,
) -> NDArray[np.float32]:
    """Features of each site under each pattern of `PATTERNS`, (pattern, site, scale, feature).

    ``reader`` has the bands that are shown to the encoder, in its order. A shard holds one pattern, so a
    chip too small to see a device is encoded once for both of its states. ``shard_size`` divides the number of sites.
    """
    settings = config.embeddings
    stretch = tuple((float(low), float(high)) for low, high in settings.stretch)
    ids = [f"{site}{SEPARATOR}{pattern}" for pattern in PATTERNS for site in site_ids]
    found: xr.DataArray = embed_sites(
        ChangedReader(reader, Devices(stretch)), ids, encoder=encoder, scales=scales,
        bands=settings.bands, stretch=settings.stretch, input_px=settings.input_px, seed=config.seed, store=store,
        executor=executor, shard_size=shard_size, description="embedding chips with devices",
    )  # fmt: skip
    values = found.values[:, :, 0]
    return np.asarray(values.reshape(len(PATTERNS), len(site_ids), *values.shape[1:]))
