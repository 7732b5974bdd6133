"""One model fitted once on all units: on the image alone it draws every map."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from eo_cate import multiscale
from eo_cate.evaluation import OutcomeModel, TrialVectors
from eo_cate.evaluation.configurations import blocks_key
from eo_cate.extrapolation import predict_cells
from eo_cate.multiscale.blocks import take_blocks
from eo_cate.stats.training import TrainingUnits
from eo_cate.steps.context import IMAGE, Run
from eo_cate.steps.estimators import build_estimator
from eo_cate.types import FeatureBlocks, FloatArray, IntArray, Trial

MODERATORS = 10
"""Predictors that the model of trial membership uses: those of the largest importance."""


class MapModel:
    """The procedure of the map on one configuration's features; fitted when it is first needed, and then kept.

    Where it holds forests, its predictors are the columns that they see, weighted by their importance; a kernel
    method beside them (`mean_of`) sees the same blocks. Without a forest they are the components of each block; every
    block counts alike, and within it a column by its standard deviation, which is how a linear kernel measures
    distance.

    Parameters
    ----------
    run : Run
    trial : Trial
    features : mapping
        Feature blocks by configuration.
    outcome : OutcomeModel
    configuration : str
        Maps are of `IMAGE`.
    procedure : str, optional
        Another than the map's.

    Attributes
    ----------
    X, vectors, outcome
        What it is fitted on.
    address : tuple
        All that determines it: part of a key in the store.
    """

    def __init__(
        self,
        run: Run,
        trial: Trial,
        features: Mapping[str, FeatureBlocks],
        outcome: OutcomeModel,
        *,
        configuration: str = IMAGE,
        procedure: str | None = None,
    ) -> None:
        self.X, self.vectors, self.outcome = features[configuration], TrialVectors.of(trial), outcome
        self._components, self._seed = run.config.multiscale.components, run.config.seed
        self._estimator, settings = build_estimator(
            run.config, procedure or run.config.multiscale.map_procedure, num_threads=os.cpu_count() or 1
        )
        self.address = (settings, blocks_key(self.X), outcome.key)

    @cached_property
    def fitted(self) -> Any:
        """The fitted estimator."""
        return self._units.fit(self._estimator)

    def fit_on(self, rows: IntArray) -> Any:
        """The estimator fitted on some of the units only."""
        return self._units.take(rows).fit(self._estimator)

    @cached_property
    def tau_hat(self) -> FloatArray:
        """Effects of the training units by fits without their group, (n,); NaN where there is none.

        A procedure that has none of its own is fitted again on folds of groups.
        """
        return self._units.honest_effects(self._estimator, self.fitted, seed=self._seed, allow_gaps=True)

    @cached_property
    def weights(self) -> FloatArray | None:
        """Importance of the predictors that `reduce` gives, (p,); None when no estimator inside has any."""
        found = [weight * np.array(list(member.variable_importance().values())) for member, _, weight in self._forests]
        importance = np.concatenate([np.zeros(0), *found])
        return importance if importance.any() else None

    @cached_property
    def place_weights(self) -> FloatArray:
        """What each predictor counts in the distance between places, (p,): its importance where there is one."""
        if self.weights is not None:
            return self.weights
        reduced, first = self._reduced(self.X), np.unique(self.X.site_index, return_index=True)[1]
        labels = np.array([label for part in reduced for label in part.blocks])
        spread = np.hstack([part.gather()[first] for part in reduced]).astype(np.float64).std(axis=0)
        spread[spread <= 1e-7] = 0.0  # of a constant column in float32
        total = {label: np.sqrt((spread[labels == label] ** 2).sum()) for label in set(labels)}
        return np.array([s / total[label] if s else 0.0 for s, label in zip(spread, labels, strict=True)])

    @property
    def predictors(self) -> list[str]:
        """Names of the predictors that `reduce` gives."""
        return [name for part in self._reduced(self.X.take(np.arange(1))) for name in part.names]

    @property
    def moderators(self) -> tuple[list[int], list[str]]:
        """Columns of `reduce`'s result that matter most, and their names."""
        names, weights = self.predictors, self.place_weights
        columns = np.argsort(-weights, kind="stable")[:MODERATORS]
        columns = np.sort(columns[weights[columns] > 0])
        return columns.tolist(), [names[j] for j in columns]

    def reduce(self, X: FeatureBlocks) -> FloatArray:
        """The predictors, (n, p) float64: components per scale, or the features themselves."""
        return np.hstack([part.gather() for part in self._reduced(X)]).astype(np.float64)

    def _reduced(self, X: FeatureBlocks) -> list[FeatureBlocks]:
        if not self._forests:
            return [self._kernel_components.reduce(X)]
        parts = [(member, X if labels is None else take_blocks(X, labels)) for member, labels, _ in self._forests]
        return [member.reduce(part) if hasattr(member, "reduce") else part for member, part in parts]

    @cached_property
    def _kernel_components(self) -> multiscale.BlockComponents:
        return multiscale.fit_components(self.X, components=self._components)

    @cached_property
    def _forests(self) -> list[tuple[Any, tuple[str, ...] | None, float]]:
        """Estimators inside with importances, the blocks that each sees (None: all), and their weights."""
        fitted = self.fitted
        found = [(fitted, None, 1.0)]
        if hasattr(fitted, "members_"):
            found = list(zip(fitted.members_, fitted.sets_, fitted.weights_.tolist(), strict=True))
        return [one for one in found if hasattr(one[0], "variable_importance")]

    @property
    def _units(self) -> TrainingUnits:
        v = self.vectors
        return TrainingUnits(self.X, v.Y - self.outcome.m_hat, v.W, v.propensity, v.weights, v.groups)


def fit_map(model: MapModel) -> None:
    """Fit now, errors included: what cannot be fitted is refused, and no block of cells fits it again."""
    predict_cells(model.fitted, model.X.take(np.arange(1)))
