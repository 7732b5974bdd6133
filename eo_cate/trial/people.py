"""People of a region who were not in the trial: a survey with the trial's covariates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd

from eo_cate.config import SurveyConfig
from eo_cate.trial.checks import absent_columns, check_labels, check_places, read_covariates, wrong_weights
from eo_cate.trial.load import list_problems, locate
from eo_cate.trial.table import as_labels, as_numbers, read_table
from eo_cate.types import FloatArray, IntArray

OPTION = "extrapolate.survey.units"


@dataclass(frozen=True)
class People:
    """n people of a survey.

    Parameters
    ----------
    sites : GeoDataFrame
        One row per place, points in EPSG:4326, index survey_0001, ...: opaque names.
    site_index : (n,) int64
        Row of ``sites`` of each person.
    cluster : (n,) int64
        Sampling cluster of each person; a person's place where no cluster was named.
    weight : (n,) float64
    covariates : (n, q) float64
        NaN = missing.
    names : tuple of str, length q
    true_effect : (n,) float64 or None
        Simulations only.
    """

    sites: gpd.GeoDataFrame
    site_index: IntArray
    cluster: IntArray
    weight: FloatArray
    covariates: FloatArray
    names: tuple[str, ...]
    true_effect: FloatArray | None = None


def load_people(config: SurveyConfig, data_dir: Path, *, covariates: Sequence[str]) -> People:
    """Read and check a survey.

    Parameters
    ----------
    config : SurveyConfig
    data_dir : Path
        Folder that ``config.units`` is relative to.
    covariates : sequence of str
        Columns that it must have: those of the trial that it shares.

    Raises
    ------
    TrialError
        Listing every problem, numbered, with the file's name.
    """
    labels = {role: c for role, c in (("site", config.site), ("cluster", config.cluster)) if c is not None}
    table = read_table(Path(data_dir) / config.units, labels.values(), option=OPTION)
    problems = [*check_places(table, config), *_check_columns(table, config, covariates)]
    if problems:
        raise list_problems(config, data_dir, problems)
    site_id, sites = locate(table, config)
    names = [f"survey_{k + 1:0{max(4, len(str(len(sites))))}d}" for k in range(len(sites))]
    site_index = sites.index.get_indexer(pd.Index(site_id)).astype(np.int64)
    cluster = site_index if config.cluster is None else pd.factorize(as_labels(table[config.cluster]))[0]
    weight = np.ones(len(table)) if config.weight is None else as_numbers(table[config.weight])
    return People(
        sites=sites.set_axis(pd.Index(names, name=sites.index.name)),
        site_index=site_index,
        cluster=np.asarray(cluster, dtype=np.int64),
        weight=np.asarray(weight, dtype=np.float64),
        covariates=np.column_stack([read_covariates(table, [name])[0][name] for name in covariates]),
        names=tuple(covariates),
        true_effect=None if config.true_effect is None else as_numbers(table[config.true_effect]),
    )


def _check_columns(table: pd.DataFrame, config: SurveyConfig, covariates: Sequence[str]) -> list[str]:
    """Problems of cluster, weight, true effect and covariates."""
    numbers = {role: c for role, c in (("weight", config.weight), ("true_effect", config.true_effect)) if c is not None}
    labels = {} if config.cluster is None else {"cluster": config.cluster}
    values = {role: as_numbers(table[c]) for role, c in numbers.items() if c in table.columns}
    weight = values.get("weight")
    return [
        *absent_columns(table, [*labels.items(), *numbers.items(), *(("covariate", name) for name in covariates)]),
        *check_labels(table, labels),
        *(
            f"{role} column {numbers[role]!r} holds values that are not numbers; recode it"
            for role, found in values.items()
            if found is None
        ),
        *([] if weight is None else wrong_weights(table, weight, numbers["weight"])),
        *read_covariates(table, covariates)[1],
    ]
