"""The units table as it lies on disk: reading it, and columns as numbers or as labels."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from eo_cate.config import TrialConfig
from eo_cate.errors import TrialError
from eo_cate.types import BoolArray, FloatArray

LEAVE_GROUP_OUT = "leave_group_out_share"
INDIVIDUAL = "unit"


class Places(Protocol):
    """A section of the configuration that names a table of units and the columns of their places."""

    @property
    def units(self) -> Path:
        """The table."""
        ...

    @property
    def longitude(self) -> str:
        """Column of longitude."""
        ...

    @property
    def latitude(self) -> str:
        """Column of latitude."""
        ...

    @property
    def site(self) -> str | None:
        """Column of the place's name."""
        ...


def label_columns(config: TrialConfig) -> dict[str, str]:
    """Role -> column, for the configured columns that hold labels."""
    roles = {"unit_id": config.unit_id, "site": config.site, "stratum": config.stratum}
    if config.cluster != INDIVIDUAL:
        roles["cluster"] = config.cluster
    return {role: column for role, column in roles.items() if column is not None}


def number_columns(config: TrialConfig) -> dict[str, str]:
    """Role -> column, for the configured columns that hold numbers; covariates are not among them."""
    roles = {
        "outcome": config.outcome,
        "treatment": config.treatment,
        "longitude": config.longitude,
        "latitude": config.latitude,
        "weight": config.weight,
        "baseline_outcome": config.baseline_outcome,
        "true_effect": config.true_effect,
    }
    if isinstance(config.propensity, str) and config.propensity != LEAVE_GROUP_OUT:
        roles["propensity"] = config.propensity
    return {role: column for role, column in roles.items() if column is not None}


def place_columns(config: Places) -> dict[str, str]:
    """Role -> column, for the columns that say where units are."""
    roles = {"longitude": config.longitude, "latitude": config.latitude, "site": config.site}
    return {role: column for role, column in roles.items() if column is not None}


def read_table(path: Path, labels: Iterable[str], *, option: str = "trial.units") -> pd.DataFrame:
    """Read a table of units; columns of ``labels`` of a CSV stay text, so that "007" is not 7.

    Raises
    ------
    TrialError
        When the file is absent, of another kind, damaged, empty, or names a column twice; ``option`` is what to check.
    """
    path = Path(path)
    try:
        table = _read(path, sorted(set(labels)))
    except OSError as error:
        raise TrialError(f"{path.name}: cannot be read ({error.strerror or error}); check {option}") from error
    except (ValueError, EOFError, struct.error) as error:
        raise TrialError(f"{path.name}: not a readable {path.suffix} table ({error})") from error
    if table.columns.has_duplicates:
        twice = sorted(map(str, table.columns[table.columns.duplicated()].unique()))
        raise TrialError(f"{path.name}: the column name(s) {twice} occur more than once; rename them")
    if table.empty:
        raise TrialError(f"{path.name}: the table has no rows")
    if len(table.columns) == 1 and any(mark in str(table.columns[0]) for mark in ";\t"):
        raise TrialError(f"{path.name}: one column only: values seem to be separated by ; or tabs; save it with commas")
    return table.reset_index(drop=True)


def _read(path: Path, labels: list[str]) -> pd.DataFrame:
    match path.suffix.lower():
        case ".csv":
            return pd.read_csv(path, dtype=dict.fromkeys(labels, "str"), low_memory=False)
        case ".parquet":
            return pd.read_parquet(path)
        case ".dta":
            return pd.read_stata(path, convert_categoricals=False)
    raise TrialError(
        f"{path.name}: {path.suffix or 'no ending'} is not known; save the units as .csv, .parquet or .dta"
    )


def as_labels(column: pd.Series) -> pd.Series:
    """Text labels, stripped; missing stays missing, and whole numbers stored as floats read "12", not "12.0"."""
    text = column.astype("object").where(column.notna(), None).map(lambda v: str(v).strip(), na_action="ignore")
    text = text.where(text != "", None)
    known = text.dropna()
    if len(known) and known.str.fullmatch(r"[+-]?\d+\.0").all():
        text = text.map(lambda v: v.removesuffix(".0"), na_action="ignore")
    return text


def as_numbers(column: pd.Series) -> FloatArray | None:
    """float64 with NaN where missing, shape (n,); None when a value is not a number."""
    numbers = pd.to_numeric(column.astype("object"), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if np.any(np.isnan(numbers) & column.notna().to_numpy()):
        return None
    return np.asarray(numbers, dtype=np.float64)


def rows_of(mask: BoolArray, table: pd.DataFrame) -> str:
    """The first flagged rows, counted from 1 below the header; ids and coordinates are never named."""
    rows = table.index[mask]
    return f"row {', '.join(str(r + 1) for r in rows[:3])}{', ...' if len(rows) > 3 else ''}"
