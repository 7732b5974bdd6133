"""What evaluation expects of every CateEstimator of the package, adapters included."""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression

from eo_cate.config import EstimatorsConfig
from eo_cate.errors import EstimationError, EvaluationError
from eo_cate.estimators import CausalForest, EconmlForest, RidgeR, from_econml, from_sklearn_like
from eo_cate.evaluation import sequential_rate
from eo_cate.types import CateEstimator, FeatureBlocks


class TLearner:
    """Two least-squares fits; scikit-learn's name for weights."""

    def __init__(self, model=None):
        self.model = LinearRegression() if model is None else model

    def fit(self, X, Y, W, sample_weight=None):
        self.models_ = []
        for arm in (0, 1):
            weights = None if sample_weight is None else sample_weight[arm == W]
            self.models_.append(copy.deepcopy(self.model).fit(X[arm == W], Y[arm == W], weights))
        return self

    def predict(self, X):
        return self.models_[1].predict(X) - self.models_[0].predict(X)


def make_linear_dml():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from econml.dml import LinearDML
    return from_econml(
        LinearDML(
            model_y=LinearRegression(), model_t=LogisticRegression(), discrete_treatment=True, cv=3, random_state=0
        )
    )


def make_forest_dml():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from econml.dml import CausalForestDML
    return from_econml(
        CausalForestDML(
            model_y=LinearRegression(), model_t=LogisticRegression(), discrete_treatment=True, cv=3, n_estimators=48,
            n_jobs=1, random_state=0,
        )
    )  # fmt: skip


ESTIMATORS = {
    "CausalForest": lambda: CausalForest(100, seed=1),
    "RidgeR": lambda: RidgeR(kernel="linear"),
    "econml LinearDML": make_linear_dml,
    "econml CausalForestDML": make_forest_dml,
    "EconmlForest": lambda: from_econml(EconmlForest(48, seed=0)),
    "T-learner": lambda: from_sklearn_like(TLearner()),
}
# their draws follow the order of units: a permuted fit is another draw
DRAWS_BY_ORDER = {"CausalForest", "econml LinearDML", "econml CausalForestDML", "EconmlForest"}


@pytest.fixture(params=ESTIMATORS)
def name(request):
    return request.param


@pytest.fixture
def estimator(name):
    return ESTIMATORS[name]()


def make_trial(seed=0, villages=60, households=6):
    """Effects by village; three features of the site, one of the household."""
    rng = np.random.default_rng(seed)
    site = np.repeat(np.arange(villages), households)
    features = rng.standard_normal((villages, 3)).astype(np.float32)
    covariate = rng.standard_normal((len(site), 1)).astype(np.float32)
    W = (rng.permutation(villages) % 2)[site].astype(float)
    tau = 0.5 + features[site, 0] + 0.5 * covariate[:, 0]
    Y = features[site, 1] + tau * W + rng.standard_normal(len(site))
    X = FeatureBlocks(features, covariate, site, ("a", "b", "c", "age"), ("image_16",) * 3 + ("tabular",))
    return X, Y, W, site, tau


def fit(estimator, X, Y, W, groups, weights=None):
    return estimator.fit(X, Y, W, propensity=np.full(len(Y), 0.5), sample_weights=weights, groups=groups)


def test_learns_and_predicts_one_effect_per_unit(estimator):
    X, Y, W, site, tau = make_trial()
    assert isinstance(estimator, CateEstimator)
    assert fit(estimator, X, Y, W, site) is estimator
    tau_hat = estimator.predict(X)
    assert tau_hat.shape == (360,)
    assert tau_hat.dtype == np.float64
    assert np.corrcoef(tau_hat, tau)[0, 1] > 0.5
    assert estimator.predict(X.take(np.arange(5))).shape == (5,)
    assert fit(estimator, X.gather(), Y, W, site).predict(X.gather()).shape == (360,)


