"""Part C of the simulation study: how many scales? (METHODS.md, section 11)"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np

from eo_cate.estimators import RidgeR
from eo_cate.multiscale import AverageEvidence
from eo_cate.multiscale.blocks import take_blocks
from eo_cate.simulation.demo_seeds import Landscape
from eo_cate.simulation.designs import Design, Measured
from eo_cate.simulation.landscape_study import (
    IMAGE,
    LandscapeDesign,
    draw_landscape,
    landscape_features,
)
from eo_cate.simulation.measures import measure_effects
from eo_cate.store import digest
from eo_cate.types import CateEstimator

VERSION = 1
SETS_PER_NUMBER = 4


def scale_designs(landscape: Landscape, *, draws: int, chosen: Sequence[LandscapeDesign]) -> list[Design]:
    """One design each; figures by number of scales."""
    kept = digest(landscape.embeddings[IMAGE].values)
    return [
        Design(one.name, partial(measure_scales, landscape, one), draws, (VERSION, kept, one.name)) for one in chosen
    ]


def number_designs() -> list[LandscapeDesign]:
    """Both scales carry signal at 150 and 400 villages; one of them at 150."""
    return [
        *(LandscapeDesign(villages, "both") for villages in (150, 400)),
        *(LandscapeDesign(150, signal) for signal in ("fine only", "coarse only")),
    ]


def measure_scales(landscape: Landscape, design: LandscapeDesign, seed: int) -> Measured:
    """R2, share and rank at cells without a village by number of scales: the mean over the sets of that size.

    Procedures are ``concat, K`` (tuned linear RidgeR) and ``average_evidence, K``.
    """
    draw = draw_landscape(landscape, design, seed)
    scales = landscape.embeddings[IMAGE]["scale"].values.tolist()
    inside, at = landscape_features(landscape, draw, IMAGE, scales, seed=seed)
    vectors, truth = draw.vectors, draw.tau[draw.outside]
    models: dict[str, CateEstimator] = {
        "concat": RidgeR(kernel="linear", gamma="r_risk"), "average_evidence": AverageEvidence(),
    }  # fmt: skip
    found: dict[tuple[str, str], float] = {}
    for number in range(1, len(scales) + 1):
        sets = [tuple(f"image_{s}" for s in chosen) for chosen in choose_sets(scales, number, seed=seed)]
        for name, model in models.items():
            measured = []
            for labels in sets:
                model.fit(
                    take_blocks(inside, labels), vectors.Y, vectors.W,
                    propensity=vectors.propensity, groups=vectors.groups,
                )  # fmt: skip
                measured.append(measure_effects(truth, model.predict(take_blocks(at, labels))))
            for figure in measured[0]:
                found[f"{name}, {number}", figure] = float(np.mean([one[figure] for one in measured]))
    return found


def choose_sets(scales: Sequence[int], number: int, *, seed: int) -> list[tuple[int, ...]]:
    """Sets of scales of a size: each scale alone, else at most 4 sets, drawn without replacement."""
    sets = list(itertools.combinations(scales, number))
    if number == 1 or len(sets) <= SETS_PER_NUMBER:
        return sets
    rng = np.random.default_rng([seed, number])
    return [sets[i] for i in np.sort(rng.choice(len(sets), SETS_PER_NUMBER, replace=False))]
