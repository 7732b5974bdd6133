"""Open a run's input: the trial, its pixels, the map's cells, the encoders. All that can be refused is refused here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from eo_cate import extrapolation
from eo_cate.config import RunConfig
from eo_cate.embeddings import open_encoder
from eo_cate.imagery import RasterReader, complete_sites, drop_incomplete, open_imagery
from eo_cate.trial import load_trial
from eo_cate.types import ChipReader, Trial


@dataclass(frozen=True)
class Inputs:
    """A trial, its pixels, and the map's cells (None without a map).

    Parameters
    ----------
    trial : Trial
        All of its sites have complete pixels at every scale.
    reader : ChipReader
        Places are sites and cells.
    cells : DataFrame or None
        Columns row, col (pixel corners) and location, the place in ``reader`` that the cell is.
    """

    trial: Trial
    reader: ChipReader
    cells: pd.DataFrame | None


def check_encoders(config: RunConfig) -> None:
    """Open the encoder and the random network once, before any pixel is embedded: input_px must fit both."""
    for name in (config.embeddings.encoder, "random_vit"):
        open_encoder(name, input_px=config.embeddings.input_px, seed=config.seed)


def open_inputs(config: RunConfig, data_dir: Path) -> Inputs:
    """Open trial, pixels and cells; sites without complete pixels are refused or dropped."""
    trial = load_trial(config.trial, data_dir)
    reader = open_imagery(config.imagery, data_dir, trial.sites)
    largest = max(config.embeddings.scales)
    trial = drop_incomplete(trial, reader, largest, policy=config.imagery.incomplete_sites)
    if config.map is None or reader.grid is None:
        return Inputs(trial, reader, None)
    mask = None if config.map.mask is None else data_dir / config.map.mask
    cells = extrapolation.map_cells(
        reader.grid, spacing_px=config.map.spacing_px, margin_px=(largest + 1) // 2, mask=mask
    )
    return Inputs(trial, *_add_cells(reader, cells, largest))


def _add_cells(reader: ChipReader, cells: pd.DataFrame, largest: int) -> tuple[ChipReader, pd.DataFrame]:
    """Places for the cells; a cell on a trial site's own pixel is that site, so that it is embedded once."""
    assert isinstance(reader, RasterReader)
    known = {(row, col): site for site, row, col in reader.places[["row", "col"]].itertuples()}
    location = [known.get((row, col), cell) for cell, row, col in cells[["row", "col"]].itertuples()]
    cells = cells.assign(location=location)
    reader = reader.with_places(cells.loc[cells["location"] == cells.index, ["row", "col"]])
    return reader, cells[complete_sites(reader, location, largest)]
