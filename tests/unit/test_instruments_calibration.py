"""Calibration test and best linear projection: meaning, names and refusals."""

import numpy as np
import pandas as pd
import pytest

from eo_cate.errors import EvaluationError
from eo_cate.evaluation.calibration import best_linear_projection, calibration_test

RNG = np.random.default_rng(11)
N = 60
GROUPS = np.arange(N) // 4
W = (np.arange(N) % 2).astype(float)
TAU = RNG.normal(size=N)
TRIAL = {"Y": RNG.normal(size=N) + W * TAU, "W": W, "propensity": 0.5, "Y_hat": np.zeros(N), "tau_hat": TAU}
SCORES = RNG.normal(size=N)


def replaced(values, value, rows=(3,)):
    changed = np.array(values, dtype=float)
    changed[list(rows)] = value
    return changed


def test_exact_effects_have_both_coefficients_one():
    """Y - Y_hat = (W - e) tau without noise; rescaled predictions show in the differential coefficient."""
    y = (W - 0.5) * (TAU + 1)
    right = calibration_test(y, W, propensity=0.5, Y_hat=np.zeros(N), tau_hat=TAU + 1, groups=GROUPS)
    mean = TAU.mean()
    stretched = mean + 1 + 2 * (TAU - mean)
    wide = calibration_test(y, W, propensity=0.5, Y_hat=np.zeros(N), tau_hat=stretched, groups=GROUPS)
    assert right.estimate == pytest.approx([1, 1], rel=1e-12)
    assert wide.estimate == pytest.approx([1, 0.5], rel=1e-12)


def test_calibration_p_is_one_sided():
    right = calibration_test(**TRIAL, groups=GROUPS)
    wrong = calibration_test(**TRIAL | {"tau_hat": 2 * TAU.mean() - TAU}, groups=GROUPS)
    assert right.t[1] == pytest.approx(-wrong.t[1], rel=1e-10)
    assert right.p[1] == pytest.approx(1 - wrong.p[1], rel=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Y": replaced(TRIAL["Y"], np.nan)}, "`Y` has 1 NaN"),
        ({"tau_hat": replaced(TAU, np.inf, (1, 2))}, "`tau_hat` has 2 NaN or infinite"),
        ({"Y_hat": np.zeros(5)}, "`Y_hat` has 5 rows, but there are 60"),
        ({"W": np.ones(N)}, "no control unit with weight among 60"),
        ({"W": np.zeros(N)}, "no treated unit with weight among 60"),
        ({"groups": np.zeros(N, int)}, r"1 group\(s\) among 60 units"),
        ({"groups": GROUPS.astype(float)}, "given as float64"),
        ({"sample_weights": replaced(np.ones(N), -1)}, "1 negative"),
        ({"sample_weights": np.where(GROUPS == 2, 0, 1), "groups": GROUPS}, r"all zero in 1 group"),
        ({"tau_hat": np.full(N, 0.3)}, "`tau_hat` has one distinct value.*`differential_prediction`"),
        ({"tau_hat": np.where(np.arange(N) % 4 < 2, 1.0, -1.0)}, r"1 of 2 columns .*\['mean_prediction'\]"),
        ({"vcov": "HC4"}, "`vcov` is 'HC4'"),
        ({"propensity": 1.0}, r"`propensity` has 60 values outside"),
    ],
)
def test_calibration_names_bad_input(change, message):
    with pytest.raises(EvaluationError, match=message):
        calibration_test(**TRIAL | change)


def test_projection_names_its_terms():
    A = pd.DataFrame({"age": RNG.normal(size=N), "land": RNG.normal(size=N)})
    named, plain = best_linear_projection(SCORES, A, groups=GROUPS), best_linear_projection(SCORES, A.to_numpy())
    assert named.terms == ("(Intercept)", "age", "land")
    assert plain.terms == ("(Intercept)", "A1", "A2")
    assert best_linear_projection(SCORES, A["age"]).terms == ("(Intercept)", "A1")
    assert best_linear_projection(SCORES).estimate == pytest.approx([SCORES.mean()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": pd.DataFrame({"age": TAU, "twice": 2 * TAU})}, r"1 of 3 columns .*\['twice'\]"),
        ({"A": pd.DataFrame({"same": np.ones(N), "age": TAU})}, r"\['same'\]"),
        ({"A": pd.DataFrame({"age": replaced(TAU, np.nan), "land": SCORES})}, r"missing values in \['age'\]"),
        ({"A": np.zeros((5, 1))}, "`A` has 5 rows, but there are 60"),
        ({"A": np.zeros((N, 2, 2))}, "`A` has 3 dimensions"),
        ({"dr_scores": replaced(SCORES, np.nan)}, "`dr_scores` has 1 NaN"),
        ({"groups": ["a"] * N}, r"1 group\(s\)"),
    ],
)
def test_projection_names_bad_input(change, message):
    with pytest.raises(EvaluationError, match=message):
        best_linear_projection(**{"dr_scores": SCORES} | change)
