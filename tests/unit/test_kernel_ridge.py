"""Kernel ridge: the closed forms against the definitions, refitted from scratch."""

import numpy as np
import pytest

from eo_cate.errors import EvaluationError
from eo_cate.stats.kernel_ridge import decompose, make_kernel


def _setting(seed=0, S=40, P=6, kernel="rbf"):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(S, P))
    w = rng.uniform(0.3, 3, S)
    return A, make_kernel(kernel, A), w / w.mean(), rng.normal(size=S), rng


def _predict_from_scratch(K, w, y, gamma, keep, new):
    """BLUP with a GLS mean, written from its definition."""
    V = gamma * K[np.ix_(keep, keep)] + np.diag(1 / w[keep])
    one = np.ones(keep.sum())
    b = one @ np.linalg.solve(V, y[keep]) / (one @ np.linalg.solve(V, one))
    return b + gamma * K[np.ix_(new, keep)] @ np.linalg.solve(V, y[keep] - b)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_leaving_blocks_out_in_closed_form_is_refitting(kernel):
    A, kern, w, y, rng = _setting(kernel=kernel)
    K, blocks = kern(A, A), rng.integers(0, 12, 40)
    L = decompose(K, w * 7).leave_out_matrix(0.4, blocks)
    for g in np.unique(blocks):
        out = blocks == g
        np.testing.assert_allclose((L @ y)[out], _predict_from_scratch(K, w, y, 0.4, ~out, out), atol=1e-11)
    assert all(np.abs(L[np.ix_(blocks == g, blocks == g)]).max() < 1e-11 for g in np.unique(blocks))


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_coefficients_predict_new_rows_as_the_definition_does(kernel):
    A, kern, w, y, rng = _setting(kernel=kernel)
    B = rng.normal(size=(5, 6))
    b, alpha = decompose(kern(A, A), w).coefficients(0.7, y)
    both = kern(np.vstack([A, B]), np.vstack([A, B]))
    keep = np.arange(45) < 40
    expected = _predict_from_scratch(both, np.append(w, np.ones(5)), np.append(y, np.zeros(5)), 0.7, keep, ~keep)
    np.testing.assert_allclose(b + kern(B, A) @ alpha, expected, atol=1e-11)


@pytest.mark.parametrize(("S", "expected"), [(80, 10.0), (24, 6.0)])
def test_gamma_gives_the_degrees_of_freedom_of_the_hat_matrix(S, expected):
    A, kern, w, y, _ = _setting(S=S)
    system = decompose(kern(A, A), w)
    gamma = system.solve_gamma(10)
    H = np.eye(S) - np.diag(1 / w) @ system.projection(gamma)
    assert np.trace(H) - 1 == pytest.approx(expected, abs=1e-8)
    b, alpha = system.coefficients(gamma, y)
    np.testing.assert_allclose(H @ y, b + kern(A, A) @ alpha, atol=1e-10)


def test_a_kernel_without_variation_predicts_the_mean_of_the_others():
    w, y = np.array([1.0, 2, 1, 3]), np.array([1.0, 2, 3, 4])
    system = decompose(np.zeros((4, 4)), w)
    gamma = system.solve_gamma(10)
    assert gamma == 0
    predictions = system.leave_out_matrix(gamma, np.arange(4)) @ y
    np.testing.assert_allclose(predictions[0], np.average(y[1:], weights=w[1:]), rtol=1e-12)


def test_a_linear_kernel_of_one_feature_takes_the_freedom_it_has():
    x = np.linspace(-1, 1, 50)[:, None]
    system = decompose(x @ x.T, np.ones(50))
    H = np.eye(50) - system.projection(system.solve_gamma(10))
    assert np.trace(H) - 1 == pytest.approx(0.95, abs=1e-6)


def test_evidence_is_the_restricted_likelihood_of_its_definition():
    A, kern, w, y, _ = _setting()
    K = kern(A, A)
    system = decompose(K, w)

    def definition(gamma):
        V = gamma * K + np.diag(1 / w)
        V1, Vy = np.linalg.solve(V, np.ones(40)), np.linalg.solve(V, y)
        quadratic = y @ Vy - (V1 @ y) ** 2 / V1.sum()
        return -0.5 * (np.linalg.slogdet(V)[1] + np.log(V1.sum()) + 39 * np.log(quadratic))

    found = system.log_evidence(0.3, y) - system.log_evidence(3.0, y)
    assert found == pytest.approx(definition(0.3) - definition(3.0), abs=1e-10)


def test_bad_input_is_named():
    with pytest.raises(EvaluationError, match="`kernel` is 'cubic'"):
        make_kernel("cubic", np.zeros((3, 1)))
    with pytest.raises(EvaluationError, match="2 of 3 sites have no weight"):
        decompose(np.eye(3), np.array([1.0, 0, 0]))
    with pytest.raises(EvaluationError, match="at least 2"):
        decompose(np.eye(1), np.ones(1))
    with pytest.raises(EvaluationError, match="1 block"):
        decompose(np.eye(3), np.ones(3)).leave_out_matrix(1.0, np.zeros(3, dtype=int))