def test_a_copy_refits_as_if_it_were_new(name, estimator):
    X, Y, W, site, _ = make_trial()
    other_X, other_Y, other_W, other_site, _ = make_trial(seed=9, villages=48)
    fit(estimator, other_X, other_Y, other_W, other_site)
    before = estimator.predict(X)
    again = fit(copy.deepcopy(estimator), X, Y, W, site)
    assert np.array_equal(estimator.predict(X), before)
    assert np.array_equal(again.predict(X), fit(ESTIMATORS[name](), X, Y, W, site).predict(X))
    assert not np.allclose(again.predict(X), before)


def test_labels_of_groups_do_not_matter(name, estimator):
    X, Y, W, site, _ = make_trial()
    expected = fit(estimator, X, Y, W, site).predict(X)
    labels = np.random.default_rng(3).permutation(1000)[:60][site]
    for groups in (labels, np.array([f"village {k}" for k in labels]), np.array([f"v{k}" for k in labels], object)):
        assert np.array_equal(fit(ESTIMATORS[name](), X, Y, W, groups).predict(X), expected)


def test_permuted_units_get_their_own_effects(name, estimator):
    """Exactly, where nothing is drawn by the order of units; else as another draw agrees, and exactly in `predict`."""
    X, Y, W, site, _ = make_trial()
    order = np.random.default_rng(4).permutation(len(Y))
    expected = fit(estimator, X, Y, W, site).predict(X)
    np.testing.assert_allclose(estimator.predict(X.take(order)), expected[order], rtol=1e-12)
    permuted = fit(ESTIMATORS[name](), X.take(order), Y[order], W[order], site[order]).predict(X)
    if name in DRAWS_BY_ORDER:
        assert np.corrcoef(permuted, expected)[0, 1] > 0.9
    else:
        np.testing.assert_allclose(permuted, expected, rtol=1e-7)


def test_runs_in_sequential_rate_and_finds_strong_heterogeneity(estimator):
    X, Y, W, site, _ = make_trial(villages=80, households=4)
    if isinstance(estimator, CausalForest):
        estimator.set_params(num_trees=40)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(Y))
    result = sequential_rate(
        estimator, X, Y, W, propensity=0.5, groups=site, sample_weights=weights, num_folds=3, num_orders=1, seed=1
    )
    assert result.ratio > 2  # tau has standard deviation 1.1, the outcome's noise 1


def test_what_the_fit_does_not_take_does_not_reach_it():
    X, Y, W, site, _ = make_trial()
    plain, dml = from_sklearn_like(TLearner()), make_linear_dml()
    assert plain.passes == {"sample_weights": "sample_weight"}
    assert dml.passes == {"sample_weights": "sample_weight", "groups": "groups"}
    weights = np.where(np.arange(len(Y)) % 3, 1.0, 0.0)
    kept = weights > 0
    expected = TLearner().fit(X.gather()[kept].astype(float), Y[kept], W[kept]).predict(X.gather().astype(float))
    np.testing.assert_allclose(fit(plain, X, Y, W, site, weights).predict(X), expected, rtol=1e-6)
    assert not hasattr(plain.learner, "models_")

    class Recorder(TLearner):
        def fit(self, X, Y, W, *, propensity, groups):
            self.seen = propensity, groups
            return super().fit(X, Y, W)

    recorder = from_sklearn_like(Recorder())
    fit(recorder, X, Y, W, np.array([f"v{k}" for k in site]), weights)
    propensity, groups = recorder._fitted.seen
    assert np.all(propensity == 0.5)
    assert np.array_equal(groups, site)


def test_missing_values_are_refused_by_name_or_passed_on_request():
    X, Y, W, site, _ = make_trial()
    gappy = replace(X, unit=np.where(np.arange(len(Y))[:, None] % 7 == 0, np.nan, X.unit).astype(np.float32))
    adapted = from_sklearn_like(TLearner())
    with pytest.raises(EstimationError, match=r"52 missing values in column\(s\) age: impute"):
        fit(adapted, gappy, Y, W, site)
    with pytest.raises(EstimationError, match=r"column\(s\) age"):
        fit(adapted, X, Y, W, site).predict(gappy)
    trees = from_sklearn_like(TLearner(HistGradientBoostingRegressor(max_iter=5)), allow_missing=True)
    assert np.isfinite(fit(trees, gappy, Y, W, site).predict(gappy)).all()
    infinite = replace(X, unit=np.where(np.isnan(gappy.unit), np.inf, X.unit).astype(np.float32))
    with pytest.raises(EstimationError, match="52 infinite values"):
        fit(trees, infinite, Y, W, site)


