"""The map: tau_hat of the image model, fitted on all units, over the cells; beside the truth where it is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from eo_cate import extrapolation
from eo_cate.evaluation.configurations import blocks_key
from eo_cate.shards import Arrays, compute_stored
from eo_cate.steps.context import Run
from eo_cate.steps.features import cell_blocks
from eo_cate.steps.inputs import Inputs
from eo_cate.steps.map_model import MapModel
from eo_cate.store import Store
from eo_cate.types import FeatureBlocks, FloatArray

VERSION = 2


@dataclass(frozen=True)
class DrawnMap:
    """The map (y, x), and how it compares with the truth (None where that is not known)."""

    layers: xr.Dataset
    check: dict[str, float] | None


@dataclass(frozen=True)
class _MapShard:
    model: MapModel
    at_cells: FeatureBlocks


def draw_map(run: Run, inputs: Inputs, embeddings: Mapping[str, xr.DataArray], model: MapModel) -> DrawnMap | None:
    """Predict the cells, write maps/tau_hat.tif, compare with the truth; None when no map is wanted or possible."""
    cells, grid, settings = inputs.cells, inputs.reader.grid, run.config.map
    if cells is None or grid is None or settings is None:
        return None
    values = _predict(run, model, cell_blocks(run, inputs, embeddings))
    layers = extrapolation.raster_from_cells(
        {name: value.astype(np.float32) for name, value in values.items()}, cells, grid, spacing_px=settings.spacing_px
    )
    extrapolation.write_cog(layers, run.run_dir / "maps" / "tau_hat.tif")
    if settings.true_effect is None:
        return DrawnMap(layers, None)
    truth = extrapolation.read_raster_at(run.data_dir / settings.true_effect, cells, grid)
    sampled = extrapolation.find_sampled(cells, inputs.trial.sites, grid, spacing_px=settings.spacing_px)
    true_layer = extrapolation.raster_from_cells({"true_effect": truth}, cells, grid, spacing_px=settings.spacing_px)
    check = _describe_agreement(extrapolation.compare_map(values["tau_hat"], truth, sampled=sampled))
    return DrawnMap(layers.assign(true_effect=true_layer["true_effect"]), check)


def _predict(run: Run, model: MapModel, at_cells: FeatureBlocks) -> Mapping[str, FloatArray]:
    settings, trained_on, outcome = model.address
    key = Store.key("map", VERSION, settings, trained_on, blocks_key(at_cells), outcome)
    shard = _MapShard(model, at_cells)
    return compute_stored(_fit_and_predict, [shard], [key], "map", description="map", **run.here)[0]


def _fit_and_predict(shard: _MapShard) -> Arrays:
    return extrapolation.predict_cells(shard.model.fitted, shard.at_cells)


def _describe_agreement(found: extrapolation.MapComparison) -> dict[str, float]:
    check = {"cells": found.everywhere.n, "correlation": found.everywhere.pearson, "R2": found.everywhere.R2}
    if found.unsampled is not None:
        check |= {
            "unsampled cells": found.unsampled.n,
            "correlation, unsampled": found.unsampled.pearson,
            "rank correlation, unsampled": found.unsampled.spearman,
        }
    return check
