"""Area of applicability: the definition, in plain numpy, and what must never change it."""

import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from eo_cate.errors import EvaluationError
from eo_cate.extrapolation import area_of_applicability, compare_places, describe_training

RNG = np.random.default_rng(5)
SITES, PREDICTORS = 90, 7
TRAIN = RNG.normal(size=(SITES, PREDICTORS)) * RNG.uniform(0.1, 50, PREDICTORS) + RNG.normal(size=PREDICTORS) * 100
NEW = TRAIN[RNG.integers(0, SITES, 700)] + RNG.normal(size=(700, PREDICTORS)) * TRAIN.std(axis=0) * 0.6
WEIGHTS = RNG.uniform(0.1, 2, PREDICTORS)
FOLDS = RNG.permutation(np.arange(SITES) % 5)


def by_definition(train, new, weights, folds):
    """Meyer and Pebesma (2021), all distances in memory."""
    center, spread = train.mean(axis=0), train.std(axis=0, ddof=1)
    T, N = (train - center) / spread * weights, (new - center) / spread * weights
    between = cdist(T, T)
    mean = between.sum(axis=1).mean() / (len(T) - 1)
    other = folds[:, None] != folds
    di = np.where(other, between, np.inf).min(axis=1) / mean
    lower, upper = np.percentile(di, [25, 75])
    threshold = min(upper + 1.5 * (upper - lower), di.max())
    distances = cdist(N, T)
    return distances.min(axis=1) / mean, threshold, (distances / mean < threshold).sum(axis=1), di


