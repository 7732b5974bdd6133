"""The error of tau_hat from the variance that treatment adds: its figures by hand, and that it finds what was put in."""

import numpy as np
import pytest

from eo_cate.errors import EvaluationError
from eo_cate.extrapolation import effect_error

SIZE = 6


def draw(seed, *, num_groups=400, slope=0.0, missed_sd=0.5, size=SIZE):
    """Villages of one arm; tau = tau_hat + delta, the level goes with tau by ``slope``. Half of the villages treated."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(num_groups), size)
    W = rng.permutation(np.arange(num_groups) % 2)[group].astype(float)
    tau_hat = rng.normal(0.3, 0.4, num_groups)
    tau = tau_hat + rng.normal(0, missed_sd, num_groups)
    level = slope * tau + rng.normal(0, 0.3, num_groups)
    Y = (level + W[::size] * tau)[group] + rng.normal(size=len(group))
    scores = tau_hat.mean() + (W - 0.5) / 0.25 * (Y - Y.mean() - (W - 0.5) * tau_hat.mean())
    return {"Y": Y, "W": W, "tau_hat": tau_hat[group], "dr_scores": scores, "propensity": 0.5, "groups": group}


def test_by_hand():
    """Equal weights: the mean square of treated means around tau_hat less that of untreated, their noise taken out, and
    twice the variance of the mean that both are taken around."""
    given = draw(1)
    means = {name: given[name].reshape(-1, SIZE).mean(axis=1) for name in ("Y", "W", "tau_hat", "dr_scores")}
    treated = means["W"] == 1
    around = means["Y"] - treated * means["tau_hat"]
    noise = given["Y"].reshape(-1, SIZE).var(axis=1, ddof=1) / SIZE
    square = (around - around[~treated].mean()) ** 2 - noise
    excess = square[treated].mean() - square[~treated].mean() - 2 * around[~treated].var(ddof=1) / 200
    std_err = np.sqrt(sum(square[arm].var(ddof=1) / arm.sum() for arm in (treated, ~treated)))
    slope = np.cov(means["Y"][~treated], means["tau_hat"][~treated], ddof=0)[0, 1]
    slope /= np.cov(means["dr_scores"], means["tau_hat"], ddof=0)[0, 1]
    found = effect_error(**given)
    assert found.excess == pytest.approx(excess, rel=1e-12)
    assert found.std_err == pytest.approx(std_err, rel=1e-12)
    assert found.level_slope == pytest.approx(slope, rel=1e-12)
    assert found.upper == pytest.approx((excess + 1.6448536269514722 * std_err) / (1 + 2 * min(slope, 0)), rel=1e-12)
    assert (found.num_treated, found.num_control) == (200, 200)


@pytest.mark.parametrize(("slope", "covers"), [(0.0, 0.93), (-0.25, 0.88)])
def test_it_finds_the_error_that_was_put_in(slope, covers):
    """Truth .25, 200 trials of 400 villages. Of the excess (sd .05) the mean has an error of .0035, of the slope (sd .08)
    .006; the limit covers with an error of 1.5 points, and less often where an estimated slope is divided by."""
    found = [effect_error(**draw(seed, slope=slope)) for seed in range(200)]
    assert np.mean([f.excess for f in found]) == pytest.approx((1 + 2 * slope) * 0.25, abs=0.0105)
    assert np.mean([f.level_slope for f in found]) == pytest.approx(slope, abs=0.018)
    assert np.median([f.mean_square for f in found]) == pytest.approx(0.25, abs=0.04)
    assert np.mean([f.upper >= 0.25 for f in found]) >= covers


def test_a_level_that_rises_with_the_effect_only_widens():
    found = [effect_error(**draw(seed, slope=0.3)) for seed in range(40)]
    assert np.mean([f.mean_square for f in found]) == pytest.approx(1.6 * 0.25, abs=0.04)


def test_no_error_gives_a_limit_above_zero():
    """What is not there is not found, but a limit of zero is never said."""
    found = [effect_error(**draw(seed, missed_sd=0.0)) for seed in range(40)]
    assert np.mean([f.excess for f in found]) == pytest.approx(0, abs=0.02)
    assert min(f.upper for f in found) > 0


def test_where_the_slope_cannot_be_told_there_is_no_limit():
    given = draw(2)
    blind = effect_error(**(given | {"dr_scores": -given["dr_scores"]}))
    assert np.isnan(blind.level_slope)
    assert blind.upper == np.inf
    falling = effect_error(**draw(3, slope=-0.6))
    assert falling.level_slope < -0.45
    assert falling.upper == np.inf


def test_order_names_constants_and_units_of_measurement():
    given, order = draw(4), np.random.default_rng(5).permutation(400 * SIZE)
    plain = effect_error(**given)
    moved = {k: v if k == "propensity" else v[order] for k, v in given.items()}
    moved["groups"] = [f"v{g}" for g in moved["groups"]]
    assert effect_error(**moved).upper == pytest.approx(plain.upper, rel=1e-12)
    scaled = {k: 10 * given[k] for k in ("Y", "tau_hat", "dr_scores")}
    scaled["Y"] = scaled["Y"] + 7
    assert effect_error(**(given | scaled)).upper == pytest.approx(100 * plain.upper, rel=1e-9)


def test_groups_count_by_their_chance_of_the_arm():
    """Two strata treated with probability .25 and .75 whose levels differ in spread: unweighted, the excess is biased."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(400), SIZE)
        e = np.where(np.arange(400) < 200, 0.25, 0.75)
        W = (rng.permuted(np.tile(np.arange(200) % 4 == 0, (2, 1)), axis=1) ^ [[False], [True]]).ravel().astype(float)
        level = np.where(np.arange(400) < 200, 1.0, 0.2) * rng.normal(size=400)
        tau = rng.normal(0, 0.5, 400)
        Y = (level + W * tau)[group] + rng.normal(size=len(group))
        given = {"Y": Y, "W": W[group], "tau_hat": 0 * Y, "dr_scores": 0 * Y, "propensity": e[group], "groups": group}
        found.append(effect_error(**given).excess)
    assert np.mean(found) == pytest.approx(0.25, abs=0.05)  # unweighted it would be about -.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W": np.arange(400 * SIZE) % 2.0}, "400 of 400 groups have treated and untreated"),
        ({"min_units": 7}, "0 treated and 0 untreated groups of at least 7"),
        ({"tau_hat": [0.0]}, "`tau_hat` has 1 rows"),
        ({"dr_scores": np.full(400 * SIZE, np.nan)}, "`dr_scores` has 2400 NaN"),
        ({"confidence": 95}, "`confidence` is 95"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(EvaluationError, match=message):
        effect_error(**(draw(1) | change))
