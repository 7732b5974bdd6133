"""The compiled engine beside its definition in plain numpy: splits, leaves, draws, bins."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from eo_cate.estimators.forest import draws, nodes
from eo_cate.estimators.forest import grow as engine
from eo_cate.estimators.forest.bins import fit_bins
from eo_cate.estimators.forest.grow import Rules, grow_forest
from eo_cate.estimators.forest.rows import FeatureBins, distinct_rows, fit_feature_bins, make_rows, rows_of, sum_moments
from eo_cate.types import FeatureBlocks

SEED = 11


def units(n, p=5, seed=0, e=0.4, missing=False):
    rng = np.random.default_rng(seed)
    X = (np.round(30 * rng.standard_normal((n, p))) / 30).astype(np.float32)  # fewer distinct values than bins
    X[:, 1] = np.round(X[:, 1])  # ties
    if missing:
        X[rng.random(n) < 0.3, 0] = np.nan
        X[:, 2][X[:, 0] > 0] = np.nan
    W = (rng.random(n) < e).astype(float)
    Y = np.where(np.isnan(X[:, 0]), 1.5, X[:, 0]) * W + 0.5 * X[:, 1] + rng.standard_normal(n)
    return X, Y, W, rng.uniform(0.2, 3.0, n)


def grow(X, Y, W, weights, *, is_causal=True, num_trees=2, mtry=None, feature_weights=None, min_count=5.0, alpha=0.05):
    """One unit per group."""
    blocks, every = FeatureBlocks.from_array(X), np.arange(len(X))
    rows = make_rows(*distinct_rows(blocks, every), every, weights)
    bins = FeatureBins(fit_bins(X), blocks.names)
    codes = bins.encode(blocks, rows.first)
    counts = (W, 1 - W) if is_causal else (np.ones(len(X)),) * 2
    moments = sum_moments(rows, Y, W - 0.4 if is_causal else 0 * W, weights, counts)
    rules = Rules(is_causal, min_count, alpha, 0.5, 0.5, mtry, feature_weights)
    return codes, grow_forest(codes, rows, moments, rules, num_trees=num_trees, seed=SEED, num_threads=1)


def halves(n, tree):
    """Split and estimation rows of a tree, drawn again from its seed."""
    size, seed = n // 2, np.uint64(SEED)
    bag = draws.draw_bag(seed, tree // 2, np.arange(n), size)
    split, estimation = np.empty(n, np.uint32), np.empty(n, np.uint32)
    tree_seed = np.uint64(draws.derive(np.uint64(draws.derive(seed, tree // 2)), tree % 2 + 1))
    m, q = draws.draw_halves(tree_seed, bag, round(size / 2), np.arange(n + 1), split, estimation)
    return split[:m].astype(int), estimation[:q].astype(int)


def left_of(x, cut, missing_left):
    return np.where(np.isnan(x), missing_left, x <= cut)


def best_split(X, Y, W, weights, *, is_causal, min_count=5.0, alpha=0.05):
    """The definition: squared gradient sums over weights, counts and variation in both children; partition as a mask."""
    w = W - np.average(W, weights=weights)
    y = Y - np.average(Y, weights=weights)
    rho = weights * (w * (y - w * (weights @ (w * y)) / (weights @ (w * w))) if is_causal else y)

    def variation(mask):
        mean = np.average(W[mask], weights=weights[mask])
        return weights[mask] @ (W[mask] - mean) ** 2

    best, found = 0.0, None
    for j in range(X.shape[1]):
        x = X[:, j]
        values = np.unique(x[~np.isnan(x)])
        for missing_left in (False, True) if np.isnan(x).any() else (False,):
            for cut in values:
                left = left_of(x, cut, missing_left)
                if left.all() or not left.any():
                    continue
                score = rho[left].sum() ** 2 / weights[left].sum() + rho[~left].sum() ** 2 / weights[~left].sum()
                if score <= best * (1 + 1e-5):
                    continue
                if is_causal:
                    treated = [W[left].sum(), W[~left].sum(), (1 - W[left]).sum(), (1 - W[~left]).sum()]
                    whole = variation(np.ones(len(x), dtype=bool))
                    if min(treated) < min_count or min(variation(left), variation(~left)) < alpha * whole:
                        continue
                elif min(left.sum(), (~left).sum()) < max(min_count, alpha * len(x)):
                    continue
                best, found = score, (j, left)
    return found


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [120, 240, 400, 800])  # split halves of 30, 60, 100 rows (ranked), and of 200 (binned)
def test_the_first_split_is_the_best_by_definition(n, weighted, missing, is_causal, monkeypatch):
    monkeypatch.setattr(engine, "_number_cdf", lambda mtry, p: np.append(np.zeros(p - 1), 1.0))  # every feature
    X, Y, W, omega = units(n, missing=missing)
    weights = omega if weighted else np.ones(n)
    codes, trees = grow(X, Y, W, weights, is_causal=is_causal, num_trees=20)
    checked = 0
    for t in range(20):
        split, estimation = halves(n, t)
        expected = best_split(X[split], Y[split], W[split], weights[split], is_causal=is_causal)
        feature = trees.nodes[trees.node_start[t], 0]
        if feature < 0:
            assert expected is None
            continue
        cut, missing_left = trees.cuts[trees.node_start[t]]
        mine = np.where(codes[:, feature] == 255, missing_left == 1, codes[:, feature] <= cut)
        if mine[estimation].all() or not mine[estimation].any():
            continue  # narrowed at once: the node shows a later split
        assert feature == expected[0]
        assert np.array_equal(mine[split], expected[1])
        checked += 1
    assert checked >= 15


def test_a_node_is_passed_over_only_where_no_partition_keeps_the_counts():
    """All partitions of a few rows tell: a node where one keeps both counts is never passed over."""
    rng, minimum, passed = np.random.default_rng(3), 5.0, 0
    for _ in range(400):
        number, moments = int(rng.integers(1, 7)), np.zeros((9, 8))
        moments[:, 5], moments[:, 6] = rng.integers(0, 12, 9), rng.integers(0, 12, 9)
        moments[:, 5] += moments[:, 5:7].sum(axis=1) == 0
        moments[:, 7] = moments[:, 5:7].sum(axis=1)
        rows = rng.permutation(9).astype(np.uint32)
        own = moments[rows[2 : 2 + number]]
        total = own.sum(axis=0, keepdims=True)
        lefts = [own[list(left), 5:7].sum(axis=0) for k in range(number) for left in combinations(range(number), k)]
        possible = any((left >= minimum).all() and (total[0, 5:7] - left >= minimum).all() for left in lefts)
        found = nodes.can_part(moments, rows, 2, 2 + number, total, minimum)
        assert found or not possible
        if number == 1 or (total[0, 5:7] < 2 * minimum).any():
            assert not found
        passed += not found and (total[0, 5:7] >= 2 * minimum).all()
    assert passed > 20


@pytest.mark.parametrize("is_causal", [True, False])
def test_leaves_hold_means_of_their_estimation_units_and_enough_split_units(is_causal):
    n = 600
    X, Y, W, omega = units(n, missing=True)
    codes, trees = grow(X, Y, W, omega, is_causal=is_causal, num_trees=4)
    T = W - 0.4 if is_causal else 0 * W
    moments = omega[:, None] * np.column_stack([np.ones(n), Y, T, T * Y, T * T])
    for t in range(4):
        split, estimation = halves(n, t)
        leaf = np.array([walk(trees, t, row) for row in codes])
        for k in range(trees.leaf_start[t + 1] - trees.leaf_start[t]):
            here = estimation[leaf[estimation] == k]
            assert len(here) >= 1
            np.testing.assert_allclose(trees.means[trees.leaf_start[t] + k], moments[here].mean(axis=0), atol=1e-12)
            inside = split[leaf[split] == k]
            if len(inside) and is_causal:
                assert min(W[inside].sum(), (1 - W[inside]).sum()) >= 5
            elif len(inside):
                assert len(inside) >= 5
        assert trees.leaf_start[t + 1] - trees.leaf_start[t] > 5


def walk(trees, t, row):
    k = trees.node_start[t]
    while trees.nodes[k, 0] >= 0:
        feature, left = trees.nodes[k]
        code = row[feature]
        goes_left = trees.cuts[k, 1] == 1 if code == 255 else code <= trees.cuts[k, 0]
        k = trees.node_start[t] + left + (0 if goes_left else 1)
    return trees.nodes[k, 1]


def test_a_constant_outcome_is_never_split():
    X, _, W, omega = units(400)
    for is_causal in (True, False):
        _, trees = grow(X, np.full(400, 0.1), W, omega, is_causal=is_causal, num_trees=10)
        assert np.all(trees.nodes[:, 0] == -1)


def test_features_of_weight_zero_are_never_split_on_and_the_others_by_their_weight():
    rng = np.random.default_rng(3)
    n, p = 800, 40
    X, W = rng.standard_normal((n, p)), rng.integers(0, 2, n).astype(float)
    weights = np.where(np.arange(p) < 20, 0.0, np.where(np.arange(p) < 30, 1.0, 4.0))
    _, trees = grow(X, rng.standard_normal(n), W, np.ones(n), num_trees=400, mtry=2, feature_weights=weights)
    used = np.bincount(trees.nodes[trees.nodes[:, 0] >= 0, 0], minlength=p)
    assert used[:20].sum() == 0
    # two features of 30, weights 1 and 4: about 4 times as often, a little less without replacement
    assert 3.0 < used[30:].sum() / used[20:30].sum() < 4.5


def test_draws_are_distinct_and_follow_the_weights():
    """Sequential draws by weight: the first is feature j with probability w_j / sum w; both ways of drawing agree."""
    state, p = np.array([5], np.uint64), 6
    weights = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 1000.0])
    marked, keys, drawn = np.zeros(p, np.bool_), np.empty(p), np.empty(p, np.int64)
    counts, repeats = np.zeros(p), 20_000
    for _ in range(repeats):  # almost every draw is feature 5: the second comes from exponential keys
        number = draws.draw_weighted(state, np.cumsum(weights), marked, keys, drawn, 2)
        assert number == 2
        assert drawn[0] != drawn[1]
        counts[drawn[:2]] += 1
    assert counts[0] == 0
    # feature 5 first (all but 1 %), then the others by weight; 4 standard errors of .0035
    np.testing.assert_allclose(counts[1:5] / repeats, weights[1:5] / 10, atol=0.014)
    assert draws.draw_weighted(state, np.cumsum(weights), marked, keys, drawn, p) == 5
    assert sorted(drawn[:5]) == [1, 2, 3, 4, 5]
    order, swaps = np.arange(p), np.empty(p, np.int64)
    firsts = np.zeros(p)
    for _ in range(6_000):
        draws.draw_uniform(state, order, swaps, drawn, 3)
        assert len(set(drawn[:3])) == 3
        firsts[drawn[0]] += 1
    assert np.array_equal(order, np.arange(p))
    np.testing.assert_allclose(firsts / 6_000, 1 / p, atol=0.02)  # standard error .0048


def test_bins_part_neighbours_and_never_ties():
    rng = np.random.default_rng(0)
    near = np.float32(1.0)
    X = np.column_stack([np.repeat([near, np.nextafter(near, np.float32(2))], 500), rng.integers(0, 5, 1000)])
    X = np.column_stack([X, rng.standard_normal(1000), np.zeros(1000)]).astype(np.float32)
    X[::10, 1] = np.nan
    bins = fit_bins(X)
    codes = bins.encode(X)
    assert [len(np.unique(column)) for column in codes.T] == [2, 6, 255, 1]
    assert np.all(codes[::10, 1] == 255)
    order = np.argsort(X[:, 2])
    assert np.all(np.diff(codes[order, 2].astype(int)) >= 0)
    assert np.bincount(codes[:, 2]).max() <= 4  # 1,000 values over 255 bins
    assert np.array_equal(
        bins.encode(np.array([[-9.0, -9, -99, -1], [9, 9, 99, 1]], np.float32)), [[0] * 4, [1, 4, 254, 0]]
    )
    doubled = fit_bins(np.vstack([X, X[:100], X[:100]]))
    assert np.array_equal(doubled.cuts, bins.cuts)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("sites", [40, 600])  # nodes of up to 64 sites are ranked, larger ones are binned
def test_scanning_sites_of_unit_rows_gives_the_same_trees_bit_for_bit(sites, missing, is_causal):
    rng = np.random.default_rng(sites)
    site = rng.permutation(np.repeat(np.arange(sites), rng.integers(1, 9, sites)))  # units of a site lie apart
    n, group = len(site), site // 2 if sites > 40 else site
    shared, own = rng.standard_normal((sites, 30)).astype(np.float32), rng.standard_normal((n, 6)).astype(np.float32)
    shared[:, 3] = np.round(shared[:, 3])
    if missing:
        shared[rng.random(sites) < 0.3, 0] = np.nan
        own[rng.random(n) < 0.3, 0] = np.nan
    X = FeatureBlocks(shared, own, site, tuple(map(str, range(36))), ("image_16",) * 30 + ("tabular",) * 6)
    W, omega = rng.integers(0, 2, n).astype(float), rng.uniform(0.2, 3.0, n)
    Y = np.nan_to_num(shared[site, 0], nan=1.0) * W + own[:, 1] + rng.standard_normal(n)
    rows = rows_of(X, group, omega)
    assert rows.num_shared == 30
    for g in range(group.max() + 1):  # rows of a site follow each other within its group
        own_sites = rows.sites[rows.start[g] : rows.start[g + 1]]
        assert np.all(np.diff(own_sites) >= 0)
    codes = fit_feature_bins(X).encode(X, rows.first)
    counts = (W, 1 - W) if is_causal else (np.ones(n),) * 2
    moments = sum_moments(rows, Y, W - 0.5 if is_causal else 0 * W, omega, counts)
    rules = Rules(is_causal, 5.0, 0.05, 0.5, 0.5, None, None)
    by_site, by_unit = (
        grow_forest(codes, made, moments, rules, num_trees=200, seed=2, num_threads=1)
        for made in (rows, replace(rows, sites=None, num_shared=0))
    )
    for name in ("nodes", "cuts", "means", "node_start", "leaf_start", "in_bag"):
        assert np.array_equal(getattr(by_site, name), getattr(by_unit, name))
    used = by_site.nodes[by_site.nodes[:, 0] >= 0, 0]
    assert (used < 30).sum() > 100
    assert (used >= 30).sum() > 100
