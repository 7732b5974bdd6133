"""m_hat: exact leave-group-out, scaling from training rows only."""

from dataclasses import replace

import numpy as np
import pytest

from eo_cate.errors import EvaluationError
from eo_cate.stats.columns import fit_site_scaling, fit_unit_scaling, rotate_wide
from eo_cate.stats.nuisances import STRATUM_PENALTY, fit_nuisances
from eo_cate.types import FeatureBlocks

N, SITES = 90, 20


def trial(seed=0, *, gaps=True):
    """Site features wider than there are sites, unit covariates with gaps, uneven propensity, weights and strata."""
    rng = np.random.default_rng(seed)
    site_index = rng.permutation(np.concatenate([np.arange(SITES), rng.integers(0, SITES, N - SITES)]))
    unit = rng.normal(size=(N, 2)) * [3, 0.2] + 5
    if gaps:
        unit[rng.random(N) < 0.2, 1] = np.nan
    blocks = FeatureBlocks(
        site=rng.normal(size=(SITES, 33)).astype(np.float32),
        unit=unit.astype(np.float32),
        site_index=site_index,
        names=tuple(f"f{j}" for j in range(35)),
        blocks=("image_16",) * 16 + ("image_64",) * 16 + ("tabular",) + ("tabular",) * 2,
    )
    propensity = np.where(site_index % 2, 0.3, 0.5)
    W = (rng.random(N) < propensity).astype(float)
    Y = blocks.site[site_index, 0] + 0.4 * W + rng.normal(size=N)
    arguments = {
        "propensity": propensity,
        "groups": site_index // 2,
        "strata": site_index % 3,
        "sample_weights": rng.uniform(0.5, 2, N),
    }
    return blocks, Y, W, arguments


def brute_force(blocks, Y, W, arguments, penalty, kept, all_rows):
    """Solve the estimating equations on some rows, columns scaled on all; m_hat of every row and ATE_hat."""
    omega = arguments["sample_weights"] / arguments["sample_weights"].mean()
    Z = np.hstack(
        [
            fit_site_scaling(blocks).apply(blocks.site)[blocks.site_index],
            fit_unit_scaling(blocks, omega).apply(blocks.unit),
        ]
    )
    e = arguments["propensity"]
    dummies = (arguments["strata"][:, None] == np.unique(arguments["strata"])).astype(float)
    design = np.column_stack([W - e, np.ones(len(Y)), dummies, Z])
    instruments = np.column_stack([(W - e) / (e * (1 - e)), np.ones(len(Y)), dummies, Z])
    ridge = np.diag([0, 0] + [STRATUM_PENALTY] * dummies.shape[1] + [penalty] * Z.shape[1])
    weighted = instruments[kept].T * omega[kept]
    theta = np.linalg.solve(weighted @ design[kept] + ridge, weighted @ Y[kept])
    return design[all_rows][:, 1:] @ theta[1:], theta[0]


@pytest.mark.parametrize("multiple", [1e-3, 0.1])
def test_leave_group_out_equals_refitting_without_the_group(multiple):
    blocks, Y, W, arguments = trial()
    fit = fit_nuisances(blocks, Y, W, **arguments, penalties=[multiple])
    everyone = np.arange(N)
    for group in np.unique(arguments["groups"]):
        inside = arguments["groups"] == group
        m_hat, _ = brute_force(blocks, Y, W, arguments, fit.penalty, np.flatnonzero(~inside), everyone)
        np.testing.assert_allclose(fit.m_hat[inside], m_hat[inside], atol=1e-8, rtol=0)
    m_hat, effect = brute_force(blocks, Y, W, arguments, fit.penalty, everyone, everyone)
    assert fit.ATE_hat == pytest.approx(effect, abs=1e-8)
    np.testing.assert_allclose(fit.predict(blocks, strata=arguments["strata"]), m_hat, atol=1e-8, rtol=0)


