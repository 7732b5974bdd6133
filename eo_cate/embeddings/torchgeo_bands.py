"""Which bands torchgeo's models take, and what is done to reflectance for them, each with its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eo_cate.embeddings.multispectral import BANDS, COMMON, LANDSAT, Band

_DN = 10_000.0
"""Sentinel-2's numbers are reflectance x 10,000; published statistics are of those numbers."""

_TCI_TOP, _OTHER_TOP = 3_558.0, 8_160.0


def _from_numbers(names: Sequence[str], mean: Sequence[float], sd: Sequence[float]) -> tuple[Band, ...]:
    return tuple(Band(n, BANDS[n][1], m / _DN, s / _DN) for n, m, s in zip(names, mean, sd, strict=True))


def _from_bytes(name: str, mean: float, sd: float) -> Band:
    top = (_TCI_TOP if name in ("B02", "B03", "B04") else _OTHER_TOP) / _DN
    return Band(name, BANDS[name][1], mean / 255 * top, sd / 255 * top, 0.0, top)


DOFA_BANDS = tuple(
    _from_bytes(name, mean, sd)
    for name, mean, sd in (
        ("B04", 114.1099739, 77.84352553),
        ("B03", 114.81779093, 69.96844919),
        ("B02", 126.63977424, 67.42465279),
        ("B05", 84.33539309, 64.57022983),
        ("B06", 97.84789168, 61.72545487),
        ("B07", 103.94461911, 61.34187099),
        ("B08", 101.435633, 60.29744676),
        ("B11", 72.32804172, 47.88519516),
        ("B12", 56.66528851, 42.55886798),
    )
)
"""torchgeo leaves DOFA's statistics out. These are of the 8-bit Sentinel-2 images (SatlasPretrain) of its training: the
visible bands as ESA's true colour image of level 1C (255 is reflectance .3558), the others with 8,160 as 255."""

PANOPTICON_BANDS = _from_numbers(
    tuple(BANDS),
    (
        1569.1970, 1383.9951, 1338.4231, 1408.1113, 1537.2856, 1926.5183, 2136.5127, 2033.4019, 2262.4558, 674.1297,
        16.7465, 2027.3674, 1501.4686,
    ),
    (
        517.7932, 595.0351, 690.2477, 994.7734, 994.4599, 1079.4558, 1192.3668, 1170.9979, 1278.2103, 474.7933,
        15.1294, 1362.3807, 1134.5983,
    ),
)  # fmt: skip
"""torchgeo leaves Panopticon's statistics out. These are of fMoW-Sentinel's, one of the data sets of its training."""

_L2A = _from_numbers(
    tuple(name for name in BANDS if name != "B10"),
    (
        752.40087073, 884.29673756, 1144.16202635, 1297.47289228, 1624.90992062, 2194.6423161, 2422.21248945,
        2517.76053101, 2581.64687018, 2645.51888987, 2368.51236873, 1805.06846033,
    ),
    (
        1108.02887453, 1155.15170768, 1183.6292542, 1368.11351514, 1370.265037, 1355.55390699, 1416.51487101,
        1474.78900051, 1439.3086061, 1582.28010962, 1455.52084939, 1343.48379601,
    ),
)  # fmt: skip
CROMA_BANDS = tuple(Band(b.name, b.nm, b.mean - 2 * b.sd, 4 * b.sd, b.mean - 2 * b.sd, b.mean + 2 * b.sd) for b in _L2A)
"""CROMA takes mean - 2 sd to 0 and mean + 2 sd to 1, and clips; mean and sd are those of SSL4EO-S12's level 2A."""

_LANDSAT_TOP = 0.3
_TEN_THOUSAND = ("SSL4EO-S12", "SSL4Eco Dataset", "CrisisLandMark")

SOURCES: Mapping[str, str] = {
    "dofa": "the README of zhu-xlab/DOFA, scales of allenai/satlas Normalization.md and ESA's true colour image",
    "panopticon": "dinov2/data/datasets/fmow.py of Panopticon-FM/panopticon",
    "croma": "the README of antofuller/CROMA, statistics of zhu-xlab/SSL4EO-S12 ssl4eo_dataset.py",
    "SSL4EO-L": "torchgeo's transforms (8 bit / 255) and its experiments/ssl4eo (reflectance 0 to .3 as 8 bit)",
}


def read_bands_of(weights: Any) -> tuple[Band, ...] | None:
    """The bands of one of torchgeo's ``Weights`` and their statistics, from its own metadata and transforms.

    Returns
    -------
    tuple of Band, or None
        In its order; None: it takes other than reflectance of Sentinel-2 or of Landsat's surface product.
    """
    meta = weights.meta
    names: list[str] = list(meta.get("bands") or ())
    if not names:
        return None
    if meta.get("dataset") == "SSL4EO-L":
        sensor = LANDSAT["etm" if "_ETM_" in weights.name else "oli"]
        if not all(name in sensor for name in names):
            return None  # top of the atmosphere, with thermal bands
        sd = _LANDSAT_TOP * 255 / 256
        return tuple(Band(name, COMMON[sensor[name]], 0.0, sd, 0.0, _LANDSAT_TOP) for name in names)
    own = [_sentinel2_name(name) for name in names]
    found = _statistics(weights.transforms, len(names))
    if meta.get("dataset") not in _TEN_THOUSAND or not all(name in BANDS for name in own) or found is None:
        return None
    return _from_numbers(own, *found)


def _sentinel2_name(name: str) -> str:
    number = name.upper().removeprefix("B").lstrip("0")
    return f"B{number}" if number == "8A" else f"B{number.zfill(2)}"


def _statistics(transforms: Any, count: int) -> tuple[list[float], list[float]] | None:
    """Mean and sd of the one normalisation among torchgeo's transforms, per band."""
    steps = [step for step in transforms.modules() if type(step).__name__ == "Normalize"]
    if len(steps) != 1:
        return None
    mean, sd = (list(side) * (count if len(side) == 1 else 1) for side in (steps[0].mean, steps[0].std))
    return mean, sd
