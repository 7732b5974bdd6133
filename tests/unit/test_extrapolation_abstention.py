"""Risk-coverage: the curve by hand, ties, silence, weights."""

import numpy as np
import pytest

from eo_cate.errors import EvaluationError
from eo_cate.extrapolation import risk_coverage
from eo_cate.stats.vcov import mean_variance


def test_by_hand():
    """Uncertainty 1, 2, 3 and infinite: the cells enter in the order c, a, d, b."""
    found = risk_coverage(
        [1.0, 0.0, 2.0, -1.0], [2.0, 5.0, 2.0, 3.0], [4.0, 8.0, 1.0, 2.0], shares=[0.25, 0.5, 0.625, 1]
    )
    np.testing.assert_allclose(found.risk, [1, 2.5, (1 + 4 + 0.5 * 2) / 2.5, 15 / 4])
    np.testing.assert_array_equal(found.uncertainty, [1, 2, 3, np.inf])
    np.testing.assert_allclose(found.best_risk, [1, 1.5, (1 + 2 + 0.5 * 4) / 2.5, 15 / 4])
    assert found.area == pytest.approx(np.mean([1, 5 / 2, 7 / 3, 15 / 4]))
    assert found.best_area == pytest.approx(np.mean([1, 3 / 2, 7 / 3, 15 / 4]))
    assert found.chance_area == 15 / 4
    assert found.share_speakable == 1


def test_another_order_may_be_asked_about():
    """Cells enter c, b, a; d is silent and its place in the order is not looked at."""
    found = risk_coverage(
        [1.0, 2.0, 3.0, np.nan], [1.0] * 4, [5.0, 1.0, 3.0, 0.0], order=[9, 2, 1, np.nan], shares=[0.25, 0.5, 0.75]
    )
    np.testing.assert_allclose(found.risk, [3, 2, 3])
    np.testing.assert_array_equal(found.uncertainty, [1, 2, 9])
    for bad, message in (([1.0], "`order` has shape"), ([np.nan] * 4, "`order` has 3 NaN")):
        with pytest.raises(EvaluationError, match=message):
            risk_coverage([1.0, 2.0, 3.0, np.nan], [1.0] * 4, [5.0, 1.0, 3.0, 0.0], order=bad)


def test_silent_cells_count_in_the_share_and_never_speak():
    found = risk_coverage(
        [1.0, np.nan, 1.0, 1.0], [1.0, 1.0, np.nan, 2.0], [3.0, np.nan, np.inf, 5.0], shares=[0.25, 0.5, 0.75]
    )
    assert found.share_speakable == 0.5
    np.testing.assert_allclose(found.risk, [3, 4, np.nan])
    assert np.isnan(found.best_risk[2])
    assert np.isnan(found.std_err[2])


def test_ties_enter_together_whatever_their_order():
    rng = np.random.default_rng(1)
    tau, width, loss = rng.choice([-2.0, 1.0, 2.0], 60), rng.choice([1.0, 2.0], 60), rng.normal(size=60) ** 2
    order = rng.permutation(60)
    plain, moved = (risk_coverage(tau[o], width[o], loss[o]) for o in (np.arange(60), order))
    for name in ("risk", "std_err", "uncertainty", "best_risk"):
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name), rtol=1e-12)
    assert moved.area == pytest.approx(plain.area, rel=1e-12)
    constant = risk_coverage(np.ones(60), np.ones(60), loss)  # no order at all
    np.testing.assert_allclose(constant.risk, loss.mean(), rtol=1e-12)


def test_weight_two_is_a_cell_twice():
    rng = np.random.default_rng(2)
    tau, width, loss, weights = (
        rng.normal(size=40),
        rng.uniform(size=40),
        rng.normal(size=40) ** 2,
        rng.integers(1, 3, 40),
    )
    twice = np.repeat(np.arange(40), weights)
    weighted = risk_coverage(tau, width, loss, weights=weights, groups=np.arange(40) // 4)
    repeated = risk_coverage(tau[twice], width[twice], loss[twice], groups=twice // 4)
    np.testing.assert_allclose(weighted.risk, repeated.risk, rtol=1e-12)
    np.testing.assert_allclose(weighted.std_err, repeated.std_err, rtol=1e-12)
    assert weighted.area == pytest.approx(repeated.area, rel=1e-12)


def test_std_err_is_clustered():
    rng = np.random.default_rng(3)
    groups = np.arange(80) // 4
    loss = (rng.normal(size=20)[groups] + 0.2 * rng.normal(size=80)) ** 2
    found = risk_coverage(rng.normal(size=80), np.ones(80), loss, groups=groups, shares=[1.0])
    assert found.std_err[0] == pytest.approx(np.sqrt(mean_variance(loss - loss.mean(), np.ones(80), groups)), rel=1e-12)
    one = risk_coverage(np.ones(3), np.ones(3), np.ones(3), groups=[0, 0, 0], shares=[1.0])
    assert np.isnan(one.std_err[0])


def test_speaking_where_the_sign_is_sure_lowers_the_share_of_wrong_signs():
    """Errors of known spread: widths tell where the sign is sure. 4,000 cells, seed 4."""
    rng = np.random.default_rng(4)
    spread, tau = rng.uniform(0.2, 2, 4000), rng.normal(size=4000)
    tau_hat = tau + spread * rng.normal(size=4000)
    found = risk_coverage(tau_hat, 1.64 * spread, (np.sign(tau_hat) != np.sign(tau)).astype(float))
    assert found.risk[4] < 0.35 * found.chance_area  # among the surest quarter
    assert found.best_area < found.area < found.chance_area
    blind = risk_coverage(
        tau_hat, rng.uniform(size=4000) * np.abs(tau_hat), (np.sign(tau_hat) != np.sign(tau)).astype(float)
    )
    assert blind.area == pytest.approx(blind.chance_area, rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": [1.0]}, "`width`"),
        ({"width": [-1.0, 1, 1]}, "negative for 1"),
        ({"loss": [np.nan, 1, 1]}, "`loss` has 1 NaN"),
        ({"loss": [1.0]}, "`loss` has shape"),
        ({"tau_hat": [np.nan] * 3}, "silent everywhere"),
        ({"weights": [1, -1, 1]}, "1 negative"),
        ({"shares": [0.0, 1.0]}, r"in \(0, 1\]"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(EvaluationError, match=message):
        risk_coverage(**({"tau_hat": [1.0, 2.0, 3.0], "width": [1.0] * 3, "loss": [1.0] * 3} | change))
