"""Calibrated bands: what they are, that they hold inside the supported area, and that they do not outside."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from eo_cate.errors import EvaluationError
from eo_cate.evaluation import doubly_robust_scores
from eo_cate.extrapolation import area_of_applicability, band_width, calibrate_bands, effect_error, widen_bands

LEVEL = 0.9


def draw(seed, *, by_unit, pull=0.5, num_groups=300, size=20):
    """Villages on a square; the effect is a curved surface of their two coordinates, the level falls with it by pull."""
    rng = np.random.default_rng(seed)
    village, group = rng.uniform(-1.5, 1.5, (num_groups, 2)), np.repeat(np.arange(num_groups), size)
    n = num_groups * size
    W = (rng.integers(0, 2, n) if by_unit else rng.integers(0, 2, num_groups)[group]).astype(float)
    effect = surface(village)[group]
    Y = 0.3 * rng.normal(size=num_groups)[group] + rng.normal(size=n) + (W - pull) * effect
    scores = doubly_robust_scores(Y, W, propensity=0.5, Y_hat=(0.5 - pull) * effect, tau_hat=effect.mean())
    return rng, village, group, scores, Y, W


def surface(x):
    return np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] ** 2 + 0.5 * x[:, 0]


def simulate(seed, *, by_unit, noise, arms=False, pull=0.5):
    """Coverage of the truth inside the supported area, of new villages' mean scores, and of the truth outside."""
    rng, village, group, scores, Y, W = draw(seed, by_unit=by_unit, pull=pull)
    means = np.bincount(group, weights=scores) / np.bincount(group)
    folds = rng.permutation(np.arange(len(village)) % 5)

    def learn(x, y):
        return RandomForestRegressor(40, min_samples_leaf=5, random_state=seed).fit(x, y)

    left_out = np.empty(len(village))
    for k in range(5):
        left_out[folds == k] = learn(village[folds != k], means[folds != k]).predict(village[folds == k])
    places = np.vstack([rng.uniform(-1.5, 1.5, (1500, 2)), rng.uniform(1.5, 4.5, (500, 2))])
    area = area_of_applicability(village, places, folds=folds)
    told = effect_error(Y, W, left_out[group], scores, propensity=0.5, groups=group) if arms else None
    bands = calibrate_bands(
        scores,
        left_out[group],
        area.train_dissimilarity[group],
        groups=group,
        threshold=area.threshold,
        noise=noise,
        effect_error=told,
    )
    error = np.abs(learn(village, means).predict(places) - surface(places))
    width = band_width(bands, area.dissimilarity)
    np.testing.assert_array_equal(np.isnan(width), ~area.supported)
    inside = (error <= width)[area.supported].mean()
    outside = (error <= bands.width[-1])[~area.supported].mean()

    _, fresh, fresh_group, fresh_scores, _, _ = draw(seed + 1000, by_unit=by_unit)
    found = area_of_applicability(village, fresh, folds=folds)
    fresh_error = np.bincount(fresh_group, weights=fresh_scores) / 20 - learn(village, means).predict(fresh)
    last = np.minimum(np.searchsorted(bands.edges, found.dissimilarity), len(bands.edges) - 1)
    measured = (np.abs(fresh_error) <= bands.raw_width[last])[found.supported].mean()
    return inside, measured, outside, np.nanmean(width)


@pytest.fixture(scope="module")
def villages():
    return np.array([simulate(seed, by_unit=False, noise="kept") for seed in range(8)])


@pytest.fixture(scope="module")
def households():
    return np.array([simulate(seed, by_unit=True, noise="within") for seed in range(12)])


def test_new_groups_mean_scores_are_covered_as_often_as_said(villages, households):
    """What is calibrated is met: 90 % of 300 fresh villages. Monte-Carlo error of the mean of 8 or 12 trials, each
    with a quantile from about 100 groups (3 points), is about 1 point; 3 are allowed."""
    assert villages[:, 1].mean() == pytest.approx(LEVEL, abs=0.03)
    assert households[:, 1].mean() == pytest.approx(LEVEL, abs=0.03)


def test_the_truth_is_covered_inside_and_not_outside(villages, households):
    """Inside at least the level, for both; conservative with village randomisation. Outside the same width is false."""
    assert villages[:, 0].mean() >= LEVEL
    assert households[:, 0].mean() >= LEVEL
    assert villages[:, 2].mean() < 0.5
    assert households[:, 2].mean() < 0.5


def test_taking_the_noise_out_makes_the_band_useful(households):
    kept = np.array([simulate(seed, by_unit=True, noise="kept") for seed in range(3)])
    assert households[:3, 3].mean() < 0.75 * kept[:, 3].mean()
    assert households[:, 0].mean() < 0.985  # near the level, not everything


