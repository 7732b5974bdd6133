"""RATE against grf 2.6.1 (tests/oracle/data/README.md)."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eo_cate.evaluation import null_std_err, rate
from eo_cate.evaluation.rate import rank_weights

DATA = Path(__file__).parent / "data"
CASES = sorted(path.stem for path in DATA.glob("rate_*.csv"))
FINE = [0.01, 0.05, 0.123, 0.25, 0.333, 0.5, 0.75, 0.9, 1]


def load(case):
    table = pd.read_csv(DATA / f"{case}.csv")
    priorities = table[[c for c in table if c.startswith("priority")]].to_numpy()
    arguments = {"sample_weights": table.get("weight"), "groups": table.get("cluster")}
    return table, priorities, {k: v for k, v in arguments.items() if v is not None}


def test_all_cases_are_present():
    assert len(CASES) == 8


@pytest.mark.parametrize("grid", ["", "_fineq"])
@pytest.mark.parametrize("target", ["AUTOC", "QINI"])
@pytest.mark.parametrize("case", CASES)
def test_rate_and_toc_equal_grf(case, target, grid):
    table, priorities, arguments = load(case)
    expected = json.loads((DATA / f"{case}.json").read_text())[target + grid]
    result = rate(
        table["dr_score"], priorities, target=target, q=FINE if grid else None, num_replicates=2000, seed=1, **arguments
    )
    rows = 3 if priorities.shape[1] == 2 else 1
    toc = np.reshape(expected["TOC"]["estimate"], (rows, -1))
    np.testing.assert_allclose(result.estimate, np.ravel(expected["estimate"]), atol=1e-12, rtol=0)
    np.testing.assert_allclose(result.toc, toc, atol=1e-12, rtol=0)
    assert result.q == pytest.approx(expected["TOC"]["q"][: toc.shape[1]], abs=1e-15)
    # Both sides are Monte-Carlo with R = 2000: 7 % on RATE's (README); TOC's are many at once, 10 %.
    np.testing.assert_allclose(result.std_err, np.ravel(expected["std_err"]), rtol=0.07)
    np.testing.assert_allclose(result.toc_std_err, np.reshape(expected["TOC"]["std_err"], toc.shape), rtol=0.10)


def test_single_column_is_the_vector():
    table, priorities, _ = load("rate_06_two")
    both = rate(table["dr_score"], priorities, seed=5)
    first = rate(table["dr_score"], priorities[:, 0], seed=5)
    assert both.estimate[0] == first.estimate[0]
    assert both.std_err[0] == first.std_err[0]
    assert both.estimate[2] == pytest.approx(both.estimate[0] - both.estimate[1], abs=1e-15)
    np.testing.assert_array_equal(first.toc[0], both.toc[0])


@pytest.mark.parametrize("target", ["AUTOC", "QINI"])
def test_half_sample_statistic_is_exact(target):
    """On grf's own half-samples: the same subset, and the same subset by weight 0 as in our bootstrap."""
    table = pd.read_csv(DATA / "boot_exact.csv")
    content = json.loads((DATA / "boot_exact.json").read_text())
    for replicate in content["replicates"]:
        rows = replicate["index_0based"]
        part = table.iloc[rows]
        result = rate(part["dr_score"], part["priority1"], target=target, q=content["q"], sample_weights=part["weight"])
        found = np.append(result.estimate, result.toc[0])
        np.testing.assert_allclose(found, replicate[target], atol=1e-12, rtol=0)
        weights = np.zeros(len(table))
        weights[rows] = part["weight"]
        whole = rate(
            table["dr_score"], table["priority1"], target=target, q=content["q"], sample_weights=weights,
            groups=np.where(weights > 0, np.cumsum(weights > 0) % 2, 0),
        )  # fmt: skip
        np.testing.assert_allclose(np.append(whole.estimate, whole.toc[0]), replicate[target], atol=1e-12, rtol=0)


@pytest.mark.parametrize("target", ["AUTOC", "QINI"])
@pytest.mark.parametrize("case", CASES)
def test_rank_weights_give_rate(case, target):
    table, priorities, arguments = load(case)
    weights = np.asarray(arguments.get("sample_weights", np.ones(len(table))))
    a = rank_weights(priorities[:, 0], weights, target=target)
    expected = rate(table["dr_score"], priorities[:, 0], target=target, **arguments).estimate[0]
    assert np.average(a * table["dr_score"], weights=weights) == pytest.approx(expected, abs=1e-12)
    assert np.average(a, weights=weights) == pytest.approx(0, abs=1e-12)


def test_null_std_err_is_near_the_half_sample_one_without_heterogeneity():
    """rate_10 has a constant effect: the two estimate the same (10 %: Monte-Carlo 1.6 %, and their own noise)."""
    table, priorities, _ = load("rate_10_null")
    half = rate(table["dr_score"], priorities[:, 0], num_replicates=2000).std_err[0]
    null = null_std_err(table["dr_score"].to_numpy(), priorities[:, 0])
    assert null == pytest.approx(half, rel=0.1)


def test_null_std_err_by_group_matches_its_formula():
    table, priorities, arguments = load("rate_05_ties_wts_cl")
    score, weight, cluster = (table[c].to_numpy() for c in ("dr_score", "weight", "cluster"))
    a = rank_weights(priorities[:, 0], weight, target="AUTOC")
    sums = pd.Series(weight * a * (score - np.average(score, weights=weight))).groupby(cluster).sum()
    expected = np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / weight.sum()
    assert null_std_err(score, priorities[:, 0], **arguments) == pytest.approx(expected, rel=1e-12)
