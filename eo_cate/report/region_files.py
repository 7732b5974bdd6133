"""A region as files: rasters, tables with and without polygons, and its figures as numbers."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr

from eo_cate.errors import StoreError
from eo_cate.extrapolation import TransportedEffect, write_cog
from eo_cate.report.region_inputs import RegionShown, SurveyShown
from eo_cate.report.tables import to_csv, to_latex, to_stata
from eo_cate.store import write_atomic

FILES = (
    "maps/region.tif", "maps/region.html", "maps/region.png", "maps/region.pdf", "tables/regions.csv",
    "tables/regions.tex", "tables/regions.dta", "tables/regions.gpkg", "tables/risk_coverage.csv",
    "tables/risk_coverage.tex",
    *(f"figures/{name}.{kind}" for name in ("overlap", "overlap_survey", "risk_coverage") for kind in ("png", "pdf")),
)  # fmt: skip
ZARR = "maps/region.zarr"


def table_files(shown: RegionShown) -> dict[str, bytes]:
    """Tables of the region by path."""
    shortened = shown.table.assign(reason=shown.table["reason"].str.slice(0, 120))
    files = {
        "tables/regions.csv": to_csv(shown.table),
        "tables/regions.tex": to_latex(shortened),
        "tables/regions.dta": to_stata(shown.table),
    }
    if shown.risk is not None:
        columns = ("share", "risk", "std_err", "uncertainty", "best_risk")
        curve = pd.DataFrame({name: getattr(shown.risk, name) for name in columns})
        files |= {"tables/risk_coverage.csv": to_csv(curve), "tables/risk_coverage.tex": to_latex(curve)}
    return files


def write_region(shown: RegionShown, run_dir: Path) -> None:
    """Write maps/region.tif and .zarr, and tables/regions.gpkg.

    Raises
    ------
    StoreError
        When a file cannot be written.
    """
    (run_dir / "maps").mkdir(parents=True, exist_ok=True)
    (run_dir / "tables").mkdir(parents=True, exist_ok=True)
    write_cog(shown.layers, run_dir / "maps" / "region.tif", overviews="NEAREST")
    polygons = gpd.GeoDataFrame(
        shown.table.reset_index(drop=True), geometry=shown.polygons.geometry.to_numpy(), crs=shown.polygons.crs
    )
    try:
        with tempfile.TemporaryDirectory(dir=run_dir) as folder:
            polygons.to_file(Path(folder) / "regions.gpkg", driver="GPKG", layer="regions")
            write_atomic(run_dir / "tables" / "regions.gpkg", (Path(folder) / "regions.gpkg").read_bytes())
            _zarr_ready(shown.layers).to_zarr(Path(folder) / "region.zarr", mode="w", consolidated=False)
            shutil.rmtree(run_dir / ZARR, ignore_errors=True)
            os.replace(Path(folder) / "region.zarr", run_dir / ZARR)
    except OSError as error:
        raise StoreError(f"{run_dir}: the region cannot be written ({error})") from error


def remove_region(run_dir: Path) -> None:
    """Take away what an earlier run with a region left in the folder."""
    shutil.rmtree(run_dir / ZARR, ignore_errors=True)


def _zarr_ready(layers: xr.Dataset) -> xr.Dataset:
    """Attributes that JSON knows, and how the axes are to be read."""
    ready = layers.assign_attrs(transform=list(layers.attrs["transform"]))
    ready["x"].attrs |= {"units": "m", "standard_name": "projection_x_coordinate"}
    ready["y"].attrs |= {"units": "m", "standard_name": "projection_y_coordinate"}
    return ready


def region_numbers(shown: RegionShown) -> dict[str, Any]:
    """Every figure of the region for numbers.json."""
    risk = None
    if shown.risk is not None:
        risk = {k: v for k, v in asdict(shown.risk).items()} | {"of": shown.risk_of}
        risk["orders"] = shown.risk_orders.to_dict("records")
    tau = np.asarray(shown.layers["tau_hat"], dtype=float)
    return {
        "cells": dict(shown.counts),
        "cells_with_estimate": int(np.isfinite(tau).sum()),
        "threshold": shown.threshold,
        "bands": None if shown.bands is None else asdict(shown.bands),
        "bands_reason": shown.bands_reason,
        "bands_notes": list(shown.bands_notes),
        "transported": _effect_numbers(shown.transported),
        "transport_reason": shown.transport_reason,
        "assumption": shown.assumption,
        "overlap": None if shown.overlap is None else asdict(shown.overlap),
        "survey": None if shown.survey is None else _survey_numbers(shown.survey),
        "risk_coverage": risk,
        "regions": shown.table.to_dict("records"),
        "notes": list(shown.notes),
        "check": None if shown.check is None else dict(shown.check),
    }


def _effect_numbers(found: TransportedEffect | None) -> dict[str, Any] | None:
    if found is None:
        return None
    names = ("estimate", "std_err", "interval", "level", "predicted", "correction", "effective_groups", "num_groups")
    return {name: getattr(found, name) for name in names}


def _survey_numbers(survey: SurveyShown) -> dict[str, Any]:
    return {
        "transported": _effect_numbers(survey.transported),
        "transport_reason": survey.reason,
        "assumption": survey.assumption,
        "overlap": None if survey.overlap is None else asdict(survey.overlap),
        "covariates": list(survey.covariates),
        "counts": dict(survey.counts),
        "true_effect": survey.true_effect,
    }