# --- what the figures are ---

SIZE, COUNT = 6, 99
GROUP = np.repeat(np.arange(COUNT), SIZE)


def test_width_is_the_conformal_quantile():
    """99 groups whose mean errors are +-1, ..., +-99: the 90th smallest covers 90 of 100."""
    rng = np.random.default_rng(3)
    error = rng.permutation(np.arange(1, COUNT + 1)) * rng.choice([-1.0, 1.0], COUNT)
    within = np.tile([-5.0, 5.0, -1.0, 1.0, -2.0, 2.0], COUNT)
    options = {"groups": GROUP, "threshold": 1.0, "num_strata": 1}
    tau_hat = rng.normal(size=COUNT)[GROUP]
    bands = calibrate_bands(tau_hat + error[GROUP] + within, tau_hat, np.zeros(COUNT * SIZE), **options)
    assert bands.width == pytest.approx([90])
    scaled = calibrate_bands(
        tau_hat + error[GROUP] + within, tau_hat, np.zeros(COUNT * SIZE), std_err=np.full(COUNT * SIZE, 4.0), **options
    )
    assert scaled.relative
    assert scaled.width == pytest.approx([90 / 4])
    assert band_width(scaled, [0.5, 2.0], std_err=[2.0, 2.0]) == pytest.approx([45, np.nan], nan_ok=True)


def test_noise_within_is_the_variance_of_the_groups_means():
    rng = np.random.default_rng(4)
    scores = rng.normal(size=COUNT)[GROUP] + 2 * rng.normal(size=COUNT * SIZE)
    bands = calibrate_bands(
        scores, np.zeros(COUNT * SIZE), np.zeros(COUNT * SIZE), groups=GROUP, threshold=1, num_strata=1, noise="within"
    )
    table = scores.reshape(COUNT, SIZE)
    left = table.mean(axis=1) ** 2 - table.var(axis=1, ddof=1) / SIZE
    share = (left.mean() + left.std(ddof=1) / np.sqrt(COUNT)) / np.mean(table.mean(axis=1) ** 2)
    assert bands.error_share == pytest.approx([share], rel=1e-12)
    assert bands.width == pytest.approx(bands.raw_width * np.sqrt(share), rel=1e-12)


def test_strata_follow_dissimilarity_and_width_never_falls():
    di = np.linspace(0, 1.2, COUNT)
    error = np.where(di < 0.4, 3.0, 1.0)  # nearer is worse, by chance: the band beyond must not be narrower
    bands = calibrate_bands(error[GROUP], np.zeros(COUNT * SIZE), di[GROUP], groups=GROUP, threshold=1.0)
    assert len(bands.width) == 2  # 83 inside: three strata would hold fewer than 30
    assert bands.num_outside == (di > 1).sum()
    assert bands.num_groups.sum() == (di <= 1).sum()
    assert bands.edges[-1] == 1.0
    assert bands.raw_width.tolist() == [3, 1]
    assert bands.width.tolist() == [3, 3]
    found = band_width(bands, [0.0, bands.edges[0], 1.0, 1.0001, np.nan])
    np.testing.assert_array_equal(found, [3, 3, 3, np.nan, np.nan])


def test_units_order_and_names_of_groups_do_not_matter_and_small_groups_are_left_aside():
    rng = np.random.default_rng(6)
    scores, di = rng.normal(size=COUNT * SIZE), rng.uniform(size=COUNT)[GROUP]
    zeros, order = np.zeros(COUNT * SIZE), rng.permutation(COUNT * SIZE)
    plain = calibrate_bands(scores, zeros, di, groups=GROUP, threshold=2)
    named = [f"v{g}" for g in GROUP[order]]
    moved = calibrate_bands(scores[order], zeros, di[order], groups=named, threshold=2)
    np.testing.assert_allclose(moved.width, plain.width, rtol=1e-12)
    extra = np.append(GROUP, [1000, 1000])
    more = calibrate_bands(
        np.append(scores, [1e6, 1e6]), np.zeros(len(extra)), np.append(di, [0, 0]), groups=extra, threshold=2
    )
    assert more.num_small == 1
    np.testing.assert_allclose(more.width, plain.width, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dr_scores": np.full(COUNT * SIZE, np.nan)}, "`dr_scores` has 594 NaN"),
        ({"tau_hat": [0.0]}, "`tau_hat` has 1 rows"),
        ({"threshold": -1.0}, "0 groups of at least 5 units"),
        ({"min_units": 7}, "99 are smaller"),
        ({"noise": "none"}, "'kept' or 'within'"),
        ({"level": 90}, "`level` is 90"),
        ({"num_strata": 0}, "`num_strata` is 0"),
        ({"std_err": np.zeros(COUNT * SIZE)}, "zero or negative for 594"),
        ({"groups": GROUP.astype(float)}, "integer or string"),
    ],
)
def test_bad_input_is_named(change, message):
    zeros = np.zeros(COUNT * SIZE)
    given = {"dr_scores": zeros, "tau_hat": zeros, "dissimilarity": zeros, "groups": GROUP, "threshold": 1.0}
    with pytest.raises(EvaluationError, match=message):
        calibrate_bands(**(given | change))


