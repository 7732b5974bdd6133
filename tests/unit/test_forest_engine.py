"""What we rely on in econml's private compiled classes: these tests fail first when a release changes them."""

import numpy as np
import pytest

from eo_cate.estimators.forest.trees import (
    GrowOptions,
    grow_tree,
    load_engine,
    narrow_to_estimated,
    split_moments,
    unit_moments,
)


def units(seed=0, n=400, p=4, e=0.3):
    rng = np.random.default_rng(seed)
    matrix = np.asfortranarray(rng.standard_normal((n, p)))
    W = (rng.random(n) < e).astype(float)
    Y = matrix[:, 0] * W + 0.5 * matrix[:, 1] + rng.standard_normal(n)
    return matrix, Y, W, np.full(n, e), rng.uniform(0.2, 3.0, n)


def grow(matrix, Y, W, e, *, split_rows, estimation_rows, weights=None, **options):
    limits = GrowOptions(**{"mtry": matrix.shape[1], "min_leaf": 10, "alpha": 0.05, "min_arm_share": 0.05} | options)
    return grow_tree(
        matrix,
        split_moments(Y, W, e),
        unit_moments(Y, W - e, np.ones(len(Y)) if weights is None else weights),
        split_rows=split_rows,
        estimation_rows=estimation_rows,
        weights=weights,
        options=limits,
        seeds=(1, 2),
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_the_root_is_least_squares_on_the_split_rows(weighted):
    """Fixes the order of A and J in econml's rows, and that only the given rows are read."""
    matrix, Y, W, e, omega = units()
    rows = np.arange(0, 400, 2)
    grown = grow(matrix, Y, W, e, split_rows=rows, estimation_rows=rows, weights=omega if weighted else None)
    root = np.sqrt(omega[rows] if weighted else np.ones(len(rows)))
    expected = np.linalg.lstsq(root[:, None] * np.column_stack([W, np.ones(400)])[rows], root * Y[rows])[0]
    np.testing.assert_allclose(grown.tree.full_value[0].ravel(), expected, rtol=1e-10)


def test_the_first_split_maximises_the_gradient_score():
    """rho = J^-1 (A - J theta) of least squares; squared child sums over child counts, all cuts tried."""
    matrix, Y, W, e, _ = units(n=200)
    grown = grow(matrix, Y, W, e, split_rows=np.arange(200), estimation_rows=np.arange(200), min_arm_share=0.0)
    T = np.column_stack([W - e, np.ones(200)])
    theta = np.linalg.lstsq(T, Y)[0]
    rho = (np.linalg.inv(T.T @ T) @ (T * (Y - T @ theta)[:, None]).T)[0]
    scores = {}
    for j in range(4):
        order = np.argsort(matrix[:, j])
        for k in range(10, 191):
            left = rho[order[:k]].sum()
            scores[j, k] = left**2 / k + (rho.sum() - left) ** 2 / (200 - k)
    j, k = max(scores, key=scores.__getitem__)
    cut = np.sort(matrix[:, j])[k - 1 : k + 1].mean()
    assert grown.tree.feature[0] == j
    assert grown.tree.threshold[0] == pytest.approx(cut, rel=1e-12)


@pytest.mark.parametrize("e", [0.5, 0.1])
def test_every_leaf_keeps_units_and_arms(e):
    matrix, Y, W, known, _ = units(n=2000, e=e)
    rows = np.arange(2000)
    grown = grow(matrix, Y, W, known, split_rows=rows, estimation_rows=rows, min_arm_share=0.05)
    leaf = grown.apply(matrix)
    size, treated = np.bincount(leaf), np.bincount(leaf, W)
    used = size > 0
    assert used.sum() > 20
    assert size[used].min() >= 10
    assert (treated[used] / size[used]).min() >= 0.05
    assert (treated[used] / size[used]).max() <= 0.95


def test_leaf_means_are_those_of_the_estimation_rows():
    matrix, Y, W, e, omega = units()
    grown = grow(matrix, Y, W, e, split_rows=np.arange(200), estimation_rows=np.arange(200, 400), weights=omega)
    leaf = grown.apply(matrix)
    here = np.flatnonzero(leaf[200:] == leaf[250]) + 200
    T = W - e
    expected = [(omega * v)[here].mean() for v in (np.ones(400), Y, T, T * Y, T * T)]
    np.testing.assert_allclose(grown.means[leaf[250]], expected, rtol=1e-12)


def test_rows_are_sent_past_leaves_without_estimation_units():
    matrix, Y, W, e, _ = units(n=400)
    few = np.arange(200, 203)
    grown = grow(matrix, Y, W, e, split_rows=np.arange(200), estimation_rows=few)
    assert grown.tree.n_leaves > 5
    filled = grown.means[:, 0] > 0
    assert 1 <= filled.sum() <= 3
    assert filled[grown.apply(matrix)].all()


def test_narrowing_keeps_a_tree_whose_leaves_are_all_filled():
    matrix, Y, W, e, _ = units()
    rows = np.arange(400)
    grown = grow(matrix, Y, W, e, split_rows=rows, estimation_rows=rows)
    before = grown.tree.threshold.copy()
    narrow_to_estimated(grown.tree, np.bincount(grown.apply(matrix), minlength=grown.tree.node_count))
    assert np.array_equal(before, grown.tree.threshold)


def test_the_engine_is_the_pinned_release():
    from importlib.metadata import version

    assert version("econml").startswith("0.17.")
    assert load_engine().Tree(3, 2, 1, store_jac=False).n_outputs == 2
