"""Value of treating the best share: TOC in other units, unbiased, refuses leaks."""

import numpy as np
import pytest

from eo_cate.errors import EvaluationError, LeakageError
from eo_cate.evaluation import Priorities, average_treatment_effect, rate
from eo_cate.evaluation.policy import policy_value

RNG = np.random.default_rng(6)
N = 120
GROUPS = np.arange(N) // 4
RANKS = np.round(RNG.normal(size=N), 1)
SCORES = RANKS + RNG.normal(size=N)
WEIGHTS = RNG.uniform(0.2, 2, N)
Q = [0.1, 0.25, 0.37, 1.0]


def test_gain_over_random_is_q_toc_with_its_std_err():
    """RATE is checked against grf: the same ties, fractions, weights and half-samples."""
    arguments = {"q": Q, "sample_weights": WEIGHTS, "groups": GROUPS, "seed": 3}
    found, expected = policy_value(SCORES, RANKS, **arguments), rate(SCORES, RANKS, **arguments)
    np.testing.assert_allclose(found.over_random, found.q * expected.toc[0], atol=1e-12, rtol=0)
    np.testing.assert_allclose(found.over_random_std_err, found.q * expected.toc_std_err[0], atol=1e-12, rtol=0)


def test_value_by_hand():
    """Best first: scores 4, 2, 0, -2; costs 1. Half: (3 + 1) / 4; all: 0; 3/8 of 4 units: 1.5 of them."""
    result = policy_value([0.0, 4, -2, 2], [2.0, 9, 1, 5], q=[0.5, 0.375, 1], cost=1.0)
    assert result.value == pytest.approx([1.0, 3.5 / 4, 0.0])
    assert result.over_random == pytest.approx([1.0, 3.5 / 4, 0.0])
    assert result.over_all == pytest.approx([1.0, 3.5 / 4, 0.0])
    dearer = policy_value([0.0, 4, -2, 2], [2.0, 9, 1, 5], q=0.5, cost=[1, 1, 1, 3.0])
    assert dearer.value == pytest.approx([(3 - 1) / 4])


def test_ties_are_treated_in_equal_parts():
    result = policy_value([3.0, 1, 5, 7], [1.0, 1, 1, 0], q=0.25)
    assert result.value == pytest.approx([0.75])


def test_cost_moves_value_and_not_the_gain_over_random():
    free, dear = (policy_value(SCORES, RANKS, q=Q, cost=c, groups=GROUPS) for c in (0.0, 0.7))
    np.testing.assert_allclose(dear.value, free.value - 0.7 * free.q, atol=1e-12)
    np.testing.assert_allclose(dear.over_random, free.over_random, atol=1e-12)
    np.testing.assert_allclose(dear.over_all, free.over_all + 0.7 * (1 - free.q), atol=1e-12)
    np.testing.assert_allclose(dear.value_std_err, free.value_std_err, atol=1e-12)
    assert (dear.over_all[-1], dear.over_all_std_err[-1], dear.over_random_std_err[-1]) == (0, 0, 0)


def test_treating_everybody_is_the_average_effect():
    """Half-samples against the linear variance at q = 1: 4,000 draws, 1.1 %, and G = 30; 5 %."""
    result = policy_value(SCORES, RANKS, q=1.0, sample_weights=WEIGHTS, groups=GROUPS, num_replicates=4000)
    W = (np.arange(N) % 2).astype(float)
    ate = average_treatment_effect(
        W * SCORES, W, propensity=0.5, Y_hat=SCORES / 2, tau_hat=SCORES, sample_weights=WEIGHTS, groups=GROUPS
    )
    assert result.value[0] == pytest.approx(ate.estimate, rel=1e-12)
    assert result.value_std_err[0] == pytest.approx(ate.std_err, rel=0.05)


def test_value_is_unbiased_and_its_std_err_is_right():
    """600 trials of 60 groups: means within 3 Monte-Carlo errors, standard errors within 12 % of the spread.

    tau = s + 1/2 with s standard normal: the best share q is worth q / 2 + phi(z), z the upper q quantile.
    """
    rng, found = np.random.default_rng(12), []
    for _ in range(600):
        codes = np.repeat(np.arange(60), rng.integers(5, 11, 60))
        s = rng.normal(size=60)[codes] * 0.6 + rng.normal(size=len(codes)) * 0.8
        scores = s + 0.5 + 0.5 * rng.normal(size=60)[codes] + 2 * rng.normal(size=len(codes))
        result = policy_value(scores, s, q=[0.2, 0.5], cost=0.25, groups=codes, num_replicates=100)
        found.append([result.value, result.over_all, result.value_std_err, result.over_all_std_err])
    value, over_all, value_se, over_all_se = np.array(found).transpose(1, 0, 2)
    q, z = np.array([0.2, 0.5]), np.array([0.8416212335729143, 0.0])
    truth = 0.25 * q + np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    for draws, expected, std_err in ((value, truth, value_se), (over_all, truth - 0.25, over_all_se)):
        assert (np.abs(draws.mean(axis=0) - expected) < 3 * draws.std(axis=0) / np.sqrt(600)).all()
        np.testing.assert_allclose(std_err.mean(axis=0), draws.std(axis=0), rtol=0.12)


def test_priorities_that_saw_the_groups_are_refused():
    with pytest.raises(LeakageError, match="trained on 2 of the 30 groups"):
        policy_value(SCORES, Priorities(RANKS, np.array([3, 4, 77])), q=0.2, groups=GROUPS)
    fresh = policy_value(SCORES, Priorities(RANKS, np.array([77])), q=0.2, groups=GROUPS)
    assert fresh.value == policy_value(SCORES, RANKS, q=0.2, groups=GROUPS).value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dr_scores": np.full(N, np.nan)}, "`dr_scores` has 120 NaN"),
        ({"priorities": RANKS[1:]}, "`priorities` has 119 rows"),
        ({"priorities": np.zeros((N, 2))}, r"shape \(120, 2\): one ranking"),
        ({"q": [0.0, 0.5]}, r"`q` has 1 of 2 values outside \(0, 1\]"),
        ({"q": 1.2}, r"`q` has 1 of 1"),
        ({"cost": np.ones(3)}, "`cost` has 3 rows"),
        ({"cost": np.nan}, "`cost` has 120 NaN"),
        ({"groups": np.zeros(N, int)}, r"1 group\(s\)"),
        ({"num_replicates": 1}, "`num_replicates` is 1"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(EvaluationError, match=message):
        policy_value(**{"dr_scores": SCORES, "priorities": RANKS, "q": 0.2} | change)
