"""The way through the house: trial, imagery, embeddings, multiscale, estimators, evaluation, map, report."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from eo_cate import evaluation, extrapolation, multiscale
from eo_cate import report as reporting
from eo_cate.config import RunConfig, dump_config
from eo_cate.embeddings import embed_sites, location_features, open_encoder, permute_sites
from eo_cate.errors import EoCateError
from eo_cate.estimators import CausalForest
from eo_cate.evaluation import FoldScores, FoldTask, Priorities, SequentialRate
from eo_cate.executor import Executor, open_executor
from eo_cate.imagery import RasterReader, complete_sites, drop_incomplete, open_imagery
from eo_cate.stats.nuisances import Nuisances, fit_nuisances
from eo_cate.store import Store, file_digest, write_atomic
from eo_cate.trial import find_problems as find_trial_problems
from eo_cate.trial import load_trial, trial_summary
from eo_cate.types import CateEstimator, ChipReader, FeatureBlocks, FloatArray, Trial

ENGINE = "econml-trees-1"
FULL = "image_multi+tabular"
TARGETS = ("AUTOC", "QINI")
TOC_SHARES = np.linspace(0.05, 1.0, 20)


@dataclass(frozen=True)
class RunResult:
    """Where a run's report lies, its table as text, and everything that it shows."""

    report: Path
    summary: str
    inputs: reporting.ReportInputs


@dataclass(frozen=True)
class _Run:
    """What every step of one run needs."""

    config: RunConfig
    data_dir: Path
    run_dir: Path
    store: Store
    executor: Executor
    progress: bool
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - start


def run_trial(config: RunConfig, *, data_dir: Path, run_dir: Path, progress: bool = True) -> RunResult:
    """Take a trial to its report; what ``run_dir`` holds already is not computed again.

    Parameters
    ----------
    config : RunConfig
    data_dir : Path
        Folder that the config's paths are relative to.
    run_dir : Path
        Folder of results: config.yaml, numbers.json, report.html, figures/, maps/, tables/, store/.
    progress : bool
        Show bars on standard error.

    Raises
    ------
    EoCateError
        Before any long work when the configuration or the data are wrong.
    """
    data_dir, run_dir = Path(data_dir), Path(run_dir)
    with open_executor(config.executor) as executor:
        run = _Run(config, data_dir, run_dir, Store(run_dir / "store"), executor, progress)
        with run.timed("trial and imagery"):
            trial, reader, cells = _open(config, data_dir)
            _check_encoders(config)
            write_atomic(run_dir / "config.yaml", dump_config(config).encode())
        embeddings = _embed(run, trial, reader, cells)
        features = _configure(run, trial, embeddings)
        evaluated = _evaluate(run, trial, features)
        with run.timed("map"):
            tau_map, map_check = _draw_map(run, trial, reader, cells, features["image_multi"], embeddings)
        with run.timed("report"):
            ate = _average_effect(trial, features[FULL])
            inputs = _collect(run, trial, reader, evaluated, ate, tau_map, map_check)
            page = reporting.write_report(inputs, run_dir)
    return RunResult(page, reporting.print_summary(inputs), inputs)


def find_problems(config: RunConfig, *, data_dir: Path) -> list[str]:
    """Every problem of a configuration and its data, found before any long work; empty when there is none."""
    problems = find_trial_problems(config.trial, Path(data_dir))
    try:
        _check_encoders(config)
    except EoCateError as error:
        problems.append(str(error))
    if not problems:
        try:
            _open(config, Path(data_dir))
        except EoCateError as error:
            problems.append(str(error))
    return problems


