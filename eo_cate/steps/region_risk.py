"""What keeping silent is worth: loss among the places for which the map speaks, by the order in which they enter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eo_cate import extrapolation
from eo_cate.errors import EvaluationError
from eo_cate.extrapolation import Bands, RiskCoverage
from eo_cate.steps.region_cells import CellValues
from eo_cate.steps.region_effects import TrialSide
from eo_cate.types import FloatArray

_OWN = "width of the band relative to the effect"
_ERROR, _DI = "standard error of the model", "dissimilarity"


@dataclass(frozen=True)
class Risk:
    """The curve that is drawn, what its loss is, and the mean loss under each loss and order.

    ``orders`` has columns loss, order, ordered, random, best: mean loss over the shares of places.
    """

    curve: RiskCoverage | None
    of: str
    orders: pd.DataFrame


@dataclass(frozen=True)
class _Places:
    tau_hat: FloatArray
    width: FloatArray
    orders: Mapping[str, FloatArray]
    losses: Mapping[str, FloatArray]
    weights: FloatArray | None


def weigh_silence(
    side: TrialSide,
    bands: Bands | None,
    values: CellValues,
    band: FloatArray,
    truth: FloatArray | None,
    people: FloatArray | None,
) -> Risk:
    """Against the truth where it is known, the first loss being the sign; else the DR loss of the trial's groups."""
    empty = Risk(None, "", pd.DataFrame())
    if bands is None:
        return empty
    places = _groups(side, bands) if truth is None else _cells(values, band, truth, people)
    try:
        found = {
            (loss, order): extrapolation.risk_coverage(
                places.tau_hat, places.width, cost, order=by, weights=places.weights
            )
            for loss, cost in places.losses.items()
            for order, by in ((_OWN, None), *places.orders.items())
        }
    except EvaluationError:  # the map is silent everywhere
        return empty
    rows = [(*key, one.area, one.chance_area, one.best_area) for key, one in found.items()]
    (of, _), curve = next(iter(found.items()))
    return Risk(curve, of, pd.DataFrame(rows, columns=["loss", "order", "ordered", "random", "best"]))


def _cells(values: CellValues, band: FloatArray, truth: FloatArray, people: FloatArray | None) -> _Places:
    known = np.isfinite(truth)
    tau_hat, tau = values.tau_hat[known], truth[known]
    wrong = np.where(np.isfinite(tau_hat), np.sign(tau_hat) != np.sign(tau), np.nan)
    return _Places(
        tau_hat,
        band[known],
        {_ERROR: values.std_err[known], _DI: values.dissimilarity[known]},
        {
            "cells whose sign is wrong": wrong,
            "squared error of cells": (tau_hat - tau) ** 2,
        },
        None if people is None else people[known],
    )


def _groups(side: TrialSide, bands: Bands) -> _Places:
    """Means of the trial's groups, which no tree of their prediction saw."""
    used = side.known
    weight = pd.Series(side.weights[used]).groupby(side.groups[used]).sum()

    def mean(of: FloatArray) -> FloatArray:
        sums = pd.Series((side.weights * of)[used]).groupby(side.groups[used]).sum()
        return np.asarray(sums / weight, dtype=np.float64)

    tau_hat, places = mean(side.tau_hat), mean(side.dissimilarity)
    loss = (mean(side.dr_scores) - tau_hat) ** 2
    return _Places(
        tau_hat,
        extrapolation.band_width(bands, places),
        {_DI: places},
        {"squared difference of the trial's groups from their mean score, whose noise raises the whole curve": loss},
        np.asarray(weight, dtype=np.float64),
    )
