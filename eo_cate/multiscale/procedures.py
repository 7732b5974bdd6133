"""Procedures: a `CateEstimator` in, a `CateEstimator` that sees several scales out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from eo_cate.errors import EoCateError
from eo_cate.multiscale.average_evidence import AverageEvidence
from eo_cate.multiscale.wrappers import BalanceBlocks, BlockAverage, MeanOf, Residual, Select, Stack
from eo_cate.stats.params import Parameters
from eo_cate.types import CateEstimator, FeatureBlocks, FloatArray, IntArray

_AROUND: dict[str, Callable[..., CateEstimator]] = {
    "average": BlockAverage,
    "stack": Stack,
    "residual": Residual,
    "select": Select,
}
PROCEDURES = ("concat", "concat_pca", "average_evidence", "mean_of", *_AROUND)
FORESTLESS = "average_evidence"
"""The one procedure that has no use for the estimator it is given."""
_NAMES = {
    "concat": "forest",
    "concat_pca": "forest",
    "average": "average of forests",
    "average_evidence": "average_evidence",
    "mean_of": "mean of forest and average_evidence",
    "stack": "stack of forests",
    "residual": "sum of forests",
    "select": "selected forest",
}


@dataclass(frozen=True)
class BlockPCA:
    """Principal components of one block, fitted on the training sites.

    Parameters
    ----------
    columns : (m,) int
        Columns of ``FeatureBlocks.site`` that the block holds.
    mean, scale : (m,) float64
        Of the training sites; ``scale`` is 1 where a column is constant.
    loadings : (m, k) float64
        Orthonormal; the loading of largest absolute value is positive in each component.
    """

    columns: IntArray
    mean: FloatArray
    scale: FloatArray
    loadings: FloatArray

    def transform(self, site: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (S, k) of sites (S, p); NaN for a site with a missing feature in the block."""
        standard = (site[:, self.columns].astype(np.float64) - self.mean) / self.scale
        with threadpool_limits(1, user_api="blas"):
            return (standard @ self.loadings).astype(np.float32)


def fit_block_pca(site: NDArray[np.float32], columns: IntArray, *, components: int) -> BlockPCA:
    """Fit `BlockPCA` on training sites (S, p): standardise, full SVD, keep what the rank allows.

    Sites with a missing feature in the block are left out.

    Raises
    ------
    EoCateError
        When fewer than two sites remain, or a value is infinite.
    """
    block = site[:, columns].astype(np.float64)
    infinite = int(np.isinf(block).sum())
    if infinite:
        raise EoCateError(f"a block of site features has {infinite} infinite values: set them to NaN")
    block = block[~np.isnan(block).any(axis=1)]
    if len(block) < 2:
        raise EoCateError(f"{len(block)} training sites have every feature of the block, PCA needs 2: check the images")
    mean, spread = block.mean(axis=0), block.std(axis=0)
    scale = np.where(spread > 1e-7 * np.abs(mean), spread, 1.0)  # float32 noise is not variation
    standard = np.where(spread > 1e-7 * np.abs(mean), (block - mean) / scale, 0.0)
    with threadpool_limits(1, user_api="blas"):
        _, singular, loadings = np.linalg.svd(standard, full_matrices=False)
    rank = int((singular > 1e-9 * singular[0]).sum()) if singular[0] > 0 else 1
    kept = loadings[: min(components, rank)].T
    largest = kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])]
    return BlockPCA(columns=columns, mean=mean, scale=scale, loadings=kept * np.sign(largest))


@dataclass(frozen=True)
class BlockComponents:
    """Components of the wide blocks of FeatureBlocks with these ``names``, by block label."""

    pca: dict[str, BlockPCA]
    names: tuple[str, ...]

    def reduce(self, X: FeatureBlocks) -> FeatureBlocks:
        """Components named e.g. ``image_16_pc0`` in place of wide blocks; the other columns as they are.

        Raises
        ------
        EoCateError
            When the columns are not those that the components were fitted on.
        """
        if X.names != self.names:
            raise EoCateError(f"`X` has {len(X.names)} columns that are not the {len(self.names)} of `fit`, in order")
        p_site = X.site.shape[1]
        labels = np.array(X.blocks[:p_site], dtype=object)
        parts, names, blocks = [np.zeros((len(X.site), 0), dtype=np.float32)], list[str](), list[str]()
        for label in dict.fromkeys(X.blocks[:p_site]):
            columns = np.flatnonzero(labels == label)
            pca = self.pca.get(label)
            values = X.site[:, columns] if pca is None else pca.transform(X.site)
            parts.append(values)
            names += [f"{label}_pc{k}" for k in range(values.shape[1])] if pca else [X.names[j] for j in columns]
            blocks += [label] * values.shape[1]
        return FeatureBlocks(
            site=np.hstack(parts),
            unit=X.unit,
            site_index=X.site_index,
            names=(*names, *X.names[p_site:]),
            blocks=(*blocks, *X.blocks[p_site:]),
        )


