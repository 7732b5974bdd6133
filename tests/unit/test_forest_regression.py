"""RegressionForest, the nuisances that it estimates, and options and storage of both forests."""

import json

import numpy as np
import pytest
from sklearn.base import clone

from eo_cate.errors import EstimationError
from eo_cate.estimators.forest import CausalForest, RegressionForest
from eo_cate.estimators.forest.importance import split_importance
from eo_cate.types import FeatureBlocks


def villages(num=80, households=6, p=6, seed=0):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(num), households)
    site = rng.standard_normal((num, p)).astype(np.float32)
    Y = 10.0 + 2.0 * (site[group, 0] > 0) + 0.3 * rng.standard_normal(num)[group] + rng.standard_normal(len(group))
    return FeatureBlocks.from_array(site, site_index=group), Y, group


def test_learns_a_step_and_predicts_new_rows():
    X, Y, group = villages(num=200)
    forest = RegressionForest(200, seed=2).fit(X, Y, groups=group)
    truth = 10.0 + 2.0 * (X.site[group, 0] > 0)
    assert np.corrcoef(forest.oob(), truth)[0, 1] > 0.9
    new = np.random.default_rng(9).standard_normal((500, 6))
    assert np.sqrt(np.mean((forest.predict(new) - 10.0 - 2.0 * (new[:, 0] > 0)) ** 2)) < 0.5


def test_the_prediction_of_a_group_never_saw_it():
    X, Y, group = villages()
    own = group == 7
    before, after = (RegressionForest(60).fit(X, y, groups=group).oob() for y in (Y, np.where(own, 1e4, Y)))
    np.testing.assert_allclose(before[own], after[own], rtol=1e-9)  # Y is centred at its mean, which moves by 120
    assert np.abs(before - after)[~own].max() > 1.0


def test_weights_count_as_repeated_units_in_means_and_scores():
    """Twice the weight: not the same forest as twice the rows (counts differ), but leaves move to the heavy units."""
    rng = np.random.default_rng(1)
    X, heavy = rng.standard_normal((2000, 2)), rng.random(2000) < 0.5
    Y = np.where(heavy, 4.0, 0.0) + 0.1 * rng.standard_normal(2000)
    forest = RegressionForest(100).fit(X, Y, sample_weights=np.where(heavy, 3.0, 1.0))
    assert forest.predict(X).mean() == pytest.approx(3.0, abs=0.1)
    doubled = RegressionForest(100).fit(X, Y, sample_weights=np.where(heavy, 6.0, 2.0))
    assert np.array_equal(doubled.oob(), forest.oob())


def test_leave_out_predictions_do_not_see_the_flip_unit():
    rng = np.random.default_rng(3)
    X, flip_unit = rng.standard_normal((150, 20)).astype(np.float32), np.repeat(np.arange(75), 2)
    u = X[:, [0]] + rng.standard_normal((150, 3))
    forest = RegressionForest(200, seed=4)
    before = forest.leave_out_predictions(X, u, flip_unit=flip_unit)
    assert before.shape == (150, 3)
    assert before.dtype == np.float64
    assert np.corrcoef(before[:, 0], X[:, 0])[0, 1] > 0.5
    changed = u.copy()
    changed[20:22] += 30.0
    after = forest.leave_out_predictions(X, changed, flip_unit=flip_unit)
    assert np.array_equal(after[20:22], before[20:22])
    assert np.abs(after - before).max() > 1.0
    threaded = RegressionForest(200, seed=4, num_threads=2).leave_out_predictions(X, u, flip_unit=flip_unit)
    assert np.array_equal(threaded, before)
    single = forest.leave_out_predictions(X, u[:, 1], flip_unit=flip_unit)
    assert np.array_equal(single, before[:, 1])
    words = forest.leave_out_predictions(X, u, flip_unit=np.array([f"village {k}" for k in flip_unit]))
    assert np.array_equal(words, before)


def test_leave_out_predictions_of_a_sign_flip_flip():
    rng = np.random.default_rng(3)
    X, u = rng.standard_normal((100, 10)).astype(np.float32), rng.standard_normal((100, 2))
    forest, weights = RegressionForest(100), rng.uniform(1, 4, 100)
    there = forest.leave_out_predictions(X, u, flip_unit=np.arange(100), weights=weights)
    back = forest.leave_out_predictions(X, -u, flip_unit=np.arange(100), weights=weights)
    np.testing.assert_allclose(back, -there, atol=1e-12)