def test_a_group_does_not_see_its_own_outcomes():
    blocks, Y, W, arguments = trial(1)
    inside = arguments["groups"] == 3
    changed = np.where(inside, Y * -7 + 40, Y)
    a = fit_nuisances(blocks, Y, W, **arguments, penalties=[0.01])
    b = fit_nuisances(blocks, changed, W, **arguments, penalties=[0.01])
    np.testing.assert_allclose(a.m_hat[inside], b.m_hat[inside], atol=1e-9)
    assert np.abs(a.m_hat[~inside] - b.m_hat[~inside]).max() > 0.1


def test_a_stratum_inside_one_group_falls_back_to_the_intercept():
    blocks, Y, W, arguments = trial(2)
    arguments["strata"] = np.where(arguments["groups"] == 0, 9, arguments["strata"])
    fit = fit_nuisances(blocks, Y, W, **arguments, penalties=[0.05])
    inside = arguments["groups"] == 0
    m_hat, _ = brute_force(blocks, Y, W, arguments, fit.penalty, np.flatnonzero(~inside), np.arange(N))
    np.testing.assert_allclose(fit.m_hat[inside], m_hat[inside], atol=1e-7)


def test_an_unseen_stratum_is_predicted_by_the_intercept():
    blocks, Y, W, arguments = trial(3)
    fit = fit_nuisances(blocks, Y, W, **arguments)
    np.testing.assert_array_equal(fit.predict(blocks, strata=np.full(N, 77)), fit.predict(blocks))
    effects = dict(zip(fit.stratum_labels, fit.stratum_effects, strict=True))
    seen = fit.predict(blocks, strata=np.ones(N, int)) - fit.predict(blocks)
    np.testing.assert_allclose(seen, effects[1], atol=1e-12)


def test_permuting_units_permutes_outputs():
    blocks, Y, W, arguments = trial(4)
    p = np.random.default_rng(0).permutation(N)
    a = fit_nuisances(blocks, Y, W, **arguments)
    b = fit_nuisances(blocks.take(p), Y[p], W[p], **{k: v[p] for k, v in arguments.items()})
    assert a.penalty == pytest.approx(b.penalty, rel=1e-10)
    np.testing.assert_allclose(b.m_hat, a.m_hat[p], atol=1e-9)
    assert a.ATE_hat == pytest.approx(b.ATE_hat, abs=1e-10)


def test_weight_zero_is_absent_from_the_fit_but_gets_its_m_hat():
    blocks, Y, W, arguments = trial(5, gaps=False)
    out = arguments["groups"] == 2
    arguments["sample_weights"] = np.where(out, 0.0, arguments["sample_weights"])
    blind = fit_nuisances(blocks, np.where(out, 1e3, Y), W, **arguments, penalties=[0.01])
    seen = fit_nuisances(blocks, Y, W, **arguments, penalties=[0.01])
    np.testing.assert_allclose(blind.m_hat, seen.m_hat, atol=1e-5)
    assert np.isfinite(blind.m_hat).all()


def test_sites_and_units_outside_the_training_rows_do_not_move_the_scaling():
    blocks, Y, W, arguments = trial(6)
    rows = np.flatnonzero(blocks.site_index < 14)
    part = {k: v[rows] for k, v in arguments.items()}
    a = fit_nuisances(blocks.take(rows), Y[rows], W[rows], **part)
    moved = replace(blocks, site=np.where(np.arange(SITES)[:, None] < 14, blocks.site, 1e3).astype(np.float32))
    b = fit_nuisances(moved.take(rows), Y[rows], W[rows], **part)
    np.testing.assert_array_equal(a.m_hat, b.m_hat)


