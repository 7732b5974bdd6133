"""The section `imagery`, and its periods."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from eo_cate.config.part import Part

_RANGE = re.compile(r"(.+:)([^:]*?)(\d+)-([^:]*?)(\d+)")
_MAX_RANGE = 512

COMMON_NAMES = ("red", "green", "blue", "nir", "swir16")
"""STAC common names of the bands that quantities of images are made of."""


def _expand_range(name: Any) -> list[Any]:
    """``KEY:A00-A63`` as the 64 names KEY:A00 to KEY:A63; any other name as it is."""
    found = _RANGE.fullmatch(name) if isinstance(name, str) else None
    if found is None or found[2] != found[4]:
        return [name]
    first, last = int(found[3]), int(found[5])
    if not first < last < first + _MAX_RANGE:
        raise ValueError(f"{name}: a range of bands rises, by {_MAX_RANGE} bands at most")
    return [f"{found[1]}{found[2]}{number:0{len(found[3])}d}" for number in range(first, last + 1)]


def _expand_ranges(names: Any) -> Any:
    return [one for name in names for one in _expand_range(name)] if isinstance(names, list | tuple) else names


def _keys_as_text(names: Any) -> Any:
    """Take the numbers of a YAML as a command line gives them."""
    return {str(code): name for code, name in names.items()} if isinstance(names, dict) else names


BandNames = Annotated[tuple[str, ...], BeforeValidator(_expand_ranges)]
"""Names of bands; ``KEY:A00-A63`` stands for KEY:A00 to KEY:A63."""


class PeriodConfig(Part):
    """A span of dates that becomes one cloud-free composite."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="Name of the period, e.g. before or y2001.")
    start: dt.date = Field(description="First day.")
    end: dt.date = Field(description="Last day, included.")
    post_treatment_for_description_only: bool = Field(
        False, description="True: the period may lie after trial.treatment_start; nothing is fitted on it."
    )

    @model_validator(mode="after")
    def _check(self) -> PeriodConfig:
        if self.end < self.start:
            raise ValueError(f"period {self.name}: end {self.end} is before start {self.start}")
        return self


