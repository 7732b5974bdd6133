"""RATE refuses what it cannot judge."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers_rate import reference_rate

from eo_cate.errors import EvaluationError, LeakageError
from eo_cate.evaluation import Priorities, average_treatment_effect, doubly_robust_scores, rate
from eo_cate.evaluation.rate import rank_units
from eo_cate.evaluation.rate_kernel import LANES, replicate_statistics
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
        ({"dr_scores": replaced(SCORES, np.nan, (1, 2))}, r"`dr_scores` has 2 NaN or infinite values of 12: drop"),
        ({"dr_scores": replaced(SCORES, -np.inf)}, r"`dr_scores` has 1 NaN or infinite"),
        ({"dr_scores": SCORES[:, None]}, r"`dr_scores` has 2 dimensions, one value per unit"),
        ({"priorities": replaced(RANKS, np.nan, (0, 4, 5))}, r"`priorities` has 3 NaN or infinite"),
        ({"priorities": replaced(RANKS, np.inf)}, r"`priorities` has 1 NaN or infinite"),
        ({"priorities": RANKS[:-1]}, r"`priorities` has 11 rows, but there are 12 units: give one value per unit"),
        ({"priorities": 1.0}, r"`priorities` has a single value rows, but there are 12"),
        ({"priorities": RNG.normal(size=(N, 3))}, r"shape \(12, 3\): give \(n,\) or"),
        ({"sample_weights": replaced(np.ones(N), -1)}, r"`sample_weights` has 1 negative values: weights must be"),
        ({"sample_weights": replaced(np.ones(N), np.nan)}, r"`sample_weights` has 1 NaN"),
        ({"sample_weights": np.ones(5)}, r"`sample_weights` has 5 rows"),
        ({"sample_weights": replaced(np.ones(N), 0, (0, 1, 4, 5))}, r"`sample_weights` .* zero in 2 group\(s\): drop"),
        ({"sample_weights": np.zeros(N)}, r"all zero in 6 group"),
        ({"groups": np.zeros(N, int)}, r"1 group\(s\): half-samples need at least 2; check `groups`"),
        ({"dr_scores": [1.0], "priorities": [2.0], "groups": None}, r"1 group\(s\)"),
        ({"dr_scores": [], "priorities": [], "groups": None}, r"0 group\(s\)"),
        ({"groups": GROUPS.astype(float)}, r"`groups` are given as float64: give integer or string labels"),
        ({"groups": GROUPS.astype(np.float32)}, r"given as float32"),
        ({"groups": GROUPS[1:]}, r"`groups` has shape \(11,\), but there are 12"),
        ({"q": [0.0, 0.5]}, r"`q` has 1 of 2 values outside \(0, 1\]: give shares"),
        ({"q": [-0.1, 0.5, 1.1]}, r"`q` has 2 of 3"),
        ({"q": 1.1}, r"`q` has 1 of 1"),
        ({"q": [np.nan]}, r"`q` has 1 NaN"),
        ({"q": []}, r"`q` has 0 of 0"),
        ({"num_replicates": 1}, r"`num_replicates` is 1: a standard error needs at least 2"),
        ({"num_replicates": 0}, r"`num_replicates` is 0"),
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


def kernel_input(n, num_groups, num_replicates, decimals):
    rng = np.random.default_rng(8)
    ranking = rank_units(np.round(rng.normal(size=n), decimals))
    units = (rng.normal(size=n), rng.uniform(0.2, 3, n), rng.integers(0, num_groups, n).astype(np.int32))
    return (*units, ranking.run_ends, draw_half_samples(num_groups, num_replicates, seed=2))


@pytest.mark.parametrize("is_autoc", [True, False])
@pytest.mark.parametrize("decimals", [1, 12])
def test_a_replicate_has_the_same_bits_whatever_runs_beside_it(is_autoc, decimals):
    *units, members = kernel_input(700, 50, 2 * LANES + 3, decimals)
    options = {"shares": np.array([0.3, 0.1, 1.0, 0.77]), "is_autoc": is_autoc}
    whole = replicate_statistics(*units, members, **options)
    alone = np.concatenate([replicate_statistics(*units, row[None, :], **options) for row in members])
    np.testing.assert_array_equal(whole, alone)
    shuffled = np.random.default_rng(0).permutation(len(members))
    np.testing.assert_array_equal(replicate_statistics(*units, members[shuffled], **options), whole[shuffled])


def test_threads_give_the_same_bits():
    rng = np.random.default_rng(5)
    scores, ranks, groups = rng.normal(size=4000), rng.normal(size=4000).round(2), rng.integers(0, 60, 4000)
    alone = rate(scores, ranks, groups=groups)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: rate(scores, ranks, groups=groups), range(12)))
    for result in results:
        np.testing.assert_array_equal(result.std_err, alone.std_err)
        np.testing.assert_array_equal(result.toc, alone.toc)
        np.testing.assert_array_equal(result.toc_std_err, alone.toc_std_err)


@pytest.mark.parametrize("target", ["AUTOC", "QINI"])
@pytest.mark.parametrize("decimals", [0, 2, 12])
def test_many_units_equal_the_reference(target, decimals):
    """Rounding must not pile up over 30,000 units: 1e-12 still, with scores of mean 5."""
    rng = np.random.default_rng(3)
    n = 30_000
    scores, ranks = 5 + rng.normal(size=n), rng.normal(size=n).round(decimals)
    weights = rng.uniform(0, 2, n) * (rng.random(n) < 0.8)
    arguments = {"target": target, "sample_weights": weights, "groups": rng.integers(0, 300, n), "num_replicates": 12}
    result = rate(scores, ranks, **arguments)
    found = (result.estimate[0], result.std_err[0], result.toc[0], result.toc_std_err[0])
    for ours, expected in zip(found, reference_rate(scores, ranks, **arguments), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-12, rtol=0)


def test_everyone_treated_gains_nothing_exactly():
    """Weights are added by group and by rank: sums that differ in the last bit, here on scores of a million."""
    rng = np.random.default_rng(4)
    n = 3000
    result = rate(
        1e6 * rng.normal(size=n), rng.normal(size=n), sample_weights=rng.uniform(0, 2, n), groups=np.arange(n) % 50
    )
    assert result.toc[0, -1] == 0.0
    assert result.toc_std_err[0, -1] == 0.0


def test_shares_may_come_in_any_order():
    q = [0.9, 0.1, 1.0, 0.5, 0.1]
    ordered = rate(SCORES, RANKS, q=np.sort(q), groups=GROUPS)
    given = rate(SCORES, RANKS, q=q, groups=GROUPS)
    np.testing.assert_array_equal(given.q, q)
    np.testing.assert_array_equal(given.toc[0], ordered.toc[0, [3, 0, 4, 2, 1]])
    np.testing.assert_array_equal(given.toc_std_err[0], ordered.toc_std_err[0, [3, 0, 4, 2, 1]])
    assert given.toc[0, 2] == 0.0
    assert given.toc_std_err[0, 2] == 0.0


def test_the_command_line_opens_without_the_compiler():
    """numba takes about half a second to import: only evaluation may load it."""
    code = (
        "import sys, eo_cate, eo_cate.cli\n"
        "try:\n    eo_cate.cli.app(['--help'])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0


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
