"""The refit test: exact pieces against their definitions, and its size and power in small."""

import logging

import numpy as np
import pytest

from eo_cate.errors import EvaluationError
from eo_cate.estimators import RidgeR
from eo_cate.evaluation.autoc import autoc_columns
from eo_cate.evaluation.flips import draw_rows, pose_flips
from eo_cate.evaluation.fold_steps import plan_folds, rank_fold, score_fold
from eo_cate.evaluation.no_refit import no_refit_test
from eo_cate.evaluation.pooling import pool_folds
from eo_cate.evaluation.rate import rate
from eo_cate.evaluation.refit import run_refit, step_down
from eo_cate.evaluation.refit_tests import conditional_test, join_columns, refit_test
from eo_cate.simulation.clustered import ClusteredDesign, draw_clustered
from eo_cate.stats.folds import flip_units
from eo_cate.stats.site_rows import find_rows
from eo_cate.store import Store
from eo_cate.types import FeatureBlocks


def _design(trial):
    return {"propensity": trial.propensity, "groups": trial.village, "strata": trial.strata}


def _problem(trial):
    return pose_flips(trial.Y, trial.W, Y_hat=np.zeros(len(trial.Y)), ATE_hat=0.3, **_design(trial))


@pytest.mark.parametrize("ties", [False, True])
def test_autoc_of_columns_is_that_of_rate(ties):
    rng = np.random.default_rng(0)
    scores, priorities, weights = rng.normal(size=(50, 4)), rng.normal(size=(50, 4)), rng.uniform(0.5, 3, 50)
    if ties:
        priorities[:, 1:] = np.round(priorities[:, 1:])
        priorities[:, 3] = 2.0
    found = autoc_columns(scores, priorities, weights)
    for j in range(4):
        expected = rate(scores[:, j], priorities[:, j], sample_weights=weights, num_replicates=2).estimate[0]
        assert found[j] == pytest.approx(expected, abs=1e-12)
    assert found[3] == 0 or not ties


