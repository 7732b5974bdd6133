"""Beyond the trial: cells over a region, where they are supported, and the effects of its polygons."""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr

from eo_cate import extrapolation
from eo_cate.errors import EvaluationError, ImageryError
from eo_cate.extrapolation import RegionCells
from eo_cate.report import RegionShown
from eo_cate.steps.context import Run
from eo_cate.steps.inputs import Inputs
from eo_cate.steps.map_model import MapModel, fit_map
from eo_cate.steps.region_area import Area
from eo_cate.steps.region_bands import fit_bands
from eo_cate.steps.region_cells import CellValues, predict_region
from eo_cate.steps.region_checks import check_survey, check_truth
from eo_cate.steps.region_effects import (
    CODES,
    UNDECIDED,
    YES,
    TrialSide,
    code_support,
    describe_trial,
    fit_odds,
    tabulate_regions,
    transport,
)
from eo_cate.steps.region_people import embed_people
from eo_cate.steps.region_risk import weigh_silence
from eo_cate.steps.region_survey import carry_to_survey
from eo_cate.types import FloatArray

FOOTPRINT_GROUPS = 5
_ABOUT = {
    "tau_hat": ("estimated effect", "units of the outcome"),
    "std_err": ("standard error of the model; too small for intervals of single cells", "units of the outcome"),
    "band": ("half width of the calibrated 90 % band", "units of the outcome"),
    "dissimilarity": ("distance to the nearest trial site", "mean distances between trial sites"),
    "local_point_density": ("trial sites nearer than the threshold of the area of applicability", "sites"),
    "transport_weight": ("odds of being in the region rather than in the trial, (1 - p) / p", "odds"),
    "supported": ("where the map may speak: " + ", ".join(f"{k} {v}" for k, v in CODES.items()), "code"),
    "region": ("number of the polygon, as in regions.csv", "row, from 1"),
}


def extrapolate_region(run: Run, inputs: Inputs, area: Area, model: MapModel) -> RegionShown:
    """Predict every cell, say where it is supported, and estimate the polygons' effects."""
    settings, region, people = area.settings, area.region, area.people
    fit_map(model)
    side = describe_trial(run, inputs.trial, model)
    fitted = fit_bands(run, inputs.trial, model, side, area.polygons)
    bands = fitted.bands
    values = predict_region(run, area.readers, region, model, side.space, block_cells=settings.block_cells)
    if not np.isfinite(values.tau_hat).any():
        raise ImageryError(
            f"{settings.region}: none of the region's {len(region.cells):,} cells has a complete chip of "
            f"{max(run.config.embeddings.scales)} px: the imagery ends before, or has missing pixels"
        )
    band = np.full(len(region.cells), np.nan)
    if bands is not None:
        band = extrapolation.band_width(bands, values.dissimilarity)
    support = code_support(values, band, side.space.threshold)
    inside = np.isin(support, (YES, UNDECIDED))
    overall = _transport_all(run, side, region, values, np.flatnonzero(inside), people)
    table = tabulate_regions(
        run, inputs.trial, side, area.polygons, region, values, support, people, fitted.error,
        min_units=settings.min_units,
        chip_m=max(run.config.embeddings.scales) * (inputs.reader.resolution_m or 0.0),
    )  # fmt: skip
    surveyed = None
    if area.surveyed is not None:
        seen = embed_people(run, area.readers, area.surveyed.people)
        surveyed, table = carry_to_survey(
            run, inputs.trial, model, side, area.surveyed, seen, table, min_units=settings.min_units
        )
    truth = None
    if settings.true_effect is not None:
        truth = extrapolation.read_raster_at(run.data_dir / settings.true_effect, region.cells, region.grid)
    check = None if truth is None else check_truth(region, values, support, band, bands, truth, people, table)
    if surveyed is not None and (known := check_survey(surveyed, table)):
        check = (check or {}) | known
    columns = {
        **{name: getattr(values, name) for name in ("tau_hat", "std_err")},
        "band": band,
        **{name: getattr(values, name) for name in ("dissimilarity", "local_point_density")},
        "transport_weight": overall.odds,
        "supported": support,
        "region": 1.0 + area.polygons.index.get_indexer(region.cells["region"]),
    }
    risk = weigh_silence(side, bands, values, band, truth, people)
    return RegionShown(
        layers=_lay_out(columns if truth is None else columns | {"true_effect": truth}, region, area),
        polygons=area.polygons.to_crs(region.grid.crs),
        table=table,
        counts={words: int((support == code).sum()) for code, words in CODES.items()},
        threshold=side.space.threshold,
        bands=bands,
        bands_reason=fitted.reason,
        bands_notes=fitted.notes,
        transported=overall.found,
        transport_reason=overall.reason,
        overlap=overall.overlap,
        assumption=extrapolation.state_assumption(tuple(side.names)),
        risk=risk.curve,
        risk_of=risk.of,
        risk_orders=risk.orders,
        footprint=_footprint(inputs, region),
        notes=area.notes,
        check=check,
        survey=surveyed,
    )


@dataclass(frozen=True)
class _Overall:
    found: extrapolation.TransportedEffect | None
    reason: str
    overlap: extrapolation.Overlap | None
    odds: FloatArray


def _transport_all(
    run: Run, side: TrialSide, region: RegionCells, values: CellValues, cells: np.ndarray, people: FloatArray | None
) -> _Overall:
    """The trial's effect carried to all supported cells, and the odds of every cell."""
    try:
        membership, used = fit_odds(run, side, region, values, cells, people)
    except EvaluationError as error:
        return _Overall(None, str(error), None, np.full(len(region.cells), np.nan))
    odds = extrapolation.membership_odds(membership, values.moderators)
    try:
        found = transport(run, side, values, membership, used)
    except EvaluationError as error:
        return _Overall(None, str(error), membership.overlap, odds)
    return _Overall(found, "", membership.overlap, odds)


def _lay_out(columns: dict[str, FloatArray], region: RegionCells, area: Area) -> xr.Dataset:
    layers = extrapolation.raster_from_cells(
        {name: value.astype(np.float32) for name, value in columns.items()}, region.cells, region.grid, spacing_px=1
    )
    for name, (long_name, units) in _ABOUT.items():
        layers[name].attrs |= {"long_name": long_name, "units": units}
    names = area.polygons.index.astype(str)
    layers["region"].attrs["names"] = "; ".join(f"{k} {name}" for k, name in enumerate(names, 1))
    layers["supported"].attrs |= {
        "flag_values": ", ".join(str(k) for k in CODES),
        "flag_meanings": " ".join(words.replace(" ", "_") for words in CODES.values()),
    }
    return layers.assign_attrs(resolution_m=region.resolution_m, nodata="NaN: outside the region, or not known")


def _footprint(inputs: Inputs, region: RegionCells) -> gpd.GeoSeries | None:
    """A buffered hull of all sites, simplified: too coarse to tell where any of them is. None below five groups."""
    points = inputs.trial.sites.geometry.to_crs(region.grid.crs)
    if len(np.unique(inputs.trial.groups)) < FOOTPRINT_GROUPS:
        return None
    hull = shapely.convex_hull(shapely.union_all(points.to_numpy()))
    west, south, east, north = hull.bounds
    reach = 0.05 * max(east - west, north - south, region.resolution_m)
    return gpd.GeoSeries([hull.buffer(reach).simplify(reach)], crs=region.grid.crs)