def describe_run(run_dir: Path) -> str:
    """What a run folder holds: results per stage, and whether its report is written.

    Raises
    ------
    EoCateError
        When the folder is not that of a run.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "store").is_dir():
        raise EoCateError(f"{run_dir}: not the folder of a run (no store/ in it); `eo-cate run` makes one")
    lines = [f"{run_dir}"]
    for stage, (number, size) in sorted(Store(run_dir / "store").stages().items()):
        lines.append(f"  {stage:<8} {number:>6,} results kept, {size / 1e6:,.1f} MB")
    page = run_dir / "report.html"
    written = (
        f"written {time.strftime('%Y-%m-%d %H:%M', time.localtime(page.stat().st_mtime))}" if page.exists() else ""
    )
    lines.append(f"  report   {written or 'not yet written: run the same command again, it goes on from here'}")
    return "\n".join(lines)


def _check_encoders(config: RunConfig) -> None:
    """Open the encoder and the random network once, before any pixel is embedded: input_px must fit both."""
    for name in (config.embeddings.encoder, "random_vit"):
        open_encoder(name, input_px=config.embeddings.input_px, seed=config.seed)


def _open(config: RunConfig, data_dir: Path) -> tuple[Trial, ChipReader, pd.DataFrame | None]:
    """The trial, its pixels and the map's cells; sites without complete pixels are refused or dropped."""
    trial = load_trial(config.trial, data_dir)
    reader = open_imagery(config.imagery, data_dir, trial.sites)
    largest = max(config.embeddings.scales)
    trial = drop_incomplete(trial, reader, largest, policy=config.imagery.incomplete_sites)
    if config.map is None or reader.grid is None:
        return trial, reader, None
    mask = None if config.map.mask is None else data_dir / config.map.mask
    cells = extrapolation.map_cells(
        reader.grid, spacing_px=config.map.spacing_px, margin_px=(largest + 1) // 2, mask=mask
    )
    return trial, *_add_cells(reader, cells, largest)


def _add_cells(reader: ChipReader, cells: pd.DataFrame, largest: int) -> tuple[ChipReader, pd.DataFrame]:
    """Places for the cells; a cell on a trial site's own pixel is that site, so that it is embedded once."""
    assert isinstance(reader, RasterReader)
    known = {(row, col): site for site, row, col in reader.places[["row", "col"]].itertuples()}
    location = [known.get((row, col), cell) for cell, row, col in cells[["row", "col"]].itertuples()]
    cells = cells.assign(location=location)
    reader = reader.with_places(cells.loc[cells["location"] == cells.index, ["row", "col"]])
    return reader, cells[complete_sites(reader, location, largest)]


def _embed(run: _Run, trial: Trial, reader: ChipReader, cells: pd.DataFrame | None) -> dict[str, xr.DataArray]:
    """Embeddings by encoder: the configured one at sites and cells, controls at sites."""
    settings = run.config.embeddings
    sites = list(trial.sites.index)
    seen = set(sites)
    elsewhere = [] if cells is None else [place for place in cells["location"] if place not in seen]
    few = sorted({settings.scales[0], settings.scales[-1]})
    wanted = {
        settings.encoder: (sites + elsewhere, settings.scales),
        "random_vit": (sites, few),
        "mean_colour": (sites, settings.scales),
    }
    embeddings = {}
    for encoder, (places, scales) in wanted.items():
        with run.timed(f"embedding, {encoder}"):
            embeddings[encoder] = embed_sites(
                reader,
                places,
                encoder=encoder,
                scales=scales,
                bands=settings.bands,
                stretch=settings.stretch,
                input_px=settings.input_px,
                store=run.store,
                executor=run.executor,
                seed=run.config.seed,
                batch_size=settings.batch_size,
                shard_size=settings.shard_size,
                progress=run.progress,
                description=f"embedding with {encoder}",
            )
    return embeddings


def _configure(run: _Run, trial: Trial, embeddings: Mapping[str, xr.DataArray]) -> dict[str, FeatureBlocks]:
    """Feature blocks of every result and control, by configuration."""
    image = embeddings[run.config.embeddings.encoder].sel(site=list(trial.sites.index))
    covariates = np.column_stack([trial.column(c) for c in trial.covariates]) if trial.covariates else None

    def blocks(embedding: xr.DataArray | None = None, *, tabular: bool = False, **options: Any) -> FeatureBlocks:
        return multiscale.build_blocks(
            embedding,
            site_ids=list(trial.sites.index),
            site_index=trial.site_index,
            covariates=covariates if tabular else None,
            covariate_names=trial.covariates if tabular else (),
            **options,
        )

    found = {} if covariates is None else {"tabular": blocks(tabular=True)}
    found |= {f"image_{scale}": blocks(image, scales=[scale]) for scale in run.config.embeddings.scales}
    found["image_multi"] = blocks(image)
    found[FULL] = blocks(image, tabular=True)
    found["location"] = blocks(site_features=location_features(trial.sites)[0])
    found["mean_colour"] = blocks(embeddings["mean_colour"])
    found["random_vit"] = blocks(embeddings["random_vit"])
    for i in range(run.config.evaluation.num_permutations):
        found[f"shuffled_{i}"] = blocks(permute_sites(image, seed=_seed(run.config.seed, "shuffle", i)))
    return found


