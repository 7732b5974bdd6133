import numpy as np
import pytest
from helpers_units import make_config, make_table, write_table

from eo_cate.trial import find_problems
from eo_cate.trial.leaks import find_factor, is_linear_copy


def problems_of(tmp_path, leak, **options):
    table = make_table()
    table["leak"] = leak(table)
    return find_problems(write_table(tmp_path, table, **{"covariates": ("age", "leak"), **options}), tmp_path)


LEAKS = {
    "treatment": (lambda t: t["W"], "is the treatment"),
    "control dummy": (lambda t: 1 - t["W"], "is the treatment"),
    "treatment coded 1 and 2": (lambda t: t["W"] + 1, "is the treatment"),
    "treatment with holes": (lambda t: t["W"].where(t.index % 5 > 0), "is the treatment"),
    "product": (lambda t: t["W"] * t["age"], "leak = W * age"),
    "product in single precision": (lambda t: (t["W"] * t["schooling"]).astype(np.float32), "leak = W * schooling"),
    "product with holes": (lambda t: (t["W"] * t["age"]).where(t.index % 7 > 0), "leak = W * age"),
    "product with the control arm": (lambda t: (1 - t["W"]) * t["age"], "leak = (1 - W) * age"),
    "product with an unused column": (lambda t: t["W"] * t["w"], "leak = W * w"),
    "outcome": (lambda t: t["Y"], "is the outcome"),
    "outcome in other units": (lambda t: 1000 - 3.7 * t["Y"], "is the outcome"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leaking_covariate_is_named(tmp_path, name):
    leak, message = LEAKS[name]
    (problem,) = problems_of(tmp_path, leak)
    assert "covariate 'leak'" in problem
    assert message in problem


HARMLESS = {
    "constant": lambda t: 1.0,
    "all zero": lambda t: 0.0,
    "all missing": lambda t: np.nan,
    "square of another covariate": lambda t: t["age"] ** 2,
    "copy of another covariate": lambda t: t["age"],
    "treatment but for one unit": lambda t: t["W"].where(t.index > 0, 1.0),
    "product but for one unit": lambda t: (t["W"] * t["age"]).where(t.index > 0, 1.0),
    "baseline of the outcome": lambda t: t["Y"] + np.sin(np.arange(len(t))),
    "rare, by chance in one arm": lambda t: np.where((t["W"] == 1) & (t.index == 6), 1.0, 0.0),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_covariate_passes(tmp_path, name):
    assert problems_of(tmp_path, HARMLESS[name]) == []


def test_a_variable_that_is_zero_among_controls_by_itself_is_no_product():
    """A column and its copy are equal wherever W is 1; the treatment did nothing to either."""
    W = np.array([1.0, 1, 1, 1, 0, 0, 0, 0])
    rare = np.array([1.0, 2, 3, 4, 0, 0, 0, 0])
    assert find_factor(rare, W, {"copy": rare.copy()}) is None
    assert find_factor(rare, W, {"source": np.array([1.0, 2, 3, 4, 0, 5, 0, 0])}) == ("W", "source")


def test_a_copy_needs_rows_to_compare():
    x = np.array([1.0, 2, 3, 4, 5, 6, 7, 8])
    y = np.where(np.arange(8) < 3, x, np.nan)
    assert not is_linear_copy(x, y)
    assert is_linear_copy(y, x)


def test_the_true_effect_is_never_a_covariate(tmp_path):
    table = make_table()
    table["tau"] = np.sin(np.arange(len(table)))
    table["shifted"] = table["tau"] * 2 + 1
    config = write_table(tmp_path, table, covariates=("shifted",), true_effect="tau")
    (problem,) = find_problems(config, tmp_path)
    assert "is the true effect" in problem
    assert find_problems(make_config(true_effect="tau"), tmp_path) == []
