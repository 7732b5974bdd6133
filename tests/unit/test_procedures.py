"""Procedures around any estimator: what each one is, from fits made by hand; and what its estimates out of group saw."""

import copy
import itertools

import numpy as np
import pytest
from helpers_estimators import ConstantEffect, RidgeEffect
from sklearn.base import clone

from eo_cate.errors import EoCateError, EstimationError
from eo_cate.estimators import CausalForest, RidgeR
from eo_cate.estimators.forest.options import MIN_GROUPS
from eo_cate.multiscale import (
    PROCEDURES,
    AverageEvidence,
    BalanceBlocks,
    BlockAverage,
    ConcatPCA,
    MeanOf,
    Residual,
    Select,
    Stack,
    make_procedure,
)
from eo_cate.multiscale.blocks import order_by_scale, take_blocks
from eo_cate.multiscale.wrappers import stack_weights
from eo_cate.stats.folds import group_folds
from eo_cate.stats.training import FEWEST_GROUPS, TrainingUnits, choose_risk_folds
from eo_cate.types import CateEstimator, FeatureBlocks

WRAPPERS = [BlockAverage, Stack, Select, Residual]


def make_trial(seed=0, villages=60, households=4, width=4):
    """Effects in the first column of image_16 and of image_128; two household covariates of no consequence."""
    rng = np.random.default_rng(seed)
    site = rng.normal(size=(villages, 2 * width)).astype(np.float32)
    village = np.repeat(np.arange(villages), households)
    W = rng.permutation(np.arange(villages) % 2)[village].astype(float)
    tau = 0.3 + 0.5 * site[village, 0] + 0.5 * site[village, width]
    Y = (W - 0.5) * tau + rng.normal(0, 0.5, len(village))
    X = FeatureBlocks(
        site=site,
        unit=rng.normal(size=(len(village), 2)).astype(np.float32),
        site_index=village,
        names=(*(f"f{j}" for j in range(2 * width)), "age", "land"),
        blocks=("image_16",) * width + ("image_128",) * width + ("tabular",) * 2,
    )
    return X, Y, W, village, tau


def fit(estimator, X, Y, W, groups, weights=None):
    return estimator.fit(X, Y, W, propensity=np.full(len(Y), 0.5), groups=groups, sample_weights=weights)


def singles(X, Y, W, groups, weights=None):
    parts = [take_blocks(X, [label]) for label in ("image_16", "image_128", "tabular")]
    return parts, [fit(RidgeR(), part, Y, W, groups, weights) for part in parts]


def test_average_is_the_mean_of_single_block_fits():
    X, Y, W, groups, _ = make_trial()
    parts, fits = singles(X, Y, W, groups)
    found = fit(BlockAverage(RidgeR()), X, Y, W, groups)
    expected = np.mean([one.predict(part) for one, part in zip(fits, parts, strict=True)], axis=0)
    np.testing.assert_allclose(found.predict(X), expected, atol=1e-12)
    np.testing.assert_allclose(found.oob().tau_hat, np.mean([f.oob().tau_hat for f in fits], axis=0), atol=1e-12)


def test_mean_of_is_the_mean_of_estimators_on_all_blocks():
    X, Y, W, groups, _ = make_trial()
    parts = [fit(RidgeR(), X, Y, W, groups), fit(AverageEvidence(), X, Y, W, groups)]
    found = fit(MeanOf([RidgeR(), AverageEvidence()]), X, Y, W, groups)
    np.testing.assert_allclose(found.predict(X), (parts[0].predict(X) + parts[1].predict(X)) / 2, atol=1e-12)
    np.testing.assert_allclose(found.oob().tau_hat, (parts[0].oob().tau_hat + parts[1].oob().tau_hat) / 2, atol=1e-12)


def test_the_standard_error_of_a_mean_is_at_most_the_mean_of_those_of_its_members():
    X, Y, W, groups, _ = make_trial()
    forest, kernel = CausalForest(num_trees=40), AverageEvidence()
    found = fit(MeanOf([ConcatPCA(forest), kernel]), X, Y, W, groups)
    errors = [one.predict(X, std_err=True)[1] for one in found.members_]
    tau_hat, std_err = found.predict(X, std_err=True)
    np.testing.assert_allclose(std_err, np.mean(errors, axis=0), atol=1e-12)
    np.testing.assert_array_equal(tau_hat, found.predict(X))
    assert np.isnan(fit(MeanOf([RidgeR(), kernel]), X, Y, W, groups).predict(X, std_err=True)[1]).all()
    part = take_blocks(X, ["image_16"])
    single = fit(BlockAverage(kernel), part, Y, W, groups).predict(part, std_err=True)[1]
    np.testing.assert_array_equal(single, fit(kernel, part, Y, W, groups).predict(part, std_err=True)[1])


