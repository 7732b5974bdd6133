"""Embed sites and cells, and put features together: one configuration for every result and control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from eo_cate import multiscale
from eo_cate.embeddings import (
    EncoderSpec,
    embed_sequence,
    export_embedding,
    location_features,
    permute_sites,
)
from eo_cate.steps.context import FULL, IMAGE, Run, derive_seed
from eo_cate.steps.encoders import CONTROLS, control_px, control_specs, open_specs
from eo_cate.steps.fetch import period_years
from eo_cate.steps.inputs import Inputs
from eo_cate.types import ChipReader, FeatureBlocks, IntArray, Trial

WITHIN = "shuffled within strata"


def embed_places(run: Run, inputs: Inputs) -> dict[str, xr.DataArray]:
    """Embeddings by encoder: the configured ones at sites and cells, controls at sites; sites are exported too."""
    return embed_periods(run, inputs.readers, inputs, years=sequence_options(run)["years"])


def embed_periods(
    run: Run, readers: Mapping[str, ChipReader], inputs: Inputs, *, years: Sequence[float] | None = None
) -> dict[str, xr.DataArray]:
    """Embeddings by encoder, from one reader per period in the order of time.

    Parameters
    ----------
    readers : mapping of str to ChipReader
        Period -> its pixels; one period is the imagery before the programme, whatever its name.
    inputs : Inputs
        Trial and cells.
    years : sequence of float, optional
        When each period was, in years, for ``embeddings.sequence: [trend]``.
    """
    settings = run.config.embeddings
    sites = list(inputs.trial.sites.index)
    seen = set(sites)
    elsewhere = [] if inputs.cells is None else [place for place in inputs.cells["location"] if place not in seen]
    few = sorted({settings.scales[0], settings.scales[-1]})
    own = open_specs(settings, run.data_dir)
    # last: a control may be a configured encoder itself
    wanted = [(spec, sites, few if spec.name == "random_vit" else settings.scales) for spec in control_specs(settings)]
    wanted += [(spec, sites + elsewhere, settings.scales) for spec in own]
    embeddings = {}
    for spec, places, scales in wanted:
        with run.timed(f"embedding, {spec.name}"):
            options = embedding_options(run, spec, own) | {"parts": settings.sequence, "years": years}
            embeddings[spec.name] = embed_sequence(readers, places, encoder=spec, scales=scales, **options)
    for spec in own:
        export_embedding(embeddings[spec.name].sel(site=sites), run.run_dir / "embeddings")
    return embeddings


def sequence_options(run: Run) -> dict[str, Any]:
    """Keyword arguments of `embed_sequence`: what is made of several periods, and when they were."""
    years = period_years(run.config) if run.config.imagery.remote else None
    return {"parts": run.config.embeddings.sequence, "years": years}


def embedding_options(run: Run, spec: EncoderSpec, own: tuple[EncoderSpec, ...]) -> dict[str, Any]:
    """Keyword arguments of `embed_sites`. Controls see what the configured encoders see, in the same mode."""
    settings, control = run.config.embeddings, spec.name in CONTROLS
    mode = settings.mode
    if control and (spec.patch is None or min(settings.scales) < spec.patch):
        mode = "resize"
    stretch = settings.stretch
    if not stretch:
        stretch = (next(one.raw for one in own if one.raw is not None),) * len(settings.bands)
    return {
        "bands": settings.bands,
        "stretch": stretch,
        "input_px": control_px(settings.input_px, spec.patch) if control else settings.input_px,
        "mode": mode,
        "augment": settings.augment if spec.name != "mean_colour" else "none",
        "max_missing": settings.max_missing,
        "seed": run.config.seed,
        "batch_size": settings.batch_size,
        "shard_size": settings.shard_size,
        "description": f"embedding with {spec.name}",
        **run.shards,
    }


def build_configurations(run: Run, trial: Trial, embeddings: Mapping[str, xr.DataArray]) -> dict[str, FeatureBlocks]:
    """Feature blocks of every result and control, by configuration."""
    sites = list(trial.sites.index)
    image = {name: embeddings[name].sel(site=sites) for name in image_names(run, embeddings)}
    random, colour = (embeddings[name].sel(site=sites) for name in CONTROLS)
    covariates = np.column_stack([trial.column(c) for c in trial.covariates]) if trial.covariates else None

    def blocks(
        embedding: xr.DataArray | Mapping[str, xr.DataArray] | None = None, *, tabular: bool = False, **options: Any
    ) -> FeatureBlocks:
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
    found |= {f"{IMAGE}, {name}": blocks(one) for name, one in image.items() if len(image) > 1}
    found[FULL] = blocks(image, tabular=True)
    location = location_features(trial.sites)[0]
    found[f"{IMAGE}+location"] = blocks(image, site_features=location)
    found["location"] = blocks(site_features=location)
    found["mean_colour"] = blocks(colour)
    found["random_vit"] = blocks(random)
    stratum = _site_strata(trial)
    for i in range(run.config.evaluation.num_permutations):
        seed = derive_seed(run.config.seed, "shuffle", i)
        found[f"shuffled_{i}"] = blocks({n: permute_sites(one, seed=seed) for n, one in image.items()})
        if stratum.any():
            found[f"{WITHIN}_{i}"] = blocks(
                {n: permute_sites(one, seed=seed, within=stratum) for n, one in image.items()}
            )
    return found


def image_names(run: Run, embeddings: Mapping[str, xr.DataArray]) -> list[str]:
    """The configured encoders among the embeddings, in their order."""
    known = [spec.name for spec in open_specs(run.config.embeddings, run.data_dir)]
    return [name for name in known if name in embeddings]


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
        {name: embeddings[name].sel(site=locations) for name in image_names(run, embeddings)},
        site_ids=locations,
        site_index=np.arange(len(locations), dtype=np.int64),
    )
