"""Results of the stages as the tables that `ReportInputs` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from platform import platform, python_version
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from eo_cate.config import RunConfig
from eo_cate.embeddings import EncoderSpec
from eo_cate.evaluation import (
    CalibratedEffects,
    ClanResult,
    FoldTask,
    GatesResult,
    PairedContrast,
    PolicyValue,
    Priorities,
    RefitTest,
    RegressionResult,
    SequentialRate,
)
from eo_cate.evaluation.ledger import ledger_p
from eo_cate.report.inputs import (
    CALIBRATION_COLUMNS,
    CLAN_COLUMNS,
    CONTRAST_COLUMNS,
    FOREST_ENGINE,
    GATES_COLUMNS,
    POLICY_COLUMNS,
    RATE_COLUMNS,
    SEARCH_COLUMNS,
    TEST_COLUMNS,
    Toc,
)
from eo_cate.types import Trial

PACKAGES = ("eo-cate", "numba", "numpy", "pandas", "rasterio", "scikit-learn", "scipy", "timm", "torch")

Rates = Mapping[str, Mapping[str, SequentialRate]]
"""Configuration -> target -> rate."""


def rate_table(rates: Mapping[str, Rates], *, controls: Sequence[str]) -> pd.DataFrame:
    """One row per estimator, configuration and target, columns `RATE_COLUMNS`."""
    rows = [
        _rate_row(name, target, found) | {"role": "control" if name in controls else "result", "estimator": estimator}
        for estimator, by_name in rates.items()
        for name, by_target in by_name.items()
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


def missing_rates(
    configuration: str, *, estimators: Sequence[str], targets: Sequence[str], groups: int
) -> pd.DataFrame:
    """Rows of one configuration without figures, columns `RATE_COLUMNS`: too few groups for an interval."""
    rows = [
        {"configuration": configuration, "target": target, "estimator": estimator, "role": "result"}
        | {"folds": 0, "groups": groups, "orders": 0}
        for estimator in estimators
        for target in targets
    ]
    return pd.DataFrame(rows, columns=list(RATE_COLUMNS))


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


def test_row(question: str, configuration: str, given: str, test: RefitTest, *, tried: int) -> dict[str, Any]:
    """A refit test of one configuration, columns `TEST_COLUMNS`."""
    values = (
        question, configuration, given, test.learner, float(test.statistic[0]), test.p,
        ledger_p(test.p, tried=tried, corrected=1), test.num_draws, test.num_flip_units,
    )  # fmt: skip
    return dict(zip(TEST_COLUMNS, values, strict=True))


def contrast_row(first: str, second: str, estimator: str, found: PairedContrast, chosen: str = "") -> dict[str, Any]:
    """A paired difference, columns `CONTRAST_COLUMNS`."""
    values = (
        first, second, estimator, found.target, found.estimate, found.std_err, found.ratio, found.p, *found.interval,
        found.first, found.second, found.num_orders, chosen,
    )  # fmt: skip
    return dict(zip(CONTRAST_COLUMNS, values, strict=True))


def _figures(found: SequentialRate | None) -> tuple[float, float, float]:
    return (np.nan, np.nan, np.nan) if found is None else (found.estimate, found.std_err, found.ratio)


def search_table(
    sets: Mapping[str, Sequence[int]], family: RefitTest, rates: Mapping[str, SequentialRate], *, tried: int
) -> pd.DataFrame:
    """One row per set of scales, columns `SEARCH_COLUMNS`; ``holm_p`` adjusts the sequential p, the cheap way."""
    rows = []
    sequential = [rates[name].p for name in family.configurations if name in rates]
    holm = multipletests(sequential, method="holm")[1] if sequential else np.full(len(family.configurations), np.nan)
    for i, name in enumerate(family.configurations):
        paid = ledger_p(float(family.adjusted_p[i]), tried=tried, corrected=len(family.configurations))
        values = (
            name, "+".join(map(str, sets[name])), float(family.statistic[i]), float(family.single_p[i]),
            float(family.adjusted_p[i]), paid, *_figures(rates.get(name)), float(holm[i]),
        )  # fmt: skip
        rows.append(dict(zip(SEARCH_COLUMNS, values, strict=True)))
    return pd.DataFrame(rows, columns=list(SEARCH_COLUMNS))


def calibration_rows(
    configuration: str, estimator: str, found: RegressionResult | None, isotonic: CalibratedEffects | None
) -> list[dict[str, Any]]:
    """The calibration test by term, then the calibration error as estimated and after isotonic calibration.

    Columns `CALIBRATION_COLUMNS`; the errors are mean squares, without t and p.
    """
    figures: list[tuple[Any, ...]] = []
    if found is not None:
        figures += zip(found.terms, found.estimate, found.std_err, found.t, found.p, strict=True)
    if isotonic is not None:
        figures += [
            ("calibration_error", isotonic.error_before, isotonic.std_err_before, np.nan, np.nan),
            ("calibration_error_after_isotonic", isotonic.error_after, isotonic.std_err_after, np.nan, np.nan),
        ]
    return [dict(zip(CALIBRATION_COLUMNS, (configuration, estimator, *row), strict=True)) for row in figures]


def gates_rows(configuration: str, estimator: str, found: GatesResult) -> list[dict[str, Any]]:
    """Average effects by fifth, and top less bottom, columns `GATES_COLUMNS`."""
    rows: list[tuple[Any, ...]] = [
        (
            str(k + 1), int(found.num_units[k]), found.estimate[k], found.std_err[k], *found.interval[k],
            *found.joint_interval[k],
        )
        for k in range(len(found.estimate))
    ]  # fmt: skip
    ends = int(found.num_units[0] + found.num_units[-1])
    rows.append(
        ("difference", ends, found.difference, found.difference_std_err, *found.difference_interval, np.nan, np.nan)
    )
    return [dict(zip(GATES_COLUMNS, (configuration, estimator, *row), strict=True)) for row in rows]


def clan_rows(estimator: str, found: ClanResult, *, units: int) -> list[dict[str, Any]]:
    """Covariates of the top and bottom fifth, columns `CLAN_COLUMNS`; missing among those ``units``."""
    missing = units - found.num_top - found.num_bottom
    figures = zip(
        found.names, found.top, found.bottom, found.difference, found.std_err, found.p, found.adjusted_p, missing,
        strict=True,
    )  # fmt: skip
    return [dict(zip(CLAN_COLUMNS, (estimator, *row), strict=True)) for row in figures]


def policy_rows(configuration: str, estimator: str, found: PolicyValue) -> list[dict[str, Any]]:
    """Value of treating the best share, columns `POLICY_COLUMNS`."""
    figures = zip(
        found.q, found.value, found.value_std_err, found.over_random, found.over_random_std_err, found.over_all,
        found.over_all_std_err, strict=True,
    )  # fmt: skip
    return [dict(zip(POLICY_COLUMNS, (configuration, estimator, *row), strict=True)) for row in figures]


def toc_of(found: SequentialRate) -> Toc:
    """The pooled TOC curve of a rate."""
    return Toc(found.q, found.toc, found.toc_std_err)


def truth_by_site(
    trial: Trial, ranked: Mapping[str, Sequence[Priorities]], tasks: Sequence[FoldTask]
) -> pd.DataFrame | None:
    """Simulations only: per site, out-of-group tau_hat of the first fold order against the true effect."""
    if trial.true_effect is None or not ranked:
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


def collect_versions(*, engine: str | None) -> dict[str, str]:
    """Versions of what computed the figures; ``engine``: whose causal forest, of which version; None without one."""
    found = ({} if engine is None else {FOREST_ENGINE: engine}) | {"python": python_version(), "platform": platform()}
    return found | {name: version(name) for name in PACKAGES}


def collect_sources(
    config: RunConfig, encoders: Sequence[EncoderSpec], *, units_sha256: str, imagery_digest: str
) -> list[dict[str, str]]:
    """Units, imagery and weights: where each came from, under which terms, and its sha256."""
    return [
        _source("units table", config.trial.units.name, "the user's", "", units_sha256),
        _source("imagery", config.imagery.source, "see credit", config.imagery.source_note, imagery_digest),
        *(_source(f"encoder {s.name}", s.origin, s.licence, s.title, s.weights_sha256) for s in encoders),
    ]


def _source(what: str, origin: str, licence: str, credit: str, sha256: str) -> dict[str, str]:
    return {"what": what, "origin": origin, "licence": licence, "credit": credit, "sha256": sha256}