@dataclass(frozen=True)
class _Evaluated:
    """Ranks and rates of every configuration, and of the shuffled embeddings on the first fold order."""

    tasks: list[FoldTask]
    ranked: dict[str, list[Priorities]]
    rates: dict[str, dict[str, SequentialRate]]
    placebo: dict[str, dict[str, SequentialRate]]


def _evaluate(run: _Run, trial: Trial, features: Mapping[str, FeatureBlocks]) -> _Evaluated:
    settings = run.config.evaluation
    tasks = evaluation.plan_folds(
        trial.groups,
        W=trial.column("treatment"),
        strata=trial.strata,
        num_folds=settings.num_folds,
        num_orders=settings.num_orders,
        seed=run.config.seed,
    )
    places: dict[str, Any] = {"store": run.store, "executor": run.executor, "progress": run.progress}
    with run.timed("outcome models"):
        scores = evaluation.score_folds(tasks, features[FULL], trial, **places)
    estimator, key = _build_estimator(run.config)

    def rank(names: list[str], until: int, description: str) -> dict[str, list[Priorities]]:
        chosen = {name: features[name] for name in names}
        return evaluation.rank_folds(
            chosen, estimator, tasks[:until], scores[:until], trial, settings=key, description=description, **places
        )

    first_order = sum(task.order == 0 for task in tasks)
    with run.timed("forests"):
        ranked = rank([n for n in features if not n.startswith("shuffled")], len(tasks), "forests by fold")
        shuffled = rank([n for n in features if n.startswith("shuffled")], first_order, "forests, shuffled sites")
    if trial.true_effect is not None:
        tau = trial.column(trial.true_effect)
        ranked["oracle"] = [Priorities(tau[task.test], np.unique(trial.groups[task.train])) for task in tasks]
    with run.timed("rates"):
        rates = {name: _pool(run, trial, tasks, scores, found) for name, found in ranked.items()}
        placebo = {name: _pool(run, trial, tasks, scores, found) for name, found in shuffled.items()}
    return _Evaluated(tasks, ranked, rates, placebo)


def _pool(
    run: _Run, trial: Trial, tasks: list[FoldTask], scores: list[FoldScores], ranked: list[Priorities]
) -> dict[str, SequentialRate]:
    return {
        target: evaluation.pool_folds(
            tasks[: len(ranked)],
            scores[: len(ranked)],
            ranked,
            groups=trial.groups,
            sample_weights=trial.column("weight"),
            target=target,
            q=TOC_SHARES,
            num_replicates=run.config.evaluation.num_replicates,
        )
        for target in TARGETS
    }


def _build_estimator(config: RunConfig) -> tuple[CateEstimator, dict[str, Any]]:
    """The configured estimator, and the settings that determine its predictions."""
    settings = config.estimators.model_dump()
    threads = (os.cpu_count() or 1) if config.executor == "inline" else 1
    forest = CausalForest(**settings, seed=config.seed, num_threads=threads)
    procedure = config.multiscale
    estimator = multiscale.make_procedure(procedure.procedure, forest, components=procedure.components)
    return estimator, settings | procedure.model_dump() | {"engine": ENGINE, "seed": config.seed}


def _draw_map(
    run: _Run,
    trial: Trial,
    reader: ChipReader,
    cells: pd.DataFrame | None,
    X: FeatureBlocks,
    embeddings: Mapping[str, xr.DataArray],
) -> tuple[xr.Dataset | None, dict[str, float] | None]:
    """tau_hat of the image model, fitted on all units, over the cells; beside the truth where it is known."""
    if cells is None or reader.grid is None or run.config.map is None:
        return None, None
    spacing = run.config.map.spacing_px
    estimator = _fit_on_all(run, trial, X)
    embedding = embeddings[run.config.embeddings.encoder].sel(site=list(cells["location"]))
    at_cells = multiscale.build_blocks(
        embedding, site_ids=list(cells["location"]), site_index=np.arange(len(cells), dtype=np.int64)
    )
    tau_map = extrapolation.predict_map(estimator, at_cells, cells, reader.grid, spacing_px=spacing)
    extrapolation.write_cog(tau_map, run.run_dir / "maps" / "tau_hat.tif")
    if run.config.map.true_effect is None:
        return tau_map, None
    truth = extrapolation.read_raster_at(run.data_dir / run.config.map.true_effect, cells, reader.grid)
    sampled = extrapolation.find_sampled(cells, trial.sites, reader.grid, spacing_px=spacing)
    layer = extrapolation.raster_from_cells({"true_effect": truth}, cells, reader.grid, spacing_px=spacing)
    tau_hat = np.asarray(estimator.predict(at_cells))
    return tau_map.assign(true_effect=layer["true_effect"]), _map_check(tau_hat, truth, sampled)


