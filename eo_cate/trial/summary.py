"""Counts and balance of a trial, for the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from eo_cate.types import FloatArray, Trial


def trial_summary(trial: Trial) -> dict[str, Any]:
    """Counts that describe a trial; plain numbers and strings, so that it goes into JSON as it is.

    Returns
    -------
    dict
        ``units``, ``sites``, ``clusters``, ``groups``, ``strata`` (counts), ``treated_share`` (weighted), ``dropped``
        (reason -> units), ``propensity_source`` and ``covariates``: per covariate ``name``, ``missing`` (cells),
        ``mean_treated``, ``mean_control`` (weighted, over finite cells) and ``standardized_difference``
        ``(m1 - m0) / sqrt((v1 + v0) / 2)`` (Austin 2009), None where it does not exist.
    """
    W, weight = trial.column("treatment"), trial.column("weight")
    return {
        "units": len(trial.units),
        "sites": len(trial.sites),
        "clusters": int(trial.units["cluster"].nunique()),
        "groups": len(np.unique(trial.groups)),
        "strata": int(trial.units["stratum"].nunique()),
        "treated_share": float(np.average(W, weights=weight)),
        "dropped": dict(trial.units.attrs.get("dropped", {})),
        "propensity_source": trial.units.attrs.get("propensity_source"),
        "covariates": [{"name": c, **_balance(trial.column(c), W, weight)} for c in trial.covariates],
    }


def _balance(x: FloatArray, W: FloatArray, weight: FloatArray) -> dict[str, float | int | None]:
    finite = np.isfinite(x)
    mean_1, variance_1 = _moments(x[finite & (W == 1)], weight[finite & (W == 1)])
    mean_0, variance_0 = _moments(x[finite & (W == 0)], weight[finite & (W == 0)])
    difference = None
    if mean_1 is not None and mean_0 is not None and variance_1 + variance_0 > 0:
        difference = (mean_1 - mean_0) / float(np.sqrt((variance_1 + variance_0) / 2))
    return {
        "missing": int((~finite).sum()),
        "mean_treated": mean_1,
        "mean_control": mean_0,
        "standardized_difference": difference,
    }


def _moments(x: FloatArray, weight: FloatArray) -> tuple[float | None, float]:
    """Weighted mean (None without weight) and variance."""
    if not weight.sum() > 0:
        return None, 0.0
    mean = float(np.average(x, weights=weight))
    return mean, float(np.average((x - mean) ** 2, weights=weight))
