"""A run on a terminal: the short summary, the scale search, and every table of the evaluation."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from eo_cate.report import cells
from eo_cate.report.format import decimals_for, fmt, fmt_p, text_table
from eo_cate.report.inputs import FOREST_ENGINE, ReportInputs
from eo_cate.report.rows import (
    Row,
    all_alarms,
    estimator_name,
    estimators_of,
    ordered_configurations,
    rate_rows,
)
from eo_cate.report.words import write_absent, write_headline
from eo_cate.report.words_tests import NO_HETEROGENEITY, gain_rows, write_gains, write_ledger
from eo_cate.report.words_tests import write_search as search_sentences

_WIDTH = 100


def print_summary(inputs: ReportInputs) -> str:
    """The summary as text of at most 100 columns; the caller prints it."""
    headline = write_headline(inputs)
    lines = [*_opening(inputs), *_short_rates(inputs), ""]
    for sentence in (headline.verdict, *headline.figures, *headline.answers, *headline.limits, inputs.config.notes):
        lines += _wrap(sentence)
    return "\n".join(lines) + "\n"


def print_evaluation(inputs: ReportInputs) -> str:
    """Every figure of the evaluation as text tables, as wide as they are; the caller prints it."""
    headline = write_headline(inputs)
    lines = [*_opening(inputs), *_wrap(headline.verdict)]
    for sentence in (*headline.figures, *headline.answers):
        lines += _wrap(sentence)
    lines += _part("RATE by configuration, estimator and control", cells.rate_cells(inputs), left=3)
    if len(inputs.tests):
        lines += _part("Refit tests", cells.test_cells(inputs.tests), left=4)
        if "tried" in inputs.search_p:
            lines += _wrap(write_ledger(inputs.search_p["tried"]))
    if len(inputs.contrasts):
        lines += _part("Paired differences of AUTOC", cells.contrast_cells(inputs.contrasts), left=2)
    if len(inputs.search):
        lines += ["", *_search_lines(inputs.search, inputs.search_p, gain_rows(inputs))]
    for title, table, left in (
        ("Calibration test (p one-sided)", cells.calibration_cells(inputs.calibration), 2),
        ("GATES: average effects by fifth of out-of-group tau_hat", cells.gates_cells(inputs.gates), 2),
        ("CLAN: covariates in the highest and the lowest fifth", cells.clan_cells(inputs.clan), 2),
        ("Policy value (standard error)", cells.policy_cells(inputs.policy), 1),
    ):
        if len(table) > 1:
            lines += _part(title, table, left=left)
    for limit in (*write_absent(inputs), *headline.limits, inputs.config.notes):
        lines += _wrap(limit)
    return "\n".join(lines) + "\n"


def print_search(search: pd.DataFrame, search_p: Mapping[str, float], gain: Mapping[str, Any]) -> str:
    """A scale search as text: the one test of all scales, the family, the honest gain; the caller prints it.

    Parameters
    ----------
    search : DataFrame
        Columns `eo_cate.report.inputs.SEARCH_COLUMNS`.
    search_p : dict
        ``everything``, ``family``, ``draws``, ``tried``, ``corrected``.
    gain : dict
        A row of `eo_cate.report.inputs.CONTRAST_COLUMNS`.
    """
    return "\n".join(_search_lines(search, search_p, [gain])) + "\n"


def _opening(inputs: ReportInputs) -> list[str]:
    summary, (ate, std_err) = inputs.summary, inputs.ate
    places = decimals_for([std_err])
    lines = [
        inputs.config.title or inputs.config.name,
        f"{summary['units']:,} units, {summary['sites']:,} sites, {summary['clusters']:,} clusters, "
        f"{summary['groups']:,} groups; {100 * summary['treated_share']:.1f} % treated; "
        f"ATE {fmt(ate, places)} (standard error {fmt(std_err, places)})",
        *_wrap(f"forest: {engine}" if (engine := inputs.versions.get(FOREST_ENGINE)) else ""),
        "",
    ]
    for alarm in all_alarms(inputs):
        lines += [*_wrap(f"ALARM: {alarm}"), ""]
    return lines


def _short_rates(inputs: ReportInputs) -> list[str]:
    """AUTOC of every configuration, the estimators side by side; controls follow under their own line."""
    estimators = estimators_of(inputs)
    found = {(row["configuration"], row["estimator"]): row for row in rate_rows(inputs)}
    places = decimals_for(row["std_err"] for row in found.values())
    head = [f"{estimator_name(e)}: {column}" if column == "AUTOC" else column for e in estimators for column in _SHORT]
    table: cells.Cells = [("configuration", *head)]
    for role in ("result", "control"):
        if role == "control" and ordered_configurations(inputs, role):
            table.append(("(controls)", *[""] * len(head)))
        for name in ordered_configurations(inputs, role):
            own = [found.get((name, estimator)) for estimator in estimators]
            if (name, "truth") in found:
                own[0] = found[name, "truth"]
            table.append((name, *(cell for row in own for cell in _short_cells(row, places))))
    return text_table(table, left=1)


_SHORT = ("AUTOC", "(SE)", "ratio", "p")


def _short_cells(row: Row | None, places: int) -> tuple[str, ...]:
    if row is None:
        return ("–",) * len(_SHORT)
    return fmt(row["estimate"], places), f"({fmt(row['std_err'], places)})", fmt(row["ratio"], 2), fmt_p(row["p"])


def _search_lines(search: pd.DataFrame, search_p: Mapping[str, float], gains: Sequence[Mapping[str, Any]]) -> list[str]:
    leading, family, winner = search_sentences(search, search_p)
    lines = ["Scale search", "", *_wrap(leading), "", *_wrap(family), ""]
    lines += [
        *text_table(cells.search_cells(search), left=1),
        "",
        *_wrap(winner),
        *_wrap(write_ledger(search_p["tried"])),
    ]
    if gains:
        lines += ["", *_wrap(write_gains(gains))]
    if len(cells.naive_cells(search)) > 1:
        lines += ["", *text_table(cells.naive_cells(search), left=2), *_wrap(NO_HETEROGENEITY)]
    return lines


def _part(title: str, table: cells.Cells, *, left: int) -> list[str]:
    return ["", title, "", *text_table(table, left=left), ""]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH)
