"""Paired differences of RATE: the same numbers as two rates apart, and a choice that never sees the test folds."""

import numpy as np
import pytest

from eo_cate.errors import EvaluationError, LeakageError
from eo_cate.estimators import RidgeR
from eo_cate.evaluation import (
    Priorities,
    plan_folds,
    pool_contrast,
    pool_folds,
    pool_gain,
    pool_over_mean,
    rank_fold,
    rate_gain,
    score_fold,
)
from eo_cate.evaluation.fold_steps import FoldRank
from eo_cate.simulation.clustered import ClusteredDesign, draw_clustered


def _prepare(trial, num_orders=3):
    design = {"propensity": trial.propensity, "groups": trial.village}
    tasks = plan_folds(trial.village, W=trial.W, num_orders=num_orders, seed=1)
    scores = [score_fold(t, trial.everything(), trial.Y, trial.W, **design) for t in tasks]

    def rank(X):
        pairs = zip(tasks, scores, strict=True)
        return [rank_fold(RidgeR(), X, trial.W, task=t, scores=s, **design) for t, s in pairs]

    return tasks, scores, rank


@pytest.fixture(scope="module")
def trial():
    return draw_clustered(
        ClusteredDesign(villages=80, households=5, scales=2, effects="one_scale", effect_sd=0.8), seed=3
    )


@pytest.fixture(scope="module")
def prepared(trial):
    return _prepare(trial)


def test_a_contrast_is_the_difference_of_the_pooled_rates(trial, prepared):
    tasks, scores, rank = prepared
    one, two = ([r.priorities for r in rank(trial.blocks(name))] for name in trial.scales)
    found = pool_contrast(tasks, scores, one, two, groups=trial.village)
    first, second = (pool_folds(tasks, scores, p, groups=trial.village) for p in (one, two))
    differences = first.order_estimates - second.order_estimates
    assert np.abs(differences - found.estimate).min() < 1e-12
    assert found.first - found.second == pytest.approx(found.estimate, abs=1e-12)
    assert found.interval[0] < found.estimate < found.interval[1]
    # Below 100 groups no standard error falls short of the null one; equal rankings differ by exactly nothing.
    same = pool_contrast(tasks, scores, one, one, groups=trial.village)
    assert (same.estimate, same.std_err, same.ratio, same.p) == (0, 0, 0, 1)


def test_the_single_scale_is_chosen_by_training_risk_alone(trial, prepared):
    tasks, scores, rank = prepared
    names = list(trial.scales)
    multi, singles = rank(trial.everything()), {name: rank(trial.blocks(name)) for name in names}
    found = pool_gain(tasks, scores, multi, singles, groups=trial.village)
    assert sum(found.chosen.values()) == pytest.approx(1)
    # The effect is of the first scale and large: its risk is the least in nearly every fold.
    assert found.chosen[names[0]] > 0.7
    forced = {n: [FoldRank(r.priorities, float(n != names[1])) for r in ranks] for n, ranks in singles.items()}
    other = pool_gain(tasks, scores, multi, forced, groups=trial.village)
    assert other.chosen == {names[0]: 0.0, names[1]: 1.0}
    assert other.contrast.second != found.contrast.second


def test_rate_gain_is_the_same_from_plain_arrays(trial, prepared):
    tasks, scores, rank = prepared
    singles = {name: trial.blocks(name) for name in trial.scales}
    expected = pool_gain(
        tasks, scores, rank(trial.everything()), {n: rank(X) for n, X in singles.items()}, groups=trial.village
    )
    found = rate_gain(
        RidgeR(), trial.everything(), singles, trial.Y, trial.W,
        propensity=trial.propensity, groups=trial.village, num_orders=3, seed=1,
    )  # fmt: skip
    assert found.contrast == expected.contrast


def test_training_risk_without_oob_is_cross_fitted_by_group(trial):
    class Plain:
        def fit(self, X, Y, W, **options):
            self.inner = RidgeR().fit(X, Y, W, **options)
            self.groups = set(options["groups"].tolist())
            return self

        def predict(self, X):
            return self.inner.predict(X)

    design = {"propensity": trial.propensity, "groups": trial.village}
    task = plan_folds(trial.village, W=trial.W, num_orders=1, seed=1)[-1]
    fold = score_fold(task, trial.everything(), trial.Y, trial.W, **design)
    X = trial.blocks("image_16")
    plain, ridge = (rank_fold(e, X, trial.W, task=task, scores=fold, **design) for e in (Plain(), RidgeR()))
    np.testing.assert_array_equal(plain.priorities.values, ridge.priorities.values)
    # Thirds of the training groups against leave-one-out: the same risk to a few per cent, never the in-sample one.
    assert plain.r_risk == pytest.approx(ridge.r_risk, rel=0.05)
    fitted = RidgeR().fit(X.take(task.train), fold.Y_residual, trial.W[task.train], propensity=0.5)
    inside = np.mean((fold.Y_residual - (trial.W[task.train] - 0.5) * fitted.predict(X.take(task.train))) ** 2)
    assert inside < min(plain.r_risk, ridge.r_risk)


def test_bad_input_is_named(trial, prepared):
    tasks, scores, rank = prepared
    ranks = rank(trial.blocks("image_16"))
    priorities = [r.priorities for r in ranks]
    with pytest.raises(EvaluationError, match="`singles` is empty"):
        pool_gain(tasks, scores, ranks, {}, groups=trial.village)
    with pytest.raises(EvaluationError, match="long"):
        pool_contrast(tasks, scores, priorities, priorities[1:], groups=trial.village)
    leaking = [Priorities(p.values, np.unique(trial.village)) for p in priorities]
    with pytest.raises(LeakageError):
        pool_contrast(tasks, scores, priorities, leaking, groups=trial.village)


def test_a_ranking_against_the_mean_of_others_is_linear_in_them(trial, prepared):
    tasks, scores, rank = prepared
    one, two = ([r.priorities for r in rank(trial.blocks(name))] for name in trial.scales)
    design = {"groups": trial.village}
    pair = pool_contrast(tasks, scores, one, two, **design)
    assert pool_over_mean(tasks, scores, one, [two], **design) == pair
    assert pool_over_mean(tasks, scores, one, [two, two, two], **design).estimate == pytest.approx(pair.estimate)
    half = pool_over_mean(tasks, scores, one, [one, two], **design)
    assert half.estimate == pytest.approx(pair.estimate / 2)
    assert half.std_err == pytest.approx(pair.std_err / 2)
    with pytest.raises(EvaluationError, match="`others` is empty"):
        pool_over_mean(tasks, scores, one, [], **design)