def test_leave_out_predictions_are_those_of_fit_with_unit_rows():
    """Two ways to the same trees: grown, kept and walked; or one column of many."""
    rng = np.random.default_rng(5)
    X, u = rng.standard_normal((120, 8)).astype(np.float32), rng.standard_normal(120)
    X[rng.random(120) < 0.2, 3] = np.nan
    forest, group = RegressionForest(100, seed=8), np.repeat(np.arange(60), 2)
    kept = forest.fit(X, u, groups=group).oob()
    np.testing.assert_allclose(forest.leave_out_predictions(X, u, flip_unit=group), kept, atol=1e-12)


def test_bad_input_of_the_regression_forest_is_refused():
    X, Y, group = villages()
    with pytest.raises(EstimationError, match="9 groups"):
        RegressionForest(2).fit(X, Y, groups=group % 9)
    with pytest.raises(EstimationError, match="`Y` has 1 NaN"):
        RegressionForest(2).fit(X, np.where(np.arange(len(Y)) == 3, np.nan, Y), groups=group)
    with pytest.raises(EstimationError, match="`flip_unit` holds 5 groups"):
        RegressionForest(2).leave_out_predictions(X.site, np.ones(80), flip_unit=np.arange(80) % 5)
    with pytest.raises(EstimationError, match=r"`u` has shape \(79,\)"):
        RegressionForest(2).leave_out_predictions(X.site, np.ones(79), flip_unit=np.arange(80))
    with pytest.raises(EstimationError, match="not fitted"):
        RegressionForest(2).oob()
    with pytest.raises(EstimationError, match="5 columns that are not the 6"):
        RegressionForest(2).fit(X, Y, groups=group).predict(X.site[:, :5])


def observational(n=1200, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 4))
    e = 1 / (1 + np.exp(-1.5 * X[:, 0]))
    W = (rng.random(n) < e).astype(float)
    return X, 3.0 * X[:, 0] + W + 0.5 * rng.standard_normal(n), W, e


def test_without_a_propensity_both_nuisances_are_estimated():
    X, Y, W, e = observational()
    forest = CausalForest(200, seed=1).fit(X, Y, W)
    oob = forest.oob()
    assert np.corrcoef(oob.W_hat, e)[0, 1] > 0.9
    assert np.corrcoef(oob.Y_hat, 3 * X[:, 0] + e)[0, 1] > 0.9
    assert oob.tau_hat.mean() == pytest.approx(1.0, abs=0.25)
    naive = CausalForest(200, seed=1).fit(X, Y, W, W_hat=0.5).oob().tau_hat.mean()
    assert naive > 1.5
    given = CausalForest(200, seed=1).fit(X, Y, W, W_hat=oob.W_hat, Y_hat=oob.Y_hat).oob()
    assert np.array_equal(given.tau_hat, oob.tau_hat)


def test_a_known_propensity_is_not_estimated_and_both_are_refused():
    X, Y, W, e = observational()
    assert np.array_equal(CausalForest(20).fit(X, Y, W, propensity=e).oob().W_hat, e)
    with pytest.raises(EstimationError, match="both `propensity` and `W_hat`"):
        CausalForest(20).fit(X, Y, W, propensity=0.5, W_hat=e)
    with pytest.raises(EstimationError, match="'ridge'"):
        CausalForest(20).fit(X, Y, W, propensity=0.5, Y_hat="ridge")


def test_feature_weights_decide_which_block_is_used():
    X, Y, group = villages()
    W = (group % 2).astype(float)
    weights = np.array([0.0, 0, 0, 1, 1, 1])
    forest = CausalForest(60, feature_weights=weights).fit(X, Y, W, propensity=0.5, groups=group)
    nodes = forest._fitted.trees.nodes
    assert set(nodes[nodes[:, 0] >= 0, 0]) == {3, 4, 5}
    for bad, message in [([1.0], "shape"), ([1, 1, 1, 1, 1, -1], "1 negative"), ([0] * 6, "sum 0")]:
        with pytest.raises(EstimationError, match=message):
            CausalForest(2, feature_weights=bad).fit(X, Y, W, propensity=0.5, groups=group)