def fit_components(X: FeatureBlocks, *, components: int) -> BlockComponents:
    """Components of every block of site features that is wider than ``components``, on the unique sites of the units.

    Raises
    ------
    EoCateError
        As `fit_block_pca`.
    """
    training = X.site[np.unique(X.site_index)]
    labels = np.array(X.blocks[: X.site.shape[1]], dtype=object)
    pca = {
        label: fit_block_pca(training, np.flatnonzero(labels == label), components=components)
        for label in dict.fromkeys(labels)
        if (labels == label).sum() > components
    }
    return BlockComponents(pca, X.names)


class ConcatPCA(Parameters):
    """Reduce each wide block of site features to its principal components, then lay all blocks side by side.

    Components are fitted inside `fit`, on the unique sites of the units given there, so that a refit on a training
    fold never sees the sites of another. Unit features and blocks of at most ``components`` columns pass through.

    Parameters
    ----------
    estimator : CateEstimator
        Fitted on the reduced features.
    components : int
        Principal components kept per block.
    """

    def __init__(self, estimator: CateEstimator, *, components: int = 20) -> None:
        if components < 1:
            raise EoCateError(f"`components` is {components}: give 1 or more")
        self.estimator = estimator
        self.components = components
        self._components: BlockComponents | None = None

    def fit(
        self,
        X: FeatureBlocks | NDArray[Any],
        Y: FloatArray,
        W: FloatArray,
        *,
        propensity: FloatArray,
        sample_weights: FloatArray | None = None,
        groups: IntArray | None = None,
        **options: Any,
    ) -> Self:
        """Fit components on the sites of X's units, then the estimator; ``options`` go to the estimator's `fit`.

        Raises
        ------
        EoCateError
            When X is not a FeatureBlocks: a plain array does not say which rows share a site.
        """
        blocks = _require_blocks(X)
        self._components = fit_components(blocks, components=self.components)
        self.estimator.fit(
            self.reduce(blocks), Y, W, propensity=propensity, sample_weights=sample_weights, groups=groups, **options
        )
        return self

    def predict(self, X: FeatureBlocks | NDArray[Any], **options: Any) -> Any:
        """tau_hat, shape (n,); ``options`` (such as ``std_err=True``) go to the estimator's `predict`."""
        return self.estimator.predict(self.reduce(_require_blocks(X)), **options)

    @property
    def oob(self) -> Any:
        """The estimator's `oob`, where it has one; components were fitted on all training sites, without outcomes."""
        estimator: Any = self.estimator
        return estimator.oob

    @property
    def variable_importance(self) -> Any:
        """The estimator's `variable_importance`, where it has one: of the columns that `reduce` gives."""
        estimator: Any = self.estimator
        return estimator.variable_importance

    def reduce(self, X: FeatureBlocks) -> FeatureBlocks:
        """The features that the estimator sees, as `BlockComponents.reduce`.

        Raises
        ------
        EoCateError
            Before `fit`, and when the columns are not those of `fit`.
        """
        if self._components is None:
            raise EoCateError("this procedure is not fitted: call `fit` first")
        return self._components.reduce(X)


def name_estimator(procedure: str) -> str:
    """What a procedure around the causal forest is called in tables and sentences."""
    return _NAMES[procedure]


def make_procedure(
    name: str, estimator: CateEstimator | None, *, components: int = 20, balance: bool = False, seed: int = 0
) -> CateEstimator:
    """Wrap an estimator in a procedure by name.

    Parameters
    ----------
    name : str, of `PROCEDURES`
        ``concat`` lays blocks side by side, which is what an estimator does with FeatureBlocks: it is returned as is.
        ``concat_pca`` is `ConcatPCA`. ``average``, ``stack``, ``residual`` and ``select`` fit `ConcatPCA` of the
        estimator on sets of blocks; ``mean_of`` is the mean of `ConcatPCA` of the estimator and `AverageEvidence`.
        ``average_evidence`` is a kernel method of its own: ``estimator`` is not used and may be None. For other
        compositions use the classes.
    components : int
        Principal components kept per block, but for ``concat`` and ``average_evidence``.
    balance : bool
        Give the blocks equal chances at a forest's nodes (`BalanceBlocks`); `fit` refuses an estimator that does not
        draw columns. False: plain concatenation, the paper's.
    seed : int
        Of the folds of an estimator without `oob`, and of the sets that ``average_evidence`` draws above 6 blocks.

    Raises
    ------
    EoCateError
        For an unknown name, or without an estimator where one is needed.
    """
    if name not in PROCEDURES:
        raise EoCateError(f"unknown procedure {name!r}: choose one of {', '.join(PROCEDURES)}")
    if name == FORESTLESS:
        return AverageEvidence(seed=seed)
    if estimator is None:
        raise EoCateError(f"procedure {name!r} wraps an estimator: give one")
    base = BalanceBlocks(estimator) if balance else estimator
    if name == "concat":
        return base
    reduced = ConcatPCA(base, components=components)
    if name == "concat_pca":
        return reduced
    if name == "mean_of":
        return MeanOf([reduced, AverageEvidence(seed=seed)], seed=seed)
    return _AROUND[name](reduced, seed=seed)


def _require_blocks(X: Any) -> FeatureBlocks:
    if not isinstance(X, FeatureBlocks):
        raise EoCateError(f"concat_pca needs a FeatureBlocks, found {type(X).__name__}: only it knows sites and blocks")
    return X