def test_scaling_standardises_blocks_over_unique_sites():
    blocks, *_ = trial(7)
    scaled = fit_site_scaling(blocks).apply(blocks.site)
    for columns in (slice(0, 16), slice(16, 32)):
        assert (scaled[:, columns] ** 2).sum(axis=1).mean() == pytest.approx(1)
    assert scaled[:, 32].std() == pytest.approx(1)
    units = fit_unit_scaling(blocks, np.ones(N)).apply(blocks.unit)
    assert units.shape == (N, 3)
    gap = np.isnan(blocks.unit[:, 1])
    assert (units[gap, 1] == 0).all()
    assert units[gap, 2].min() > units[~gap, 2].max()


def test_constant_and_missing_columns_do_no_harm():
    blocks, Y, W, arguments = trial(8)
    site = blocks.site.copy()
    site[:, 0] = 4.2
    site[:, 1] = np.nan
    site[3, 16:32] = np.nan
    fit = fit_nuisances(replace(blocks, site=site), Y, W, **arguments)
    assert np.isfinite(fit.m_hat).all()
    assert np.isfinite(fit.predict(replace(blocks, site=site))).all()
    site[0, 5] = np.inf
    with pytest.raises(EvaluationError, match="infinite"):
        fit_nuisances(replace(blocks, site=site), Y, W, **arguments)


def test_no_features_leave_stratum_means():
    _, Y, W, arguments = trial(9)
    fit = fit_nuisances(FeatureBlocks.from_array(np.zeros((N, 0))), Y, W, **arguments)
    assert np.isfinite(fit.m_hat).all()
    assert len(np.unique(np.round(fit.predict(FeatureBlocks.from_array(np.zeros((N, 0)))), 9))) == 1


def test_rotation_keeps_inner_products():
    F = np.random.default_rng(0).normal(size=(9, 40))
    scores, rotation = rotate_wide(F)
    assert scores.shape[1] <= 9
    np.testing.assert_allclose(scores @ scores.T, F @ F.T, atol=1e-10)
    np.testing.assert_allclose(F @ rotation, scores, atol=1e-10)


def test_features_that_predict_the_outcome_shrink_the_residual():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(150), 6)
    site = rng.normal(size=(150, 30))
    W = rng.permutation(np.arange(150) % 2)[groups].astype(float)
    Y = site[groups, 0] + 0.3 * W + 0.5 * rng.normal(size=900)
    blocks = FeatureBlocks.from_array(site, site_index=groups, block="image_16")
    fit = fit_nuisances(blocks, Y, W, propensity=0.5, groups=groups)
    # Without m_hat the variance of Y - (W - e) tau is 1.25; noise alone is .25.
    assert np.var(Y - (W - 0.5) * 0.3 - fit.m_hat) < 0.40
    # The difference in means has a standard error of 2 sqrt(1.04 / 150) = .17; residuals of .3 sd need a third of it.
    assert fit.ATE_hat == pytest.approx(0.3, abs=0.2)


def test_bad_input_is_refused():
    blocks, Y, W, arguments = trial()
    for change, message in (
        ({"groups": np.zeros(N, int)}, "1 group"),
        ({"propensity": 0.0}, "propensity"),
        ({"strata": np.arange(3)}, "strata"),
        ({"sample_weights": -np.ones(N)}, "90 negative"),
    ):
        with pytest.raises(EvaluationError, match=message):
            fit_nuisances(blocks, Y, W, **(arguments | change))
    with pytest.raises(EvaluationError, match="one arm"):
        fit_nuisances(blocks, Y, np.ones(N), **arguments)


def test_wide_features_cost_what_their_rank_does():
    """1,152 columns of rank 20 give the fit of the 20 that span them, through the Gram matrix of sites."""
    rng = np.random.default_rng(0)
    narrow = rng.normal(size=(60, 20))
    wide = (narrow @ np.linalg.qr(rng.normal(size=(1152, 20)))[0].T).astype(np.float32)
    scores, rotation = rotate_wide(wide.astype(np.float64))
    assert scores.shape == (60, 20)
    np.testing.assert_allclose(scores @ rotation.T, wide, atol=1e-5)
