"""Results of the stages as the tables that `ReportInputs` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from platform import platform, python_version
from typing import Any

import numpy as np
import pandas as pd

from eo_cate.config import RunConfig
from eo_cate.embeddings.encoders import encoder_spec
from eo_cate.evaluation import FoldTask, Priorities, SequentialRate
from eo_cate.report.inputs import RATE_COLUMNS, Toc
from eo_cate.types import Trial

PACKAGES = ("eo-cate", "econml", "numpy", "pandas", "rasterio", "scikit-learn", "scipy", "timm", "torch")

Rates = Mapping[str, Mapping[str, SequentialRate]]
"""Configuration -> target -> rate."""


def rate_table(rates: Rates, *, roles: Mapping[str, str], estimators: Mapping[str, str]) -> pd.DataFrame:
    """One row per configuration and target, columns `RATE_COLUMNS`."""
    rows = [
        _rate_row(name, target, found) | {"role": roles[name], "estimator": estimators[name]}
        for name, by_target in rates.items()
        for target, found in by_target.items()
    ]
    return pd.DataFrame(rows, columns=list(RATE_COLUMNS))


def _rate_row(name: str, target: str, found: SequentialRate) -> dict[str, Any]:
    return {
        "configuration": name,
        "target": target,
        "estimate": found.estimate,
        "std_err": found.std_err,
        "ratio": found.ratio,
        "p": found.p,
        "p_doubled": found.p_doubled,
        "low": found.interval[0],
        "high": found.interval[1],
        "folds": found.num_folds,
        "groups": found.num_groups,
        "orders": found.num_orders,
    }


def placebo_rows(placebo: Rates, *, estimator: str) -> pd.DataFrame:
    """The control `shuffled`, one row per target: means over the permutations, the median p, no interval."""
    rows = []
    for target in next(iter(placebo.values())):
        draws = pd.DataFrame([_rate_row("shuffled", target, by_target[target]) for by_target in placebo.values()])
        means = draws[["estimate", "std_err", "ratio"]].mean().to_dict()
        missing = {"p_doubled": np.nan, "low": np.nan, "high": np.nan}
        counts = draws[["folds", "groups", "orders"]].iloc[0].to_dict()
        rows.append(
            {"configuration": "shuffled", "target": target, "estimator": estimator, "role": "control"}
            | means | missing | counts | {"p": float(draws["p"].median())}
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(RATE_COLUMNS))


def toc_of(found: SequentialRate) -> Toc:
    """The pooled TOC curve of a rate."""
    return Toc(found.q, found.toc, found.toc_std_err)


def truth_by_site(
    trial: Trial, ranked: Mapping[str, Sequence[Priorities]], tasks: Sequence[FoldTask]
) -> pd.DataFrame | None:
    """Simulations only: per site, out-of-group tau_hat of the first fold order against the true effect."""
    if trial.true_effect is None:
        return None
    first = [i for i, task in enumerate(tasks) if task.order == 0]
    tau = trial.column(trial.true_effect)
    parts = []
    for name, priorities in ranked.items():
        rows = np.concatenate([tasks[i].test for i in first])
        tau_hat = np.concatenate([priorities[i].values for i in first])
        units = pd.DataFrame({"site": trial.site_index[rows], "tau": tau[rows], "tau_hat": tau_hat})
        parts.append(units.groupby("site").mean().assign(configuration=name))
    return pd.concat(parts, ignore_index=True)[["configuration", "tau", "tau_hat"]]


def collect_versions() -> dict[str, str]:
    """Versions of what computed the figures."""
    return {"python": python_version(), "platform": platform()} | {name: version(name) for name in PACKAGES}


def collect_sources(config: RunConfig, *, units_sha256: str, imagery_digest: str) -> list[dict[str, str]]:
    """Units, imagery and weights: where each came from, under which terms, and its sha256."""
    spec = encoder_spec(config.embeddings.encoder)
    return [
        _source("units table", config.trial.units.name, "the user's", "", units_sha256),
        _source("imagery", config.imagery.source, "see credit", config.imagery.source_note, imagery_digest),
        _source(f"encoder {spec.name}", spec.origin, spec.licence, spec.title, spec.weights_sha256),
    ]


def _source(what: str, origin: str, licence: str, credit: str, sha256: str) -> dict[str, str]:
    return {"what": what, "origin": origin, "licence": licence, "credit": credit, "sha256": sha256}
