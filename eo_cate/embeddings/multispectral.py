"""Bands by wavelength, and pixels back to reflectance: what models of multispectral imagery are given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eo_cate.errors import EmbeddingError

BANDS: Mapping[str, tuple[tuple[str, ...], float]] = {
    "B01": (("coastal",), 443.0),
    "B02": (("blue",), 490.0),
    "B03": (("green",), 560.0),
    "B04": (("red",), 665.0),
    "B05": (("rededge1", "rededge071"), 705.0),
    "B06": (("rededge2", "rededge075"), 740.0),
    "B07": (("rededge3", "rededge078"), 783.0),
    "B08": (("nir",), 842.0),
    "B8A": (("nir08",), 865.0),
    "B09": (("nir09",), 945.0),
    "B10": (("cirrus",), 1375.0),
    "B11": (("swir16",), 1610.0),
    "B12": (("swir22",), 2190.0),
}
"""Sentinel-2's band -> STAC common names (Landsat's assets have them too) and nominal central wavelength, nm (ESA)."""

LANDSAT: Mapping[str, Mapping[str, str]] = {
    "etm": dict(
        zip(
            ("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7"),
            ("blue", "green", "red", "nir08", "swir16", "swir22"),
            strict=True,
        )
    ),
    "oli": dict(
        zip(
            [f"SR_B{i}" for i in range(1, 8)],
            ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22"),
            strict=True,
        )
    ),
}
"""Landsat 7 (ETM+) and 8 (OLI): band of surface reflectance -> common name. The same names are other bands on each."""

COMMON = {name: nm for names, nm in BANDS.values() for name in names}
ABSENT = "B10"
"""The one band of Sentinel-2 that may be left out of a model of all 13 (level 2A has none): it is given 0."""

_SAME_NM, _NEAR_NM = 25.0, 30.0
_PLAUSIBLE = (0.02, 3.0)


@dataclass(frozen=True)
class Pixels:
    """What the pixels are that a model is shown; images in [0, 1] are brought back to reflectance by it.

    Parameters
    ----------
    bands : tuple of str
        Names, in the order shown.
    stretch : tuple of (low, high)
        Per band: the pixel values that became 0 and 1.
    reflectance : (zero, one)
        The pixel values that are reflectance 0 and 1.
    wavelengths_nm : tuple of float
        Central wavelengths, where names do not tell them; empty: by name.
    statistics : tuple of (mean, sd)
        Per band, in pixel values, in place of the published ones; empty: those.
    """

    bands: tuple[str, ...]
    stretch: tuple[tuple[float, float], ...]
    reflectance: tuple[float, float] = (0.0, 10_000.0)
    wavelengths_nm: tuple[float, ...] = ()
    statistics: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Band:
    """A band as a model takes it: (reflectance - mean) / sd, after reflectance is clipped to low and high."""

    name: str
    nm: float
    mean: float
    sd: float
    low: float = -np.inf
    high: float = np.inf


def check_pixels(model: str, pixels: Pixels | None) -> Pixels:
    """The pixels, refused before any work when their stretch cannot be undone.

    Raises
    ------
    EmbeddingError
        When they are not described, counts differ, a pair is not of finite increasing values, or the stretch is no
        range of reflectance.
    """
    if pixels is None:
        raise EmbeddingError(f"{model} undoes the stretch: open it with pixels=Pixels(bands, stretch)")
    count = len(pixels.bands)
    for option in ("stretch", "wavelengths_nm", "statistics"):
        given = len(getattr(pixels, option))
        if given != count and (given or option == "stretch"):
            raise EmbeddingError(f"{model}: {count} bands are shown, but embeddings.{option} has {given} entries")
    pairs = np.array([pixels.reflectance, *pixels.stretch], dtype=np.float64)
    if not np.isfinite(pairs).all() or (pairs[:, 0] >= pairs[:, 1]).any():
        raise EmbeddingError(
            f"{model} was trained on reflectance: the stretch is undone, so each pair must be two finite pixel values, "
            f"low below high; got reflectance {list(pixels.reflectance)}, stretch {[list(p) for p in pixels.stretch]}"
        )
    if any(not (np.isfinite(pair).all() and pair[1] > 0) for pair in pixels.statistics):
        raise EmbeddingError(f"{model}: embeddings.statistics must be pairs (mean, sd) of pixel values, sd above 0")
    zero, one = pixels.reflectance
    top = (pairs[1:, 1] - zero) / (one - zero)
    if (top < _PLAUSIBLE[0]).any() or (top > _PLAUSIBLE[1]).any():
        raise EmbeddingError(
            f"{model}: with embeddings.reflectance {[zero, one]} the upper ends of the stretch are reflectance "
            f"{[round(float(t), 5) for t in top]}, which no surface has: say which pixel values are reflectance 0 and "
            "1, as in [0, 10000] (Sentinel-2 as stored), [0, 1] (as fetched from a catalogue) or [7273, 43636] "
            "(Landsat Collection 2 as stored)"
        )
    return pixels


def find_wavelengths(model: str, pixels: Pixels, own: Mapping[str, float] | None = None) -> tuple[float, ...]:
    """Central wavelength of each band shown, nm.

    Parameters
    ----------
    model : str
        For messages.
    pixels : Pixels
    own : mapping of str to float, optional
        Names of the model's sensor, which come before those of the table.

    Raises
    ------
    EmbeddingError
        When a name tells none.
    """
    if pixels.wavelengths_nm:
        return pixels.wavelengths_nm
    known = {**{name: nm for name, (_, nm) in BANDS.items()}, **COMMON}
    mine = {_plain(name): nm for name, nm in (own or {}).items()}
    found = [mine.get(_plain(name), known.get(name)) for name in pixels.bands]
    unknown = [name for name, nm in zip(pixels.bands, found, strict=True) if nm is None]
    if unknown:
        raise EmbeddingError(
            f"{model}: the wavelengths of bands {unknown} are not known (B4 or SR_B4 are other bands on other "
            "satellites): give embeddings.wavelengths_nm, one per band, or use names of "
            f"{list(BANDS)} or {list(COMMON)}"
        )
    return tuple(nm for nm in found if nm is not None)


def _plain(name: str) -> str:
    return re.sub(r"(?<=[A-Z])0(?=\d)", "", name.upper())


def find_order(model: str, pixels: Pixels, wanted: Sequence[Band]) -> tuple[int | None, ...]:
    """For each band of a model, in its order, which of those shown it is; None: `ABSENT`, which is not shown.

    Raises
    ------
    EmbeddingError
        When a band has no counterpart or two have the same.
    """
    told = ", ".join(f"{band.name} ({band.nm:g} nm)" for band in wanted)
    optional = [band for band in wanted if band.name == ABSENT]
    allowed = (len(wanted), len(wanted) - len(optional))
    may = f" ({ABSENT} may be left out)" if optional else ""
    if len(pixels.bands) not in allowed:
        raise EmbeddingError(f"{model} takes {len(wanted)} bands{may}: {told}; {len(pixels.bands)} are shown")
    shown = find_wavelengths(model, pixels, {band.name: band.nm for band in wanted})
    nearest = [min(range(len(wanted)), key=lambda i: abs(wanted[i].nm - nm)) for nm in shown]
    wrong = [
        name
        for j, (name, nm) in enumerate(zip(pixels.bands, shown, strict=True))
        if abs(wanted[nearest[j]].nm - nm) > _SAME_NM or nearest.index(nearest[j]) != j
    ]
    lacking = [band.name for i, band in enumerate(wanted) if i not in nearest and band.name != ABSENT]
    if wrong or lacking:
        raise EmbeddingError(f"{model} takes the bands {told}{may}; shown in vain: {wrong}, lacking: {lacking}")
    return tuple(nearest.index(i) if i in nearest else None for i in range(len(wanted)))


def describe_shown(model: str, pixels: Pixels, published: Sequence[Band]) -> tuple[Band, ...]:
    """The bands shown, for a model that takes any: statistics as configured, else those of the nearest published band.

    Raises
    ------
    EmbeddingError
        When no published band is near one that is shown and no statistics are configured.
    """
    waves = find_wavelengths(model, pixels)
    zero, one = pixels.reflectance
    if pixels.statistics:
        return tuple(
            Band(name, nm, (mean - zero) / (one - zero), sd / (one - zero))
            for name, nm, (mean, sd) in zip(pixels.bands, waves, pixels.statistics, strict=True)
        )
    nearest = [min(published, key=lambda band: abs(band.nm - nm)) for nm in waves]
    far = [name for name, nm, band in zip(pixels.bands, waves, nearest, strict=True) if abs(band.nm - nm) > _NEAR_NM]
    if far:
        raise EmbeddingError(
            f"{model}: statistics are published for {', '.join(f'{b.name} ({b.nm:g} nm)' for b in published)}, none "
            f"within {_NEAR_NM:g} nm of {far}: give embeddings.statistics, (mean, sd) of each band in pixel values"
        )
    return tuple(
        Band(name, nm, band.mean, band.sd, band.low, band.high)
        for name, nm, band in zip(pixels.bands, waves, nearest, strict=True)
    )


def undo_stretch(pixels: Pixels, index: int, band: Band) -> tuple[float, float]:
    """Mean and sd, in the image in [0, 1], that make of it what the model takes: stretch and statistics in one step."""
    (low, high), (zero, one) = pixels.stretch[index], pixels.reflectance
    unit = one - zero
    return (zero + band.mean * unit - low) / (high - low), band.sd * unit / (high - low)
