"""From options to estimators, and to the settings that are their keys in the store."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from eo_cate import multiscale
from eo_cate.config import RunConfig
from eo_cate.errors import ConfigError
from eo_cate.estimators import CausalForest, EconmlForest, RidgeR, from_econml
from eo_cate.types import CateEstimator, Trial

ENGINE = "bins-2"
RIDGE_ENGINE = "kernel-ridge-1"
EVIDENCE_ENGINE = "average-evidence-1"
INSTALL_ECONML = "python -m pip install 'econml>=0.17,<0.18'"


def build_estimator(
    config: RunConfig, procedure: str | None = None, *, num_threads: int | None = None
) -> tuple[CateEstimator, dict[str, Any]]:
    """A procedure (by default the evaluation's) around the causal forest, and all that determines its predictions.

    Threads do not: by default all cores in this process, one on a worker of dask.
    """
    settings = config.multiscale
    procedure = procedure or settings.procedure
    forest, key = (None, {}) if procedure == multiscale.FORESTLESS else _build_forest(config, num_threads)
    estimator = multiscale.make_procedure(
        procedure, forest, components=settings.components, balance=settings.balance, seed=config.seed
    )
    own = {"procedure": procedure, "components": settings.components}
    if settings.balance:
        own["balance"] = True
    if procedure in ("average_evidence", "mean_of"):
        own["kernel"] = EVIDENCE_ENGINE
    return estimator, key | own | {"seed": config.seed}


def _build_forest(config: RunConfig, num_threads: int | None) -> tuple[CateEstimator, dict[str, Any]]:
    settings = {k: v for k, v in config.estimators.model_dump().items() if not k.startswith("ridge_")}
    if settings.pop("engine") == "econml":
        own = {name: value for name, value in settings.items() if name != "honesty_fraction"}
        return from_econml(EconmlForest(**own, seed=config.seed)), settings | {"engine": f"econml-{econml_version()}"}
    if num_threads is None:
        num_threads = (os.cpu_count() or 1) if config.executor == "inline" else 1
    return CausalForest(**settings, seed=config.seed, num_threads=num_threads), settings | {"engine": ENGINE}


def uses_forest(config: RunConfig) -> bool:
    """Whether a causal forest takes part in anything."""
    return {config.multiscale.procedure, config.multiscale.map_procedure} != {multiscale.FORESTLESS}


def describe_engine(config: RunConfig) -> str:
    """Whose causal forest, in which version, and what econml's cannot do: for the report."""
    if config.estimators.engine == "eo_cate":
        return f"eo_cate {ENGINE}, numba {version('numba')}"
    return (
        f"econml {econml_version()} CausalForestDML (a comparison: its bags and honest halves draw units, not groups; "
        "it centres W at the treated share, not at known propensities; it takes no missing covariates)"
    )


def check_engine(config: RunConfig, trial: Trial) -> None:
    """Refuse before long work what the configured forest cannot do.

    Raises
    ------
    ConfigError
        When econml is wanted and not installed, or a covariate has missing values that it does not take.
    """
    if config.estimators.engine == "eo_cate":
        return
    econml_version()
    missing = {name: int(trial.units[name].isna().sum()) for name in trial.covariates}
    missing = {name: number for name, number in missing.items() if number}
    if missing:
        raise ConfigError(
            f"estimators.engine: econml takes no missing covariates, found {missing} (column: missing units); impute "
            "them, leave the columns out of trial.covariates, or set engine: eo_cate"
        )


def econml_version() -> str:
    """Version of the econml that is installed.

    Raises
    ------
    ConfigError
        With the command that installs it.
    """
    try:
        return version("econml")
    except PackageNotFoundError as error:
        raise ConfigError(
            f"estimators.engine: econml is not installed: {INSTALL_ECONML}, or set engine: eo_cate"
        ) from error


def build_ridge(config: RunConfig) -> tuple[RidgeR, dict[str, Any]]:
    """The configured RidgeR on whole blocks, and all that determines its predictions.

    It takes no components: a ridge shrinks the small ones itself, and its kernel costs the same at any width.
    """
    settings = config.estimators
    ridge = RidgeR(kernel=settings.ridge_kernel, degrees_of_freedom=settings.ridge_degrees_of_freedom)
    return ridge, ridge.get_params() | {"engine": RIDGE_ENGINE}
