"""Quantile groups, joint intervals, top against bottom."""

import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from eo_cate.errors import EvaluationError
from eo_cate.evaluation.gates import clan, gates, rank_shares

RNG = np.random.default_rng(5)
N = 200
GROUPS = np.arange(N) // 5
TAU = RNG.normal(size=N)
SCORES = TAU + RNG.normal(size=N)


def replaced(values, value, rows=(3,)):
    changed = np.array(values, dtype=float)
    changed[list(rows)] = value
    return changed


def test_quantiles_are_equal_in_size_and_ordered():
    result = gates(SCORES, TAU, groups=GROUPS)
    np.testing.assert_array_equal(result.num_units, np.full(5, 40))
    edges = [(TAU[result.quantile == k].min(), TAU[result.quantile == k].max()) for k in range(5)]
    assert all(below[1] < above[0] for below, above in pairwise(edges))
    assert result.mean_tau_hat == pytest.approx([TAU[result.quantile == k].mean() for k in range(5)])
    assert result.num_groups.tolist() == [len(set(GROUPS[result.quantile == k])) for k in range(5)]
    assert result.df.tolist() == [count - 1 for count in result.num_groups]


def test_weights_move_the_edges_as_copies_of_the_unit_do():
    weights = RNG.integers(1, 4, N)
    once, copies = gates(SCORES, TAU, sample_weights=weights, groups=GROUPS), np.repeat(np.arange(N), weights)
    twice = gates(SCORES[copies], TAU[copies], groups=GROUPS[copies])
    np.testing.assert_array_equal(once.quantile[copies], twice.quantile)
    np.testing.assert_allclose(once.estimate, twice.estimate, rtol=1e-12)
    np.testing.assert_allclose(once.std_err, twice.std_err, rtol=1e-9)


def test_ties_stay_together_in_any_row_order():
    tied, order = np.round(TAU, 1), RNG.permutation(N)
    weights = RNG.uniform(0.1, 2, N)
    result = gates(SCORES, tied, sample_weights=weights)
    shuffled = gates(SCORES[order], tied[order], sample_weights=weights[order])
    np.testing.assert_array_equal(result.quantile[order], shuffled.quantile)
    assert all(len(set(result.quantile[tied == value])) == 1 for value in np.unique(tied))


def test_a_tie_on_the_edge_of_a_quantile_does_not_feel_rounding():
    """The middle of three equal masses ends up at exactly one half, whichever way its weights are summed."""
    values, weights = np.repeat([0.0, 1.0, 2.0], 3), np.tile([0.1, 0.2, 0.3], 3)
    scores = np.arange(9.0)
    for _ in range(100):
        order = RNG.permutation(9)
        result = gates(scores[order], values[order], num_groups=2, sample_weights=weights[order])
        np.testing.assert_array_equal(result.quantile, (values[order] >= 1).astype(int))


def test_folds_rank_within_themselves():
    """A fold whose model predicts higher everywhere must not fill the top by itself."""
    folds = np.arange(N) % 4
    result = gates(SCORES, TAU + 100 * folds, folds=folds)
    assert {tuple(np.bincount(result.quantile[folds == k])) for k in range(4)} == {(10,) * 5}
    np.testing.assert_array_equal(
        rank_shares(TAU + 100 * folds, np.ones(N), folds), rank_shares(TAU, np.ones(N), folds)
    )


def test_joint_intervals_of_independent_means_are_sidaks():
    """Groups inside quantiles: the five means are independent, so the exact level is known."""
    by_group = np.repeat(RNG.normal(size=40), 5)
    result = gates(SCORES, by_group, groups=GROUPS)
    exact = stats.t.isf((1 - 0.95**0.2) / 2, 7)
    assert result.num_groups.tolist() == [8] * 5
    # 50,000 draws: Monte-Carlo error 2 % of the level, .4 % of the critical value; five of them.
    assert result.critical_value == pytest.approx(np.full(5, exact), rel=0.02)
    half = result.critical_value * result.std_err
    np.testing.assert_allclose(result.joint_interval, result.estimate[:, None] + np.outer(half, [-1, 1]))
    assert (result.joint_interval[:, 0] < result.interval[:, 0]).all()
    assert gates(SCORES, by_group, groups=GROUPS).critical_value.tolist() == result.critical_value.tolist()


def test_top_against_bottom():
    result = gates(SCORES, TAU, groups=GROUPS, level=0.9)
    assert result.difference == pytest.approx(result.estimate[4] - result.estimate[0])
    assert result.difference_df <= 39
    t = result.difference / result.difference_std_err
    assert result.difference_p == pytest.approx(stats.t.sf(t, result.difference_df))
    half = stats.t.ppf(0.95, result.difference_df) * result.difference_std_err
    assert result.difference_interval == pytest.approx((result.difference - half, result.difference + half))
    assert gates(SCORES, -TAU, groups=GROUPS).difference_p > 0.99


