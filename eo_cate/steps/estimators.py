"""From options to estimators, and to the settings that are their keys in the store."""

from __future__ import annotations

import os
from typing import Any

from eo_cate import multiscale
from eo_cate.config import RunConfig
from eo_cate.estimators import CausalForest, RidgeR
from eo_cate.types import CateEstimator

ENGINE = "bins-2"
RIDGE_ENGINE = "kernel-ridge-1"


def build_forest(config: RunConfig, *, num_threads: int | None = None) -> tuple[CateEstimator, dict[str, Any]]:
    """The configured causal forest, and all that determines its predictions.

    Threads do not: by default all cores in this process, one on a worker of dask.
    """
    settings = {k: v for k, v in config.estimators.model_dump().items() if not k.startswith("ridge_")}
    if num_threads is None:
        num_threads = (os.cpu_count() or 1) if config.executor == "inline" else 1
    forest = CausalForest(**settings, seed=config.seed, num_threads=num_threads)
    procedure = config.multiscale
    estimator = multiscale.make_procedure(
        procedure.procedure, forest, components=procedure.components, seed=config.seed
    )
    key = {"procedure": procedure.procedure, "components": procedure.components}
    return estimator, settings | key | {"engine": ENGINE, "seed": config.seed}


def build_ridge(config: RunConfig) -> tuple[RidgeR, dict[str, Any]]:
    """The configured RidgeR on whole blocks, and all that determines its predictions.

    It takes no components: a ridge shrinks the small ones itself, and its kernel costs the same at any width.
    """
    settings = config.estimators
    ridge = RidgeR(kernel=settings.ridge_kernel, degrees_of_freedom=settings.ridge_degrees_of_freedom)
    return ridge, ridge.get_params() | {"engine": RIDGE_ENGINE}
