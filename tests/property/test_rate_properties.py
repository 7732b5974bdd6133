"""What RATE must not depend on, and what it must."""

import numpy as np
import pytest
from helpers_rate import reference_rate
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import designs, evaluations

from eo_cate.errors import LeakageError
from eo_cate.evaluation import Priorities, average_treatment_effect, plan_folds, rate

TARGETS = st.sampled_from(["AUTOC", "QINI"])
FEW = {"num_replicates": 20}


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """The first call on a machine compiles for some seconds: outside hypothesis' deadline."""
    rate([1.0, 0.0], [1.0, 0.0], **FEW)


@settings(max_examples=200)
@given(evaluations(), TARGETS, st.sampled_from(["none", "ones", "weights", "some zero"]), st.booleans(), st.data())
def test_kernel_equals_the_numpy_reference(e, target, weighting, grouped, data):
    """Ties, weights within and between groups, units of weight 0 (also first in rank), shares between units."""
    q = [*data.draw(st.lists(st.floats(1e-3, 1), min_size=1, max_size=6)), 1.0, 0.5]
    weights = {"none": None, "ones": np.ones(len(e.dr_scores)), "weights": e.weights}.get(weighting, e.weights.copy())
    if weighting == "some zero":
        weights[e.rng.random(len(weights)) < 0.5] = 0.0
        weights[np.unique(e.groups if grouped else np.arange(len(weights)), return_index=True)[1]] = 0.7
    arguments = {"target": target, "q": q, "sample_weights": weights, "groups": e.groups if grouped else None}
    seed, replicates = data.draw(st.integers(0, 99)), data.draw(st.integers(2, 20))
    result = rate(e.dr_scores, e.priorities, num_replicates=replicates, seed=seed, **arguments)
    expected = reference_rate(e.dr_scores, e.priorities, num_replicates=replicates, seed=seed, **arguments)
    found = (result.estimate[0], result.std_err[0], result.toc[0], result.toc_std_err[0])
    for ours, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-12, rtol=0)


@given(evaluations(ties=False), TARGETS)
def test_permuting_rows_changes_nothing(e, target):
    a = rate(e.dr_scores, e.priorities, target=target, sample_weights=e.weights, groups=e.groups, **FEW)
    p = e.rng.permutation(len(e.dr_scores))
    b = rate(e.dr_scores[p], e.priorities[p], target=target, sample_weights=e.weights[p], groups=e.groups[p], **FEW)
    np.testing.assert_allclose(b.estimate, a.estimate, atol=1e-12)
    np.testing.assert_allclose(b.toc, a.toc, atol=1e-12)


@given(evaluations(ties=True), TARGETS)
def test_permuting_tied_rows_of_equal_weight_changes_nothing(e, target):
    weights = 1 + e.priorities**2
    p = e.rng.permutation(len(e.dr_scores))
    a = rate(e.dr_scores, e.priorities, target=target, sample_weights=weights, **FEW)
    b = rate(e.dr_scores[p], e.priorities[p], target=target, sample_weights=weights[p], **FEW)
    np.testing.assert_allclose(b.estimate, a.estimate, atol=1e-12)
    np.testing.assert_allclose(b.toc, a.toc, atol=1e-12)


@given(evaluations(ties=True))
def test_qini_ignores_the_order_within_ties_whatever_the_weights(e):
    p = e.rng.permutation(len(e.dr_scores))
    a = rate(e.dr_scores, e.priorities, target="QINI", sample_weights=e.weights, **FEW)
    b = rate(e.dr_scores[p], e.priorities[p], target="QINI", sample_weights=e.weights[p], **FEW)
    np.testing.assert_allclose(b.estimate, a.estimate, atol=1e-12)


def test_autoc_follows_the_input_order_within_ties_of_unequal_weights():
    """METHODS.md, section 2: a stable sort, as grf. TOC falls through the tie, and weight 3 may sit high or low in it."""
    scores, ranks, weights = np.array([1.0, 2.0, -1.0]), np.array([1.0, 0.0, 0.0]), np.array([1.0, 3.0, 2.0])
    swapped = [0, 2, 1]
    a = rate(scores, ranks, sample_weights=weights, **FEW)
    b = rate(scores[swapped], ranks[swapped], sample_weights=weights[swapped], **FEW)
    assert abs(a.estimate[0] - b.estimate[0]) > 1e-3
    np.testing.assert_allclose(a.toc, b.toc, atol=1e-12)


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


@settings(deadline=None, max_examples=40)
@given(designs(), st.integers(0, 1000))
def test_folds_never_split_a_group_and_rate_would_say_so(design, seed):
    """Rules of earlier folds may be judged on a fold; with one of its own groups among them RATE refuses."""
    scores = np.random.default_rng(seed).normal(size=len(design.groups))
    for task in plan_folds(design.groups, W=design.W, strata=design.strata, num_orders=1, seed=seed):
        groups, train = design.groups[task.test], design.groups[task.train]
        ranks = scores[task.test]
        assert np.isfinite(rate(scores[task.test], Priorities(ranks, train), groups=groups, **FEW).estimate).all()
        with pytest.raises(LeakageError, match="trained on 1 of"):
            rate(scores[task.test], Priorities(ranks, np.append(train, groups[0])), groups=groups, **FEW)


@pytest.mark.parametrize("n", [100, 500, 2_000, 20_000])
def test_closed_form_of_exponential_effects(n):
    """tau ~ Exp(1), perfect ranking: AUTOC -> 1, QINI -> .25; docs/rate.md tables the bias.

    Exactly, E[AUTOC] = 1 - (1 + 1/2 + ... + 1/n) / n and E[QINI] = (n - 1) / (4 n): the mean of the k largest of n
    exponentials exceeds their mean by 1/(k+1) + ... + 1/n. The sd is about 1.4 / sqrt(n) (AUTOC) and .3 / sqrt(n)
    (QINI); 60 repetitions, four standard errors.
    """
    draws = np.random.default_rng(11).exponential(size=(60, n))
    exact = {"AUTOC": 1 - np.sum(1 / np.arange(1, n + 1)) / n, "QINI": (n - 1) / (4 * n)}
    for target, spread in (("AUTOC", 1.4), ("QINI", 0.3)):
        found = np.mean([rate(d, d, target=target, num_replicates=2).estimate[0] for d in draws])
        assert found == pytest.approx(exact[target], abs=4 * spread / np.sqrt(60 * n))
