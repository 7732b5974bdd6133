"""Calibration test and best linear projections against grf 2.6.1 (tests/oracle/data/README.md)."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eo_cate.evaluation.calibration import best_linear_projection, calibration_test

DATA = Path(__file__).parent / "data"
CASES = sorted(path.stem for path in DATA.glob("cf_*.csv"))
WITH_COVARIATES = [case for case in CASES if not case.startswith("cf_07")]
TERMS = {"mean.forest.prediction": "mean_prediction", "differential.forest.prediction": "differential_prediction"}


def load(case):
    table = pd.read_csv(DATA / f"{case}.csv")
    arguments = {"sample_weights": table["observation_weight"]}
    if "cluster" in table:
        arguments["groups"] = table["cluster"]
    return table, arguments, json.loads((DATA / f"{case}.json").read_text())


def assert_equals_grf(result, expected):
    assert result.terms == tuple(TERMS.get(term, term) for term in np.atleast_1d(expected["terms"]))
    for name in ("estimate", "std_err", "t", "p"):
        np.testing.assert_allclose(getattr(result, name), np.atleast_1d(expected[name]), atol=1e-10, rtol=1e-10)


def test_all_cases_are_present():
    assert len(CASES) == 6
    assert len(WITH_COVARIATES) == 5


@pytest.mark.parametrize("vcov", ["HC1", "HC3"])
@pytest.mark.parametrize("case", CASES)
def test_calibration_equals_grf(case, vcov):
    table, arguments, expected = load(case)
    result = calibration_test(
        table["y"], table["w"], propensity=table["w_hat"], Y_hat=table["y_hat"], tau_hat=table["tau_hat_oob"],
        vcov=vcov, **arguments,
    )  # fmt: skip
    assert_equals_grf(result, expected[f"test_calibration_{vcov}"])


@pytest.mark.parametrize("vcov", ["HC0", "HC1", "HC2", "HC3"])
@pytest.mark.parametrize("case", WITH_COVARIATES)
def test_projection_equals_grf(case, vcov):
    table, arguments, expected = load(case)
    result = best_linear_projection(table["dr_score"], table[["x1", "x2"]], vcov=vcov, **arguments)
    assert_equals_grf(result, expected["best_linear_projection_x1_x2"][vcov])


@pytest.mark.parametrize("case", WITH_COVARIATES)
def test_overlap_weighted_projection_equals_grf(case):
    """grf's target.sample = "overlap" multiplies the observation weights by w_hat (1 - w_hat)."""
    table, arguments, expected = load(case)
    arguments["sample_weights"] *= table["w_hat"] * (1 - table["w_hat"])
    result = best_linear_projection(table["dr_score"], table[["x1", "x2"]], **arguments)
    assert_equals_grf(result, expected["best_linear_projection_overlap_HC3"])


@pytest.mark.parametrize("case", CASES)
def test_projection_on_a_constant_equals_grf(case):
    table, arguments, expected = load(case)
    assert_equals_grf(
        best_linear_projection(table["dr_score"], **arguments), expected["best_linear_projection_const_HC3"]
    )