def test_flip_units_are_groups_or_their_small_strata():
    groups = np.repeat(np.arange(24), 2)
    pairs = np.where(np.arange(24) < 4, np.arange(24) // 2, np.where(np.arange(24) < 9, 7, 9))[groups]
    found = flip_units(groups, pairs)
    # Two pairs, one stratum of 5, and a stratum of 15 whose groups stand alone.
    assert len(np.unique(found)) == 2 + 1 + 15
    assert len(np.unique(found[groups < 2])) == 1
    assert len(np.unique(found[(groups >= 4) & (groups < 9)])) == 1
    assert len(np.unique(flip_units(groups))) == 24


def test_the_statistic_is_a_refit_without_each_flip_unit():
    trial = draw_clustered(ClusteredDesign(villages=40, households=4, scales=1, assignment="pairs"), seed=1)
    problem, X = _problem(trial), trial.everything()
    found = run_refit(problem, {"X": X}, learner=RidgeR(), name="ridge", settings={}, min_flip_units=20, num_draws=19)
    rows = find_rows(X)
    u, sites = rows.mean(problem.u), FeatureBlocks.from_array(trial.scales["image_16"])
    flip = problem.flip[rows.first]
    assert len(np.unique(flip)) == 20
    full = RidgeR().leave_out_predictions(sites, u, flip_unit=flip)
    assert found.statistic[0] == pytest.approx(rate(u, full, num_replicates=2).estimate[0], abs=1e-12)
    assert found.num_flip_units == 20


def test_draws_do_not_depend_on_their_blocks_and_resume(tmp_path):
    trial = draw_clustered(ClusteredDesign(villages=40, households=4, scales=2), seed=1)
    problem, X = _problem(trial), {n: trial.blocks(n) for n in trial.scales}
    options = {"learner": RidgeR(), "name": "ridge", "settings": {}, "min_flip_units": 20, "num_draws": 60, "seed": 5}
    whole = run_refit(problem, X, **options)
    store = Store(tmp_path)
    cut = run_refit(problem, X, block=25, store=store, **options)
    again = run_refit(problem, X, block=25, store=Store(tmp_path), **options)
    assert store.stages()["refit"][0] == 2 * 3
    for other in (cut, again):
        np.testing.assert_allclose(other.statistic, whole.statistic, rtol=1e-12)
        assert (other.p, other.num_draws) == (whole.p, 60)
        np.testing.assert_array_equal(other.adjusted_p, whole.adjusted_p)


def test_early_stopping_decides_as_all_draws_do():
    decisions = []
    for seed in range(12):
        trial = draw_clustered(
            ClusteredDesign(villages=60, households=5, scales=1, effects="one_scale", effect_sd=0.4), seed=seed
        )
        options = {"num_draws": 199, "seed": seed, **_design(trial)}
        whole = refit_test({"X": trial.everything()}, trial.Y, trial.W, **options)
        stopped = refit_test({"X": trial.everything()}, trial.Y, trial.W, stop_at=0.05, **options)
        assert (whole.p <= 0.05) == (stopped.p <= 0.05)
        decisions.append((whole.p <= 0.05, stopped.num_draws))
    assert {reject for reject, _ in decisions} == {True, False}
    assert min(draws for reject, draws in decisions if not reject) < 100


def test_step_down_is_monotone_and_starts_at_the_familys_p():
    rng = np.random.default_rng(0)
    statistic, null = np.array([1.0, 3.0, 2.0]), rng.normal(size=(3, 99))
    p, adjusted = step_down(statistic, null)
    assert p == (1 + (null.max(axis=0) >= 3).sum()) / 100 == adjusted[1]
    assert adjusted[1] <= adjusted[2] <= adjusted[0]
    assert adjusted[0] == (1 + (null[0] >= 1).sum()) / 100


def test_redrawn_treatment_keeps_the_design_and_flips_keep_magnitudes():
    trial = draw_clustered(ClusteredDesign(villages=30, households=4, scales=1, mixed=0.0, propensity=1 / 3), seed=0)
    problem = _problem(trial)
    rows = find_rows(trial.everything())
    u = rows.mean(problem.u)
    flipped = draw_rows(problem, rows, method="flip", seed=3, draws=range(50))
    np.testing.assert_allclose(np.abs(flipped), np.abs(u)[:, None].repeat(50, axis=1))
    # 1,500 fair coins: three standard errors.
    assert abs((flipped * u[:, None] > 0).mean() - 0.5) < 3 * 0.5 / np.sqrt(50 * 30)
    redrawn = draw_rows(problem, rows, method="redraw", seed=3, draws=range(200))
    assert np.abs(redrawn.mean()) < 1e-9
    # A permuted W treats ten of thirty villages in every draw: e = 1/3 gives weights 3 and -3/2.
    ratio = redrawn / rows.mean(problem.residual)[:, None]
    assert np.isfinite(ratio).all()
    with pytest.raises(EvaluationError, match="`method` is 'jitter'"):
        draw_rows(problem, rows, method="jitter", seed=0, draws=range(2))


@pytest.mark.parametrize("assignment", ["complete", "pairs"])
def test_size_in_small(assignment):
    """120 seeded draws of a trial without heterogeneity: 5 % +- 2 %, so at most 13 % (4 standard errors)."""
    design = ClusteredDesign(villages=40, households=5, scales=2, icc=0.2, assignment=assignment)
    rejected = []
    for seed in range(120):
        trial = draw_clustered(design, seed=[11, seed])
        found = refit_test(
            {n: trial.blocks(n) for n in trial.scales}, trial.Y, trial.W, num_draws=39, seed=seed, **_design(trial)
        )
        rejected.append(found.p <= 0.05)
    assert np.mean(rejected) <= 0.13


def test_it_finds_strong_effects_and_names_the_scale():
    trial = draw_clustered(ClusteredDesign(scales=3, effects="one_scale", effect_sd=0.8), seed=2)
    X = {name: trial.blocks(name) for name in trial.scales}
    found = refit_test(X, trial.Y, trial.W, **_design(trial))
    assert found.p == 1 / 200
    assert found.configurations[int(np.argmax(found.statistic))] == "image_16"
    assert found.adjusted_p[0] <= 0.01
    assert found.adjusted_p[1] >= found.single_p[1]


def test_given_the_place_an_effect_of_place_is_not_the_images():
    """Effects are a smooth function of coordinates; the image features are coordinates with noise."""
    rng = np.random.default_rng(3)
    places = rng.uniform(0, 20, size=(150, 2))
    village = np.repeat(np.arange(150), 8)
    W = rng.permutation(np.arange(150) % 2)[village].astype(float)
    tau = 0.3 + 0.7 * np.sin(places[:, 0] / 4)
    Y = rng.normal(0, 0.3, 150)[village] + tau[village] * W + rng.normal(size=len(village))
    image = np.hstack([places + rng.normal(0, 1, places.shape), rng.normal(size=(150, 4))])
    X, where = (FeatureBlocks.from_array(A, site_index=village) for A in (image, places))
    options = {"propensity": 0.5, "groups": village}
    alone = refit_test({"image": X}, Y, W, **options)
    given = conditional_test(X, where, Y, W, **options)
    assert alone.p <= 0.01
    assert given.p > 0.05
    other = conditional_test(X, where, Y, W, coordinates=False, **options)
    assert other.p > 0.05


def test_the_no_refit_variant_flips_the_pooled_estimate():
    trial = draw_clustered(ClusteredDesign(scales=2, effects="one_scale", effect_sd=0.8), seed=4)
    tasks = plan_folds(trial.village, W=trial.W, num_orders=1, seed=1)
    options = {"propensity": trial.propensity, "groups": trial.village}
    scores = [score_fold(t, trial.everything(), trial.Y, trial.W, **options) for t in tasks]
    ranked = {
        name: [
            rank_fold(RidgeR(), trial.blocks(name), trial.W, task=t, scores=s, **options).priorities
            for t, s in zip(tasks, scores, strict=True)
        ]
        for name in trial.scales
    }
    found = no_refit_test(ranked, tasks, scores, groups=trial.village)
    pooled = pool_folds(tasks, scores, ranked["image_16"], groups=trial.village)
    assert found.statistic[0] == pytest.approx(pooled.estimate, abs=1e-12)
    assert found.single_p[0] <= 0.01
    # Flips and half-samples estimate the same null spread, each to about 10 %.
    assert found.null_sd[0] == pytest.approx(pooled.std_err, rel=0.35)


def test_joined_columns_keep_each_once():
    trial = draw_clustered(ClusteredDesign(villages=30, households=3, scales=3, width=5), seed=0)
    names = list(trial.scales)
    joined = join_columns([trial.blocks(names[0]), trial.blocks(names[0], names[1]), trial.everything()])
    assert joined.shape == (90, 15)
    assert joined.blocks == trial.everything().blocks
    arrays = join_columns([trial.blocks(names[0]).gather(), trial.everything().gather()])
    assert arrays.shape == (90, 15)


def test_bad_input_is_named(caplog):
    trial = draw_clustered(ClusteredDesign(villages=30, households=3, scales=1), seed=0)
    X, data = {"X": trial.everything()}, (trial.Y, trial.W)
    for options, message in [
        ({"learner": "lasso"}, "`learner` is 'lasso'"),
        ({"num_draws": 5}, "`num_draws` is 5"),
        ({"groups": np.arange(90) // 9}, "10 flip units"),
        ({"groups": np.zeros(90, dtype=int)}, "1 group"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            refit_test(X, *data, **(_design(trial) | options))
    with pytest.raises(EvaluationError, match="empty"):
        refit_test({}, *data, **_design(trial))
    with pytest.raises(EvaluationError, match="same units"):
        refit_test({"a": np.zeros((90, 2)), "b": np.zeros((5, 2))}, *data, **_design(trial))
    with caplog.at_level(logging.WARNING):
        refit_test(X, *data, num_draws=19, **_design(trial))
    assert "30 flip units" in caplog.text
