"""The causal forest beside grf 2.6.1 on simulated designs (data/README.md): statistical agreement, not exact."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eo_cate.estimators import CausalForest

DATA = Path(__file__).parent / "data"
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def designs():
    spec = importlib.util.spec_from_file_location("forest_designs", DATA / "forest_designs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rmse(estimate, truth):
    return float(np.sqrt(np.mean((estimate - truth) ** 2)))


@pytest.mark.parametrize(("name", "correlation"), [("plain", 0.985), ("clustered", 0.92)])
def test_as_good_as_grf(designs, name, correlation):
    """RMSE within 5 % of grf's on average over three data sets, out of bag and on test rows.

    500 trees against grf's 2,000: over seeds 1-8 the ratios were .999 / .987 (plain) and .980 / .979 (clustered), with
    a standard deviation of .02 per seed, so .012 for the mean of three: 5 % is four of them. Correlation with grf's
    out-of-bag estimates was .990 to .993 (plain) and .934 to .962 (clustered; .968 to .980 with 2,000 trees).
    """
    reference = json.loads((DATA / "forest_reference.json").read_text())[name]
    oob_ratio, test_ratio = [], []
    for seed in SEEDS:
        data, grf = getattr(designs, name)(seed), reference["rows"][seed - 1]
        assert grf["seed"] == seed
        forest = CausalForest(500, seed=100 * seed)
        forest.fit(data["X"], data["Y"], data["W"], propensity=0.5, groups=data["cluster"])
        tau_hat = forest.oob().tau_hat
        oob_ratio.append(rmse(tau_hat, data["tau"]) / grf["rmse_oob"])
        test_ratio.append(rmse(forest.predict(data["X_test"]), data["tau_test"]) / grf["rmse_test"])
        theirs = np.asarray(reference["tau_hat_oob"][str(seed)])
        assert np.corrcoef(tau_hat, theirs)[0, 1] > correlation
    assert 0.92 < np.mean(oob_ratio) < 1.05
    assert 0.92 < np.mean(test_ratio) < 1.05


def test_standard_errors_near_grf():
    """stat_*: one data set, grf with 4,000 trees; 1,000 here. Agreement .98, mean SE within 15 %.

    Measured over three seeds: correlation .998, RMSE .98 to 1.00 of grf's, mean SE 1.04 to 1.06 (1.00 with 4,000
    trees). Without the debiasing the mean SE is 3.1 times grf's, so 15 % sees any wrong term.
    """
    train, test = pd.read_csv(DATA / "stat_train.csv"), pd.read_csv(DATA / "stat_test.csv")
    columns = [f"x{j}" for j in range(1, 11)]
    forest = CausalForest(1000, seed=5).fit(
        train[columns].to_numpy(),
        train["y"].to_numpy(),
        train["w"].to_numpy(dtype=float),
        propensity=0.5,
        Y_hat=train["y_hat"].to_numpy(),
    )
    tau_hat, std_err = forest.predict(test[columns].to_numpy(), std_err=True)
    assert np.corrcoef(tau_hat, test["grf_tau_hat"])[0, 1] > 0.98
    assert rmse(tau_hat, test["tau"]) < 1.08 * rmse(test["grf_tau_hat"], test["tau"])
    assert std_err.mean() / np.sqrt(test["grf_var"]).mean() == pytest.approx(1.0, abs=0.15)
    assert np.corrcoef(forest.oob().tau_hat, train["tau_hat_oob"])[0, 1] > 0.98
