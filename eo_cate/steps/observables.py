"""What is known of every unit that a person can name: covariates, quantities of its pixels, land cover around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import xarray as xr

from eo_cate.imagery.land_cover import land_cover_shares
from eo_cate.imagery.quantities import INDICES, find_bands, measure_sites
from eo_cate.shards import Arrays, compute_stored
from eo_cate.steps.context import Run
from eo_cate.steps.encoders import open_specs
from eo_cate.steps.inputs import Inputs
from eo_cate.store import Store, file_digest
from eo_cate.types import FloatArray

VERSION = 1


@dataclass(frozen=True)
class Observable:
    """One value per unit.

    Parameters
    ----------
    kind : str
        ``covariate``, ``image`` or ``land cover``.
    name, scale : str
        ``scale`` is the side of the square in words; empty for a covariate.
    values : (n,) float64
        NaN = missing.
    """

    kind: str
    name: str
    scale: str
    values: FloatArray

    @property
    def label(self) -> str:
        """Name and scale."""
        return f"{self.name}, {self.scale}" if self.scale else self.name


def observe(run: Run, inputs: Inputs) -> tuple[list[Observable], list[str]]:
    """Observables of every unit, and what there is not."""
    trial = inputs.trial
    found = [Observable("covariate", name, "", trial.column(name)) for name in trial.covariates]
    notes = []
    if holds_embeddings(run):
        notes.append("The imagery holds embeddings, not light: it has no NDVI, brightness or texture.")
    else:
        for period, quantities in _measure(run, inputs).items():
            found += _spread(run, inputs, quantities, "image", period if len(inputs.readers) > 1 else "")
        notes += _absent_indices(run, inputs)
    if run.config.imagery.land_cover is not None:
        found += _spread(run, inputs, _look_up(run, inputs), "land cover")
    return found, notes


def holds_embeddings(run: Run) -> bool:
    """Whether the pixels are embeddings that were computed elsewhere."""
    return any(spec.raw is not None for spec in open_specs(run.config.embeddings, run.data_dir))


def named_bands(run: Run, inputs: Inputs) -> dict[str, str]:
    """STAC common name -> band."""
    imagery = run.config.imagery
    return find_bands(inputs.reader.bands, common_names=imagery.common_names, collection=imagery.collection)


def side_words(inputs: Inputs, size_px: int) -> str:
    """Side of a square: metres where they are known, else pixels."""
    resolution_m = inputs.reader.resolution_m
    return f"{size_px} px" if resolution_m is None else f"{size_px * resolution_m:,.0f} m"


def _measure(run: Run, inputs: Inputs) -> dict[str, xr.DataArray]:
    settings = run.config.embeddings
    return {
        period: measure_sites(
            reader,
            list(inputs.trial.sites.index),
            scales=settings.scales,
            shown=settings.bands,
            named=named_bands(run, inputs),
            **run.shards,
        )
        for period, reader in inputs.readers.items()
    }


def _absent_indices(run: Run, inputs: Inputs) -> list[str]:
    named = named_bands(run, inputs)
    absent = [f"{index} ({' and '.join(pair)})" for index, pair in INDICES.items() if not set(pair) <= set(named)]
    if not absent:
        return []
    return [
        f"Not shown, because no bands are known to be these: {', '.join(absent)}. imagery.common_names says which band "
        "is which."
    ]


def _spread(run: Run, inputs: Inputs, array: xr.DataArray, kind: str, period: str = "") -> list[Observable]:
    """Values (site, scale, feature) as observables of the units, a feature's scales side by side."""
    values = array.transpose("feature", "scale", "site").to_numpy()[:, :, inputs.trial.site_index]
    names = [f"{name}, {period}" if period else str(name) for name in array["feature"].values.tolist()]
    scales = [side_words(inputs, size_px) for size_px in run.config.embeddings.scales]
    return [
        Observable(kind, name, scale, values[j, s]) for j, name in enumerate(names) for s, scale in enumerate(scales)
    ]


@dataclass(frozen=True)
class _LandCoverShard:
    path: Path
    sites: gpd.GeoDataFrame
    sides_m: tuple[float, ...]
    names: Mapping[int, str]


def _look_up(run: Run, inputs: Inputs) -> xr.DataArray:
    """Shares of land-cover classes, stored."""
    imagery, resolution_m, sites = run.config.imagery, inputs.reader.resolution_m, inputs.trial.sites
    assert imagery.land_cover is not None
    assert resolution_m is not None
    sides_m = tuple(size_px * resolution_m for size_px in run.config.embeddings.scales)
    names = {int(code): name for code, name in imagery.land_cover_names.items()}
    shard = _LandCoverShard(run.data_dir / imagery.land_cover, sites, sides_m, names)
    places = np.column_stack([sites.geometry.x, sites.geometry.y])
    key = Store.key(
        "land_cover",
        VERSION,
        file_digest(shard.path),
        list(sites.index),
        places,
        list(sides_m),
        imagery.land_cover_names,
    )
    found = compute_stored(
        _compute_land_cover, [shard], [key], "land_cover", description="land cover", **run.here
    )[0]  # fmt: skip
    return xr.DataArray(
        found["shares"], dims=("site", "scale", "feature"), coords={"feature": found["names"].tolist()}
    )  # fmt: skip


def _compute_land_cover(shard: _LandCoverShard) -> Arrays:
    shares = land_cover_shares(shard.path, shard.sites, sides_m=shard.sides_m, names=shard.names)
    return {"shares": shares.to_numpy(), "names": np.array(shares["feature"].values.tolist())}
