"""What the report is written from: plain results of the earlier stages, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from eo_cate.config import RunConfig
from eo_cate.errors import EoCateError
from eo_cate.report.drivers_inputs import DriversShown
from eo_cate.report.region_inputs import RegionShown
from eo_cate.types import FloatArray

RATE_COLUMNS = (
    "configuration", "target", "estimator", "role", "estimate", "std_err", "ratio", "p", "p_doubled", "low", "high",
    "folds", "groups", "orders",
)  # fmt: skip
TEST_COLUMNS = (
    "question", "configuration", "given", "learner", "statistic", "p", "p_ledger", "draws", "flip_units",
)  # fmt: skip
CONTRAST_COLUMNS = (
    "first", "second", "estimator", "target", "estimate", "std_err", "ratio", "p", "low", "high", "first_estimate",
    "second_estimate", "orders", "chosen",
)  # fmt: skip
SEARCH_COLUMNS = (
    "configuration", "scales", "statistic", "p", "adjusted_p", "p_ledger", "estimate", "std_err", "ratio", "holm_p",
)  # fmt: skip
CALIBRATION_COLUMNS = ("configuration", "estimator", "term", "estimate", "std_err", "t", "p")
GATES_COLUMNS = (
    "configuration", "estimator", "group", "units", "estimate", "std_err", "low", "high", "joint_low", "joint_high",
)  # fmt: skip
CLAN_COLUMNS = (
    "estimator", "covariate", "top", "bottom", "difference", "std_err", "p", "adjusted_p", "missing",
)  # fmt: skip
POLICY_COLUMNS = (
    "configuration", "estimator", "q", "value", "std_err", "over_random", "over_random_std_err", "over_all",
    "over_all_std_err",
)  # fmt: skip
ABSENT_COLUMNS = ("configuration", "estimator", "instrument", "reason")
COVERAGE_COLUMNS = ("period", "start", "end", "scenes", "state", "sites", "median_clear", "example")
TABLES = {
    "coverage": COVERAGE_COLUMNS,
    "tests": TEST_COLUMNS,
    "contrasts": CONTRAST_COLUMNS,
    "search": SEARCH_COLUMNS,
    "calibration": CALIBRATION_COLUMNS,
    "gates": GATES_COLUMNS,
    "clan": CLAN_COLUMNS,
    "policy": POLICY_COLUMNS,
    "absent": ABSENT_COLUMNS,
}
SUMMARY_KEYS = ("units", "sites", "clusters", "groups", "strata", "treated_share", "dropped", "covariates")
COVARIATE_KEYS = ("name", "missing", "mean_treated", "mean_control", "standardized_difference")
SOURCE_COLUMNS = ("what", "origin", "licence", "credit", "sha256")
FOREST_ENGINE = "causal forest"
"""Key of ``versions``: whose causal forest it was."""


@dataclass(frozen=True)
class Toc:
    """A targeting operator characteristic: ``toc`` (Q,) and its ``std_err`` (Q,) at the treated shares ``q`` (Q,)."""

    q: FloatArray
    toc: FloatArray
    std_err: FloatArray


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """Everything that a run's report, tables and figures show. Holds no coordinate of a unit.

    Parameters
    ----------
    config : RunConfig
        The resolved configuration.
    summary : dict
        What `eo_cate.trial.trial_summary` returns. Keys `SUMMARY_KEYS`: counts ``units``, ``sites``, ``clusters``,
        ``groups``, ``strata``; ``treated_share`` in [0, 1]; ``dropped`` (reason -> count); ``covariates``, a list of
        dicts with `COVARIATE_KEYS`.
    ate : (float, float)
        Average treatment effect and its standard error, in units of the outcome.
    rates : DataFrame
        One row per configuration, target and estimator, columns `RATE_COLUMNS`; ``role`` is ``result``, ``control`` or
        ``map``: the map's own procedure, where it is not one of the others; NaN where a figure does not exist.
    tocs : dict of str -> dict of str -> Toc
        Estimator -> configuration -> curve, all at the same ``q``.
    placebo_tocs : (P, Q) or None
        Curves of embeddings permuted over sites.
    shuffled_ratios : (P,)
        AUTOC ratios of the permutations.
    tests : DataFrame
        Refit tests, columns `TEST_COLUMNS`; ``given`` is empty where nothing was held fixed.
    contrasts : DataFrame
        Paired differences of RATE, columns `CONTRAST_COLUMNS`; the honest gain over a single scale has ``second`` =
        ``chosen single`` and the shares of the folds in ``chosen``.
    search : DataFrame
        Scale search, columns `SEARCH_COLUMNS`: p and adjusted p by refit test, sequential AUTOC with RidgeR.
    search_p : dict
        ``everything`` (one test of all scales), ``family`` (max-T), ``draws``, ``tried``, ``corrected``.
    calibration, gates, clan, policy : DataFrame
        Of out-of-group tau_hat of the pre-specified configuration, by estimator; columns `CALIBRATION_COLUMNS`,
        `GATES_COLUMNS` (group 1 is the lowest fifth; a last row ``difference`` is top less bottom), `CLAN_COLUMNS`
        (covariate means in the top and bottom fifth), `POLICY_COLUMNS` (treating the best share q).
    absent : DataFrame
        Which of these instruments there are no figures of, and why; columns `ABSENT_COLUMNS`.
    coverage : DataFrame
        Imagery from a catalogue: sites by period and state of their largest chip, columns `COVERAGE_COLUMNS`;
        ``example`` is the reason of one of them.
    drivers : DriversShown or None
        Observables that go with the ranking.
    map : Dataset or None
        (y, x): ``tau_hat``, ``std_err`` and, in simulations, ``true_effect``; coordinates are cell centres in the
        units of ``attrs["crs"]``.
    map_check : dict or None
        Name -> number, e.g. correlation with the truth over all and over unsampled cells.
    region : RegionShown or None
        Effects beyond the trial.
    truth : DataFrame or None
        Simulations only, one row per site and configuration: ``configuration``, ``tau``, ``tau_hat`` (out of group).
    sources : sequence of dict
        Keys `SOURCE_COLUMNS`.
    versions, timings : dict
        Package -> version, and `FOREST_ENGINE` -> whose forest it was and of which version; stage -> seconds.
    alarms : sequence of str
        Shown at the top. The alarm about the shuffled embeddings (METHODS.md, section 7) is added by the report.

    Raises
    ------
    EoCateError
        When a column or key is absent, rows repeat, or lengths disagree.
    """

    config: RunConfig
    summary: Mapping[str, Any]
    ate: tuple[float, float]
    rates: pd.DataFrame
    tocs: Mapping[str, Mapping[str, Toc]] = field(default_factory=dict)
    placebo_tocs: FloatArray | None = None
    shuffled_ratios: FloatArray = field(default_factory=lambda: np.empty(0))
    tests: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(TEST_COLUMNS)))
    contrasts: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(CONTRAST_COLUMNS)))
    search: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SEARCH_COLUMNS)))
    search_p: Mapping[str, float] = field(default_factory=dict)
    calibration: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(CALIBRATION_COLUMNS)))
    gates: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(GATES_COLUMNS)))
    clan: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(CLAN_COLUMNS)))
    policy: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(POLICY_COLUMNS)))
    absent: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(ABSENT_COLUMNS)))
    coverage: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COVERAGE_COLUMNS)))
    drivers: DriversShown | None = None
    map: xr.Dataset | None = None
    map_check: Mapping[str, float] | None = None
    region: RegionShown | None = None
    truth: pd.DataFrame | None = None
    sources: Sequence[Mapping[str, str]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    alarms: Sequence[str] = ()

    def __post_init__(self) -> None:
        _require("rates", RATE_COLUMNS, self.rates.columns)
        for name, columns in TABLES.items():
            _require(name, columns, getattr(self, name).columns)
        _require("summary", SUMMARY_KEYS, self.summary)
        for row in self.summary["covariates"]:
            _require("summary['covariates']", COVARIATE_KEYS, row)
        for row in self.sources:
            _require("sources", SOURCE_COLUMNS, row)
        if self.truth is not None:
            _require("truth", ("configuration", "tau", "tau_hat"), self.truth.columns)
        if self.map is not None:
            _require("map", ("tau_hat", "y", "x"), [*self.map.data_vars, *self.map.coords])
            _require("map.attrs", ("crs",), self.map.attrs)
        self._check_rates()
        self._check_tocs()

    def _check_rates(self) -> None:
        if not (self.rates["role"] == "result").any():
            raise EoCateError("report: rates holds no row with role 'result'")
        roles = sorted(set(self.rates["role"]) - {"result", "control", "map"})
        if roles:
            raise EoCateError(f"report: rates.role must be 'result', 'control' or 'map', found {roles}")
        repeated = self.rates[self.rates.duplicated(["configuration", "target", "estimator"])]
        if len(repeated):
            first = repeated.iloc[0]
            raise EoCateError(
                f"report: rates holds {len(repeated)} repeated row(s), the first is {first['configuration']} "
                f"{first['target']} {first['estimator']}"
            )

    def _check_tocs(self) -> None:
        curves = {f"{name} ({e})": curve for e, found in self.tocs.items() for name, curve in found.items()}
        grids = [curve.q for curve in curves.values()]
        for name, curve in curves.items():
            if not len(curve.q) == len(curve.toc) == len(curve.std_err) or not np.array_equal(curve.q, grids[0]):
                raise EoCateError(
                    f"report: the TOC of {name} is not on the same q as the others ({len(grids[0])} points)"
                )
        if self.placebo_tocs is not None and grids and self.placebo_tocs.shape[1:] != grids[0].shape:
            raise EoCateError(
                f"report: placebo_tocs has shape {self.placebo_tocs.shape}, expected (permutations, {len(grids[0])})"
            )

    @property
    def simulated(self) -> bool:
        """Whether true effects are known."""
        return self.truth is not None or self.config.trial.true_effect is not None


def _require(what: str, names: Sequence[str], found: Any) -> None:
    absent = [name for name in names if name not in found]
    if absent:
        raise EoCateError(f"report: {what} lacks {absent}")
