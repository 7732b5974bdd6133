"""Observables by quartile of tau_hat: against plain means, clan, and statsmodels."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from eo_cate.errors import EvaluationError
from eo_cate.evaluation import adjust_p, clan, compare_observables


def made_units(seed=0, n=400):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n // 5), 5)
    tau_hat = rng.normal(size=n)
    observables = pd.DataFrame({"goes": tau_hat + rng.normal(size=n), "not": rng.normal(size=n), "one": np.ones(n)})
    observables.loc[::7, "not"] = np.nan
    return observables, tau_hat, groups, rng.uniform(0.5, 2, n)


def test_means_by_quartile_are_plain_means():
    observables, tau_hat, groups, _ = made_units()
    found = compare_observables(observables, tau_hat, groups=groups)
    quartile = pd.qcut(tau_hat, 4, labels=False)
    np.testing.assert_allclose(found.means.T, observables.groupby(quartile).mean(), rtol=1e-12)
    np.testing.assert_allclose(found.std_dev, observables.std(ddof=0), rtol=1e-12, atol=1e-15)
    assert found.missing.tolist() == [0, 58, 0]
    assert found.p[0] < 1e-6 < found.p[1]
    assert (found.difference[2], found.p[2]) == (0, 1)


def test_differences_are_clans_with_weights_and_folds():
    observables, tau_hat, groups, weights = made_units(1)
    folds = groups % 3
    design = {"groups": groups, "sample_weights": weights, "folds": folds}
    found = compare_observables(observables, tau_hat + 10 * folds, **design)
    expected = clan(observables, tau_hat + 10 * folds, share=0.25, **design)
    np.testing.assert_allclose(found.means[:, -1] - found.means[:, 0], expected.difference, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(found.std_err, expected.std_err)
    np.testing.assert_allclose(found.interval.mean(axis=1)[:2], found.difference[:2], rtol=1e-12)
    # levels that differ between folds do not sort units: every quartile has its share of each fold
    np.testing.assert_array_equal(compare_observables(observables, tau_hat, **design).means, found.means)


def test_intervals_and_p_agree():
    observables, tau_hat, groups, _ = made_units(2)
    for level in (0.9, 0.95):
        found = compare_observables(observables[["not", "goes"]], tau_hat, groups=groups, level=level)
        outside = (found.interval[:, 0] > 0) | (found.interval[:, 1] < 0)
        assert (outside == (found.p < 1 - level)).all()


def test_false_discovery_rates_are_those_of_statsmodels():
    p = np.random.default_rng(4).uniform(size=40) ** 2
    p[[3, 17]] = np.nan
    known = np.isfinite(p)
    np.testing.assert_allclose(adjust_p(p)[known], multipletests(p[known], method="fdr_bh")[1], rtol=1e-12)
    assert np.isnan(adjust_p(p)[~known]).all()
    assert np.isnan(adjust_p(np.array([np.nan]))).all()


def test_estimates_without_quartiles_stop():
    observables, tau_hat, groups, _ = made_units()
    with pytest.raises(EvaluationError, match="distinct values"):
        compare_observables(observables, np.zeros_like(tau_hat), groups=groups)
