"""Tables as text cells, the head first: the page and the terminal show the same figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from eo_cate.report.format import decimals_for, fmt, fmt_p, fmt_range, interval_words
from eo_cate.report.inputs import ReportInputs
from eo_cate.report.rows import by_estimator, estimator_name, estimators_of, ordered_configurations, rate_rows, records
from eo_cate.report.words_tests import judge_difference, naive_figures

Cells = list[tuple[str, ...]]


def _places(rows: Iterable[Mapping[str, Any]], key: str = "std_err") -> int:
    return decimals_for(float(row[key]) for row in rows)


def rate_cells(inputs: ReportInputs) -> Cells:
    """One row per configuration, control and estimator: AUTOC, QINI, SE, ratio, p, folds, groups, orders."""
    table: Cells = [
        ("", "configuration", "estimator", "AUTOC", "std err", "ratio", "p", "2 x p", "95 % interval", "QINI",
         "std err", "ratio", "p", "folds", "groups", "orders")
    ]  # fmt: skip
    auc = [row for role in ("result", "control") for row in rate_rows(inputs, role=role)]
    qini = {(row["configuration"], row["estimator"]): row for row in rate_rows(inputs, "QINI")}
    first, second = _places(auc), _places(qini.values())
    rank = {name: i for i, name in enumerate([*estimators_of(inputs), "truth"])}
    names = [n for role in ("result", "control") for n in ordered_configurations(inputs, role)]
    for row in sorted(auc, key=lambda r: (names.index(r["configuration"]), rank[r["estimator"]])):
        other = qini.get((row["configuration"], row["estimator"]))
        tail = (
            (fmt(other["estimate"], second), fmt(other["std_err"], second), fmt(other["ratio"], 2), fmt_p(other["p"]))
            if other
            else ("–",) * 4
        )
        table.append(
            (row["role"], row["configuration"], estimator_name(row["estimator"]), fmt(row["estimate"], first),
             fmt(row["std_err"], first), fmt(row["ratio"], 2), fmt_p(row["p"]), fmt_p(row["p_doubled"]),
             interval_words(row, first).replace("too few clusters for an interval", "too few clusters"),
             *tail, *(fmt(float(row[key]), 0) for key in ("folds", "groups", "orders")))
        )  # fmt: skip
    return table


def test_cells(tests: pd.DataFrame) -> Cells:
    """Refit tests."""
    rows = records(tests)
    table: Cells = [
        ("Question", "Configuration", "Held fixed", "Learner", "Statistic", "p", "p_ledger", "Draws", "Flip units")
    ]
    for row in rows:
        table.append(
            (row["question"], row["configuration"], row["given"] or "nothing", estimator_name(row["learner"]),
             fmt(float(row["statistic"]), 3), fmt_p(row["p"]), fmt_p(row["p_ledger"]), fmt(float(row["draws"]), 0),
             fmt(float(row["flip_units"]), 0))
        )  # fmt: skip
    return table


def contrast_cells(contrasts: pd.DataFrame) -> Cells:
    """Paired differences, and what their intervals allow one to say."""
    rows = by_estimator(contrasts)
    places = _places(rows)
    table: Cells = [
        ("Difference of AUTOC", "Estimator", "First", "Second", "Difference", "Std. error", "p, two-sided",
         "95 % interval", "The difference is")
    ]  # fmt: skip
    for row in rows:
        figures = (fmt(row[key], places) for key in ("first_estimate", "second_estimate", "estimate", "std_err"))
        table.append(
            (f"{row['first']} less {row['second']}", estimator_name(row["estimator"]), *figures, fmt_p(row["p"]),
             fmt_range(row["low"], row["high"], places), judge_difference(row))
        )  # fmt: skip
    return table


def search_cells(search: pd.DataFrame) -> Cells:
    """Sets of scales: p alone, adjusted, and with the ledger; sequential AUTOC with RidgeR."""
    rows = records(search)
    places = _places(rows)
    table: Cells = [
        ("Scales, px", "Statistic", "p, alone", "Adjusted p", "p_ledger", "AUTOC", "Std. error", "RATE ratio", "Holm p")
    ]
    for row in rows:
        table.append(
            (str(row["scales"]).replace("+", " + "), fmt(row["statistic"], 3), fmt_p(row["p"]),
             fmt_p(row["adjusted_p"]), fmt_p(row["p_ledger"]), fmt(row["estimate"], places),
             fmt(row["std_err"], places), fmt(row["ratio"], 2), fmt_p(row["holm_p"]))
        )  # fmt: skip
    return table


def naive_cells(search: pd.DataFrame) -> Cells:
    """Figures that are picked afterwards, labelled."""
    found = naive_figures(search)
    return [("Picked afterwards: optimistic", "Set", "In RATE ratios")] + [
        (f"{row['what']} ({row['label']})", row["sets"], fmt(row["ratio"], 2)) for row in found
    ]


def calibration_cells(calibration: pd.DataFrame) -> Cells:
    """The calibration test by estimator and term."""
    table: Cells = [("Estimator", "Term", "Estimate", "Std. error", "t", "p, one-sided")]
    for row in by_estimator(calibration):
        table.append(
            (estimator_name(row["estimator"]), str(row["term"]).replace("_", " "), fmt(row["estimate"], 3),
             fmt(row["std_err"], 3), fmt(row["t"], 2), fmt_p(row["p"]))
        )  # fmt: skip
    return table


def gates_cells(gates: pd.DataFrame) -> Cells:
    """Average effects by fifth, and top less bottom."""
    rows = by_estimator(gates)
    places = _places(rows)
    last = max((int(row["group"]) for row in rows if str(row["group"]) != "difference"), default=5)
    names = {"1": "1 (lowest)", str(last): f"{last} (highest)", "difference": "highest less lowest"}
    table: Cells = [("Estimator", "Fifth", "Units", "Effect", "Std. error", "95 %, pointwise", "95 %, joint")]
    for row in rows:
        table.append(
            (estimator_name(row["estimator"]), names.get(str(row["group"]), str(row["group"])),
             fmt(float(row["units"]), 0), fmt(row["estimate"], places), fmt(row["std_err"], places),
             fmt_range(row["low"], row["high"], places), fmt_range(row["joint_low"], row["joint_high"], places))
        )  # fmt: skip
    return table


def clan_cells(clan: pd.DataFrame) -> Cells:
    """Covariate means in the top and bottom fifth."""
    table: Cells = [
        ("Covariate", "Estimator", "Mean, highest fifth", "Mean, lowest fifth", "Difference", "Std. error", "p",
         "Adjusted p", "Missing")
    ]  # fmt: skip
    for row in by_estimator(clan):
        places = decimals_for([row["std_err"]])
        missing = float(row["missing"])
        table.append(
            (row["covariate"], estimator_name(row["estimator"]),
             *(fmt(row[key], places) for key in ("top", "bottom", "difference", "std_err")), fmt_p(row["p"]),
             fmt_p(row["adjusted_p"]), fmt(missing, 0 if not math.isfinite(missing) or missing.is_integer() else None))
        )  # fmt: skip
    return table


def coverage_cells(coverage: pd.DataFrame) -> Cells:
    """Sites by period and state of their pixels."""
    table: Cells = [
        ("Period", "Scenes", "First", "Last", "State of the largest crop", "Sites", "Clear dates, median", "E.g.")
    ]
    for row in coverage.to_dict("records"):
        table.append(
            (row["period"], fmt(int(row["scenes"])), row["start"], row["end"], row["state"], fmt(int(row["sites"])),
             fmt(float(row["median_clear"]), 1), row["example"])
        )  # fmt: skip
    return table


def policy_cells(policy: pd.DataFrame) -> Cells:
    """Value of treating the best share q, against nobody, random and all."""
    rows = by_estimator(policy)
    places = _places(rows)
    table: Cells = [("Estimator", "Share treated", "Against nobody", "Against as many at random", "Against all")]
    for row in rows:
        pairs = (("value", "std_err"), ("over_random", "over_random_std_err"), ("over_all", "over_all_std_err"))
        table.append(
            (estimator_name(row["estimator"]), f"{100 * row['q']:.0f} %",
             *(f"{fmt(row[value], places)} ({fmt(row[error], places)})" for value, error in pairs))
        )  # fmt: skip
    return table
