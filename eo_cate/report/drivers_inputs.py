"""What the report shows of the observables that go with the ranking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eo_cate.errors import EoCateError
from eo_cate.types import FloatArray

NUM_QUARTILES = 4
QUARTILES = tuple(f"quartile_{k}" for k in range(1, NUM_QUARTILES + 1))
MOST_LABELS, MOST_QUANTITIES = 60, 16
"""Observables, and quantities with their effects, that are drawn at most; tables have them all."""
DRIVER_COLUMNS = (
    "estimator", "kind", "observable", "scale", "label", *QUARTILES, "difference", "std_err", "low", "high", "std_dev",
    "p", "adjusted_p", "missing",
)  # fmt: skip
BIN_COLUMNS = (
    "observable", "scale", "label", "quartile", "mean", "units", "groups", "estimate", "std_err", "low", "high",
)  # fmt: skip
CURVE_COLUMNS = ("covariate", "importance", "value", "estimate", "low", "high")
DRIVER_TABLES = {"drivers": DRIVER_COLUMNS, "drivers_effects": BIN_COLUMNS, "drivers_curves": CURVE_COLUMNS}


@dataclass(frozen=True)
class Gallery:
    """Images of the sites that respond most and least; they carry no name, date or place.

    Parameters
    ----------
    most, least : (site, y, x, 3) float64 in [0, 1]
        Red, green, blue, or three times the same; stretched once for all; NaN where missing.
    side : str
        Side of an image in words.
    inner : tuple of float
        Sides of the smaller scales as shares of the image's side.
    drawn : str
        What became red, green and blue.
    """

    most: FloatArray
    least: FloatArray
    side: str
    inner: tuple[float, ...]
    drawn: str


@dataclass(frozen=True, kw_only=True)
class DriversShown:
    """Observables by quartile of tau_hat, effects by quartile of image quantities, and curves of the map's model.

    Parameters
    ----------
    table : DataFrame
        One row per estimator and observable, columns `DRIVER_COLUMNS`: ``kind`` is ``covariate``, ``image`` or ``land
        cover``; ``scale`` the side in words (empty for a covariate); means by quartile of out-of-group tau_hat, highest
        less lowest with its 95 % interval, ``std_dev`` over all units, ``adjusted_p`` over all rows.
    effects : DataFrame
        One row per image quantity and quartile of it, columns `BIN_COLUMNS`: mean of the out-of-group DR scores.
    curves : DataFrame
        One row per covariate and value, columns `CURVE_COLUMNS`: ``estimate`` is the partial dependence, ``low`` and
        ``high`` hold 80 % of the units' own curves.
    ice : dict of str to (units, values)
        Covariate -> some units' own curves at the values of ``curves``; for the figure alone.
    configuration : str
        The ranking that this is of.
    gallery : Gallery or None
    notes : tuple of str
        What is left out, and why.

    Raises
    ------
    EoCateError
        When a column is absent.
    """

    table: pd.DataFrame
    effects: pd.DataFrame
    curves: pd.DataFrame
    configuration: str
    ice: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    gallery: Gallery | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, table in self.tables.items():
            absent = [column for column in DRIVER_TABLES[name] if column not in table.columns]
            if absent:
                raise EoCateError(f"report: {name} lacks {absent}")

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables by the name of their file."""
        return {"drivers": self.table, "drivers_effects": self.effects, "drivers_curves": self.curves}
