"""The section `imagery`, and its periods."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    model_validator,
)

from eo_cate.config.part import Part


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
    bands: tuple[str, ...] = Field(
        (), description="chips: names of the bands, in the array's order; stac: common names, e.g. [red, green, blue]."
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

    @property
    def remote(self) -> bool:
        """Whether scenes are found in a catalogue and fetched."""
        return self.source in ("stac", "stac_catalog")

    @model_validator(mode="after")
    def _check(self) -> ImageryConfig:
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
