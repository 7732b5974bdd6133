"""The section "What drives it" in words, cells and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from eo_cate.report.cells import Cells
from eo_cate.report.drivers_inputs import MOST_LABELS, MOST_QUANTITIES, QUARTILES, DriversShown
from eo_cate.report.format import decimals_for, fmt, fmt_p, fmt_range, p_equals
from eo_cate.report.inputs import ReportInputs
from eo_cate.report.rows import (
    LEVEL,
    MAP_CONFIGURATION,
    by_estimator,
    estimator_name,
    map_estimator,
    records,
    with_article,
)
from eo_cate.report.words_tests import find_test

MOST_NAMED = 6

ASSOCIATION = (
    "What follows are associations of the estimated ranking with what can be observed, not causes of the effect: none "
    "of these observables was randomised, and each may stand for something that nobody measured. A ranking that is "
    "made from images always goes with some quantity of the images, whether effects vary or not: a small p in the "
    "first table says what the ranking is made of, not that the effect depends on it."
)


def drivers_context(inputs: ReportInputs) -> dict[str, Any] | None:
    """What the template shows; None without anything to show."""
    shown = inputs.drivers
    if shown is None or not (len(shown.table) or len(shown.curves) or shown.gallery):
        return None
    return {
        "association": ASSOCIATION,
        "noise": noise_sentence(inputs, shown),
        "may_be_noise": not _rejects(inputs, shown),
        "found": count_sentence(shown.table),
        "configuration": shown.configuration,
        "table": driver_cells(shown.table),
        "effects": effect_cells(shown.effects),
        "curves": curve_cells(shown.curves),
        "covariates": covariate_names(shown.curves),
        "importance": bool(shown.curves["importance"].notna().any()),
        "model": with_article(map_estimator(inputs)),
        "gallery": shown.gallery,
        "notes": [*shown.notes, *_undrawn(shown)],
    }


def drivers_numbers(inputs: ReportInputs) -> dict[str, Any] | None:
    """The tables and sentences as plain values; images are none."""
    shown = inputs.drivers
    if shown is None:
        return None
    tables = {name: table.to_dict("records") for name, table in shown.tables.items()}
    words = {"may_be_noise": not _rejects(inputs, shown), "noise": noise_sentence(inputs, shown)}
    return tables | words | {"notes": list(shown.notes)}


def _rejects(inputs: ReportInputs, shown: DriversShown) -> bool:
    """Whether there is a refit test of the ranking's features, and it rejects."""
    row = _test_of(inputs, shown)
    return row is not None and bool(row["p"] <= LEVEL)


def _test_of(inputs: ReportInputs, shown: DriversShown) -> dict[str, Any] | None:
    return find_test(inputs, shown.configuration, "") or find_test(inputs, MAP_CONFIGURATION, "")


def noise_sentence(inputs: ReportInputs, shown: DriversShown) -> str:
    """What the refit test allows one to make of the rows."""
    row = _test_of(inputs, shown)
    if row is None:
        return "There is no refit test of this ranking: the rows may describe noise."
    test = f"The refit test of {row['configuration']} ({estimator_name(row['learner'])})"
    if row["p"] <= LEVEL:
        return (
            f"{test} rejects (p {p_equals(row['p'])}): there is something to rank by. Which of the rows carries it is "
            "not tested."
        )
    return (
        f"{test} did not reject (p {p_equals(row['p'])}): the ranking may be noise, and the rows then describe which "
        "places happened to rank high, not where the programme works."
    )


def count_sentence(table: pd.DataFrame) -> str:
    """How many rows differ at a false discovery rate of 5 %, and the clearest of them."""
    if not len(table):
        return ""
    clear = table[table["adjusted_p"] <= LEVEL].sort_values("adjusted_p", kind="stable")
    opening = (
        f"{len(clear)} of {len(table)} rows (every observable with every estimator) differ between the highest and the "
        "lowest quartile at a false discovery rate of 5\u00a0%"
    )
    labels = list(dict.fromkeys(clear["label"]))
    if not labels:
        return f"{opening}."
    more = f" and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
    return f"{opening}: {'; '.join(labels[:MOST_NAMED])}{more}."


