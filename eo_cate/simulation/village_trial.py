"""A village-randomised trial over cells whose true effects are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eo_cate.errors import TrialError
from eo_cate.extrapolation.cells import cell_lonlat
from eo_cate.types import FloatArray, Grid

QUADRANTS = np.array(["NW", "NE", "SW", "SE"])


@dataclass(frozen=True)
class DemoTrial:
    """A simulated trial and the landscape of true effects that it was drawn from.

    Parameters
    ----------
    units : DataFrame
        One row per household: unit, village, lon, lat, W, Y, quadrant, x1, x2, tau (true effect of its village).
    cells : DataFrame
        Candidate villages, which are the map too; index cell_id: row, col (pixel corner of the centre), local and
        context (the two numbers the effect is made of), baseline (their part of Y(0)), tau, sampled (a village).
    grid : Grid
        Grid of the pixels.
    spacing_px : int
        Distance between the centres of cells.
    """

    units: pd.DataFrame
    cells: pd.DataFrame
    grid: Grid
    spacing_px: int


@dataclass(frozen=True)
class VillageDesign:
    """Sizes and noise of a simulated trial (METHODS.md, section 12).

    ``households`` is the least and the most per village; ``village_sd`` the sd of the village's own level,
    ``residual_sd`` that of the household's.
    """

    villages: int = 400
    households: tuple[int, int] = (5, 10)
    village_sd: float = 0.25
    residual_sd: float = 0.9


def draw_trial(cells: pd.DataFrame, grid: Grid, *, spacing_px: int, design: VillageDesign, seed: int) -> DemoTrial:
    """Draw villages from the cells, treat half of the villages of each quadrant, and give households outcomes.

    Y = baseline + u_village + .4 x1 + .3 x2 + tau W + e. Quadrants are cut at the median row and column of the cells.
    In a quadrant with an odd number of villages a fair coin decides who gets one more, so that every village is treated
    with probability exactly 1/2.

    One generator, ``np.random.default_rng(seed)``, draws in this order: the cells that become villages; households per
    village; quadrant by quadrant (NW, NE, SW, SE) the coin when it is needed and the treated; u_village; x1; x2; e.

    Raises
    ------
    TrialError
        When there are fewer cells than villages.
    """
    if design.villages > len(cells):
        raise TrialError(f"{design.villages} villages asked for, but there are only {len(cells)} cells")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(cells), design.villages, replace=False))
    households = rng.integers(design.households[0], design.households[1] + 1, design.villages)
    quadrant = _quadrants(cells)[chosen]
    W = _treat_half(quadrant, rng)
    level = cells["baseline"].to_numpy()[chosen] + rng.normal(0, design.village_sd, design.villages)

    village = np.repeat(np.arange(design.villages), households)
    x1, x2, noise = (rng.normal(0, sd, len(village)) for sd in (1, 1, design.residual_sd))
    tau = cells["tau"].to_numpy()[chosen]
    # 1e-10 degree is .01 mm: projecting back gives the pixel corner that the cell is centred on.
    lonlat = np.round(cell_lonlat(cells.iloc[chosen], grid), 10)
    units = pd.DataFrame(
        {
            "unit": [f"h{i:05d}" for i in range(len(village))],
            "village": [f"v{v:04d}" for v in village],
            "lon": lonlat[village, 0],
            "lat": lonlat[village, 1],
            "W": W[village],
            "Y": (level + tau * W)[village] + 0.4 * x1 + 0.3 * x2 + noise,
            "quadrant": QUADRANTS[quadrant[village]],
            "x1": x1,
            "x2": x2,
            "tau": tau[village],
        }
    )
    return DemoTrial(units, cells.assign(sampled=np.isin(np.arange(len(cells)), chosen)), grid, spacing_px)


def _quadrants(cells: pd.DataFrame) -> NDArray[np.int64]:
    south = (cells["row"] >= cells["row"].median()).to_numpy(dtype=np.int64)
    east = (cells["col"] >= cells["col"].median()).to_numpy(dtype=np.int64)
    return 2 * south + east


def _treat_half(stratum: NDArray[np.int64], rng: np.random.Generator) -> FloatArray:
    W = np.zeros(len(stratum))
    for code in np.unique(stratum):
        members = np.flatnonzero(stratum == code)
        count = len(members) // 2 + (int(rng.integers(2)) if len(members) % 2 else 0)
        W[rng.choice(members, count, replace=False)] = 1
    return W