@pytest.mark.parametrize("folds", [FOLDS, None], ids=["folds", "none"])
def test_is_its_definition(folds):
    found = area_of_applicability(TRAIN, NEW, weights=WEIGHTS, folds=folds)
    di, threshold, density, train_di = by_definition(TRAIN, NEW, WEIGHTS, np.arange(SITES) if folds is None else folds)
    np.testing.assert_allclose(found.dissimilarity, di, rtol=0, atol=1e-13)
    assert found.threshold == pytest.approx(threshold, abs=1e-13)
    np.testing.assert_array_equal(found.local_point_density, density)
    np.testing.assert_allclose(found.train_dissimilarity, train_di, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(found.supported, di <= threshold)


def test_a_training_site_is_at_distance_zero_and_twins_do_not_matter():
    """The matrix product cannot tell 0 from 1e-8, and two equal sites are equally near: both are computed again."""
    twins = np.vstack([TRAIN, TRAIN[:10]])
    space = describe_training(twins, folds=np.append(FOLDS, FOLDS[:10]))
    steps = np.array([0.0, 1e-12, 1e-9, 1e-7, 1e-5])
    new = (twins[:20, None, :] + steps[:, None] * twins.std(axis=0, ddof=1)).reshape(-1, PREDICTORS)
    found = compare_places(space, new).dissimilarity.reshape(20, len(steps))
    assert (found[:, 0] == 0).all()
    # A step of s standard deviations in every predictor; the input itself is rounded to 16 digits of values near 100.
    expected = np.broadcast_to(steps * np.sqrt(PREDICTORS) / space.mean_distance, found.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_far_places_keep_their_digits():
    far = TRAIN[:30] + 1e6 * TRAIN.std(axis=0)
    found = area_of_applicability(TRAIN, far, folds=FOLDS)
    expected = by_definition(TRAIN, far, np.ones(PREDICTORS), FOLDS)[0]
    np.testing.assert_allclose(found.dissimilarity, expected, rtol=1e-13)
    assert not found.supported.any()


def test_a_site_on_the_threshold_is_supported_and_not_counted():
    """DI <= threshold, but density counts distances below it."""
    train = np.array([[0.0], [1.0], [2.0], [3.0]])
    found = area_of_applicability(train, [[4.0], [4.001]])
    spacing = 1.0 / (10 / 6)  # over the mean distance of 1 1 1 2 2 3
    assert found.threshold == pytest.approx(spacing, abs=1e-15)
    np.testing.assert_array_equal(found.supported, [True, False])
    np.testing.assert_array_equal(found.local_point_density, [0, 0])


def test_missing_rows_are_unsupported_and_do_not_touch_the_others():
    new = NEW.copy()
    new[[3, 50], [0, 6]] = np.nan
    new[9, 2] = np.inf
    found, whole = (area_of_applicability(TRAIN, rows, folds=FOLDS) for rows in (new, NEW))
    gone = np.isin(np.arange(len(NEW)), [3, 9, 50])
    assert np.isnan(found.dissimilarity[gone]).all()
    assert np.isnan(found.local_point_density[gone]).all()
    assert not found.supported[gone].any()
    np.testing.assert_array_equal(found.dissimilarity[~gone], whole.dissimilarity[~gone])


def test_permuting_permutes():
    order, sites, columns = RNG.permutation(len(NEW)), RNG.permutation(SITES), RNG.permutation(PREDICTORS)
    found = area_of_applicability(
        TRAIN[sites][:, columns],
        NEW[order][:, columns],
        weights=WEIGHTS[columns],
        folds=[f"fold {f}" for f in FOLDS[sites]],
    )
    plain = area_of_applicability(TRAIN, NEW, weights=WEIGHTS, folds=FOLDS)
    np.testing.assert_allclose(found.dissimilarity, plain.dissimilarity[order], rtol=0, atol=1e-13)
    np.testing.assert_array_equal(found.local_point_density, plain.local_point_density[order])
    np.testing.assert_allclose(found.train_dissimilarity, plain.train_dissimilarity[sites], rtol=0, atol=1e-13)


def test_units_and_common_weight_do_not_matter_and_weight_zero_is_absence():
    found = area_of_applicability(TRAIN * 1e3 - 7, NEW * 1e3 - 7, weights=5 * WEIGHTS, folds=FOLDS)
    plain = area_of_applicability(TRAIN, NEW, weights=WEIGHTS, folds=FOLDS)
    np.testing.assert_allclose(found.dissimilarity, plain.dissimilarity, rtol=1e-11)
    wide = [np.column_stack([rows, np.full(len(rows), value)]) for rows, value in ((TRAIN, 1.0), (NEW, np.nan))]
    ignored = area_of_applicability(*wide, weights=[*WEIGHTS, 0], folds=FOLDS)
    np.testing.assert_array_equal(ignored.dissimilarity, plain.dissimilarity)


def test_folds_leave_groups_out():
    """Twins in one fold: without folds each vouches for the other, the threshold falls to 0 and nothing is supported."""
    pairs = np.repeat(TRAIN, 2, axis=0)
    blind = area_of_applicability(pairs, NEW)
    honest = area_of_applicability(pairs, NEW, folds=np.repeat(FOLDS, 2))
    assert blind.threshold == 0
    assert not blind.supported.any()
    assert honest.threshold == pytest.approx(by_definition(pairs, NEW, 1, np.repeat(FOLDS, 2))[1], abs=1e-13)


def test_distances_are_never_all_in_memory():
    train, new = RNG.normal(size=(1000, 10)), RNG.normal(size=(20_000, 10)).astype(np.float32)
    tracemalloc.start()
    area_of_applicability(train, new)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.25 * 20_000 * 1000 * 8  # a quarter of the distances


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": np.where(np.arange(PREDICTORS) == 2, np.nan, TRAIN)}, "`train` has 90 NaN"),
        ({"train": TRAIN[:1]}, "at least 2 sites"),
        ({"train": np.where(np.arange(PREDICTORS) == 2, 1.5, TRAIN)}, r"columns \[2\]"),
        ({"new": NEW[:, 1:]}, "have 7 predictors"),
        ({"new": NEW[0]}, "have 7 predictors"),
        ({"weights": WEIGHTS[1:]}, "one weight per predictor"),
        ({"weights": -WEIGHTS}, "7 negative"),
        ({"weights": np.zeros(PREDICTORS)}, "only zeros"),
        ({"folds": FOLDS[1:]}, "`folds` has shape"),
        ({"folds": np.zeros(SITES, int)}, "1 fold"),
        ({"folds": FOLDS + 0.5}, "integer or string"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(EvaluationError, match=message):
        area_of_applicability(**({"train": TRAIN, "new": NEW} | change))
