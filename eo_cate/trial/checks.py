"""Every reason why a units table cannot be analysed, each with its column, count and fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from eo_cate.config import TrialConfig
from eo_cate.trial.leaks import find_factor, is_linear_copy
from eo_cate.trial.table import (
    INDIVIDUAL,
    Places,
    as_labels,
    as_numbers,
    label_columns,
    number_columns,
    place_columns,
    rows_of,
)
from eo_cate.types import UNIT_COLUMNS, FloatArray


def check_table(table: pd.DataFrame, config: TrialConfig) -> list[str]:
    """All problems of the table, in the order in which a user would mend them."""
    wanted = [
        *number_columns(config).items(),
        *label_columns(config).items(),
        *(("covariate", c) for c in config.covariates),
    ]
    problems = [*absent_columns(table, wanted), *_name_clashes(table, config)]
    roles = {r: c for r, c in number_columns(config).items() if c in table.columns}
    numbers = {role: as_numbers(table[column]) for role, column in roles.items()}
    # a treatment in words gets its own message, with the values that were found
    problems += [
        f"{role} column {roles[role]!r} holds values that are not numbers; recode it"
        for role, values in numbers.items()
        if values is None and role != "treatment"
    ]
    columns = {role: values for role, values in numbers.items() if values is not None}
    return [
        *problems,
        *check_labels(table, label_columns(config)),
        *_check_treatment(table, columns.get("treatment"), config),
        *_check_outcome(table, columns, config),
        *_check_coordinates(table, columns, config),
        *_check_site_coordinates(table, columns, config),
        *_check_propensity(table, columns.get("propensity"), config),
        *_check_weights(table, columns, config),
        *_check_complete(table, "baseline_outcome", columns, config.baseline_outcome),
        *_check_complete(table, "true_effect", columns, config.true_effect),
        *_check_covariates(table, columns, config),
    ]


def check_places(table: pd.DataFrame, config: Places) -> list[str]:
    """Problems of the columns that say where units are; no other column need be there."""
    wanted = place_columns(config)
    columns = {role: as_numbers(table[c]) for role, c in wanted.items() if role != "site" and c in table.columns}
    known = {role: values for role, values in columns.items() if values is not None}
    return [
        *absent_columns(table, wanted.items()),
        *(
            f"{role} column {wanted[role]!r} holds values that are not numbers; recode it"
            for role in columns.keys() - known.keys()
        ),
        *check_labels(table, {role: c for role, c in wanted.items() if role == "site"}),
        *_check_coordinates(table, known, config),
        *_check_site_coordinates(table, known, config),
    ]


def absent_columns(table: pd.DataFrame, wanted: Iterable[tuple[str, str]]) -> list[str]:
    """Columns that the table lacks, by role, with near names."""
    names = [str(c) for c in table.columns]
    folded = {name.casefold(): name for name in names}
    problems = []
    for role, column in wanted:
        if column in names:
            continue
        near = [folded[n] for n in difflib.get_close_matches(column.casefold(), folded, n=3, cutoff=0.6)]
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"the table has {names[:20]}"
        problems.append(f"{role} column {column!r} is absent; {hint}")
    return problems


def _name_clashes(table: pd.DataFrame, config: TrialConfig) -> list[str]:
    """Names that cannot stand in the units table of `types.Trial`, or that stand twice."""
    problems = []
    own = [*config.covariates, *(c for c in (config.baseline_outcome, config.true_effect) if c)]
    if reserved := sorted({c for c in own if c in (*UNIT_COLUMNS, "geometry")}):
        problems.append(f"the column name(s) {reserved} are eo_cate's own; rename them in the table and the YAML")
    if twice := sorted({c for c in config.covariates if config.covariates.count(c) > 1}):
        problems.append(f"the covariate(s) {twice} are listed more than once")
    if config.outcome == config.treatment:
        problems.append(f"outcome and treatment are the same column {config.outcome!r}")
    if config.cluster == INDIVIDUAL and INDIVIDUAL in table.columns and table[INDIVIDUAL].duplicated().any():
        problems.append(
            "`cluster: unit` says that each unit was randomised on its own, but the table has a column 'unit' with "
            "repeated values; if that is the cluster, rename the column and name it"
        )
    return problems


def check_labels(table: pd.DataFrame, wanted: Mapping[str, str]) -> list[str]:
    """Missing labels by role, and ids that stand twice."""
    problems = []
    for role, column in wanted.items():
        if column not in table.columns:
            continue
        labels = as_labels(table[column])
        missing = labels.isna().to_numpy()
        if missing.any():
            what = "are without a site" if role == "site" else f"have no {role}"
            problems.append(
                f"{missing.sum()} units {what} (column {column!r}, {rows_of(missing, table)}); fill or remove them"
            )
        repeated = labels.duplicated(keep=False).to_numpy() & ~missing
        if role == "unit_id" and repeated.any():
            problems.append(
                f"{repeated.sum()} units share their id with another (column {column!r}, {rows_of(repeated, table)}): "
                "duplicated rows, or an id that is unique within clusters only; leave unit_id out or make it unique"
            )
    return problems


def _check_treatment(table: pd.DataFrame, W: FloatArray | None, config: TrialConfig) -> list[str]:
    column = config.treatment
    if column not in table.columns:
        return []
    problems = []
    missing = table[column].isna().to_numpy()
    if missing.any():
        problems.append(
            f"treatment column {column!r} has {missing.sum()} missing values ({rows_of(missing, table)}); "
            "remove these units, or say what they were assigned to"
        )
    found = pd.unique(table[column].dropna())
    if W is None or not set(found.tolist()) <= {0, 1}:
        shown = ", ".join(str(v) for v in list(found)[:5])
        problems.append(
            f"treatment column {column!r} is not binary: {len(found)} distinct values, among them {shown}; "
            "code it 0 (control) and 1 (treated), one column per arm compared"
        )
    elif len(found) == 1:
        arm = "treated" if found[0] == 1 else "control"
        problems.append(f"all units are {arm} (column {column!r}); a trial needs both arms")
    return problems


def _check_outcome(table: pd.DataFrame, columns: Mapping[str, FloatArray], config: TrialConfig) -> list[str]:
    Y = columns.get("outcome")
    if Y is None:
        return []
    if np.isfinite(Y).all():
        return [f"outcome column {config.outcome!r} is the same for every unit"] if np.ptp(Y) == 0 else []
    missing, infinite = np.isnan(Y), np.isinf(Y)
    bad = missing | infinite
    return [
        f"outcome column {config.outcome!r} has {missing.sum()} missing and {infinite.sum()} infinite values "
        f"({rows_of(bad, table)}); `missing_outcome: drop` leaves these {bad.sum()} units out"
    ]


def _check_coordinates(table: pd.DataFrame, columns: Mapping[str, FloatArray], config: Places) -> list[str]:
    lon, lat = columns.get("longitude"), columns.get("latitude")
    if lon is None or lat is None:
        return []
    problems = []
    pair = f"columns {config.longitude!r}, {config.latitude!r}"
    missing = ~(np.isfinite(lon) & np.isfinite(lat))
    if missing.any():
        problems.append(
            f"{missing.sum()} units are without coordinates ({pair}, {rows_of(missing, table)}); remove them"
        )
    outside = ~missing & ((np.abs(lon) > 180) | (np.abs(lat) > 90))
    if not outside.any():
        return problems
    if np.all((np.abs(lat) <= 180) & (np.abs(lon) <= 90) | missing):
        fix = "longitude and latitude look swapped: exchange the two column names"
    else:
        fix = "they must be degrees (EPSG:4326); coordinates in metres have to be projected back first"
    problems.append(
        f"{outside.sum()} units lie outside longitude [-180, 180] and latitude [-90, 90] "
        f"({pair}, {rows_of(outside, table)}); {fix}"
    )
    return problems


def _check_site_coordinates(table: pd.DataFrame, columns: Mapping[str, FloatArray], config: Places) -> list[str]:
    if config.site is None or config.site not in table.columns or not {"longitude", "latitude"} <= set(columns):
        return []
    places = pd.DataFrame({"lon": columns["longitude"], "lat": columns["latitude"]})
    by_site = places.groupby(as_labels(table[config.site]).to_numpy())
    spread = (by_site.max() - by_site.min()).max(axis=1)
    several = int((spread > 1e-9).sum())
    if not several:
        return []
    return [
        f"{several} of {len(spread)} sites (column {config.site!r}) have units with different coordinates; give every "
        "unit of a site the site's own coordinates, or leave `site` out to use the units' own"
    ]


def _check_propensity(table: pd.DataFrame, propensity: FloatArray | None, config: TrialConfig) -> list[str]:
    if propensity is None:
        return []
    bad = ~((propensity > 0) & (propensity < 1))
    if not bad.any():
        return []
    return [
        f"propensity column {config.propensity!r} has {bad.sum()} values that are missing or not strictly between "
        f"0 and 1 ({rows_of(bad, table)}); a unit that could not get both arms is not part of the trial"
    ]


def _check_weights(table: pd.DataFrame, columns: Mapping[str, FloatArray], config: TrialConfig) -> list[str]:
    weight, W = columns.get("weight"), columns.get("treatment")
    if weight is None:
        return []
    if problems := wrong_weights(table, weight, str(config.weight)):
        return problems
    if W is not None and not (weight[W == 0].any() and weight[W == 1].any()):
        return [f"weight column {config.weight!r} is zero for a whole treatment arm"]
    return []


def wrong_weights(table: pd.DataFrame, weight: FloatArray, column: str) -> list[str]:
    """Why these are not sampling weights."""
    bad = ~(np.isfinite(weight) & (weight >= 0))
    if bad.any():
        return [
            f"weight column {column!r} has {bad.sum()} missing, infinite or negative values "
            f"({rows_of(bad, table)}); give every unit a weight of 0 or more"
        ]
    return [] if weight.any() else [f"weight column {column!r} is all zero; no unit would count"]


def _check_complete(table: pd.DataFrame, role: str, columns: Mapping[str, FloatArray], name: str | None) -> list[str]:
    values = columns.get(role)
    if values is None or np.isfinite(values).all():
        return []
    bad = ~np.isfinite(values)
    return [f"{role} column {name!r} has {bad.sum()} missing or infinite values ({rows_of(bad, table)})"]


def _check_covariates(table: pd.DataFrame, columns: Mapping[str, FloatArray], config: TrialConfig) -> list[str]:
    covariates, problems = read_covariates(table, config.covariates)
    return problems + _leaking_covariates(table, covariates, columns, config)


def read_covariates(table: pd.DataFrame, names: Iterable[str]) -> tuple[dict[str, FloatArray], list[str]]:
    """Numeric covariates among the table's columns, and what is wrong with the others."""
    covariates = {c: as_numbers(table[c]) for c in dict.fromkeys(names) if c in table.columns}
    problems = []
    for name, x in covariates.items():
        if x is None:
            found = table[name].dropna().nunique()
            problems.append(
                f"covariate {name!r} is not numeric ({found} distinct values); make 0/1 dummies of its categories"
            )
        elif np.isinf(x).any():
            problems.append(
                f"covariate {name!r} has {np.isinf(x).sum()} infinite values ({rows_of(np.isinf(x), table)})"
            )
    return {name: x for name, x in covariates.items() if x is not None}, problems


