"""Embed sites and cells, and put features together: one configuration for every result and control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from eo_cate import multiscale
from eo_cate.embeddings import embed_sites, location_features, permute_sites
from eo_cate.steps.context import FULL, IMAGE, Run, derive_seed
from eo_cate.steps.inputs import Inputs
from eo_cate.types import FeatureBlocks, IntArray, Trial

WITHIN = "shuffled within strata"


def embed_places(run: Run, inputs: Inputs) -> dict[str, xr.DataArray]:
    """Embeddings by encoder: the configured one at sites and cells, controls at sites."""
    settings = run.config.embeddings
    sites = list(inputs.trial.sites.index)
    seen = set(sites)
    elsewhere = [] if inputs.cells is None else [place for place in inputs.cells["location"] if place not in seen]
    few = sorted({settings.scales[0], settings.scales[-1]})
    wanted = {
        "random_vit": (sites, few),
        "mean_colour": (sites, settings.scales),
        settings.encoder: (sites + elsewhere, settings.scales),  # last: a control may be the encoder itself
    }
    embeddings = {}
    for encoder, (places, scales) in wanted.items():
        with run.timed(f"embedding, {encoder}"):
            embeddings[encoder] = embed_sites(
                inputs.reader,
                places,
                encoder=encoder,
                scales=scales,
                bands=settings.bands,
                stretch=settings.stretch,
                input_px=settings.input_px,
                seed=run.config.seed,
                batch_size=settings.batch_size,
                shard_size=settings.shard_size,
                description=f"embedding with {encoder}",
                **run.shards,
            )
    return embeddings


def build_configurations(run: Run, trial: Trial, embeddings: Mapping[str, xr.DataArray]) -> dict[str, FeatureBlocks]:
    """Feature blocks of every result and control, by configuration."""
    sites = list(trial.sites.index)
    image, colour, random = (
        embeddings[name].sel(site=sites) for name in (run.config.embeddings.encoder, "mean_colour", "random_vit")
    )
    covariates = np.column_stack([trial.column(c) for c in trial.covariates]) if trial.covariates else None

    def blocks(embedding: xr.DataArray | None = None, *, tabular: bool = False, **options: Any) -> FeatureBlocks:
        return multiscale.build_blocks(
            embedding,
            site_ids=sites,
            site_index=trial.site_index,
            covariates=covariates if tabular else None,
            covariate_names=trial.covariates if tabular else (),
            **options,
        )

    found = {} if covariates is None else {"tabular": blocks(tabular=True)}
    found |= {f"image_{scale}": blocks(image, scales=[scale]) for scale in run.config.embeddings.scales}
    found[IMAGE] = blocks(image)
    found[FULL] = blocks(image, tabular=True)
    location = location_features(trial.sites)[0]
    found[f"{IMAGE}+location"] = blocks(image, site_features=location)
    found["location"] = blocks(site_features=location)
    found["mean_colour"] = blocks(colour)
    found["random_vit"] = blocks(random)
    stratum = _site_strata(trial)
    for i in range(run.config.evaluation.num_permutations):
        seed = derive_seed(run.config.seed, "shuffle", i)
        found[f"shuffled_{i}"] = blocks(permute_sites(image, seed=seed))
        if stratum.any():
            found[f"{WITHIN}_{i}"] = blocks(permute_sites(image, seed=seed, within=stratum))
    return found


def _site_strata(trial: Trial) -> IntArray:
    """Stratum of each site, that of its first unit, shape (S,); all 0 where there is one stratum."""
    _, first = np.unique(trial.site_index, return_index=True)
    strata: IntArray = np.asarray(trial.strata[first], dtype=np.int64)
    return np.asarray(strata - strata.min(), dtype=np.int64)


def cell_blocks(run: Run, inputs: Inputs, embeddings: Mapping[str, xr.DataArray]) -> FeatureBlocks:
    """The features of `IMAGE` at the map's cells, one row per cell."""
    assert inputs.cells is not None
    locations = list(inputs.cells["location"])
    return multiscale.build_blocks(
        embeddings[run.config.embeddings.encoder].sel(site=locations),
        site_ids=locations,
        site_index=np.arange(len(locations), dtype=np.int64),
    )