class ImageryConfig(Part):
    """The pixels above each site before the trial."""

    source: Literal["chips", "rasters", "stac", "stac_catalog"] = Field(
        examples=["rasters"],
        description="`chips`: images already cut, one per site; `rasters`: local scenes (GeoTIFF, COG, JP2) cut here; "
        "`stac`: scenes found through a STAC API; `stac_catalog`: scenes of a static STAC catalogue.",
    )
    path: Path | None = Field(
        None, description="chips: a .npy of shape (chip, y, x, band), or a folder of GeoTIFFs named SITE.tif."
    )
    keys: Path | None = Field(
        None,
        description="chips in a .npy: CSV with the columns row and key (= site); absent: the site is the row number.",
    )
    files: dict[str, Path] = Field(
        default_factory=dict,
        examples=[{"B04": "scene/B04.tif", "B03": "scene/B03.tif", "B02": "scene/B02.tif"}],
        description="rasters: band name -> file. The first file's grid is the grid of all.",
    )
    bands: BandNames = Field(
        (),
        description="chips: names of the bands, in the array's order; stac: common names or asset keys, e.g. [red, "
        "green, blue]. A band of an asset with several: KEY:NAME or KEY:NUMBER (from 1), a range as KEY:A00-A63.",
    )
    composite: Literal["median", "newest"] = Field(
        "median",
        json_schema_extra={"rarely_set": True},
        description="stac: what a period's scenes become, pixel by pixel. `median` of the clear observations; "
        "`newest`: the latest clear one, whole and never interpolated, for values that must not be averaged "
        "(quantised embeddings).",
    )
    resolution_m: float | None = Field(
        None, gt=0, description="chips, stac: ground size of a pixel in metres; stac: absent: the sensor's own."
    )
    acquired: dt.date | None = Field(
        None, description="Last acquisition date; must not be after trial.treatment_start."
    )
    api: str | None = Field(None, description="stac: `planetary_computer`, `earth_search`, or the address of an API.")
    catalog: str | None = Field(
        None, description="stac_catalog: address or file of a STAC catalogue, collection or item collection."
    )
    collection: str | None = Field(
        None, description="stac: a collection with a preset (landsat-c2-l2, sentinel-2-l2a) or any other."
    )
    periods: tuple[PeriodConfig, ...] = Field(
        (),
        json_schema_extra={"rarely_set": True},
        examples=[
            [
                {
                    "name": "before",
                    "start": dt.date(2000, 1, 1),
                    "end": dt.date(2003, 12, 31),
                    "post_treatment_for_description_only": False,
                }
            ]
        ],
        description="stac: spans of dates; each becomes one median composite, several make a sequence (see "
        "embeddings.sequence). A period after the treatment is fetched and described, never fitted on.",
    )
    platforms: tuple[str, ...] = Field((), description="stac: keep these satellites only, e.g. [landsat-7].")
    max_cloud_cover: float | None = Field(
        None, ge=0, le=100, description="stac: leave out scenes with more cloud than this, in percent."
    )
    hosts: tuple[str, ...] = Field(
        (), description="stac: further hosts that pixels may come from, beside the catalogue's own and its preset's."
    )
    max_failed_share: float = Field(
        0.0, ge=0, le=1, description="stac: share of sites whose pixels may have failed to arrive before `fetch` fails."
    )
    incomplete_sites: Literal["error", "drop"] = Field(
        "error", description="What to do with sites whose largest chip leaves the imagery or has missing pixels."
    )
    source_note: str = Field("", description="Credit and licence of the imagery, printed in the report.")
    common_names: dict[str, str] = Field(
        default_factory=dict,
        json_schema_extra={"rarely_set": True},
        examples=[{"red": "B04", "green": "B03", "nir": "B08", "swir16": "B11"}],
        description="STAC common name -> band, for NDVI, NDBI and NDWI in the report. Bands called so already, and "
        "those of a collection with a preset, need none.",
    )
    land_cover: Path | None = Field(
        None,
        description="GeoTIFF of land-cover classes (whole numbers) on any grid, older than the programme: the report "
        "then says what covers the ground around the sites that respond most and least. No model sees it.",
    )
    land_cover_names: Annotated[dict[str, str], BeforeValidator(_keys_as_text)] = Field(
        default_factory=dict,
        json_schema_extra={"rarely_set": True},
        examples=[{10: "trees", 40: "crops"}],
        description="Names of those classes, by number.",
    )

    @property
    def remote(self) -> bool:
        """Whether scenes are found in a catalogue and fetched."""
        return self.source in ("stac", "stac_catalog")

    @model_validator(mode="after")
    def _check(self) -> ImageryConfig:
        known = tuple(self.files) if self.source == "rasters" else self.bands
        wrong = {n: b for n, b in self.common_names.items() if b not in known or n not in COMMON_NAMES}
        if wrong:
            raise ValueError(f"common_names: {wrong} are not one of {COMMON_NAMES}, each with one of {list(known)}")
        if not all(code.lstrip("-").isdigit() for code in self.land_cover_names):
            raise ValueError(f"land_cover_names: {list(self.land_cover_names)} are not all whole numbers")
        if self.source == "chips" and (self.path is None or not self.bands):
            raise ValueError("source: chips needs `path` and `bands`")
        if self.source == "rasters" and not self.files:
            raise ValueError("source: rasters needs `files` (band name -> file)")
        if self.remote:
            where = "api" if self.source == "stac" else "catalog"
            absent = [name for name in (where, "collection", "bands", "periods") if not getattr(self, name)]
            if absent:
                raise ValueError(f"source: {self.source} needs {', '.join(f'`{name}`' for name in absent)}")
            names = [period.name for period in self.periods]
            if len(set(names)) < len(names):
                raise ValueError(f"periods need different names, got {names}")
        return self
