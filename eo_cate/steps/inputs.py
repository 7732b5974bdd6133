"""Open a run's input: the trial, its pixels, the map's cells, the encoders. All that can be refused is refused here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd

from eo_cate import extrapolation
from eo_cate.config import RunConfig
from eo_cate.errors import ConfigError
from eo_cate.imagery import RasterReader, complete_sites, drop_incomplete, open_imagery
from eo_cate.imagery.land_cover import check_land_cover
from eo_cate.steps.encoders import resolve_scales, try_specs
from eo_cate.steps.estimators import check_engine
from eo_cate.steps.fetch import Fetched, fetch_imagery
from eo_cate.steps.stretch import resolve_stretch
from eo_cate.trial import load_trial
from eo_cate.types import ChipReader, Trial

BEFORE = "before"


@dataclass(frozen=True)
class Inputs:
    """A trial, its pixels, and the map's cells (None without a map).

    Parameters
    ----------
    config : RunConfig
        As given, the sides of crops in pixels, the stretch in pixel values.
    trial : Trial
        All of its sites have complete pixels at every scale, in every period.
    readers : mapping of str to ChipReader
        Period -> its pixels, in the order of time. Places are sites and cells.
    cells : DataFrame or None
        Columns row, col (pixel corners) and location, the place in ``reader`` that the cell is.
    fetched : Fetched or None
        Where the pixels come from a catalogue: its scenes, and what became of each site.
    """

    config: RunConfig
    trial: Trial
    readers: Mapping[str, ChipReader]
    cells: pd.DataFrame | None = None
    fetched: Fetched | None = None

    @property
    def reader(self) -> ChipReader:
        """The pixels of the first period."""
        return next(iter(self.readers.values()))


def check_encoders(config: RunConfig, data_dir: Path = Path()) -> None:
    """Open the encoders and controls once, before any pixel is embedded: input_px, mode and weights must fit them."""
    try_specs(config.embeddings, data_dir, config.seed)


def open_inputs(config: RunConfig, data_dir: Path, *, run_dir: Path | None = None, progress: bool = True) -> Inputs:
    """Open trial, pixels and cells; sites without complete pixels are refused or dropped.

    Pixels of a catalogue are fetched into ``run_dir`` first.
    """
    trial = load_trial(config.trial, data_dir)
    check_engine(config, trial)
    if config.imagery.land_cover is not None:
        check_land_cover(data_dir / config.imagery.land_cover)
    readers, fetched = open_readers(config, data_dir, run_dir, trial.sites, progress)
    resolution_m = next(iter(readers.values())).resolution_m
    if config.imagery.land_cover is not None and resolution_m is None:
        raise ConfigError("imagery.land_cover: the ground size of a pixel is not known; set imagery.resolution_m")
    resolved = resolve_scales(config, resolution_m)
    if resolved is not config:
        check_encoders(resolved, data_dir)
    largest = max(resolved.embeddings.scales)
    allowed = missing_options(resolved)
    for reader in readers.values():
        trial = drop_incomplete(trial, reader, largest, policy=config.imagery.incomplete_sites, **allowed)
    resolved = resolve_stretch(resolved, readers, list(trial.sites.index))
    inputs = Inputs(resolved, trial, readers, fetched=fetched)
    return inputs if config.map is None or inputs.reader.grid is None else _with_cells(inputs, data_dir, largest)


def open_readers(
    config: RunConfig, data_dir: Path, run_dir: Path | None, sites: gpd.GeoDataFrame, progress: bool
) -> tuple[Mapping[str, ChipReader], Fetched | None]:
    """Period -> the pixels above sites, fetched into ``run_dir`` first where they are a catalogue's."""
    if not config.imagery.remote:
        return {BEFORE: open_imagery(config.imagery, data_dir, sites)}, None
    if run_dir is None:
        raise ConfigError("imagery of a catalogue is fetched into a run's folder: give `run_dir`")
    fetched = fetch_imagery(config, data_dir, run_dir, sites, progress=progress)
    return fetched.readers, fetched


def _with_cells(inputs: Inputs, data_dir: Path, largest: int) -> Inputs:
    reader, cells = open_cells(inputs.config, inputs.reader, data_dir)
    complete = complete_sites(reader, list(cells["location"]), largest, **missing_options(inputs.config))
    cells = cells[complete]
    return replace(inputs, readers={BEFORE: reader}, cells=cells)


def open_cells(config: RunConfig, reader: ChipReader, data_dir: Path) -> tuple[ChipReader, pd.DataFrame]:
    """The map's cells, and the reader with places for them; the configuration's sides must be pixels."""
    settings, grid = config.map, reader.grid
    assert settings is not None
    assert grid is not None
    margin_px = (max(config.embeddings.scales) + 1) // 2
    mask = None if settings.mask is None else data_dir / settings.mask
    cells = extrapolation.map_cells(grid, spacing_px=settings.spacing_px, margin_px=margin_px, mask=mask)
    return _add_cells(reader, cells)


def missing_options(config: RunConfig) -> dict[str, Any]:
    """Keyword arguments of what asks whether chips are complete."""
    return {"max_missing": config.embeddings.max_missing, "smaller": config.embeddings.scales[:-1]}


def _add_cells(reader: ChipReader, cells: pd.DataFrame) -> tuple[ChipReader, pd.DataFrame]:
    """Places for the cells; a cell on a trial site's own pixel is that site, so that it is embedded once."""
    assert isinstance(reader, RasterReader)
    known = {(row, col): site for site, row, col in reader.places[["row", "col"]].itertuples()}
    location = [known.get((row, col), cell) for cell, row, col in cells[["row", "col"]].itertuples()]
    cells = cells.assign(location=location)
    reader = reader.with_places(cells.loc[cells["location"] == cells.index, ["row", "col"]])
    return reader, cells