def _leaking_covariates(
    table: pd.DataFrame, covariates: Mapping[str, FloatArray], columns: Mapping[str, FloatArray], config: TrialConfig
) -> list[str]:
    problems = []
    W, Y, effect = (columns.get(role) for role in ("treatment", "outcome", "true_effect"))
    binary = W is not None and bool(np.isin(W, (0, 1)).all())
    numeric = [c for c in table.columns if pd.api.types.is_numeric_dtype(table[c]) or c in covariates]
    others = {str(c): x for c in numeric if c != config.treatment and (x := as_numbers(table[c])) is not None}
    for name, x in covariates.items():
        if name == config.treatment or (W is not None and is_linear_copy(x, W)):
            leak = f"{name!r} is the treatment ({name} = {config.treatment}, or a recoding of it)"
        elif name == config.outcome or (Y is not None and is_linear_copy(x, Y)):
            leak = f"{name!r} is the outcome ({name} = {config.outcome}, or a recoding of it)"
        elif effect is not None and (name == config.true_effect or is_linear_copy(x, effect)):
            leak = f"{name!r} is the true effect, which nothing may be fitted on"
        elif binary and W is not None and (factor := find_factor(x, W, {c: o for c, o in others.items() if c != name})):
            arm = config.treatment if factor[0] == "W" else f"(1 - {config.treatment})"
            leak = f"{name!r} is a product with the treatment: {name} = {arm} * {factor[1]}"
        else:
            continue
        problems.append(
            f"covariate {leak}; it was not known before the treatment and would be learned from; "
            "remove it from trial.covariates"
        )
    return problems
