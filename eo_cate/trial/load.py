"""From the units table on disk to a `Trial`, or to every reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
from shapely import points

from eo_cate.config import TrialConfig
from eo_cate.errors import TrialError
from eo_cate.stats.groups import connected_groups
from eo_cate.trial.checks import check_places, check_table
from eo_cate.trial.table import (
    INDIVIDUAL,
    LEAVE_GROUP_OUT,
    Places,
    as_labels,
    as_numbers,
    label_columns,
    place_columns,
    read_table,
)
from eo_cate.types import FloatArray, IntArray, Trial


def find_problems(config: TrialConfig, data_dir: Path) -> list[str]:
    """Every reason why the units table cannot be analysed; an empty list when it can.

    Parameters
    ----------
    config : TrialConfig
        Columns and how the trial was randomised.
    data_dir : Path
        Folder that ``config.units`` is relative to.
    """
    return _prepare(config, data_dir)[1]


def load_trial(config: TrialConfig, data_dir: Path) -> Trial:
    """Read, check and arrange the units table.

    Returns
    -------
    Trial
        ``units`` has the columns of `types.UNIT_COLUMNS`, the covariates and the true effect when there is one, and in
        ``units.attrs``: ``dropped`` (reason -> number of units) and ``propensity_source`` (``number``, ``column`` or
        ``leave_group_out_share``).

    Raises
    ------
    TrialError
        Listing every problem, numbered, with the file's name.
    """
    trial, problems = _prepare(config, data_dir)
    if trial is None:
        raise list_problems(config, data_dir, problems)
    return trial


def load_sites(config: TrialConfig, data_dir: Path) -> gpd.GeoDataFrame:
    """The places of all units, and nothing else of them: no outcome or treatment is looked at, nor need be there.

    Returns
    -------
    GeoDataFrame
        Index site_id, points in EPSG:4326: the sites of `load_trial`, and those where every outcome is missing.

    Raises
    ------
    TrialError
        When a column of places is absent or wrong.
    """
    whole = read_table(Path(data_dir) / config.units, label_columns(config).values())
    table = whole[[column for column in dict.fromkeys(place_columns(config).values()) if column in whole.columns]]
    problems = check_places(table, config)
    if problems:
        raise list_problems(config, data_dir, problems)
    return locate(table, config)[1]


def list_problems(config: Places, data_dir: Path, problems: Sequence[str]) -> TrialError:
    """One error with every problem of a table, numbered, under the file's name."""
    rows = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(problems, 1))
    return TrialError(f"{Path(data_dir) / config.units}: {len(problems)} problem(s)\n{rows}")


def leave_group_out_share(W: FloatArray, groups: IntArray, *, weights: FloatArray | None = None) -> FloatArray:
    """Weighted treated share of the units of all other groups, shape (n,).

    Parameters
    ----------
    W : (n,) float
        Treatment, 0 or 1.
    groups : (n,) int
        Group of each unit.
    weights : (n,) float, optional
        Sampling weights; absent: 1.

    Raises
    ------
    TrialError
        When a share is not strictly between 0 and 1: all other groups are in one arm, or weigh nothing.
    """
    weights = np.ones(len(W)) if weights is None else weights
    codes = np.unique(groups, return_inverse=True)[1]

    def elsewhere(values: FloatArray) -> FloatArray:
        own = np.bincount(codes, values)
        return np.asarray(own.sum() - own, dtype=np.float64)

    # counted in whole units: a difference of rounded weights could miss 0 and 1
    counts = weights > 0
    one_arm = (elsewhere((counts & (W == 1)) * 1.0) == 0) | (elsewhere((counts & (W == 0)) * 1.0) == 0)
    if one_arm.any():
        raise TrialError(
            f"leave_group_out_share: without one of {one_arm.sum()} group(s), the others are all treated or all "
            "control; give the propensity as a number or a column"
        )
    return np.asarray((elsewhere(weights * W) / elsewhere(weights))[codes], dtype=np.float64)


def group_units(cluster: Sequence[str], site_id: Sequence[str], sites: gpd.GeoDataFrame) -> IntArray:
    """Group of each unit, shape (n,): same cluster, same site, or sites of another name at the same coordinates.

    The last, because such sites see the same pixels: a split between them would show the training pixels to the test.
    """
    place = dict(zip(sites.index, zip(sites.geometry.x, sites.geometry.y, strict=True), strict=True))
    places = pd.factorize(pd.Series([place[s] for s in site_id], dtype="object"))[0]
    return connected_groups(np.asarray(cluster), np.asarray(site_id), places)