def drawn_labels(table: pd.DataFrame) -> list[str]:
    """Labels whose differences are drawn, in the order of the table: those with the smallest p."""
    smallest = table.groupby("label")["p"].min().sort_values(kind="stable")
    kept = set(smallest.index[:MOST_LABELS])
    return [str(label) for label in dict.fromkeys(table["label"]) if label in kept]


def _undrawn(shown: DriversShown) -> list[str]:
    """What the tables have and the figures do not."""
    labels, names = shown.table["label"].nunique(), shown.effects["observable"].nunique()
    said = []
    if labels > MOST_LABELS:
        said.append(f"Of {labels} observables the {MOST_LABELS} with the smallest p are drawn; the table has them all.")
    if names > MOST_QUANTITIES:
        said.append(f"Effects are drawn for the first {MOST_QUANTITIES} of {names} quantities; the table has them all.")
    return said


def driver_cells(table: pd.DataFrame) -> Cells:
    """Means by quartile of the estimates, an observable's estimators below each other."""
    cells: Cells = [
        ("Observable", "Estimator", "Lowest quartile", "2", "3", "Highest quartile", "Highest less lowest",
         "95 % interval", "In std. dev.", "p", "Adjusted p", "Missing")
    ]  # fmt: skip
    order = {label: i for i, label in enumerate(dict.fromkeys(table["label"]))}
    for row in sorted(by_estimator(table), key=lambda row: order[row["label"]]):
        places = decimals_for([row["std_err"]])
        figures = (fmt(row[key], places) for key in (*QUARTILES, "difference"))
        cells.append(
            (row["label"], estimator_name(row["estimator"]), *figures, fmt_range(row["low"], row["high"], places),
             fmt(in_std_dev(row, "difference"), 2), fmt_p(row["p"]), fmt_p(row["adjusted_p"]),
             fmt(int(row["missing"])))
        )  # fmt: skip
    return cells


def in_std_dev(row: Mapping[str, Any], key: str) -> float:
    """A figure of a row in standard deviations of its observable; NaN where that does not vary."""
    return float(row[key] / row["std_dev"]) if row["std_dev"] > 0 else math.nan


def effect_cells(effects: pd.DataFrame) -> Cells:
    """Average effects by quartile of a quantity."""
    cells: Cells = [("Quantity", "Quartile", "Its mean", "Units", "Groups", "Effect", "Std. error", "95 %, pointwise")]
    rows = records(effects)
    places = decimals_for(float(row["std_err"]) for row in rows)
    for row in rows:
        cells.append(
            (row["label"], str(row["quartile"]), fmt(float(row["mean"])), fmt(int(row["units"])),
             fmt(int(row["groups"])), fmt(row["estimate"], places), fmt(row["std_err"], places),
             fmt_range(row["low"], row["high"], places))
        )  # fmt: skip
    return cells


def curve_cells(curves: pd.DataFrame) -> Cells:
    """Partial dependence at the lowest, the middle and the highest value drawn."""
    cells: Cells = [("Covariate", "Share of early splits, %", "Value", "Mean tau_hat", "80 % of the units' curves")]
    for _, table in curves.groupby("covariate", sort=False):
        rows = records(table)
        for row in _ends(rows):
            cells.append(
                (row["covariate"], fmt(100 * row["importance"], 1), fmt(float(row["value"])),
                 fmt(float(row["estimate"])), fmt_range(row["low"], row["high"]))
            )  # fmt: skip
    return cells


def _ends(rows: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    return [rows[i] for i in sorted({0, len(rows) // 2, len(rows) - 1})]


def covariate_names(curves: pd.DataFrame) -> list[str]:
    """Covariates that have a curve, the most important first."""
    return [str(name) for name in dict.fromkeys(curves["covariate"])]
