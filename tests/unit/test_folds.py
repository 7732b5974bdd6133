"""Folds keep groups, pairs and small strata whole, and both arms in each."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import designs

from eo_cate.errors import EvaluationError
from eo_cate.evaluation import plan_folds
from eo_cate.stats.folds import choose_num_folds, group_folds


@settings(max_examples=150, deadline=None)
@given(designs(), st.integers(2, 5), st.integers(0, 10_000))
def test_no_group_is_split_and_each_fold_has_both_arms(design, num_folds, seed):
    folds = group_folds(design.groups, W=design.W, strata=design.strata, num_folds=num_folds, seed=seed)
    for group in np.unique(design.groups):
        assert len(np.unique(folds[design.groups == group])) == 1
    assert set(folds) == set(range(num_folds))
    for k in range(num_folds):
        assert set(design.W[folds == k]) == {0.0, 1.0}
    if design.level == "pairs":
        for pair in np.unique(design.strata):
            assert len(np.unique(folds[design.strata == pair])) == 1
    counts = np.array([len(np.unique(design.groups[folds == k])) for k in range(num_folds)])
    # Evenly: up to one group, one pair, or (majority strata of up to 9 groups) one such stratum.
    assert np.ptp(counts) <= {"none": 1, "quadrants": 1, "pairs": 2, "straddling": 9}[design.level]


def test_large_strata_are_spread_by_arm():
    groups = np.arange(200)
    strata, W = groups // 100, (groups % 2).astype(float)
    folds = group_folds(groups, W=W, strata=strata, num_folds=5, seed=0)
    for k in range(5):
        for stratum in (0, 1):
            for arm in (0, 1):
                assert ((folds == k) & (strata == stratum) & (arm == W)).sum() == 10


def test_strata_of_nine_stay_whole_and_of_ten_are_spread():
    strata = np.repeat(np.arange(16), [9] * 8 + [10] * 8)
    groups = np.arange(len(strata))
    folds = group_folds(groups, W=groups % 2, strata=strata, num_folds=5, seed=2)
    spread = [len(np.unique(folds[strata == s])) for s in range(16)]
    assert spread == [1] * 8 + [5] * 8


def test_relabelling_changes_nothing_and_the_seed_does():
    groups = np.repeat(np.arange(50), 3)
    W = (groups % 2).astype(float)
    names = np.array([f"v{(7 * g) % 50}" for g in groups])
    a = group_folds(groups, W=W, seed=[3, 1])
    np.testing.assert_array_equal(a, group_folds(names, W=W, seed=[3, 1]))
    assert (a != group_folds(groups, W=W, seed=[3, 2])).any()


def test_few_groups_follow_the_rules():
    assert choose_num_folds(60) == 5
    assert choose_num_folds(59) == 3
    assert choose_num_folds(40) == 3
    assert choose_num_folds(119, 10) == 3
    with pytest.raises(EvaluationError, match="39 groups are too few clusters for an interval"):
        choose_num_folds(39)


def test_arms_that_cannot_be_spread_are_refused():
    groups = np.arange(60)
    with pytest.raises(EvaluationError, match="3 of 60 groups have treated units, 57 have controls"):
        group_folds(groups, W=(groups < 3).astype(float), num_folds=5, seed=0)
    with pytest.raises(EvaluationError, match="`num_folds` is 61"):
        group_folds(groups, W=groups % 2, num_folds=61, seed=0)
    with pytest.raises(EvaluationError, match="`strata` has shape"):
        group_folds(groups, W=groups % 2, strata=groups[1:], seed=0)


@settings(max_examples=20, deadline=None)
@given(designs(), st.integers(0, 1000))
def test_plan_trains_on_earlier_folds_only(design, seed):
    tasks = plan_folds(design.groups, W=design.W, strata=design.strata, num_orders=2, seed=seed)
    for task in tasks:
        assert not np.intersect1d(design.groups[task.train], design.groups[task.test]).size
    for order in (0, 1):
        own = [task for task in tasks if task.order == order]
        for before, after in pairwise(own):
            np.testing.assert_array_equal(np.union1d(before.train, before.test), after.train)
        assert len(own[-1].train) + len(own[-1].test) == len(design.groups)
    assert len({task.seed for task in tasks}) == len(tasks)


def test_a_stratum_of_one_group_is_refused():
    groups, strata = np.repeat(np.arange(12), 2), np.repeat([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], 2)
    with pytest.raises(EvaluationError, match="1 of 2 strata hold a single group, all of it in one arm"):
        group_folds(groups, W=np.arange(24) // 2 % 2, strata=strata, num_folds=3, seed=0)
