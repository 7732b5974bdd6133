"""The causal forest beside grf 2.6.1 on the same data (data/README.md): statistical agreement, not exact.

Tolerances are about four Monte-Carlo standard errors of the mean over the seeds used, from runs over more seeds.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eo_cate.estimators import CausalForest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def designs():
    spec = importlib.util.spec_from_file_location("forest_designs", DATA / "forest_designs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rmse(estimate, truth):
    return float(np.sqrt(np.mean((estimate - truth) ** 2)))


def compare(designs, name, seed):
    """(RMSE out of bag, RMSE on test rows, mean SE, coverage - grf's, correlation with the truth - grf's, with grf)."""
    data, reference = getattr(designs, name)(seed), json.loads((DATA / "forest_reference.json").read_text())[name]
    grf = reference["rows"][seed - 1]
    assert grf["seed"] == seed
    rows = slice(None, None, 10 if name == "embedded" else 1)
    shared = {"site_index": data["cluster"]} if name == "embedded" else {}
    forest = CausalForest(2000, seed=100 * seed, num_threads=2)
    forest.fit(data["X"][rows], data["Y"], data["W"], propensity=0.5, groups=data["cluster"], **shared)
    oob = forest.oob().tau_hat
    tau_hat, std_err = forest.predict(data["X_test"], std_err=True)
    covered = np.mean(np.abs(tau_hat - data["tau_test"]) < 1.96 * std_err)
    theirs = reference["tau_hat_oob"].get(str(seed))
    return (
        rmse(oob, data["tau"]) / grf["rmse_oob"],
        rmse(tau_hat, data["tau_test"]) / grf["rmse_test"],
        std_err.mean() / grf["mean_se_test"],
        covered - grf["coverage_95_test"],
        np.corrcoef(oob, data["tau"])[0, 1] - grf["corr_oob"],
        np.nan if theirs is None else np.corrcoef(oob[rows], theirs)[0, 1],
    )


@pytest.mark.parametrize(
    ("name", "seeds", "least"), [("plain", 6, 0.99), ("clustered", 6, 0.97), ("embedded", 4, 0.97)]
)
def test_as_accurate_as_grf(designs, name, seeds, least):
    """Ratios to grf over seeds 1-6 (standard errors): RMSE out of bag .995 (.002) plain, .997 (.005) clustered, 1.002
    (.004) embedded; on test rows .999 (.003), .997 (.004), 1.000 (.006); mean SE .98 (.01), .97 (.02), 1.01 (.01);
    coverage -.009, -.006, -.009; correlation with grf's estimates .997, .981, .982."""
    found = np.array([compare(designs, name, seed) for seed in range(1, seeds + 1)])
    oob, test, std_err, coverage, correlation, _ = found.mean(axis=0)
    assert 0.97 < oob < 1.03
    assert 0.97 < test < 1.03
    assert 0.92 < std_err < 1.08
    assert abs(coverage) < 0.04
    assert correlation > -0.03
    assert np.nanmin(found[:, 5]) > least


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seeds"), [("plain", 30), ("clustered", 30), ("embedded", 10)])
def test_the_quality_study_holds_its_bars(designs, name, seeds, capsys):
    """All paired seeds and the bars themselves; prints the row of docs/forest.md (with -s)."""
    found = np.array([compare(designs, name, seed) for seed in range(1, seeds + 1)])
    means, errors = found[:, :5].mean(axis=0), found[:, :5].std(axis=0, ddof=1) / np.sqrt(seeds)
    with capsys.disabled():
        cells = [f"{mean:.3f} ({error:.3f})" for mean, error in zip(means, errors, strict=True)]
        print(f"\n| {name} | 1-{seeds} | {' | '.join(cells)} | {np.nanmin(found[:, 5]):.3f} |")
    assert abs(means[0] - 1) < 0.01
    assert abs(means[1] - 1) < 0.01
    assert abs(means[2] - 1) < 0.05
    assert abs(means[3]) < 0.03
    assert means[4] > -0.02
    assert np.nanmin(found[:, 5]) > 0.97


@pytest.mark.parametrize(
    ("case", "least"),
    [("01_plain", 0.99), ("02_whatest", 0.985), ("03_clusters", 0.98), ("05_weights", 0.985), ("07_missing", 0.975)],
)
def test_agrees_with_grf_on_weights_clusters_and_missing_values(case, least):
    """500 trees each, nuisances as grf had them. Measured, two seeds: .994, .994, .991, .995, .989; RMS standard error
    .94 to 1.00 of grf's."""
    data = pd.read_csv(DATA / f"cf_{case}.csv", skipinitialspace=True)
    optional = {"sample_weights": "sample_weight", "groups": "cluster"}
    oob = (
        CausalForest(500, seed=1)
        .fit(
            data.filter(regex=r"^x\d").to_numpy(dtype=float),
            data["y"].to_numpy(),
            data["w"].to_numpy(dtype=float),
            W_hat=data["w_hat"].to_numpy(),
            Y_hat=data["y_hat"].to_numpy(),
            **{argument: data[column].to_numpy() for argument, column in optional.items() if column in data},
        )
        .oob()
    )
    assert np.corrcoef(oob.tau_hat, data["tau_hat_oob"])[0, 1] > least
    assert oob.tau_hat.std() / data["tau_hat_oob"].std() == pytest.approx(1.0, abs=0.08)
    assert np.mean(oob.std_err**2) / data["tau_var_oob"].mean() == pytest.approx(1.0, abs=0.25)


def test_standard_errors_near_grf():
    """stat_*, 4,000 trees each. Two seeds: correlation .999, RMSE 1.001 and 1.004 of grf's, mean SE .985."""
    train, test = pd.read_csv(DATA / "stat_train.csv"), pd.read_csv(DATA / "stat_test.csv")
    columns = [f"x{j}" for j in range(1, 11)]
    forest = CausalForest(4000, seed=5, num_threads=2).fit(
        train[columns].to_numpy(),
        train["y"].to_numpy(),
        train["w"].to_numpy(dtype=float),
        propensity=0.5,
        Y_hat=train["y_hat"].to_numpy(),
    )
    tau_hat, std_err = forest.predict(test[columns].to_numpy(), std_err=True)
    assert np.corrcoef(tau_hat, test["grf_tau_hat"])[0, 1] > 0.997
    assert rmse(tau_hat, test["tau"]) == pytest.approx(rmse(test["grf_tau_hat"], test["tau"]), rel=0.02)
    assert std_err.mean() / np.sqrt(test["grf_var"]).mean() == pytest.approx(1.0, abs=0.05)
    assert np.corrcoef(forest.oob().tau_hat, train["tau_hat_oob"])[0, 1] > 0.996
