"""A village trial inside a simulated archive, with effects that its pixels tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pyproj import Transformer

from eo_cate.errors import TrialError
from eo_cate.simulation.archive import ArchiveSpec
from eo_cate.simulation.archive_ground import Ground, load_ground
from eo_cate.simulation.archive_layout import plane_crs
from eo_cate.simulation.demo_trial import ROUGH_PERCENTILE
from eo_cate.simulation.landscape import gradient_size, standardise
from eo_cate.simulation.village_trial import DemoTrial, VillageDesign, draw_trial
from eo_cate.store import write_atomic
from eo_cate.types import FloatArray, Grid

_AROUND_PX, _NEAR_PX = 64, 16


def simulate_units(
    spec: ArchiveSpec,
    *,
    seed: int,
    archive_seed: int,
    design: VillageDesign,
    chip_m: float,
    household_m: float = 0.0,
) -> DemoTrial:
    """Villages at random places of the archive's square, each with its households.

    The effect is of the village and of the ground without clouds, on pixels of the sensor: local = log mean |grad NIR|
    in 16 px; context = share of |grad NIR| above its 75th percentile in 64 px without the inner 16 px; tau = .30 +
    .35 z(local) + .35 z(context); baseline = .2 z(mean NIR, 64 px). Outcomes, treatment by village and covariates are
    those of `village_trial.draw_trial`.

    Parameters
    ----------
    spec, archive_seed
        Of the archive (`archive.make_archive`).
    seed : int
        Of places and outcomes.
    design : VillageDesign
        Numbers of villages and households, noise.
    chip_m : float
        Side of the largest chip: it lies wholly inside the square, whatever its orientation.
    household_m : float
        Households live within this distance of the village's centre, each at a place of its own; 0: all at the centre.

    Raises
    ------
    TrialError
        When the square is too small for a chip.
    """
    rng = np.random.default_rng([seed, 1])
    ground = load_ground(pixel_m=spec.pixel_m, seed=archive_seed, source=spec.ground)
    margin = max(chip_m / np.sqrt(2), _AROUND_PX * ground.pixel_m / 2) + household_m + ground.pixel_m
    size = int(spec.extent_m // ground.pixel_m)
    low, high = int(np.ceil(margin / ground.pixel_m)), int((spec.extent_m - margin) // ground.pixel_m)
    if high <= low:
        raise TrialError(f"a square of {spec.extent_m:.0f} m holds no chip of {chip_m:.0f} m with its margin")
    half = spec.extent_m / 2
    grid = Grid(plane_crs(spec.centre), (ground.pixel_m, 0.0, -half, 0.0, -ground.pixel_m, half), (size, size))
    places = pd.DataFrame(rng.integers(low, high, (design.villages, 2)), columns=["row", "col"])
    trial = draw_trial(_with_effects(places, ground, grid), grid, spacing_px=1, design=design, seed=seed)
    if household_m > 0:
        trial.units[["lon", "lat"]] = _scatter(trial.units[["lon", "lat"]].to_numpy(), household_m, grid.crs, rng)
    return trial


def write_units(trial: DemoTrial, path: Path) -> None:
    """Write the units as CSV: unit, village, lon, lat, W, Y, quadrant, x1, x2, tau."""
    write_atomic(path, trial.units.to_csv(index=False, lineterminator="\n").encode())


def _with_effects(places: pd.DataFrame, ground: Ground, grid: Grid) -> pd.DataFrame:
    chips = np.stack([_chip(ground, grid, row, col) for row, col in zip(places["row"], places["col"], strict=True)])
    steep = np.stack([gradient_size(chip) for chip in chips])
    inner = slice((_AROUND_PX - _NEAR_PX) // 2, (_AROUND_PX + _NEAR_PX) // 2)
    rough = steep > np.percentile(steep, ROUGH_PERCENTILE)
    ring = _AROUND_PX**2 - _NEAR_PX**2
    context = (rough.sum(axis=(1, 2)) - rough[:, inner, inner].sum(axis=(1, 2))) / ring
    local = np.log(steep[:, inner, inner].mean(axis=(1, 2), dtype=np.float64))
    return places.assign(
        local=local,
        context=context,
        baseline=0.2 * standardise(chips.mean(axis=(1, 2), dtype=np.float64)),
        tau=0.30 + 0.35 * standardise(local) + 0.35 * standardise(context),
    )


def _chip(ground: Ground, grid: Grid, row: int, col: int) -> np.ndarray:
    """NIR of the ground around a pixel corner of the plane's grid, (64, 64)."""
    a, _, west, _, e, north = grid.transform
    steps = np.arange(_AROUND_PX) - _AROUND_PX / 2 + 0.5
    x, y = np.meshgrid(west + a * (col + steps), north + e * (row + steps))
    rows, columns = ground.indices(x, y)
    return np.asarray(ground.bands["nir"][rows, columns])


def _scatter(lonlat: FloatArray, radius_m: float, crs: str, rng: np.random.Generator) -> FloatArray:
    """Uniform in a disc around each place."""
    to_plane = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x, y = to_plane.transform(*lonlat.T)
    angle, distance = rng.uniform(0, 2 * np.pi, len(x)), radius_m * np.sqrt(rng.uniform(0, 1, len(x)))
    moved = to_plane.transform(x + distance * np.cos(angle), y + distance * np.sin(angle), direction="INVERSE")
    return np.round(np.column_stack(moved), 10)