def _fit_outcome_model(trial: Trial, X: FeatureBlocks) -> tuple[Nuisances, tuple[FloatArray, ...]]:
    Y, W, e, weight = (trial.column(c) for c in ("outcome", "treatment", "propensity", "weight"))
    fit = fit_nuisances(X, Y, W, propensity=e, groups=trial.groups, strata=trial.strata, sample_weights=weight)
    return fit, (Y, W, e, weight)


def _average_effect(trial: Trial, X: FeatureBlocks) -> tuple[float, float]:
    fit, (Y, W, e, weight) = _fit_outcome_model(trial, X)
    found = evaluation.average_treatment_effect(
        Y,
        W,
        propensity=e,
        Y_hat=fit.m_hat,
        tau_hat=np.full(len(Y), fit.ATE_hat),
        sample_weights=weight,
        groups=trial.groups,
    )
    return found.estimate, found.std_err


def _fit_on_all(run: _Run, trial: Trial, X: FeatureBlocks) -> CateEstimator:
    estimator, _ = _build_estimator(run.config)
    fit, (Y, W, e, weight) = _fit_outcome_model(trial, X)
    estimator.fit(X, Y - fit.m_hat, W, propensity=e, sample_weights=weight, groups=trial.groups)
    return estimator


def _map_check(tau_hat: Any, truth: Any, sampled: Any) -> dict[str, float]:
    found = extrapolation.compare_map(tau_hat, truth, sampled=sampled)
    check = {"cells": found.everywhere.n, "correlation": found.everywhere.pearson, "R2": found.everywhere.R2}
    if found.unsampled is not None:
        check |= {
            "unsampled cells": found.unsampled.n,
            "correlation, unsampled": found.unsampled.pearson,
            "rank correlation, unsampled": found.unsampled.spearman,
        }
    return check


def _collect(
    run: _Run,
    trial: Trial,
    reader: ChipReader,
    evaluated: _Evaluated,
    ate: tuple[float, float],
    tau_map: xr.Dataset | None,
    map_check: dict[str, float] | None,
) -> reporting.ReportInputs:
    controls = ("location", "mean_colour", "random_vit", "oracle")
    roles = {name: "control" if name in controls else "result" for name in evaluated.rates}
    estimators = {name: "truth" if name == "oracle" else "forest" for name in evaluated.rates}
    rates = reporting.rate_table(evaluated.rates, roles=roles, estimators=estimators)
    images = [name for name in evaluated.ranked if name.startswith("image") and "tabular" not in name]
    return reporting.ReportInputs(
        config=run.config,
        summary=trial_summary(trial),
        ate=ate,
        rates=pd.concat([rates, reporting.placebo_rows(evaluated.placebo, estimator="forest")], ignore_index=True),
        tocs={name: reporting.toc_of(found["AUTOC"]) for name, found in evaluated.rates.items()},
        placebo_tocs=np.stack([found["AUTOC"].toc for found in evaluated.placebo.values()]),
        shuffled_ratios=np.array([found["AUTOC"].ratio for found in evaluated.placebo.values()]),
        map=tau_map,
        map_check=map_check,
        truth=reporting.truth_by_site(trial, {n: evaluated.ranked[n] for n in images}, evaluated.tasks),
        sources=reporting.collect_sources(
            run.config,
            units_sha256=file_digest(run.data_dir / run.config.trial.units),
            imagery_digest=reader.digest,
        ),
        versions=reporting.collect_versions(),
        timings=run.timings,
    )


def _seed(seed: int, *path: str | int) -> int:
    """A seed of its own for every use, derived from the run's."""
    entropy = [seed, *(int.from_bytes(str(part).encode(), "little") for part in path)]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