def test_econml_forest_takes_grf_s_options_and_says_the_same_as_ours():
    X, Y, W, site, tau = make_trial(villages=120)
    forest = from_econml(EconmlForest(200, mtry=3, min_node_size=4, sample_fraction=0.4, alpha=0.1, seed=5))
    tau_hat = fit(forest, X, Y, W, site).predict(X)
    inner = forest._fitted._fitted
    given = {name: getattr(inner, name) for name in ("n_estimators", "max_features", "max_samples", "random_state")}
    assert given == {"n_estimators": 200, "max_features": 3, "max_samples": 0.4, "random_state": 5}
    assert (inner.min_samples_leaf, inner.min_balancedness_tol) == (8, 0.4)
    assert not np.array_equal(fit(from_econml(EconmlForest(200, mtry=3, seed=6)), X, Y, W, site).predict(X), tau_hat)
    ours = fit(CausalForest(200, seed=1), X, Y, W, site).predict(X)
    assert np.corrcoef(ours, tau_hat)[0, 1] > 0.8
    weights = np.where(tau > 0.5, 9.0, 1.0)
    assert fit(forest, X, Y, W, site, weights).predict(X).mean() > tau_hat.mean() + 0.1  # weights do reach it
    with pytest.raises(EstimationError, match="not fitted"):
        EconmlForest().effect(X.gather())


def test_econml_halves_its_trees_and_other_shares_are_refused():
    assert EstimatorsConfig(engine="econml").honesty_fraction == 0.5
    with pytest.raises(ValidationError, match="econml's trees halve"):
        EstimatorsConfig(engine="econml", honesty_fraction=0.3)


def test_effects_that_are_not_numbers_are_reported(caplog):
    class Gaps(TLearner):
        def predict(self, X):
            return np.where(np.arange(len(X)) < 3, np.inf, super().predict(X))

    X, Y, W, site, _ = make_trial()
    estimator = from_sklearn_like(Gaps())
    tau_hat = fit(estimator, X, Y, W, site).predict(X)
    assert np.isnan(tau_hat[:3]).all()
    assert np.isfinite(tau_hat[3:]).all()
    assert "Gaps gave no finite effect for 3 of 360 units" in caplog.text
    with pytest.raises(EvaluationError, match="3 NaN"):
        sequential_rate(estimator, X, Y, W, propensity=0.5, groups=site, num_folds=3, num_orders=1)


def test_objects_that_are_no_learners_are_refused():
    X, Y, W, site, _ = make_trial()
    with pytest.raises(EstimationError, match="no method `effect`"):
        from_econml(TLearner())
    with pytest.raises(EstimationError, match="no method `fit`"):
        from_sklearn_like(object())
    with pytest.raises(EstimationError, match="wrap it in a learner"):
        from_sklearn_like(Regressor())
    with pytest.raises(EstimationError, match="not fitted"):
        from_sklearn_like(TLearner()).predict(X)
    estimator = fit(from_sklearn_like(TLearner()), X, Y, W, site)
    with pytest.raises(EstimationError, match="3 columns that are not the 4"):
        estimator.predict(X.gather()[:, :3])
    with pytest.raises(EstimationError, match="360 treated units of 360"):
        fit(estimator, X, Y, np.ones(len(Y)), site)
    with pytest.raises(EstimationError, match="`Y` has 1 NaN"):
        fit(estimator, X, np.where(np.arange(360) == 3, np.nan, Y), W, site)


class Regressor:
    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.zeros(len(X))
