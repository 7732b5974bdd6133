"""What is known of the catalogues and collections that trials use most: names of bands, scales, masks, hosts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from eo_cate.imagery.scenes import MaskKind

Signing = Literal["planetary_computer"]


@dataclass(frozen=True)
class ApiPreset:
    """A STAC API by its short name.

    Parameters
    ----------
    name, address : str
        Name in the configuration; where the API answers.
    hosts : tuple of str
        Hosts that its pixels come from.
    signing : str or None
        How links are signed when pixels are read; None: not at all.
    """

    name: str
    address: str
    hosts: tuple[str, ...]
    signing: Signing | None = None


@dataclass(frozen=True)
class CollectionPreset:
    """A collection whose pixels are understood.

    Parameters
    ----------
    name : str
        Id of the collection.
    resolution_m : float
        The sensor's own, of its finest bands here.
    scale, offset, nodata : float
        Used where an item does not state them (``raster:bands``).
    same_band : tuple of frozenset of str
        Names that mean one band, whatever the catalogue calls it.
    mask_keys, mask_kind
        Asset of the quality band, by the key of each API, and how it is read.
    other_scales : mapping of str to (scale, offset)
        Bands that are not reflectance.
    """

    name: str
    resolution_m: float
    scale: float
    offset: float
    nodata: float
    same_band: tuple[frozenset[str], ...]
    mask_keys: tuple[str, ...]
    mask_kind: MaskKind
    other_scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def names_of(self, band: str) -> frozenset[str]:
        """All names of a band, its own included."""
        return frozenset({band}).union(*(names for names in self.same_band if band in names))


APIS: Mapping[str, ApiPreset] = {
    "planetary_computer": ApiPreset(
        "planetary_computer",
        "https://planetarycomputer.microsoft.com/api/stac/v1",
        ("landsateuwest.blob.core.windows.net", "sentinel2l2a01.blob.core.windows.net"),
        signing="planetary_computer",
    ),
    "earth_search": ApiPreset(
        "earth_search",
        "https://earth-search.aws.element84.com/v1",
        (
            "sentinel-cogs.s3.us-west-2.amazonaws.com",
            "e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com",
        ),
    ),
}
"""Earth Search's Landsat pixels lie in a bucket whose readers pay (s3://usgs-landsat): they are refused."""

COLLECTIONS: Mapping[str, CollectionPreset] = {
    "landsat-c2-l2": CollectionPreset(
        "landsat-c2-l2",
        resolution_m=30.0,
        scale=2.75e-5,
        offset=-0.2,
        nodata=0.0,
        same_band=(frozenset({"nir", "nir08"}), frozenset({"lwir", "lwir11"})),
        mask_keys=("qa_pixel", "QA_PIXEL"),
        mask_kind="landsat_qa",
        other_scales={"lwir": (0.00341802, 149.0), "lwir11": (0.00341802, 149.0)},
    ),
    "sentinel-2-l2a": CollectionPreset(
        "sentinel-2-l2a",
        resolution_m=10.0,
        scale=1e-4,
        offset=0.0,
        nodata=0.0,
        same_band=(
            frozenset({"coastal", "B01"}),
            frozenset({"blue", "B02"}),
            frozenset({"green", "B03"}),
            frozenset({"red", "B04"}),
            frozenset({"rededge1", "B05"}),
            frozenset({"rededge2", "B06"}),
            frozenset({"rededge3", "B07"}),
            frozenset({"nir", "B08"}),
            frozenset({"nir08", "B8A"}),
            frozenset({"nir09", "B09"}),
            frozenset({"swir16", "B11"}),
            frozenset({"swir22", "B12"}),
        ),
        mask_keys=("scl", "SCL"),
        mask_kind="sentinel2_scl",
    ),
}

_OFFSET_BASELINE = 4.0
_OFFSET_DATE = dt.date(2022, 1, 25)
_BOA_OFFSET = -0.1


def find_api(api: str) -> ApiPreset | None:
    """The preset of a short name or an address; None for any other API."""
    if api in APIS:
        return APIS[api]
    return next((preset for preset in APIS.values() if preset.address == api.rstrip("/")), None)


def api_address(api: str) -> str:
    """The address of an API given by its short name or its address."""
    return APIS[api].address if api in APIS else api


def sentinel2_offset(properties: Mapping[str, Any], stated: float | None, acquired: dt.date) -> tuple[float, bool]:
    """The offset of a Sentinel-2 L2A band, in reflectance, and whether the item states what it rests on.

    ``earthsearch:boa_offset_applied`` true: 0, for the stored numbers were shifted already (Earth Search's items keep
    offset -0.1 in ``raster:bands`` all the same). Else the offset of ``raster:bands``; else -0.1 (BOA_ADD_OFFSET =
    -1000) from processing baseline 04.00 on; else the day that this baseline went into operation, 2022-01-25.
    """
    applied = properties.get("earthsearch:boa_offset_applied", properties.get("sentinel:boa_offset_applied"))
    if applied is True:
        return 0.0, True
    if stated is not None:
        return stated, True
    baseline = processing_baseline(properties)
    if baseline is not None:
        return (_BOA_OFFSET if baseline >= _OFFSET_BASELINE else 0.0), True
    return (_BOA_OFFSET if acquired >= _OFFSET_DATE else 0.0), False


def processing_baseline(properties: Mapping[str, Any]) -> float | None:
    """Sentinel-2's processing baseline as a number, or None."""
    text = properties.get("s2:processing_baseline", properties.get("sentinel:processing_baseline"))
    try:
        return float(str(text))
    except ValueError:
        return None