def test_standard_errors_on_one_side_only_are_refused():
    zeros = np.zeros(COUNT * SIZE)
    bands = calibrate_bands(zeros, zeros, zeros, groups=GROUP, threshold=1)
    with pytest.raises(EvaluationError, match="without standard errors"):
        band_width(bands, [0.0], std_err=[1.0])


def test_noise_of_units_can_go_where_villages_were_randomised():
    """What a village's households share stays in, so the band still covers; it is narrower than with all noise."""
    within = np.array([simulate(seed, by_unit=False, noise="within") for seed in range(4)])
    kept = np.array([simulate(seed, by_unit=False, noise="kept") for seed in range(4)])
    assert within[:, 0].mean() >= LEVEL
    assert within[:, 3].mean() < 0.95 * kept[:, 3].mean()


def test_untreated_villages_tell_the_luck_of_villages():
    """Villages randomised: with the variance that treatment adds, the band still covers and is far narrower.

    Coverage of 8 trials: its Monte-Carlo error is about 1.5 points; the limit of 95 % keeps the mean above the level.
    """
    told = np.array([simulate(seed, by_unit=False, noise="within", arms=True, pull=0.0) for seed in range(8)])
    within = np.array([simulate(seed, by_unit=False, noise="within") for seed in range(4)])
    assert told[:, 0].mean() >= LEVEL
    assert told[:4, 3].mean() < 0.75 * within[:, 3].mean()
    assert told[:, 2].mean() < 0.5
    # Levels that fall by half of the effect leave no difference between the arms: then nothing is taken out.
    blind = np.array([simulate(seed, by_unit=False, noise="within", arms=True) for seed in range(4)])
    assert blind[:, 0].mean() >= LEVEL


def test_effect_error_scales_the_quantile_and_never_widens():
    rng = np.random.default_rng(8)
    W = (np.arange(COUNT) % 2.0)[GROUP]
    Y, zeros = rng.normal(size=COUNT * SIZE), np.zeros(COUNT * SIZE)
    scores = 2 * (2 * W - 1) * Y + rng.normal(size=COUNT)[GROUP]
    told = effect_error(Y, W, 0.1 * scores, scores, propensity=0.5, groups=GROUP)
    options = {"groups": GROUP, "threshold": 1.0, "num_strata": 1}
    bands = calibrate_bands(scores, zeros, zeros, effect_error=told, **options)
    mean_square = np.mean(scores.reshape(COUNT, SIZE).mean(axis=1) ** 2)
    assert told.upper < mean_square
    assert bands.error_share == pytest.approx([told.upper / mean_square], rel=1e-12)
    assert bands.width == pytest.approx(bands.raw_width * np.sqrt(bands.error_share), rel=1e-12)
    wide = effect_error(Y, W, 30 * zeros + 30 * W * np.sign(Y), scores, propensity=0.5, groups=GROUP)
    assert calibrate_bands(scores, zeros, zeros, effect_error=wide, **options).error_share[0] <= 1
    with pytest.raises(EvaluationError, match="in standard errors: give one"):
        calibrate_bands(scores, zeros, zeros, effect_error=told, std_err=zeros + 1, **options)


def test_districts_left_out_only_widen():
    rng = np.random.default_rng(9)
    zeros, di = np.zeros(COUNT * SIZE), rng.uniform(size=COUNT)[GROUP]
    near = calibrate_bands(rng.normal(size=COUNT * SIZE), zeros, di, groups=GROUP, threshold=1)
    far = calibrate_bands(
        np.where(di > 0.6, 5.0, 0.01) * rng.choice([-1, 1], COUNT)[GROUP], zeros, di, groups=GROUP, threshold=1
    )
    both = widen_bands(near, far)
    np.testing.assert_array_equal(both.edges, near.edges)
    for place in np.linspace(0, 1, 50):
        assert band_width(both, [place])[0] >= max(band_width(near, [place])[0], band_width(far, [place])[0])
    assert both.width[-1] == 5.0
    np.testing.assert_array_equal(both.district_width[-1:], [5.0])
    again = widen_bands(near, near)
    np.testing.assert_array_equal(again.width, near.width)
