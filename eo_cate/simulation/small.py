"""A small made-up landscape and trial: the whole pipeline in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from eo_cate.extrapolation.cells import map_cells
from eo_cate.simulation.demo_trial import ROUGH_PERCENTILE, write_demo
from eo_cate.simulation.landscape import box_means, gradient_size, standardise
from eo_cate.simulation.scene import Scene, write_scene
from eo_cate.simulation.village_trial import DemoTrial, VillageDesign, draw_trial
from eo_cate.types import Grid

SMALL_STRETCH = (0.0, 2000.0)
"""Pixel values that hold nearly all of every band of the small landscape."""

SMALL_DESIGN = VillageDesign(villages=72, households=(5, 8), village_sd=0.15, residual_sd=0.5)


def small_landscape(*, seed: int, size_px: int = 400) -> Scene:
    """Four bands (B02, B03, B04, B08; 10 m, UTM 36N) with two textures whose strengths vary at different scales.

    The strength of the first changes over about 10 px and shows in B04 and B03; that of the second changes over about
    50 px and shows in B08, B02 and B03. Both have mean zero, so the mean colour of a place says little of either.
    """
    rng = np.random.default_rng(seed)
    shape = (size_px, size_px)
    fine, coarse = (
        _strength(rng, shape, sigma) * gaussian_filter(rng.normal(size=shape), blur, mode="wrap") / norm
        for sigma, blur, norm in ((8, 0.5, 0.6), (30, 0.9, 0.3))
    )
    parts = {"B02": (0.0, 1.0), "B03": (0.5, 0.5), "B04": (1.0, 0.0), "B08": (0.0, 1.0)}
    bands = {
        name: (1000 + 150 * (a * fine + b * coarse) + rng.normal(0, 10, shape)).astype(np.float32)
        for name, (a, b) in parts.items()
    }
    return Scene(bands, Grid("EPSG:32636", (10.0, 0.0, 500_000.0, 0.0, -10.0, 200_000.0), shape))


def _strength(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> NDArray[np.float64]:
    field = gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    return np.asarray(np.exp(0.5 * (field - field.mean()) / field.std()))


def simulate_small(scene: Scene, *, seed: int, design: VillageDesign = SMALL_DESIGN) -> DemoTrial:
    """A village trial on the small landscape, with effects of a 16 px and a 64 px scale.

    Cells every 32 px, 32 px from the edges; local = log mean |grad B04| in 16 px; context = share of |grad B08| above
    its 75th percentile in 64 px without the inner 16 px; tau = .30 + .35 z(local) + .35 z(context).
    """
    cells = map_cells(scene.grid, spacing_px=32, margin_px=32, mask=None)
    steep = gradient_size(scene.bands["B08"])
    rough = steep > np.percentile(steep, ROUGH_PERCENTILE)
    local = np.log(box_means(gradient_size(scene.bands["B04"]), cells, size_px=16))
    context = box_means(rough, cells, size_px=64, without_px=16)
    cells = cells.assign(
        local=local,
        context=context,
        baseline=0.2 * standardise(box_means(scene.bands["B08"], cells, size_px=64)),
        tau=0.30 + 0.35 * standardise(local) + 0.35 * standardise(context),
    )
    return draw_trial(cells, scene.grid, spacing_px=32, design=design, seed=seed)


def write_small(folder: Path, *, seed: int) -> DemoTrial:
    """Write the small trial's input to a folder, named as the demo's but for ``scene/B02.tif`` and so on."""
    scene = small_landscape(seed=seed)
    trial = simulate_small(scene, seed=seed)
    write_scene(scene, folder / "scene")
    write_demo(trial, folder)
    return trial
