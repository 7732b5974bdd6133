"""What the report shows of a region beyond the trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import geopandas as gpd
import pandas as pd
import xarray as xr

from eo_cate.extrapolation import Bands, Overlap, RiskCoverage, TransportedEffect


@dataclass(frozen=True)
class SurveyShown:
    """The trial's effect carried to the people of a survey, by image and covariates.

    Parameters
    ----------
    transported : TransportedEffect or None
        Of the people in supported places, with ``reason`` where there is none.
    reason : str
    overlap : Overlap or None
    assumption : str
    covariates : tuple of str
        Measured in the trial and in the survey.
    counts : dict
        ``people``, how many of them do not count by why, and ``used``.
    true_effect : float or None
        Simulations only: of the people who count.
    """

    transported: TransportedEffect | None
    reason: str
    overlap: Overlap | None
    assumption: str
    covariates: tuple[str, ...]
    counts: Mapping[str, int]
    true_effect: float | None = None


@dataclass(frozen=True)
class RegionShown:
    """The map of a region, its polygons' effects, and how far both go. Holds no coordinate of a unit.

    Parameters
    ----------
    layers : Dataset (y, x)
        ``tau_hat``, ``std_err``, ``band``, ``dissimilarity``, ``local_point_density``, ``transport_weight``,
        ``supported`` (codes in its attributes), ``region`` (row of ``polygons`` + 1) and, in simulations,
        ``true_effect``.
    polygons : GeoDataFrame
        In the map's coordinate system, indexed by name, in the order of ``table``.
    table : DataFrame
        One row per polygon; empty figures have a reason.
    counts : dict
        Code of ``supported`` in words -> cells.
    threshold : float
        Largest supported dissimilarity.
    bands : Bands or None
        With ``bands_reason`` where there are none, and ``bands_notes`` on what they rest.
    transported : TransportedEffect or None
        Of all supported cells, with ``transport_reason`` where there is none.
    overlap : Overlap or None
    assumption : str
        Behind the transported effect.
    risk : RiskCoverage or None
        On the trial's groups; in simulations on the cells, against the truth.
    risk_of : str
        Its loss.
    risk_orders : DataFrame
        Columns loss, order, ordered, random, best: mean loss over the shares, by loss and order; may be empty.
    footprint : GeoSeries or None
        A coarse outline of where the trial was, never points; None when too few groups would hide in it.
    notes : sequence of str
    check : dict or None
        Simulations only: how often bands and intervals hold.
    survey : SurveyShown or None
        Where people of the region were interviewed; ``table`` then has the survey's columns too.
    """

    layers: xr.Dataset
    polygons: gpd.GeoDataFrame
    table: pd.DataFrame
    counts: Mapping[str, int]
    threshold: float
    bands: Bands | None
    bands_reason: str
    bands_notes: Sequence[str]
    transported: TransportedEffect | None
    transport_reason: str
    overlap: Overlap | None
    assumption: str
    risk: RiskCoverage | None
    risk_of: str
    risk_orders: pd.DataFrame
    footprint: gpd.GeoSeries | None
    notes: Sequence[str]
    check: Mapping[str, float] | None
    survey: SurveyShown | None = None