def simulate_coverage(by_village, replications, G=60):
    rng, hits = np.random.default_rng(2024), np.zeros((replications, 2))
    for row in range(replications):
        codes = np.repeat(np.arange(G), rng.integers(5, 11, G))
        village, own = rng.normal(size=G)[codes], rng.normal(size=len(codes))
        tau_hat = village if by_village else 0.5 * village + own
        scores = 0.3 + 0.5 * rng.normal(size=G)[codes] + 2 * rng.normal(size=len(codes))
        result = gates(scores, tau_hat, groups=codes)
        hits[row, 0] = ((result.joint_interval[:, 0] <= 0.3) & (result.joint_interval[:, 1] >= 0.3)).all()
        hits[row, 1] = result.difference_p < 0.05
    return hits.mean(axis=0)


@pytest.mark.parametrize("by_village", [False, True], ids=["units", "villages"])
def test_joint_intervals_cover_with_60_groups(by_village, monkeypatch):
    """95 % and 5 %, each within three Monte-Carlo standard errors (.011) of 400 replications.

    With 59 degrees of freedom everywhere the second case covers 90 %: tau_hat from images is shared by villages.
    """
    monkeypatch.setattr(sys.modules["eo_cate.evaluation.gates"], "SUP_T_DRAWS", 4000)
    coverage, rejections = simulate_coverage(by_village, 400)
    assert 0.917 < coverage < 0.983
    assert rejections < 0.083


def test_true_heterogeneity_is_found():
    result = gates(SCORES, TAU, groups=GROUPS)
    assert result.difference_p < 1e-6
    assert (np.diff(result.estimate) > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dr_scores": replaced(SCORES, np.nan)}, "`dr_scores` has 1 NaN"),
        ({"tau_hat": TAU[:-1]}, "`tau_hat` has 199 rows, but there are 200"),
        ({"groups": np.zeros(N, int)}, r"1 group\(s\)"),
        ({"tau_hat": np.full(N, 0.2)}, r"4 of 5 groups by tau_hat are empty: `tau_hat` has 1 distinct"),
        ({"num_groups": 1}, "`num_groups` is 1"),
        ({"level": 95}, "`level` is 95"),
        ({"vcov": "CR2"}, "`vcov` is 'CR2'"),
        ({"folds": np.zeros(N)}, "`folds` are given as float64"),
        (
            {"sample_weights": np.where(np.arange(N) % 2, 1.0, 0.0), "folds": np.arange(N) % 2, "groups": GROUPS},
            "folds",
        ),
        ({"tau_hat": np.where(GROUPS == 0, 9.0, 0.0) + TAU, "groups": GROUPS, "num_groups": 40}, "alone.*'HC1'"),
    ],
)
def test_gates_name_bad_input(change, message):
    with pytest.raises(EvaluationError, match=message):
        gates(**{"dr_scores": SCORES, "tau_hat": TAU} | change)


def covariates():
    table = pd.DataFrame({"age": TAU + RNG.normal(size=N), "land": RNG.normal(size=N), "flat": np.full(N, 0.1)})
    table["rare"] = np.where(GROUPS < 1, 1.5, np.nan)
    table["absent"] = np.nan
    return table


def test_clan_uses_what_is_present_and_says_how_much():
    result = clan(covariates(), TAU, groups=GROUPS, share=0.3)
    assert result.names == ("age", "land", "flat", "rare", "absent")
    assert result.num_top.tolist()[:3] == [60] * 3
    assert (result.num_top[4], result.num_bottom[4]) == (0, 0)
    assert result.p[0] < 1e-4
    assert (result.difference[2], result.std_err[2], result.p[2]) == (0, 0, 1)
    assert np.isnan(result.p[3:]).all()
    np.testing.assert_allclose(result.adjusted_p[:3], stats.false_discovery_control(result.p[:3]))
    assert np.isnan(result.adjusted_p[3:]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau_hat": replaced(TAU, np.nan)}, "`tau_hat` has 1 NaN"),
        ({"covariates": np.zeros((5, 2))}, r"`covariates` has shape \(5, 2\), but there are 200"),
        ({"covariates": np.full((N, 1), np.inf)}, r"infinite values in \['x1'\]"),
        ({"names": ["a"]}, "`names` has 1 entries for 5"),
        ({"share": 0.6}, "`share` is 0.6"),
        ({"tau_hat": np.ones(N)}, "groups by tau_hat are empty"),
        ({"groups": np.zeros(N, int)}, r"1 group\(s\)"),
    ],
)
def test_clan_names_bad_input(change, message):
    with pytest.raises(EvaluationError, match=message):
        clan(**{"covariates": covariates(), "tau_hat": TAU} | change)
