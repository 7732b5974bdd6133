"""Tables as files: CSV with all digits, LaTeX (booktabs) for a paper, and Stata."""

from __future__ import annotations

import datetime as dt
import io
import math
import re
from typing import Any

import numpy as np
import pandas as pd

from eo_cate.report.inputs import COVARIATE_KEYS, RATE_COLUMNS, TABLES, ReportInputs

_COUNTS = ("units", "sites", "clusters", "groups", "strata")
_STATA_DATE = dt.datetime(1960, 1, 1)  # a fixed stamp: the same table gives the same bytes


def build_tables(inputs: ReportInputs) -> dict[str, pd.DataFrame]:
    """The tables by file name: rate, trial, balance (when there are covariates), toc (when there are curves)."""
    tables = {"rate": inputs.rates[list(RATE_COLUMNS)].reset_index(drop=True), "trial": trial_table(inputs)}
    if inputs.summary["covariates"]:
        balance = pd.DataFrame([{key: row[key] for key in COVARIATE_KEYS} for row in inputs.summary["covariates"]])
        tables["balance"] = balance.rename(columns={"name": "covariate"})
    if inputs.tocs:
        curves = [
            pd.DataFrame(
                {"estimator": e, "configuration": name, "q": curve.q, "toc": curve.toc, "std_err": curve.std_err}
            )
            for e, found in inputs.tocs.items()
            for name, curve in found.items()
        ]
        tables["toc"] = pd.concat(curves, ignore_index=True)
    if inputs.drivers is not None:
        tables |= {name: table for name, table in inputs.drivers.tables.items() if len(table)}
    return tables | {
        name: getattr(inputs, name)[list(columns)].reset_index(drop=True)
        for name, columns in TABLES.items()
        if len(getattr(inputs, name))
    }


def trial_table(inputs: ReportInputs) -> pd.DataFrame:
    """Counts of the trial: quantity, value."""
    summary = inputs.summary
    rows: list[tuple[str, float]] = [(name, summary[name]) for name in _COUNTS]
    rows.append(("treated share", summary["treated_share"]))
    rows += [("average treatment effect", inputs.ate[0]), ("its standard error", inputs.ate[1])]
    rows += [(f"dropped: {reason}", count) for reason, count in summary["dropped"].items()]
    return pd.DataFrame(rows, columns=["quantity", "value"])


def truth_table(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Per configuration: sites, correlation of tau_hat with the true effect, and root mean squared error."""
    if inputs.truth is None:
        return []
    rows = []
    for name, table in inputs.truth.groupby("configuration", sort=False):
        pair = table[["tau", "tau_hat"]].dropna().to_numpy(dtype=float)
        varies = len(pair) > 1 and bool((np.ptp(pair, axis=0) > 0).all())
        rows.append(
            {
                "configuration": str(name),
                "sites": len(pair),
                "correlation": float(np.corrcoef(pair.T)[0, 1]) if varies else math.nan,
                "rmse": float(np.sqrt(np.mean((pair[:, 1] - pair[:, 0]) ** 2))) if len(pair) else math.nan,
            }
        )
    return rows


def to_csv(table: pd.DataFrame) -> bytes:
    """UTF-8 CSV with every digit; NaN is an empty cell."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def to_latex(table: pd.DataFrame) -> bytes:
    """A booktabs tabular with escaped text; needs only the package booktabs."""
    words = table.map(lambda v: re.sub(r"\s+", " ", v) if isinstance(v, str) else v)
    return words.to_latex(index=False, escape=True, na_rep="--", float_format=_latex_number).encode()


def _latex_number(value: float) -> str:
    return (
        f"{value:.0f}"
        if float(value).is_integer() and abs(value) < 1e15
        else f"{value:.4g}"
        if abs(value) < 1e4
        else f"{value:.1f}"
    )


def to_stata(table: pd.DataFrame) -> bytes:
    """Stata 14+ bytes (.dta); infinite figures, which Stata has no word for, become missing."""
    plain: dict[str, Any] = {}
    for name in table.columns:
        column = table[name]
        numeric = pd.api.types.is_numeric_dtype(column)
        plain[name] = column.astype(float).replace([np.inf, -np.inf], np.nan) if numeric else column.astype(str)
    buffer = io.BytesIO()
    pd.DataFrame(plain).to_stata(buffer, write_index=False, version=118, time_stamp=_STATA_DATE)
    return buffer.getvalue()
