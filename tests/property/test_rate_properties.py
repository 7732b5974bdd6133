"""What RATE must not depend on, and what it must."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import evaluations

from eo_cate.evaluation import average_treatment_effect, rate

TARGETS = st.sampled_from(["AUTOC", "QINI"])
FEW = {"num_replicates": 20}


@given(evaluations(ties=False), TARGETS)
def test_permuting_rows_changes_nothing(e, target):
    a = rate(e.dr_scores, e.priorities, target=target, sample_weights=e.weights, groups=e.groups, **FEW)
    p = e.rng.permutation(len(e.dr_scores))
    b = rate(e.dr_scores[p], e.priorities[p], target=target, sample_weights=e.weights[p], groups=e.groups[p], **FEW)
    np.testing.assert_allclose(b.estimate, a.estimate, atol=1e-12)
    np.testing.assert_allclose(b.toc, a.toc, atol=1e-12)


@given(evaluations(ties=True), TARGETS)
def test_permuting_tied_rows_of_equal_weight_changes_nothing(e, target):
    a = rate(e.dr_scores, e.priorities, target=target, **FEW)
    p = e.rng.permutation(len(e.dr_scores))
    np.testing.assert_allclose(
        rate(e.dr_scores[p], e.priorities[p], target=target, **FEW).estimate, a.estimate, atol=1e-12
    )


@given(evaluations(ties=True))
def test_qini_ignores_the_order_within_ties_whatever_the_weights(e):
    p = e.rng.permutation(len(e.dr_scores))
    a = rate(e.dr_scores, e.priorities, target="QINI", sample_weights=e.weights, **FEW)
    b = rate(e.dr_scores[p], e.priorities[p], target="QINI", sample_weights=e.weights[p], **FEW)
    np.testing.assert_allclose(b.estimate, a.estimate, atol=1e-12)


@given(evaluations())
def test_weight_two_is_a_row_twice_for_toc_and_ate(e):
    doubled = e.rng.random(len(e.dr_scores)) < 0.4
    weights = np.where(doubled, 2.0, 1.0)
    rows = np.repeat(np.arange(len(weights)), weights.astype(int))
    q = [0.07, 0.25, 0.5, 0.9, 1.0]
    a = rate(e.dr_scores, e.priorities, q=q, sample_weights=weights, groups=e.groups, **FEW)
    b = rate(e.dr_scores[rows], e.priorities[rows], q=q, groups=e.groups[rows], **FEW)
    np.testing.assert_allclose(a.toc, b.toc, atol=1e-12)
    W = (e.rng.random(len(weights)) < 0.5).astype(float)
    hats = {"Y_hat": e.dr_scores * 0.3, "tau_hat": e.priorities * 0.1}
    once = average_treatment_effect(e.dr_scores, W, propensity=0.4, **hats, sample_weights=weights, groups=e.groups)
    twice = average_treatment_effect(
        e.dr_scores[rows], W[rows], propensity=0.4, **{k: v[rows] for k, v in hats.items()}, groups=e.groups[rows]
    )
    assert (once.estimate, once.std_err) == pytest.approx((twice.estimate, twice.std_err), abs=1e-11)


def test_weight_two_is_not_a_row_twice_for_sums_at_unit_ranks():
    scores, ranks = np.array([3.0, -1.0, 0.5]), np.array([3.0, 2.0, 1.0])
    rows = [0, 1, 1, 2]
    for target in ("AUTOC", "QINI"):
        a = rate(scores, ranks, target=target, sample_weights=[1.0, 2.0, 1.0]).estimate[0]
        b = rate(scores[rows], ranks[rows], target=target).estimate[0]
        assert abs(a - b) > 1e-3


@given(evaluations(), TARGETS, st.sampled_from([np.exp, np.cbrt, lambda x: 1e6 * x - 3]))
def test_monotone_rescaling_changes_nothing(e, target, rescale):
    a = rate(e.dr_scores, e.priorities, target=target, sample_weights=e.weights, groups=e.groups, **FEW)
    b = rate(e.dr_scores, rescale(e.priorities), target=target, sample_weights=e.weights, groups=e.groups, **FEW)
    np.testing.assert_array_equal(a.estimate, b.estimate)
    np.testing.assert_array_equal(a.toc_std_err, b.toc_std_err)


@given(evaluations(), TARGETS)
def test_relabelled_groups_change_nothing(e, target):
    labels = np.array([f"village {9 * g % 31}" for g in range(12)])
    a = rate(e.dr_scores, e.priorities, target=target, groups=e.groups, **FEW)
    b = rate(e.dr_scores, e.priorities, target=target, groups=labels[e.groups], **FEW)
    np.testing.assert_array_equal(a.std_err, b.std_err)
    np.testing.assert_array_equal(a.estimate, b.estimate)


@given(evaluations(), TARGETS, st.floats(-1e3, 1e3))
def test_a_constant_added_to_scores_changes_nothing(e, target, shift):
    a = rate(e.dr_scores, e.priorities, target=target, sample_weights=e.weights, groups=e.groups, **FEW)
    b = rate(e.dr_scores + shift, e.priorities, target=target, sample_weights=e.weights, groups=e.groups, **FEW)
    np.testing.assert_allclose(b.estimate, a.estimate, atol=1e-10)
    np.testing.assert_allclose(b.std_err, a.std_err, atol=1e-10)


@given(evaluations(), TARGETS)
def test_one_distinct_priority_is_zero(e, target):
    constant = np.full(len(e.dr_scores), 7.1)
    result = rate(e.dr_scores * 1e6, constant, target=target, sample_weights=e.weights, groups=e.groups, **FEW)
    assert result.estimate[0] == 0.0
    assert result.std_err[0] == 0.0
    assert not result.toc.any()


@settings(max_examples=25)
@given(evaluations(), TARGETS)
def test_difference_is_on_the_same_half_samples(e, target):
    """A ranking minus itself has no error; with different half-samples it would."""
    both = np.column_stack([e.priorities, e.priorities])
    result = rate(e.dr_scores, both, target=target, groups=e.groups, **FEW)
    assert result.std_err[2] == 0.0
    assert result.estimate[2] == 0.0


@pytest.mark.parametrize("n", [500, 2_000, 20_000])
def test_closed_form_of_exponential_effects(n):
    """tau ~ Exp(1), perfect ranking: AUTOC 1, QINI .25, up to a bias of about log(n)/n and Monte-Carlo error.

    The influence function of AUTOC has sd about 1.5, so 60 repetitions have a standard error of 1.5/sqrt(60 n): four
    of them, plus 2 log(n)/n.
    """
    rng = np.random.default_rng(11)
    draws = rng.exponential(size=(60, n))
    results = {
        t: np.mean([rate(d, d, target=t, num_replicates=2).estimate[0] for d in draws]) for t in ("AUTOC", "QINI")
    }
    tolerance = 4 * 1.5 / np.sqrt(60 * n) + 2 * np.log(n) / n
    assert results["AUTOC"] == pytest.approx(1, abs=tolerance)
    assert results["QINI"] == pytest.approx(0.25, abs=tolerance)
