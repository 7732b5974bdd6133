"""Forests as scikit-learn's estimators, grid search by R-risk, and growing until the ranking is stable."""

import numpy as np
import pytest
import sklearn
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.utils.estimator_checks import check_estimator

from eo_cate.errors import EstimationError
from eo_cate.estimators import CausalForest, RegressionForest, grow_until_stable, halves_agreement, negative_r_risk
from eo_cate.types import FeatureBlocks

EARLY = "options are refused when they are given, not at the first fit"
OWN_WORDS = "refused with a ValueError, in words of its own (the check compares the message)"
SMALL = "needs 10 groups and 4 x min_node_size units; the check fits fewer"
NOT_FOR_US = {
    "check_do_not_raise_errors_in_init_or_set_params": EARLY,
    "check_n_features_in_after_fitting": OWN_WORDS,
    "check_estimators_empty_data_messages": OWN_WORDS,
    "check_requires_y_none": OWN_WORDS,
    "check_fit2d_1sample": SMALL,
}
OF_ONE = {
    "RegressionForest": {"check_supervised_y_2d": "Y is a vector: (n, 1) is refused"},
    "ForestOfRows": {"check_fit2d_1feature": SMALL},
}


class ForestOfRows(CausalForest):
    """`check_estimator` knows no W: every second row is treated."""

    def fit(self, X, y):
        return super().fit(X, y, np.arange(len(y)) % 2, propensity=0.5)


@pytest.mark.parametrize("kind", [ForestOfRows, RegressionForest])
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_hold_where_they_apply(kind):
    found = check_estimator(kind(10), on_skip=None, on_fail=None)
    failed = {check["check_name"] for check in found if check["status"] == "failed"}
    assert failed == NOT_FOR_US.keys() | OF_ONE[kind.__name__].keys()
    assert sum(check["status"] == "passed" for check in found) >= 34


def make_trial(seed=0, n=600, p=5, noise=1.0):
    rng = np.random.default_rng(seed)
    X, group = rng.standard_normal((n, p)).astype(np.float32), np.arange(n) // 3
    W = rng.integers(0, 2, n).astype(float)
    return X, X[:, 0] * (W - 0.5) + noise * rng.standard_normal(n), W, group


def test_negative_r_risk_is_its_formula_and_prefers_the_truth():
    X, Y, W, _ = make_trial()
    omega = np.random.default_rng(1).uniform(0.5, 2, len(Y))
    by_hand = -np.sum(omega * (Y - 0.1 - (W - 0.4) * X[:, 1]) ** 2) / omega.sum()
    assert negative_r_risk(Y, X[:, 1], W=W, propensity=0.4, Y_hat=0.1, sample_weights=omega) == pytest.approx(by_hand)
    assert negative_r_risk(Y, X[:, 0], W=W, propensity=0.5) > negative_r_risk(Y, 0 * Y, W=W, propensity=0.5)


def test_grid_search_splits_by_group_and_finds_the_better_options():
    X, Y, W, group = make_trial(noise=0.5)
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(negative_r_risk).set_score_request(W=True, propensity=True)
        forest = CausalForest(40, seed=2).set_fit_request(W=True, propensity=True, groups=True)
        grid = {"min_node_size": [5, 60], "mtry": [5, 1]}
        search = GridSearchCV(forest, grid, scoring=scorer, cv=GroupKFold(3))
        search.fit(X, Y, W=W, propensity=np.full(len(Y), 0.5), groups=group)
    assert search.best_params_ == {"min_node_size": 5, "mtry": 5}
    scores = search.cv_results_["mean_test_score"]
    train, test = next(GroupKFold(3).split(X, Y, group))
    own = CausalForest(40, seed=2, min_node_size=5, mtry=5)
    own.fit(X[train], Y[train], W[train], propensity=0.5, groups=group[train])
    by_hand = negative_r_risk(Y[test], own.predict(X[test]), W=W[test], propensity=0.5)
    assert search.cv_results_["split0_test_score"][search.best_index_] == pytest.approx(by_hand, rel=1e-12)
    assert scores.max() - scores.min() > 0.02
    assert search.best_estimator_.oob().tau_hat.shape == (600,)


