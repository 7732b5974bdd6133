"""The model of every map: the forest on the image alone, fitted once on all units."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from eo_cate.errors import EoCateError
from eo_cate.evaluation import OutcomeModel, TrialVectors
from eo_cate.evaluation.configurations import blocks_key
from eo_cate.multiscale.blocks import take_blocks
from eo_cate.steps.context import IMAGE, Run
from eo_cate.steps.estimators import build_forest
from eo_cate.types import FeatureBlocks, FloatArray, Trial

MODERATORS = 10
"""Predictors that the model of trial membership uses: those on which the forest splits most."""


class MapModel:
    """The configured forest on `IMAGE` features; fitted when it is first needed, and then kept.

    Parameters
    ----------
    run : Run
    trial : Trial
    features : mapping
        Feature blocks by configuration.
    outcome : OutcomeModel

    Attributes
    ----------
    X, vectors, outcome
        What it is fitted on.
    address : tuple
        All that determines it: part of a key in the store.
    """

    def __init__(self, run: Run, trial: Trial, features: Mapping[str, FeatureBlocks], outcome: OutcomeModel) -> None:
        self.X, self.vectors, self.outcome = features[IMAGE], TrialVectors.of(trial), outcome
        self._estimator, settings = build_forest(run.config, num_threads=os.cpu_count() or 1)
        self.address = (settings, blocks_key(self.X), outcome.key)

    @cached_property
    def fitted(self) -> Any:
        """The fitted estimator."""
        v = self.vectors
        self._estimator.fit(
            self.X,
            v.Y - self.outcome.m_hat,
            v.W,
            propensity=v.propensity,
            sample_weights=v.weights,
            groups=v.groups,
        )
        return self._estimator

    @cached_property
    def weights(self) -> FloatArray | None:
        """Importance of the predictors that `reduce` gives, (p,); None when the estimator has none."""
        found = [one.variable_importance() for one in self._forests() if hasattr(one, "variable_importance")]
        if len(found) != len(self._forests()):
            return None
        return np.concatenate([np.array(list(shares.values())) for shares in found])

    @property
    def moderators(self) -> tuple[list[int], list[str]]:
        """Columns of `reduce`'s result that matter most, and their names."""
        names = [name for one in self._members() for name in self._reduce_with(one, self.X.take(np.arange(1))).names]
        weights = np.ones(len(names)) if self.weights is None else self.weights
        columns = np.argsort(-weights, kind="stable")[:MODERATORS]
        columns = np.sort(columns[weights[columns] > 0])
        return columns.tolist(), [names[j] for j in columns]

    def reduce(self, X: FeatureBlocks) -> FloatArray:
        """The predictors that the trees see, (n, p) float64: components per scale, or the features themselves."""
        return np.hstack([self._reduce_with(one, X).gather() for one in self._members()]).astype(np.float64)

    def _members(self) -> list[Any]:
        return list(getattr(self.fitted, "members_", [self.fitted]))

    def _forests(self) -> list[Any]:
        return [getattr(one, "estimator", one) for one in self._members()]

    def _reduce_with(self, member: Any, X: FeatureBlocks) -> FeatureBlocks:
        if hasattr(self.fitted, "sets_"):
            X = take_blocks(X, self.fitted.sets_[self._members().index(member)])
        reduced: FeatureBlocks = member.reduce(X) if hasattr(member, "reduce") else X
        return reduced


def require_predictions(model: MapModel) -> None:
    """Fit now, so that what cannot be fitted is refused before any cell is embedded.

    Raises
    ------
    EoCateError
        When the configured procedure gives no effects out of group, which bands and transport rest on.
    """
    if not hasattr(model.fitted, "oob"):
        raise EoCateError(
            f"extrapolate: {type(model.fitted).__name__} gives no effects out of group; choose multiscale.procedure "
            "concat, concat_pca or average"
        )
