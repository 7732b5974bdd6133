"""Part A of the simulation study: signals planted into chips by devices, 2^4 cells (METHODS.md, section 11)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eo_cate.estimators import RidgeR
from eo_cate.evaluation import TrialVectors
from eo_cate.multiscale import AverageEvidence
from eo_cate.multiscale.blocks import take_blocks
from eo_cate.simulation.designs import Design, Measured
from eo_cate.simulation.measures import NUM_FOLDS, ScoredFolds, r_squared
from eo_cate.simulation.perturbed import DEVICES, PATTERNS
from eo_cate.store import digest
from eo_cate.types import CateEstimator, FeatureBlocks, FloatArray, IntArray

VERSION = 1
EFFECT, MEAN_EFFECT = 0.7, 0.3
HOUSEHOLDS = (5, 10)
VILLAGE_SD, RESIDUAL_SD = 0.25, 0.9
ALL, AVERAGED = "concatenated", "average_evidence"
PENALTIES = np.logspace(0, 6, 13)


@dataclass(frozen=True)
class PatternFeatures:
    """Features of sites under each pattern, (pattern, site, scale, feature), and the scales in pixels."""

    values: NDArray[np.float32]
    scales: tuple[int, ...]


@dataclass(frozen=True)
class DeviceTrial:
    """One draw: vectors over households, true effects by site and unit, features of the sites as they are drawn."""

    vectors: TrialVectors
    tau: FloatArray
    site_outcome: FloatArray
    X: FeatureBlocks


def device_designs(features: PatternFeatures, *, draws: int, cells: Sequence[str] = PATTERNS) -> list[Design]:
    """One design per cell: which devices are switched on by coin at each site. The others are off everywhere."""
    kept = digest(features.values)
    return [
        Design(cell, partial(measure_cell, features, cell), draws, (VERSION, kept, features.scales, cell))
        for cell in cells
    ]


def cell_name(cell: str) -> str:
    """The active devices of a cell in words."""
    return " + ".join(name for name, bit in zip(DEVICES, cell, strict=True) if bit == "1") or "none"


def draw_device_trial(features: PatternFeatures, cell: str, seed: int) -> DeviceTrial:
    """Draw a trial in a cell.

    Every active device is on with probability 1/2 at each site; tau = .3 + .7 sum(bit - 1/2). Half of the sites are
    treated; 5-10 households; Y = u (sd .25) + tau W + e (sd .9). ``site_outcome`` is the original form, without a
    treatment: .7 sum(bit - 1/2) + u + the mean of e.
    """
    rng = np.random.default_rng([seed, int(cell, 2)])
    S = int(features.values.shape[1])
    active = np.array([bit == "1" for bit in cell])
    bits = rng.integers(0, 2, (S, len(DEVICES))) * active
    index = np.asarray(EFFECT * ((bits - 0.5) * active).sum(axis=1), dtype=np.float64)
    site = np.repeat(np.arange(S), rng.integers(HOUSEHOLDS[0], HOUSEHOLDS[1] + 1, S)).astype(np.int64)
    W = rng.permutation(np.arange(S) % 2)[site].astype(np.float64)
    level, noise = rng.normal(0, VILLAGE_SD, S), rng.normal(0, RESIDUAL_SD, len(site))
    tau = MEAN_EFFECT + index[site]
    pattern = bits @ (1 << np.arange(len(DEVICES))[::-1])
    vectors = TrialVectors(
        Y=level[site] + tau * W + noise,
        W=W,
        propensity=np.full(len(site), 0.5),
        weights=np.ones(len(site)),
        groups=site,
        strata=np.zeros(len(site), dtype=np.int64),
    )
    outcome = index + level + np.bincount(site, noise) / np.bincount(site)
    return DeviceTrial(vectors, tau, outcome, _lay_out(features, pattern, site))


def measure_cell(features: PatternFeatures, cell: str, seed: int) -> Measured:
    """R2 of tau (cross-fitted by groups), RATE ratio and R2 of the site outcome without a treatment, by scales."""
    trial = draw_device_trial(features, cell, seed)
    folds = ScoredFolds.of(trial.vectors, trial.X, seed=seed, crossed=True)
    ridge: CateEstimator = RidgeR(kernel="linear", gamma="r_risk")
    models = [(name, ridge, take_blocks(trial.X, labels)) for name, labels in scale_sets(features.scales).items()]
    models.append((AVERAGED, AverageEvidence(), trial.X))
    found: dict[tuple[str, str], float] = {}
    for name, model, X in models:
        found[name, "ratio"] = folds.ratio(model, X)
        if cell.count("1"):
            found[name, "R2"] = r_squared(trial.tau, folds.cross_fit(model, X))
        if cell.count("1") and name != AVERAGED:
            found[name, "R2 of Y"] = r_squared(trial.site_outcome, _predict_outcome(X, trial.site_outcome, seed))
    return found


def scale_sets(scales: Sequence[int]) -> dict[str, tuple[str, ...]]:
    """Block labels by the name of the set: single scales, pairs when there are more than two, and all."""
    sizes = (1, 2) if len(scales) > 2 else (1,)
    chosen = [subset for size in sizes for subset in itertools.combinations(scales, size)]
    named = {f"{' + '.join(map(str, subset))} px": tuple(f"image_{s}" for s in subset) for subset in chosen}
    return named | {ALL: tuple(f"image_{s}" for s in scales)}


def _predict_outcome(X: FeatureBlocks, outcome: FloatArray, seed: int) -> FloatArray:
    """Ridge predictions of a site's outcome by the fit on other folds of sites; penalty by generalised CV inside."""
    folds = KFold(NUM_FOLDS, shuffle=True, random_state=seed % 2**32)
    model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    return np.asarray(cross_val_predict(model, X.site.astype(np.float64), outcome, cv=folds))


def _lay_out(features: PatternFeatures, pattern: IntArray, site: IntArray) -> FeatureBlocks:
    seen = features.values[pattern, np.arange(len(pattern))]
    labels = [f"image_{scale}" for scale in features.scales for _ in range(seen.shape[2])]
    return FeatureBlocks(
        site=seen.reshape(len(seen), -1),
        unit=np.zeros((len(site), 0), dtype=np.float32),
        site_index=site,
        names=tuple(f"{label}_{j}" for j, label in enumerate(labels)),
        blocks=tuple(labels),
    )