def _prepare(config: TrialConfig, data_dir: Path) -> tuple[Trial | None, list[str]]:
    try:
        table = read_table(Path(data_dir) / config.units, label_columns(config).values())
    except TrialError as error:
        return None, [str(error)]
    table, dropped = _drop_missing_outcomes(table, config)
    if table.empty:
        return None, [f"outcome column {config.outcome!r}: none of {dropped} units has a finite value"]
    problems = check_table(table, config)
    if problems:
        return None, problems
    try:
        return _build(table, config, dropped), []
    except TrialError as error:
        return None, [str(error)]


def _drop_missing_outcomes(table: pd.DataFrame, config: TrialConfig) -> tuple[pd.DataFrame, int]:
    """Leave units without a finite outcome out when asked to; row labels stay the file's."""
    if config.missing_outcome == "error" or config.outcome not in table.columns:
        return table, 0
    Y = as_numbers(table[config.outcome])
    if Y is None:
        return table, 0
    kept = table.loc[np.isfinite(Y)]
    return kept, len(table) - len(kept)


def _numbers(table: pd.DataFrame, name: str) -> FloatArray:
    values = as_numbers(table[name])
    if values is None:
        raise TrialError(f"column {name!r} holds values that are not numbers")
    return values


def locate(table: pd.DataFrame, config: Places) -> tuple[list[str], gpd.GeoDataFrame]:
    """Site of each unit, and the sites."""
    lon, lat = _numbers(table, config.longitude), _numbers(table, config.latitude)
    site_id = [str(label) for label in as_labels(table[config.site])] if config.site else _site_names(lon, lat)
    return site_id, _sites(site_id, lon, lat)


def _build(table: pd.DataFrame, config: TrialConfig, dropped: int) -> Trial:
    n = len(table)

    def numbers(name: str) -> FloatArray:
        return _numbers(table, name)

    def labels(name: str) -> list[str]:
        return [str(label) for label in as_labels(table[name])]

    unit_id = labels(config.unit_id) if config.unit_id else [str(row) for row in table.index]
    site_id, sites = locate(table, config)
    cluster = unit_id if config.cluster == INDIVIDUAL else labels(config.cluster)
    group = group_units(cluster, site_id, sites)
    if len(np.unique(group)) < 2:
        raise TrialError(
            f"all {n} units form one group, linked by cluster ({config.cluster!r}) or site; at least 2 groups are "
            "needed, and inference wants dozens: check the cluster and site columns"
        )
    W = numbers(config.treatment)
    weight = numbers(config.weight) if config.weight else np.ones(n)
    columns = {
        "unit_id": unit_id,
        "site_id": site_id,
        "cluster": cluster,
        "stratum": labels(config.stratum) if config.stratum else ["all"] * n,
        "outcome": numbers(config.outcome),
        "treatment": W,
        "propensity": _propensity(config, table, W, group, weight),
        "weight": weight,
        "group": group,
        **{name: numbers(name) for name in config.covariates},
        **{name: numbers(name) for name in (config.baseline_outcome, config.true_effect) if name},
    }
    units = gpd.GeoDataFrame(columns)
    units.attrs["dropped"] = {"missing_outcome": dropped} if dropped else {}
    units.attrs["propensity_source"] = _propensity_source(config)
    return Trial(
        units=units,
        sites=sites,
        covariates=tuple(config.covariates),
        baseline_outcome=config.baseline_outcome,
        true_effect=config.true_effect,
    )


def _propensity_source(config: TrialConfig) -> str:
    if isinstance(config.propensity, float):
        return "number"
    return LEAVE_GROUP_OUT if config.propensity == LEAVE_GROUP_OUT else "column"


def _propensity(
    config: TrialConfig, table: pd.DataFrame, W: FloatArray, group: IntArray, weight: FloatArray
) -> FloatArray:
    if isinstance(config.propensity, float):
        return np.full(len(W), config.propensity)
    if config.propensity == LEAVE_GROUP_OUT:
        return leave_group_out_share(W, group, weights=weight)
    return np.asarray(as_numbers(table[config.propensity]), dtype=np.float64)


def _site_names(lon: FloatArray, lat: FloatArray) -> list[str]:
    """Opaque names for unique coordinates, numbered by first appearance: a name must not tell where the site is."""
    codes = pd.factorize(pd.MultiIndex.from_arrays([lon, lat]))[0]
    width = max(4, len(str(codes.max(initial=0) + 1)))
    return [f"site_{code + 1:0{width}d}" for code in codes]


def _sites(site_id: list[str], lon: FloatArray, lat: FloatArray) -> gpd.GeoDataFrame:
    first = ~pd.Series(site_id).duplicated().to_numpy()
    index = pd.Index(np.asarray(site_id, dtype=object)[first], dtype="str", name="site_id")
    return gpd.GeoDataFrame(index=index, geometry=points(lon[first], lat[first]), crs="EPSG:4326")
