"""RATE refuses what it cannot judge."""

import sys
import time

import numpy as np
import pytest

from eo_cate.errors import EvaluationError, LeakageError
from eo_cate.evaluation import Priorities, average_treatment_effect, doubly_robust_scores, rate
from eo_cate.stats.half_samples import draw_half_samples

N = 12
RNG = np.random.default_rng(0)
SCORES, RANKS, GROUPS = RNG.normal(size=N), RNG.normal(size=N), np.arange(N) // 2


def replaced(values, value, rows=(3,)):
    changed = np.array(values, dtype=float)
    changed[list(rows)] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dr_scores": replaced(SCORES, np.nan, (1, 2))}, r"`dr_scores` has 2 NaN"),
        ({"priorities": replaced(RANKS, np.inf)}, r"`priorities` has 1 NaN or infinite"),
        ({"priorities": RANKS[:-1]}, r"`priorities` has 11 rows, but there are 12"),
        ({"priorities": RNG.normal(size=(N, 3))}, r"shape \(12, 3\)"),
        ({"sample_weights": replaced(np.ones(N), -1)}, r"1 negative"),
        ({"sample_weights": np.ones(5)}, r"`sample_weights` has 5 rows"),
        ({"sample_weights": replaced(np.ones(N), 0, (0, 1, 4, 5))}, r"all zero in 2 group"),
        ({"groups": np.zeros(N, int)}, r"1 group\(s\)"),
        ({"groups": GROUPS.astype(float)}, r"given as float64"),
        ({"groups": GROUPS[1:]}, r"`groups` has shape \(11,\)"),
        ({"q": [0.0, 0.5]}, r"`q` has 1 of 2"),
        ({"q": [1.1]}, r"`q` has 1 of 1"),
        ({"q": []}, r"`q` has 0 of 0"),
        ({"num_replicates": 1}, r"`num_replicates` is 1"),
        ({"target": "autoc"}, r"choose one of"),
    ],
)
def test_bad_input_is_named_and_counted(change, message):
    arguments = {"dr_scores": SCORES, "priorities": RANKS, "groups": GROUPS} | change
    with pytest.raises(EvaluationError, match=message):
        rate(arguments.pop("dr_scores"), arguments.pop("priorities"), **arguments)


def test_priorities_that_saw_the_groups_are_refused():
    with pytest.raises(LeakageError, match="trained on 2 of the 6 groups"):
        rate(SCORES, Priorities(RANKS, np.array([4, 5, 6, 7])), groups=GROUPS)


def test_priorities_of_other_groups_give_the_plain_figure():
    a = rate(SCORES, Priorities(RANKS, np.array([6, 7])), groups=GROUPS)
    b = rate(SCORES, RANKS, groups=GROUPS)
    assert a.estimate == b.estimate
    assert a.std_err == b.std_err


def test_priorities_without_groups_cannot_be_checked():
    with pytest.raises(EvaluationError, match="`groups` is absent"):
        rate(SCORES, Priorities(RANKS, np.array([4])))


def test_labels_of_another_kind_do_not_hide_leakage():
    with pytest.raises(EvaluationError, match="same labels"):
        rate(SCORES, Priorities(RANKS, np.array(["4", "5"])), groups=GROUPS)


def test_seed_decides():
    assert rate(SCORES, RANKS, seed=1).std_err == rate(SCORES, RANKS, seed=1).std_err
    assert rate(SCORES, RANKS, seed=1).std_err != rate(SCORES, RANKS, seed=2).std_err


def test_half_samples_hold_half_the_groups():
    members = draw_half_samples(7, 500, seed=3)
    assert members.shape == (500, 7)
    assert (members.sum(axis=1) == 3).all()
    # Each group is in with probability 3/7; 500 draws: standard error .022, four of them.
    assert np.abs(members.mean(axis=0) - 3 / 7).max() < 0.09


def test_half_samples_do_not_depend_on_memory_chunks(monkeypatch):
    whole = rate(SCORES, RANKS, groups=GROUPS)
    monkeypatch.setattr(sys.modules["eo_cate.evaluation.rate"], "_CHUNK", N * 7)
    assert rate(SCORES, RANKS, groups=GROUPS).std_err == pytest.approx(whole.std_err, rel=1e-14)


def test_two_hundred_replicates_are_quick():
    rng = np.random.default_rng(0)
    scores, ranks, groups = rng.normal(size=3000), rng.normal(size=3000), rng.integers(0, 400, 3000)
    rate(scores, ranks, groups=groups)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        rate(scores, ranks, groups=groups)
        times.append(time.perf_counter() - start)
    # About 20 ms alone; the bound leaves room for a busy machine.
    assert min(times) < 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W": np.full(N, 0.5)}, "`W` has 12 values other than 0 and 1"),
        ({"propensity": 1.0}, r"`propensity` has 12 values outside \(0, 1\)"),
        ({"Y_hat": np.zeros(3)}, "`Y_hat` has 3 rows"),
        ({"tau_hat": replaced(np.zeros(N), np.nan)}, "`tau_hat` has 1 NaN"),
    ],
)
def test_scores_refuse_bad_input(change, message):
    arguments = {"W": np.arange(N) % 2, "propensity": 0.5, "Y_hat": np.zeros(N), "tau_hat": np.zeros(N)} | change
    with pytest.raises(EvaluationError, match=message):
        doubly_robust_scores(SCORES, arguments.pop("W"), **arguments)


@pytest.mark.parametrize("target", ["treated", "control", "overlap"])
def test_average_effect_needs_both_arms(target):
    with pytest.raises(EvaluationError, match="no control unit"):
        average_treatment_effect(
            SCORES, np.ones(N), propensity=0.5, Y_hat=np.zeros(N), tau_hat=np.zeros(N), target_sample=target
        )


def test_average_effect_refuses_unknown_targets_and_subsets():
    arguments = {"propensity": 0.5, "Y_hat": np.zeros(N), "tau_hat": np.zeros(N)}
    with pytest.raises(EvaluationError, match="choose one of"):
        average_treatment_effect(SCORES, np.arange(N) % 2, **arguments, target_sample="everyone")
    for subset in ([0, N], np.ones(3, bool), [0.5]):
        with pytest.raises(EvaluationError, match="subset"):
            average_treatment_effect(SCORES, np.arange(N) % 2, **arguments, subset=subset)
