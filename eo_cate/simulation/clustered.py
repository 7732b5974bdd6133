"""Clustered trials made of numbers alone: what the validity study draws thousands of times (METHODS.md, section 10)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eo_cate.errors import EoCateError
from eo_cate.types import FeatureBlocks, FloatArray, IntArray

ASSIGNMENTS = ("complete", "pairs", "household")
PAIR_CORRELATION = 0.8
EFFECTS = ("constant", "unrelated", "one_scale", "two_scales")


@dataclass(frozen=True)
class ClusteredDesign:
    """Sizes, assignment and effects of a simulated trial whose villages share their features.

    Parameters
    ----------
    villages : int
    households : int
        Per village; with ``unequal`` their mean, uniform between a fifth and nine fifths of it.
    unequal : bool
    scales, width : int
        Feature blocks, and columns in each: ten factors with falling variance (1, 1/2, 1/3, ...) plus noise.
    icc : float
        Share of the variance of Y(0), its part explained by features aside, that is between villages.
    assignment : {"complete", "pairs", "household"}
        ``pairs``: neighbours, whose factors correlate .8.
    propensity : float
        Share treated; 1/2 in pairs.
    effects : {"constant", "unrelated", "one_scale", "two_scales"}
        ``unrelated``: effects vary (sd ``effect_sd``), not with the features.
    effect_sd : float
    baseline_sd : float
        Of the part of Y(0) that the features explain.
    mixed : float
        Share of the villages whose households are assigned one by one.
    """

    villages: int = 150
    households: int = 10
    unequal: bool = False
    scales: int = 6
    width: int = 50
    icc: float = 0.05
    assignment: str = "complete"
    propensity: float = 0.5
    effects: str = "constant"
    effect_sd: float = 0.5
    baseline_sd: float = 0.5
    mixed: float = 0.15

    def __post_init__(self) -> None:
        if self.assignment not in ASSIGNMENTS or self.effects not in EFFECTS:
            raise EoCateError(f"assignment is one of {ASSIGNMENTS} and effects one of {EFFECTS}, got {self}")


@dataclass(frozen=True)
class ClusteredTrial:
    """One draw: arrays over n households, and the villages' feature blocks (G, width) by scale."""

    Y: FloatArray
    W: FloatArray
    tau: FloatArray
    propensity: float
    village: IntArray
    strata: IntArray | None
    scales: dict[str, NDArray[np.float32]]

    def blocks(self, *names: str) -> FeatureBlocks:
        """Features of some scales side by side, shared by the households of a village."""
        site = np.hstack([self.scales[name] for name in names])
        return FeatureBlocks(
            site=site,
            unit=np.zeros((len(self.Y), 0), dtype=np.float32),
            site_index=self.village,
            names=tuple(f"{name}_{j}" for name in names for j in range(self.scales[name].shape[1])),
            blocks=tuple(name for name in names for _ in range(self.scales[name].shape[1])),
        )

    def everything(self) -> FeatureBlocks:
        """All scales."""
        return self.blocks(*self.scales)


def draw_clustered(design: ClusteredDesign, *, seed: int | list[int]) -> ClusteredTrial:
    """Draw a trial: Y = baseline(features) + village + tau W + e, with Var(village + e) = 1.

    The signal of a scale is its first factor, of variance 1 over the population; tau = .3 + effect_sd z.
    """
    rng = np.random.default_rng(seed)
    G = design.villages
    factors, scales = _draw_features(design, G, seed, rng)
    sizes = _sizes(design, rng)
    village = np.repeat(np.arange(G), sizes)
    explained = design.baseline_sd * sum((f[:, 1] for f in factors), np.zeros(G)) / np.sqrt(design.scales)
    level = explained + rng.normal(0, np.sqrt(design.icc), G)
    tau = 0.3 + design.effect_sd * _signal(design, factors, rng)
    W, strata = _assign(design, village, rng)
    noise = rng.normal(0, np.sqrt(1 - design.icc), len(village))
    return ClusteredTrial(
        Y=level[village] + tau[village] * W + noise,
        W=W,
        tau=tau[village],
        propensity=design.propensity,
        village=village,
        strata=None if strata is None else strata[village],
        scales=scales,
    )


def draw_population(design: ClusteredDesign, *, seed: int | list[int], villages: int = 4000) -> Population:
    """Other villages of the population that `draw_clustered` with this seed drew its trial from."""
    rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), 2])
    factors, scales = _draw_features(design, villages, seed, rng)
    return Population(0.3 + design.effect_sd * _signal(design, factors, rng), scales)


@dataclass(frozen=True)
class Population:
    """True effects (G,) and feature blocks (G, width) by scale of villages outside the trial."""

    tau: FloatArray
    scales: dict[str, NDArray[np.float32]]


def _draw_features(
    design: ClusteredDesign, villages: int, seed: int | list[int], rng: np.random.Generator
) -> tuple[list[FloatArray], dict[str, NDArray[np.float32]]]:
    """Factors (G, 10) and features (G, width) of every scale; the loadings belong to the population, not the draw."""
    loadings = np.random.default_rng([*np.atleast_1d(seed).tolist(), 1])
    strength = 1 / np.sqrt(np.arange(1, 11))[:, None]
    factors, scales = [], {}
    for s in range(design.scales):
        factor = rng.normal(size=(villages, 10))
        if design.assignment == "pairs":
            factor = np.sqrt(1 - PAIR_CORRELATION) * factor
            factor += np.sqrt(PAIR_CORRELATION) * rng.normal(size=((villages + 1) // 2, 10))[np.arange(villages) // 2]
        noise = 0.5 * rng.normal(size=(villages, design.width))
        scales[f"image_{2**s * 16}"] = (factor @ (strength * loadings.normal(size=(10, design.width))) + noise).astype(
            np.float32
        )
        factors.append(factor)
    return factors, scales


def _signal(design: ClusteredDesign, factors: list[FloatArray], rng: np.random.Generator) -> FloatArray:
    count = len(factors[0])
    found: dict[str, FloatArray] = {
        "constant": np.zeros(count),
        "unrelated": rng.normal(size=count),
        "one_scale": factors[0][:, 0],
        "two_scales": (factors[0][:, 0] + factors[-1][:, 0]) / np.sqrt(2),
    }
    return found[design.effects]


def _sizes(design: ClusteredDesign, rng: np.random.Generator) -> IntArray:
    n = design.households
    if not design.unequal:
        return np.full(design.villages, n, dtype=np.int64)
    return rng.integers(max(n // 5, 1), 9 * n // 5 + 1, design.villages).astype(np.int64)


def _assign(design: ClusteredDesign, village: IntArray, rng: np.random.Generator) -> tuple[FloatArray, IntArray | None]:
    G = design.villages
    if design.assignment == "pairs":
        pair = np.arange(G) // 2
        first = np.argsort(np.argsort(pair * 2.0 + rng.random(G))) % 2
        return first[village].astype(float), pair
    if design.assignment == "household":
        W = np.zeros(len(village))
        for g in range(G):
            members = np.flatnonzero(village == g)
            W[rng.choice(members, round(len(members) * design.propensity), replace=False)] = 1
        return W, None
    W = np.zeros(G)
    W[rng.choice(G, round(G * design.propensity), replace=False)] = 1
    units = W[village]
    mixed = np.isin(village, rng.choice(G, round(G * design.mixed), replace=False))
    units[mixed] = rng.random(mixed.sum()) < design.propensity
    return units, None