def test_first_folds_of_villages_leave_a_forest_its_ten():
    """40 villages in 3 folds start with 13, 60 and more in 5 folds with 12: a third less would be too few."""
    assert FEWEST_GROUPS == MIN_GROUPS
    for number in range(FEWEST_GROUPS + 1, 200):
        folds = choose_risk_folds(number)
        assert number - -(-number // folds) >= FEWEST_GROUPS
        assert number < 15 or folds == 3
    X, Y, W, groups, _ = make_trial(villages=12, households=20)
    units = TrainingUnits.of(X, Y, W, propensity=0.5, groups=groups)
    stack = Stack(CausalForest(num_trees=60, min_node_size=1))
    assert np.isfinite(units.honest_effects(stack, units.fit(stack), seed=1)).all()


@pytest.mark.parametrize("wrapper", [Stack, Select, Residual])
def test_on_one_set_of_blocks_nothing_was_chosen(wrapper):
    X, Y, W, groups, _ = make_trial()
    part = take_blocks(X, ["image_16"])
    found = fit(wrapper(RidgeR()), part, Y, W, groups)
    np.testing.assert_allclose(found.oob().tau_hat, fit(RidgeR(), part, Y, W, groups).oob().tau_hat, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_stack_weights_are_the_best_on_the_simplex(weighted):
    X, Y, W, groups, _ = make_trial()
    weights = np.random.default_rng(0).uniform(0.5, 2, len(Y)) if weighted else None
    units = TrainingUnits.of(X, Y, W, propensity=0.5, groups=groups, sample_weights=weights)
    _, fits = singles(X, Y, W, groups, weights)
    effects = [one.oob().tau_hat for one in fits]
    found = stack_weights(units, effects)
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1, abs=1e-12)
    best = units.r_risk(found @ effects)
    for i, j in itertools.product(range(41), repeat=2):
        if i + j <= 40:
            tried = np.array([i, j, 40 - i - j]) / 40
            assert best <= units.r_risk(tried @ np.stack(effects)) + 1e-12
    gradient = [-2 * np.average((W - 0.5) * e * units.residual(found @ effects), weights=weights) for e in effects]
    for k in np.flatnonzero(found > 1e-9):  # Karush, Kuhn, Tucker: members in use are equally good at the margin
        assert gradient[k] == pytest.approx(min(gradient), abs=1e-10)


def test_stack_and_select_use_the_r_risk_out_of_group():
    X, Y, W, groups, _ = make_trial()
    parts, fits = singles(X, Y, W, groups)
    parts, fits = [*parts, X], [*fits, fit(RidgeR(), X, Y, W, groups)]
    units = TrainingUnits.of(X, Y, W, propensity=0.5, groups=groups)
    effects = [one.oob().tau_hat for one in fits]
    stacked = fit(Stack(RidgeR()), X, Y, W, groups)
    np.testing.assert_allclose(stacked.weights_, stack_weights(units, effects), atol=1e-12)
    predictions = np.stack([one.predict(part) for one, part in zip(fits, parts, strict=True)])
    np.testing.assert_allclose(stacked.predict(X), stacked.weights_ @ predictions, atol=1e-12)
    chosen = fit(Select(RidgeR()), X, Y, W, groups)
    risks = [np.mean((Y - (W - 0.5) * e) ** 2) for e in effects]
    np.testing.assert_allclose(chosen.r_risks_, risks, atol=1e-12)
    np.testing.assert_allclose(chosen.predict(X), predictions[int(np.argmin(risks))], atol=1e-12)


def test_residual_goes_from_coarse_to_fine_on_effects_out_of_group():
    X, Y, W, groups, tau = make_trial()
    found = fit(Residual(RidgeR()), X, Y, W, groups)
    assert found.sets_ == [("tabular",), ("image_128",), ("image_16",)]
    outcome, total = Y, np.zeros(len(Y))
    for labels in found.sets_:
        part = take_blocks(X, labels)
        step = fit(RidgeR(), part, outcome, W, groups)
        total = total + step.predict(part)
        outcome = outcome - (W - 0.5) * step.oob().tau_hat
    np.testing.assert_allclose(found.predict(X), total, atol=1e-12)
    assert np.corrcoef(found.predict(X), tau)[0, 1] > 0.8  # both scales are in it; either alone reaches .71 at best
    named = fit(Residual(RidgeR(), sets=[["image_16", "tabular"], ["image_128"]]), X, Y, W, groups)
    assert named.sets_ == [("image_16", "tabular"), ("image_128",)]


def test_steps_by_scale():
    labels = ["image_16_2019", "image_128_2019", "tabular", "image_16_2020", "location", "image_128_2020"]
    assert order_by_scale(labels) == [
        ("tabular", "location"), ("image_128_2019", "image_128_2020"), ("image_16_2019", "image_16_2020"),
    ]  # fmt: skip
    assert order_by_scale(["image_9", "image_10"]) == [("image_10",), ("image_9",)]


def test_an_estimator_without_oob_is_cross_fitted_by_group():
    """A third-party learner: fit and predict only. Its training R-risk must not see the unit's own village."""
    X, Y, W, groups, _ = make_trial()
    units = TrainingUnits.of(X, Y, W, propensity=0.5, groups=groups)
    found = units.honest_effects(RidgeEffect(), units.fit(RidgeEffect()), seed=3)
    folds = group_folds(groups, W=W, num_folds=3, seed=3)
    for fold in range(3):
        kept, out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        assert not set(groups[kept]) & set(groups[out])
        alone = fit(RidgeEffect(), X.take(kept), Y[kept], W[kept], groups[kept])
        np.testing.assert_allclose(found[out], alone.predict(X.take(out)), atol=1e-12)
    for wrapper in WRAPPERS:
        assert np.isfinite(fit(wrapper(RidgeEffect()), X, Y, W, groups).predict(X)).all()
        assert np.isfinite(fit(wrapper(RidgeEffect()), X, Y, W, None).predict(X)).all()
    average = fit(BlockAverage(RidgeEffect()), X, Y, W, groups)
    inside = groups == 5
    spoiled = fit(BlockAverage(RidgeEffect()), X, Y + np.where(inside, 9.0, 0), W, groups)
    np.testing.assert_allclose(spoiled.oob().tau_hat[inside], average.oob().tau_hat[inside], atol=1e-12)
    assert np.abs(spoiled.oob().tau_hat - average.oob().tau_hat).max() > 1e-3


def test_procedures_that_chose_by_outcome_offer_no_oob():
    """What a choice has seen is not out of group: evaluation then cross-fits the procedure as a whole."""
    assert [hasattr(wrapper(RidgeR()), "oob") for wrapper in WRAPPERS] == [True, False, False, False]
    assert hasattr(ConcatPCA(CausalForest(num_trees=2)), "oob")
    assert not hasattr(BalanceBlocks(RidgeEffect()), "oob")


@pytest.mark.parametrize("make", [*(lambda w=w: w(RidgeR()) for w in WRAPPERS), lambda: MeanOf([RidgeR(), RidgeR()])])
def test_order_weights_copies_and_order_of_blocks(make):
    X, Y, W, groups, _ = make_trial()
    X = take_blocks(X, ["image_16", "image_128"])
    plain = fit(make(), X, Y, W, groups).predict(X)
    order = np.random.default_rng(1).permutation(len(Y))
    moved = fit(make(), X.take(order), Y[order], W[order], groups[order])
    np.testing.assert_allclose(moved.predict(X), plain, atol=1e-8)
    turned = FeatureBlocks(X.site[:, ::-1], X.unit, X.site_index, X.names[::-1], X.blocks[::-1])
    np.testing.assert_allclose(fit(make(), turned, Y, W, groups).predict(turned), plain, atol=1e-8)
    twice = np.concatenate([np.arange(len(Y)), np.flatnonzero(groups < 20)])
    weighted = fit(make(), X, Y, W, groups, np.where(groups < 20, 2.0, 1.0))
    doubled = fit(make(), X.take(twice), Y[twice], W[twice], groups[twice])
    np.testing.assert_allclose(doubled.predict(X), weighted.predict(X), atol=1e-8)
    model = make()
    again = clone(model)
    assert type(again) is type(model)
    assert np.array_equal(fit(again, X, Y, W, groups).predict(X), plain)
    assert np.array_equal(copy.deepcopy(again).predict(X), plain)
    assert isinstance(model, CateEstimator)


def test_the_estimator_passed_in_is_left_as_it_was():
    X, Y, W, groups, _ = make_trial()
    estimator = RidgeEffect()
    fit(BlockAverage(estimator), X, Y, W, groups)
    assert not hasattr(estimator, "coefficients")


def test_balance_gives_blocks_equal_chances():
    X, Y, W, groups, _ = make_trial(width=20)
    found = fit(BalanceBlocks(CausalForest(num_trees=50, mtry=3)), X, Y, W, groups)
    np.testing.assert_allclose(found._fitted.feature_weights, [1 / 20] * 40 + [1 / 2] * 2)
    by_hand = CausalForest(num_trees=50, mtry=3, feature_weights=[1 / 20] * 40 + [1 / 2] * 2)
    assert np.array_equal(found.predict(X), fit(by_hand, X, Y, W, groups).predict(X))
    assert np.array_equal(found.oob().tau_hat, by_hand.oob().tau_hat)
    plain = fit(CausalForest(num_trees=50, mtry=3), X, Y, W, groups)
    used = [f.variable_importance(by="block")["tabular"] for f in (plain, found._fitted)]
    assert used[1] > 2 * used[0]  # 2 of 42 columns, then a third of the draws
    with pytest.raises(EstimationError, match="RidgeR has no parameter `feature_weights`"):
        fit(BalanceBlocks(RidgeR()), X, Y, W, groups)
    with pytest.raises(EstimationError, match="not fitted"):
        BalanceBlocks(RidgeR()).predict(X)


@pytest.mark.parametrize("name", PROCEDURES)
def test_every_name_makes_an_estimator_that_fits(name):
    X, Y, W, groups, _ = make_trial()
    forest = CausalForest(num_trees=40, seed=2)
    found = make_procedure(name, forest, components=3, balance=name != "average_evidence")
    predictions = fit(found, X, Y, W, groups).predict(X)
    assert predictions.shape == Y.shape
    assert np.isfinite(predictions).all()
    again = make_procedure(name, CausalForest(num_trees=40, seed=2), components=3, balance=name != "average_evidence")
    assert np.array_equal(fit(again, X, Y, W, groups).predict(X), predictions)


class _Gaps(ConstantEffect):
    def predict(self, X):
        return np.where(np.arange(len(X)) < 2, np.nan, 1.0)


def test_wrong_input_is_named():
    X, Y, W, groups, _ = make_trial()
    for wrapper in WRAPPERS:
        with pytest.raises(EstimationError, match=f"{wrapper.__name__} needs a FeatureBlocks, found ndarray"):
            fit(wrapper(RidgeR()), X.gather(), Y, W, groups)
        with pytest.raises(EstimationError, match=f"this {wrapper.__name__} is not fitted"):
            wrapper(RidgeR()).predict(X)
        with pytest.raises(EstimationError, match=r"blocks \['image_32'\] are not among those of `X`"):
            fit(wrapper(RidgeR(), sets=[["image_32"]]), X, Y, W, groups)
        with pytest.raises(EstimationError, match="holds an empty set"):
            fit(wrapper(RidgeR(), sets=[[]]), X, Y, W, groups)
        with pytest.raises(EstimationError, match="`W` has 1 values other than 0 and 1"):
            fit(wrapper(RidgeR()), X, Y, np.where(np.arange(len(W)) == 0, 2, W), groups)
        with pytest.raises(EstimationError, match="columns that are not the 10"):
            fit(wrapper(RidgeR()), X, Y, W, groups).predict(take_blocks(X, ["image_16"]))
    for wrapper in (Stack, Select, Residual):
        with pytest.raises(EstimationError, match="_Gaps gave 6 NaN or infinite estimates out of group of 240"):
            fit(wrapper(_Gaps()), X, Y, W, groups)
    gaps = fit(BlockAverage(_Gaps()), X, Y, W, groups)  # a mean needs no number there: evaluation and map count gaps
    np.testing.assert_array_equal(np.isnan(gaps.predict(X)), np.arange(len(Y)) < 2)
    assert np.isnan(gaps.oob().tau_hat).sum() == 6
    with pytest.raises(EstimationError, match="`estimators` is empty"):
        fit(MeanOf([]), X, Y, W, groups)
    with pytest.raises(EoCateError, match="unknown procedure 'median'"):
        make_procedure("median", RidgeR())
    failed = BlockAverage(RidgeR())
    fit(failed, X, Y, W, groups)
    with pytest.raises(EstimationError):
        fit(failed, X, np.full(len(Y), np.nan), W, groups)