def make_wide(seed=0, sites=100, p=200):
    rng = np.random.default_rng(seed)
    features, site = rng.standard_normal((sites, p)).astype(np.float32), np.repeat(np.arange(sites), 5)
    W = (rng.permutation(sites) % 2)[site].astype(float)
    Y = features[site, 0] * W + rng.standard_normal(len(site))
    return FeatureBlocks.from_array(features, site_index=site), Y, W, site


def test_grows_until_halves_agree_and_then_seeds_agree():
    X, Y, W, site = make_wide()
    start = CausalForest(100, seed=1)
    found = grow_until_stable(start, X, Y, W, propensity=0.5, groups=site)
    assert found.agreement >= 0.95
    assert found.tried[0][1] < 0.9
    assert [n for n, _ in found.tried] == sorted({n for n, _ in found.tried})
    assert found.tried[-1] == (found.forest.num_trees, found.agreement)
    assert found.forest.num_trees < 40_000
    assert start.num_trees == 100
    assert not start.__sklearn_is_fitted__()
    plain = CausalForest(found.forest.num_trees, seed=1).fit(X, Y, W, propensity=0.5, groups=site).oob().tau_hat
    assert np.array_equal(found.forest.oob().tau_hat, plain)
    other = CausalForest(found.forest.num_trees, seed=2).fit(X, Y, W, propensity=0.5, groups=site).oob().tau_hat
    ranks = [np.argsort(np.argsort(values[::5])) for values in (plain, other)]
    assert np.corrcoef(*ranks)[0, 1] > 0.95  # .974 is expected


def test_halves_are_forests_of_their_own():
    """The first half is, bit for bit, the forest of half as many trees; the second has other bags."""
    X, Y, W, site = make_wide(p=20)
    whole, half = (CausalForest(k, seed=1).fit(X, Y, W, propensity=0.5, groups=site) for k in (200, 100))
    trees = whole._fitted.trees.take_bags(slice(0, 50))
    from eo_cate.estimators.forest.predict import estimate_effects

    fitted = whole._fitted
    first = estimate_effects(trees, fitted.row_codes, groups=fitted.row_group)[0][fitted.row_of_unit]
    assert np.array_equal(first, half.oob().tau_hat)
    second = fitted.trees.take_bags(slice(50, 100))
    assert np.array_equal(second.in_bag, fitted.trees.in_bag[50:])
    other = estimate_effects(second, fitted.row_codes, groups=fitted.row_group)[0][fitted.row_of_unit]
    np.testing.assert_allclose(
        estimate_effects(fitted.trees, fitted.row_codes, groups=fitted.row_group)[0][fitted.row_of_unit],
        (first + other) / 2,
        atol=0.2,
    )
    assert -1 < halves_agreement(whole) < 1
    assert halves_agreement(whole) != halves_agreement(half)


def test_growth_stops_where_told_and_says_so(caplog):
    X, Y, W, site = make_wide()
    found = grow_until_stable(CausalForest(50), X, Y, W, propensity=0.5, groups=site, agreement=0.999, most_trees=101)
    assert found.forest.num_trees == 100
    assert "100 trees, and two halves of the forest agree at" in caplog.text
    caplog.clear()
    flat = grow_until_stable(CausalForest(50), np.ones((500, 2)), Y, W, propensity=0.5, groups=site)
    assert np.isnan(flat.agreement)
    assert flat.forest.num_trees == 50
    with pytest.raises(EstimationError, match="`agreement` is 1"):
        grow_until_stable(CausalForest(50), X, Y, W, propensity=0.5, agreement=1.0)
    with pytest.raises(EstimationError, match="`most_trees` is 40"):
        grow_until_stable(CausalForest(50), X, Y, W, propensity=0.5, most_trees=40)
