"""Isotonic calibration: other groups only, order kept, errors honest."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from eo_cate.errors import EvaluationError
from eo_cate.evaluation.isotonic import calibrate_isotonic


def simulate(seed, distort, noise=1.5, G=150, size=10):
    """Scores of groups whose effect is distort(tau_hat), and a group error that nothing predicts."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(G), size)
    tau_hat = 0.5 * rng.normal(size=G)[groups]
    scores = distort(tau_hat) + 0.3 * rng.normal(size=G)[groups] + noise * rng.normal(size=G * size)
    return scores, tau_hat, groups


def test_each_group_is_calibrated_by_the_others():
    """Whatever a group's own scores are, its calibrated effects stay the same: the mistake to fear most."""
    scores, tau_hat, groups = simulate(1, lambda t: 2 * t)
    before = calibrate_isotonic(scores, tau_hat, groups=groups)
    own = before.fold == before.fold[0]
    changed = calibrate_isotonic(np.where(own, scores + 1000, scores), tau_hat, groups=groups)
    np.testing.assert_array_equal(before.fold, changed.fold)
    np.testing.assert_array_equal(before.tau_hat[own], changed.tau_hat[own])
    assert (before.tau_hat[~own] != changed.tau_hat[~own]).any()
    assert all(len(set(before.fold[groups == g])) == 1 for g in range(150))


def test_calibration_is_scikit_learns_isotonic_regression():
    scores, tau_hat, groups = simulate(2, lambda t: 2 * t)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(scores))
    result = calibrate_isotonic(scores, tau_hat, groups=groups, sample_weights=weights, num_folds=4, seed=9)
    for fold in range(4):
        train = result.fold != fold
        model = IsotonicRegression(out_of_bounds="clip").fit(
            tau_hat[train], scores[train], sample_weight=weights[train]
        )
        np.testing.assert_allclose(result.tau_hat[~train], model.predict(tau_hat[~train]), rtol=1e-12)
        assert (np.diff(result.tau_hat[~train][np.argsort(tau_hat[~train])]) >= 0).all()


def test_error_before_is_the_fall_in_dr_risk():
    scores, tau_hat, groups = simulate(3, lambda t: 0.5 * t)
    result = calibrate_isotonic(scores, tau_hat, groups=groups)
    fall = (scores - tau_hat) ** 2 - (scores - result.tau_hat) ** 2
    assert result.error_before == pytest.approx(fall.mean(), rel=1e-9)
    totals = np.bincount(groups, weights=fall - fall.mean())
    assert result.std_err_before == pytest.approx(np.sqrt(np.sum(totals**2) * 150 / 149) / len(fall), rel=1e-9)


def test_error_after_is_nested():
    """The definition, fold by fold: nothing it is judged by has seen its scores, nor two other folds each other."""
    scores, tau_hat, groups = simulate(5, lambda t: 0.3 * t, G=20, size=4)

    def learn(train, x):
        return IsotonicRegression(out_of_bounds="clip").fit(x[train], scores[train])

    result = calibrate_isotonic(scores, tau_hat, groups=groups, num_folds=3)
    terms = np.empty(len(scores))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        here, inner = result.fold == i, np.empty(len(scores))
        inner[result.fold == j] = learn(result.fold == k, tau_hat).predict(tau_hat[result.fold == j])
        inner[result.fold == k] = learn(result.fold == j, tau_hat).predict(tau_hat[result.fold == k])
        t = result.tau_hat[here]
        c = learn(~here, inner).predict(t)
        terms[here] = (scores[here] - t) ** 2 - (scores[here] - c) ** 2
    assert result.error_after == pytest.approx(terms.mean(), rel=1e-9)


@pytest.mark.parametrize(
    ("distort", "truth"),
    [(lambda t: t, 0.0), (lambda t: t + 0.5, 0.25), (lambda t: 2 * t, 0.25), (lambda t: 0 * t, 0.25)],
    ids=["right", "shifted", "too narrow", "noise"],
)
def test_errors_are_understated_never_invented(distort, truth):
    """Mean over 40 draws; standard error about .01. Understated by the recalibration's own error, below .06 here."""
    draws = [simulate(seed, distort) for seed in range(40)]
    results = [calibrate_isotonic(scores, tau_hat, groups=groups) for scores, tau_hat, groups in draws]
    before = np.mean([result.error_before for result in results])
    after = np.mean([result.error_after for result in results])
    assert truth - 0.08 < before < truth + 0.03
    assert -0.06 < after < 0.03


def test_error_after_does_not_reward_memory():
    """Pure noise, 30 groups: judged on the scores that it was fitted to, a calibrator has the error 0 exactly."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        groups = np.repeat(np.arange(30), 5)
        tau_hat, scores = rng.normal(size=30)[groups], rng.normal(size=30)[groups] + rng.normal(size=150)
        result = calibrate_isotonic(scores, tau_hat, groups=groups, num_folds=5)
        # The truth is E[Gamma | t] = 0: the calibrated effects' squared error is their mean square.
        found.append((np.mean(result.tau_hat**2), result.error_after, result.error_before))
    truth, after, before = np.mean(found, axis=0)
    # 200 other draws: .22, .10, .78; Monte-Carlo error of 60: .02, .02, .07.
    assert truth > 0.12
    assert 0.03 < after < truth
    assert before == pytest.approx(1.0, abs=0.35)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dr_scores": [np.nan] * 8}, "`dr_scores` has 8 NaN"),
        ({"tau_hat": np.arange(7.0)}, "`tau_hat` has 7 rows, but there are 8"),
        ({"groups": [1] * 8}, r"1 group\(s\)"),
        ({"num_folds": 5}, "`num_folds` is 5 for 4 groups: choose 3 to 4"),
        ({"num_folds": 2}, "`num_folds` is 2 for 4 groups"),
        ({"sample_weights": [0, 0, 1, 1, 1, 1, 1, 1]}, r"all zero in 1 group"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"dr_scores": np.arange(8.0), "tau_hat": np.arange(8.0), "groups": np.arange(8) // 2, "num_folds": 3}
    with pytest.raises(EvaluationError, match=message):
        calibrate_isotonic(**arguments | change)
