"""The run on a terminal: the RATE table and the verdict in plain text."""

from __future__ import annotations

import textwrap

from eo_cate.report.inputs import ReportInputs
from eo_cate.report.words import all_alarms, decimals_for, fmt, fmt_p, interval_words, rate_rows, write_headline

_WIDTH = 100


def print_summary(inputs: ReportInputs) -> str:
    """The summary as text of at most 100 columns; the caller prints it."""
    summary, (ate, std_err) = inputs.summary, inputs.ate
    places = decimals_for([std_err])
    lines = [
        inputs.config.title or inputs.config.name,
        f"{summary['units']:,} units, {summary['sites']:,} sites, {summary['clusters']:,} clusters, "
        f"{summary['groups']:,} groups; {100 * summary['treated_share']:.1f} % treated; "
        f"ATE {fmt(ate, places)} (standard error {fmt(std_err, places)})",
        "",
    ]
    for alarm in all_alarms(inputs):
        lines += [*_wrap(f"ALARM: {alarm}"), ""]
    lines += [*_rate_lines(inputs), ""]
    headline = write_headline(inputs)
    for sentence in (f"{headline.verdict} {headline.figures}", *headline.limits, inputs.config.notes):
        lines += _wrap(sentence)
    return "\n".join(lines) + "\n"


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH)


def _rate_lines(inputs: ReportInputs) -> list[str]:
    rows = [row for role in ("result", "control") for row in rate_rows(inputs, role=role)]
    qini = {(row["configuration"], row["estimator"]): row for row in rate_rows(inputs, "QINI")}
    places = decimals_for(row["std_err"] for row in rows)
    table = [("", "configuration", "estimator", "AUTOC", "std err", "ratio", "p", "95 % interval", "QINI ratio")]
    for row in rows:
        other = qini.get((row["configuration"], row["estimator"]))
        table.append(
            (
                row["role"], row["configuration"], row["estimator"], fmt(row["estimate"], places),
                fmt(row["std_err"], places), fmt(row["ratio"], 2), fmt_p(row["p"]),
                interval_words(row, places).replace("too few clusters for an interval", "too few clusters"),
                fmt(other["ratio"], 2) if other else "–",
            )
        )  # fmt: skip
    widths = [max(len(line[j]) for line in table) for j in range(len(table[0]))]
    text = ["  ".join(_pad(cell, widths[j], left=j < 3) for j, cell in enumerate(line)).rstrip() for line in table]
    return [text[0], "-" * max(map(len, text)), *text[1:]]


def _pad(cell: str, width: int, *, left: bool) -> str:
    return cell.ljust(width) if left else cell.rjust(width)
