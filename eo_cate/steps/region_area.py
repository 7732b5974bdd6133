"""The region as it lies on disk: polygons, their cells, people and survey, and the pixels above them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd

from eo_cate import extrapolation
from eo_cate.config import RegionConfig, RunConfig
from eo_cate.errors import ConfigError, ImageryError
from eo_cate.extrapolation import RegionCells
from eo_cate.steps.context import Run
from eo_cate.steps.fetch import fetch_imagery
from eo_cate.steps.inputs import Inputs
from eo_cate.steps.region_cells import require_points
from eo_cate.steps.region_people import Surveyed, lay_people
from eo_cate.trial import load_people
from eo_cate.types import BoolArray, ChipReader, FloatArray, Grid


@dataclass(frozen=True)
class Area:
    """A region that was read and checked: its polygons, cells, people per cell (None without a raster), and survey.

    ``readers`` are the pixels that its cells (and the survey's places) can be found in, by period.
    """

    settings: RegionConfig
    polygons: gpd.GeoDataFrame
    region: RegionCells
    people: FloatArray | None
    surveyed: Surveyed | None
    readers: Mapping[str, ChipReader] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_area(run: Run, inputs: Inputs) -> Area | None:
    """Read the region, and fetch its pixels where they come from a catalogue; None without a region.

    All that can be refused, or can fail to arrive, does so here, before the trial is analysed.
    """
    area = read_area(run.config, run.data_dir)
    if area is None:
        return None
    require_points(inputs.readers)
    region = area.region
    if inputs.fetched is None and inputs.reader.grid is not None and not _on_grid(region, inputs.reader.grid).any():
        raise ImageryError(
            f"{run.data_dir / area.settings.region}: none of the region's {len(region.cells):,} cells lies on the "
            "imagery; is it the right file, and its CRS the one that its coordinates are in?"
        )
    return replace(area, readers=_readers(run, inputs, area), notes=_warn(run, inputs, area.settings))


def read_area(config: RunConfig, data_dir: Path) -> Area | None:
    """Read and check the files of the region; no pixel is looked at. None without a region.

    Raises
    ------
    EoCateError
        When a file, or the configuration, is wrong.
    """
    settings = config.extrapolate
    if settings is None:
        return None
    if config.estimators.engine != "eo_cate":
        raise ConfigError(
            "extrapolate: econml's forest gives no effects out of group, which bands and transport rest on; set "
            "estimators.engine: eo_cate"
        )
    polygons = extrapolation.read_region(data_dir / settings.region, id_column=settings.id)
    region = extrapolation.lay_cells(polygons, resolution_m=settings.resolution_m, max_cells=settings.max_cells)
    people = None if settings.population is None else _read_people(data_dir / settings.population, region)
    survey, surveyed = settings.survey, None
    if survey is not None:
        found = load_people(survey, data_dir, covariates=survey.covariates or config.trial.covariates)
        surveyed = lay_people(found, polygons, region, what=f"{data_dir / survey.units}")
    return Area(settings, polygons, region, people, surveyed)


def _on_grid(region: RegionCells, grid: Grid) -> BoolArray:
    """Cells whose centre is a pixel of the imagery."""
    from pyproj import Transformer

    to_grid = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True)
    x, y = to_grid.transform(region.cells["longitude"].to_numpy(), region.cells["latitude"].to_numpy())
    a, _, c, _, e, f = grid.transform
    row, col = (np.asarray(y) - f) / e, (np.asarray(x) - c) / a
    return np.asarray((row >= 0) & (row < grid.shape[0]) & (col >= 0) & (col < grid.shape[1]))


def _readers(run: Run, inputs: Inputs, area: Area) -> Mapping[str, ChipReader]:
    """Pixels that the region's cells can be found in; those of a catalogue are fetched first."""
    if inputs.fetched is None:
        return inputs.readers
    cells = area.region.cells
    geometry = gpd.points_from_xy(cells["longitude"], cells["latitude"], crs="EPSG:4326")
    places = pd.concat(
        [
            inputs.trial.sites[["geometry"]],
            gpd.GeoDataFrame({"geometry": geometry}, index=cells.index),
            *([] if area.surveyed is None else [area.surveyed.people.sites[["geometry"]]]),
        ]
    )
    return fetch_imagery(
        run.config,
        run.data_dir,
        run.run_dir,
        gpd.GeoDataFrame(places, crs="EPSG:4326"),
        progress=run.progress,
        table="imagery_cells.csv",
    ).readers


def _read_people(path: Path, region: RegionCells) -> FloatArray:
    people = extrapolation.read_raster_at(path, region.cells, region.grid)
    negative = int((people < 0).sum())
    if negative:
        raise ImageryError(
            f"{path}: {negative} of {len(people):,} cells have a negative population; mark missing pixels as nodata "
            "(gdal_edit.py -a_nodata), they then count as nobody"
        )
    people = np.nan_to_num(people, nan=0.0)
    if not people.sum() > 0:
        raise ImageryError(f"{path}: nobody lives in the region's {len(people):,} cells; is it the right raster?")
    return people


def _warn(run: Run, inputs: Inputs, settings: RegionConfig) -> tuple[str, ...]:
    pixel, smallest = inputs.reader.resolution_m, run.config.embeddings.scales[0]
    if pixel is None or settings.resolution_m >= pixel * smallest:
        return ()
    return (
        f"Cells of {settings.resolution_m:g} m are finer than the smallest scale ({smallest} px = "
        f"{pixel * smallest:g} m): neighbouring cells see nearly the same pixels, so the map is smoother than it "
        "looks.",
    )