def test_importance_goes_to_what_is_split_on_and_sums_over_blocks():
    rng = np.random.default_rng(2)
    X, W = rng.standard_normal((1500, 6)).astype(np.float32), rng.integers(0, 2, 1500).astype(float)
    Y = 2.0 * X[:, 2] * W + rng.standard_normal(1500)
    names, blocks = tuple("abcdef"), ("image_16",) * 2 + ("image_64",) * 4
    site_index = np.arange(1500)
    blocks_of = FeatureBlocks(X, np.empty((1500, 0), np.float32), site_index, names, blocks)
    forest = CausalForest(100, seed=1).fit(blocks_of, Y, W, propensity=0.5)
    by_feature, by_block = forest.variable_importance(), forest.variable_importance(by="block")
    assert max(by_feature, key=by_feature.get) == "c"
    assert by_feature["c"] > 0.5
    assert sum(by_feature.values()) == pytest.approx(1.0)
    assert by_block["image_16"] == pytest.approx(by_feature["a"] + by_feature["b"])
    trees = forest._fitted.trees  # depth 1 by hand
    roots = trees.nodes[trees.node_start[:-1], 0]
    assert split_importance(trees, 6, max_depth=1)[2] == pytest.approx(np.mean(roots == 2))


@pytest.mark.parametrize("kind", [CausalForest, RegressionForest])
def test_options_are_those_of_a_scikit_learn_estimator(kind):
    forest = kind(50, mtry=3, seed=7, feature_weights=np.ones(4))
    copy = clone(forest)
    assert copy.get_params().keys() == forest.get_params().keys()
    assert copy.set_params(num_trees=10, alpha=0.1).get_params()["num_trees"] == 10
    assert forest.num_trees == 50
    with pytest.raises(EstimationError, match="no parameter"):
        copy.set_params(n_estimators=3)
    with pytest.raises(EstimationError, match="`num_trees` is 3"):
        copy.set_params(num_trees=3)


def test_constant_features_give_the_average_effect_and_say_so(caplog):
    _, Y, group = villages()
    W = (np.arange(len(Y)) % 2).astype(float)
    forest = CausalForest(200, seed=1).fit(np.ones((len(Y), 3)), Y, W, propensity=0.5, groups=group)
    assert "average effect" in caplog.text
    tau_hat = forest.predict(np.zeros((5, 3)))
    assert np.ptp(tau_hat) == 0
    assert tau_hat[0] == pytest.approx(Y[W == 1].mean() - Y[W == 0].mean(), abs=0.1)


def test_too_few_units_are_refused():
    X, W = np.random.default_rng(0).standard_normal((19, 2)), np.arange(19) % 2
    with pytest.raises(EstimationError, match="19 units"):
        CausalForest(2).fit(X, W.astype(float), W, propensity=0.5)


@pytest.mark.parametrize("weights", [None, np.array([1.0, 2, 1, 1, 1, 0.5])])
def test_save_and_load_without_pickle(tmp_path, weights):
    X, Y, group = villages()
    W = (group % 2).astype(float)
    forest = CausalForest(40, seed=3, feature_weights=weights).fit(X, Y, W, propensity=0.5, groups=group)
    forest.save(tmp_path / "forest.npz")
    again = CausalForest.load(tmp_path / "forest.npz")
    new = np.random.default_rng(1).standard_normal((30, 6))
    assert all(np.array_equal(a, b) for a, b in zip(forest.predict(new, True), again.predict(new, True), strict=True))
    assert np.array_equal(forest.oob().std_err, again.oob().std_err)
    assert np.array_equal(again.oob().W_hat, np.full(len(Y), 0.5))
    assert again.get_params()["num_trees"] == 40
    with np.load(tmp_path / "forest.npz", allow_pickle=False) as archive:
        assert json.loads(str(archive["json"]))["options"]["seed"] == 3
    (tmp_path / "bad.npz").write_bytes(b"not a forest")
    with pytest.raises(EstimationError, match=r"bad\.npz: not a forest"):
        CausalForest.load(tmp_path / "bad.npz")
