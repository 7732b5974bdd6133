"""Feature blocks, and components that only ever see the training sites."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from eo_cate.errors import EoCateError
from eo_cate.estimators import CausalForest
from eo_cate.multiscale import ConcatPCA, build_blocks, make_procedure
from eo_cate.multiscale.procedures import fit_block_pca
from eo_cate.types import CateEstimator, FeatureBlocks

SITES = tuple(f"s{k}" for k in range(40))


def embedding(seed=0, scales=(16, 64), features=15, times=1):
    values = np.random.default_rng(seed).standard_normal((len(SITES), len(scales), times, features))
    coords = {"site": list(SITES), "scale": list(scales), "time": [str(2019 + t) for t in range(times)]}
    return xr.DataArray(values, dims=("site", "scale", "time", "feature"), coords=coords)


def trial_blocks(seed=0):
    site_index = np.repeat(np.arange(40), 6)
    covariates = np.random.default_rng(seed + 1).standard_normal((240, 2))
    X = build_blocks(
        embedding(seed),
        site_ids=SITES,
        site_index=site_index,
        covariates=covariates,
        covariate_names=("age", "land"),
        site_features=np.random.default_rng(seed + 2).standard_normal((40, 2)),
    )
    W = (site_index % 2).astype(float)
    Y = X.site[site_index, 0] * W + np.random.default_rng(seed + 3).standard_normal(240)
    return X, Y, W, site_index


def fitted_procedure(X, Y, W, groups, *, rows=None, components=4):
    rows = np.arange(len(Y)) if rows is None else rows
    procedure = ConcatPCA(CausalForest(num_trees=20), components=components)
    return procedure.fit(X.take(rows), Y[rows], W[rows], propensity=np.full(len(rows), 0.5), groups=groups[rows])


def test_blocks_columns_and_values():
    X, _, _, site_index = trial_blocks()
    values = embedding()
    assert X.shape == (240, 34)
    assert list(dict.fromkeys(X.blocks)) == ["image_16", "image_64", "location", "tabular"]
    assert X.names[0] == "image_16_0"
    assert X.names[15:17] == ("image_64_0", "image_64_1")
    assert X.names[-4:] == ("location_0", "location_1", "age", "land")
    assert X.site.dtype == X.unit.dtype == np.float32
    column = X.names.index("image_64_3")
    np.testing.assert_array_equal(
        X.gather()[:, column], values.sel(scale=64).values[site_index, 0, 3].astype(np.float32)
    )


def test_scales_are_chosen_in_order_whatever_the_order_of_dimensions():
    turned = embedding().transpose("feature", "time", "scale", "site")
    X = build_blocks(turned, site_ids=SITES, site_index=np.arange(40), scales=[64])
    assert set(X.blocks) == {"image_64"}
    np.testing.assert_array_equal(X.site, embedding().sel(scale=64).values[:, 0].astype(np.float32))


def test_several_times_are_blocks_of_their_own():
    X = build_blocks(embedding(times=2), site_ids=SITES, site_index=np.arange(40), scales=[16])
    assert list(dict.fromkeys(X.blocks)) == ["image_16_2019", "image_16_2020"]
    np.testing.assert_array_equal(X.site[:, 15:], embedding(times=2).values[:, 0, 1].astype(np.float32))


def test_covariates_alone():
    X = build_blocks(None, site_ids=SITES, site_index=np.arange(40), covariates=np.eye(40), covariate_names=SITES)
    assert X.site.shape == (40, 0)
    assert X.blocks == ("tabular",) * 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site_ids": SITES[::-1]}, "another order"),
        ({"site_ids": (*SITES[:-1], "new")}, "1 have no embedding"),
        ({"site_ids": SITES[:-1]}, "holds 40 sites, the trial 39"),
        ({"scales": [16, 32]}, r"scales \[32\] are not in the embedding, which holds \[16, 64\]"),
        ({"covariates": np.zeros((39, 1)), "covariate_names": ("a",)}, r"`covariates` has shape \(39, 1\)"),
        ({"covariates": np.zeros((40, 1))}, "1 columns, but 0 names"),
        ({"site_features": np.zeros((3, 2))}, r"`site_features` has shape \(3, 2\)"),
        ({"embedding": embedding().drop_vars("site")}, "no `site` coordinate"),
        ({"embedding": embedding().isel(time=0)}, "has dimensions"),
    ],
)
def test_disagreement_is_refused(change, message):
    options = {"embedding": embedding(), "site_ids": SITES, "site_index": np.arange(39)} | change
    options["site_index"] = np.arange(40 if "covariates" in change else 39)
    with pytest.raises(EoCateError, match=message):
        build_blocks(options.pop("embedding"), **options)


def test_components_are_those_of_the_correlation_matrix():
    site = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32) @ np.diag([1, 9, 1, 1, 1, 1])
    site[:, 1] += 5 * site[:, 0]
    pca = fit_block_pca(site.astype(np.float32), np.arange(6), components=2)
    values, vectors = np.linalg.eigh(np.corrcoef(site, rowvar=False))
    np.testing.assert_allclose(np.abs(pca.loadings.T @ vectors[:, [-1, -2]]), np.eye(2), atol=1e-5)
    np.testing.assert_allclose(pca.transform(site.astype(np.float32)).var(axis=0), values[[-1, -2]], rtol=1e-5)
    largest = np.abs(pca.loadings).argmax(axis=0)
    assert (pca.loadings[largest, [0, 1]] > 0).all()


def test_the_estimator_sees_components_and_narrow_blocks_as_they_are():
    X, Y, W, groups = trial_blocks()
    reduced = fitted_procedure(X, Y, W, groups).reduce(X)
    assert reduced.names == (
        *(f"image_{s}_pc{k}" for s in (16, 64) for k in range(4)),
        "location_0",
        "location_1",
        "age",
        "land",
    )
    np.testing.assert_array_equal(reduced.site[:, 8:], X.site[:, 30:])
    np.testing.assert_array_equal(reduced.unit, X.unit)


def test_sites_outside_the_training_fold_change_nothing():
    """The leak that matters: components fitted on all sites would rank the evaluation fold with its own images."""
    X, Y, W, groups = trial_blocks()
    train = np.flatnonzero(groups < 30)
    spoiled = replace(X, site=np.where(np.arange(40)[:, None] < 30, X.site, 100.0 * X.site**2).astype(np.float32))
    first, second = (fitted_procedure(blocks, Y, W, groups, rows=train) for blocks in (X, spoiled))
    for label, pca in first._components.pca.items():
        assert np.array_equal(pca.loadings, second._components.pca[label].loadings)
        assert np.array_equal(pca.mean, second._components.pca[label].mean)
        assert np.array_equal(pca.scale, second._components.pca[label].scale)
    assert np.array_equal(first.predict(X.take(train)), second.predict(spoiled.take(train)))
    changed = replace(X, site=np.where(np.arange(40)[:, None] == 3, 5.0, X.site).astype(np.float32))
    third = fitted_procedure(changed, Y, W, groups, rows=train)
    assert not np.array_equal(first._components.pca["image_16"].loadings, third._components.pca["image_16"].loadings)


def test_sites_count_once_however_many_units_they_have():
    X, Y, W, groups = trial_blocks()
    one_each = fitted_procedure(X, Y, W, groups, rows=np.arange(0, 240, 6))
    assert np.array_equal(
        fitted_procedure(X, Y, W, groups)._components.pca["image_64"].loadings,
        one_each._components.pca["image_64"].loadings,
    )


def test_a_site_is_predicted_alone_as_among_others():
    X, Y, W, groups = trial_blocks()
    procedure = fitted_procedure(X, Y, W, groups)
    together = procedure.predict(X)
    for k in (0, 17):
        alone = FeatureBlocks(X.site[k : k + 1], X.unit[groups == k], np.zeros(6, dtype=np.int64), X.names, X.blocks)
        np.testing.assert_allclose(procedure.predict(alone), together[groups == k], rtol=1e-12)


def test_repetition_and_deep_copies_change_no_bit():
    X, Y, W, groups = trial_blocks()
    first = fitted_procedure(X, Y, W, groups).predict(X)
    assert np.array_equal(first, fitted_procedure(X, Y, W, groups).predict(X))
    procedure = fitted_procedure(X, Y, W, groups)
    assert np.array_equal(copy.deepcopy(procedure).predict(X), first)


def test_few_sites_and_constant_columns():
    rng = np.random.default_rng(0)
    site = rng.standard_normal((4, 30)).astype(np.float32)
    site[:, 3] = 0.1
    pca = fit_block_pca(site, np.arange(30), components=10)
    assert pca.loadings.shape == (30, 3)
    assert np.abs(pca.loadings[3]).max() < 1e-12
    assert np.isfinite(pca.transform(site)).all()
    constant = fit_block_pca(np.full((5, 12), 0.3, dtype=np.float32), np.arange(12), components=10)
    np.testing.assert_array_equal(constant.transform(np.full((2, 12), 0.3, dtype=np.float32)), np.zeros((2, 1)))


def test_missing_features_stay_missing():
    site = np.random.default_rng(0).standard_normal((20, 12)).astype(np.float32)
    complete = fit_block_pca(site[1:], np.arange(12), components=3)
    site[0, 5] = np.nan
    pca = fit_block_pca(site, np.arange(12), components=3)
    assert np.array_equal(pca.loadings, complete.loadings)
    scores = pca.transform(site)
    assert np.isnan(scores[0]).all()
    assert np.isfinite(scores[1:]).all()
    site[1, 5] = np.inf
    with pytest.raises(EoCateError, match="1 infinite"):
        fit_block_pca(site, np.arange(12), components=3)


def test_procedures_by_name():
    forest = CausalForest(num_trees=2)
    assert make_procedure("concat", forest) is forest
    procedure = make_procedure("concat_pca", forest, components=7)
    assert isinstance(procedure, CateEstimator)
    assert procedure.components == 7
    with pytest.raises(EoCateError, match="'median': choose one of concat, concat_pca"):
        make_procedure("median", forest)


def test_bad_use_is_refused():
    X, Y, W, groups = trial_blocks()
    procedure = ConcatPCA(CausalForest(num_trees=2), components=3)
    with pytest.raises(EoCateError, match="not fitted"):
        procedure.predict(X)
    with pytest.raises(EoCateError, match="needs a FeatureBlocks, found ndarray"):
        procedure.fit(X.gather(), Y, W, propensity=np.full(240, 0.5))
    with pytest.raises(EoCateError, match="not the 34 of `fit`"):
        fitted_procedure(X, Y, W, groups).predict(FeatureBlocks.from_array(X.gather()[:, 1:]))
    with pytest.raises(EoCateError, match="`components` is 0"):
        ConcatPCA(CausalForest(num_trees=2), components=0)
