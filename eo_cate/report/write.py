"""A run's outputs: report.html, numbers.json, figures/, maps/ and tables/."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eo_cate.config import dump_config
from eo_cate.report import words
from eo_cate.report.inputs import ReportInputs
from eo_cate.report.numbers import dump_numbers
from eo_cate.report.tables import build_tables, to_csv, to_latex, to_stata, truth_table
from eo_cate.store import write_atomic

# Written by one kind of run and not by another: a run into the same folder must not leave the other's behind.
_OPTIONAL = (
    *(f"figures/{name}.{kind}" for name in ("rate", "toc", "truth") for kind in ("png", "pdf")),
    *(f"maps/tau_hat.{kind}" for kind in ("png", "pdf")),
    *(f"tables/{name}.{kind}" for name in ("balance", "toc") for kind in ("csv", "tex")),
)


def write_report(inputs: ReportInputs, run_dir: Path) -> Path:
    """Write every output of a run and return the path of report.html.

    Each file is replaced atomically; report.html comes last. The same inputs give the same bytes.

    Raises
    ------
    StoreError
        When a file cannot be written.
    """
    run_dir = Path(run_dir)
    pictures = draw_pictures(inputs)
    files = {f"{name}.{kind}": content for name, pair in pictures.items() for kind, content in pair.items()}
    for name, table in build_tables(inputs).items():
        files[f"tables/{name}.csv"] = to_csv(table)
        if name != "toc":  # hundreds of rows: for a plot, not for a page
            files[f"tables/{name}.tex"] = to_latex(table)
        if name == "rate":
            files["tables/rate.dta"] = to_stata(table)
    files["numbers.json"] = dump_numbers(inputs)
    page = render_html(inputs, {name: pair["png"] for name, pair in pictures.items()})
    for name in _OPTIONAL:
        if name not in files:
            (run_dir / name).unlink(missing_ok=True)
    for name, content in files.items():
        write_atomic(run_dir / name, content)
    write_atomic(run_dir / "report.html", page.encode())
    return run_dir / "report.html"


def draw_pictures(inputs: ReportInputs) -> dict[str, dict[str, bytes]]:
    """Path without suffix -> PNG and PDF bytes of every figure that the inputs allow."""
    from eo_cate.report import figures, maps, style  # matplotlib is loaded only here

    drawn = {}
    if words.rate_rows(inputs):
        drawn["figures/rate"] = figures.draw_rates
    if inputs.tocs:
        drawn["figures/toc"] = figures.draw_toc
    if inputs.map is not None:
        drawn["maps/tau_hat"] = maps.draw_map
    if inputs.truth is not None and len(inputs.truth):
        drawn["figures/truth"] = figures.draw_truth
    pictures = {}
    for name, draw in drawn.items():
        png, pdf = style.render(lambda draw=draw: draw(inputs))  # type: ignore[misc]
        pictures[name] = {"png": png, "pdf": pdf}
    return pictures


def render_html(inputs: ReportInputs, pictures: dict[str, bytes]) -> str:
    """The page: one file that loads nothing."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(fmt=words.fmt, fmt_p=words.fmt_p)
    uris = {name: "data:image/png;base64," + base64.b64encode(content).decode() for name, content in pictures.items()}
    targets = {t: _table_rows(inputs, t) for t in dict.fromkeys(inputs.rates["target"])}
    return environment.get_template("template.html.j2").render(
        config=inputs.config,
        title=inputs.config.title or inputs.config.name,
        simulated=inputs.simulated,
        alarms=words.all_alarms(inputs),
        headline=words.write_headline(inputs),
        summary=inputs.summary,
        ate=_ate_words(inputs),
        targets=targets,
        several_orders=bool((inputs.rates["orders"] > 1).any()),
        questions=words.CONTROL_QUESTIONS,
        shuffled=inputs.shuffled_ratios,
        guards=words.map_guards(inputs),
        map_readable=words.map_readable(inputs),
        map_check=inputs.map_check or {},
        truth=truth_table(inputs),
        truth_sentences=words.truth_sentences(inputs),
        pictures=uris,
        settings=dump_config(inputs.config),
        sources=inputs.sources,
        versions=inputs.versions,
        timings=inputs.timings,
    )


def _table_rows(inputs: ReportInputs, target: str) -> list[dict[str, Any]]:
    """Rows of one RATE table with every cell as text; results before controls."""
    rows = [row for role in ("result", "control") for row in words.rate_rows(inputs, target, role)]
    places = words.decimals_for(row["std_err"] for row in rows)
    chosen = words.headline_row(inputs)["configuration"]
    return [
        {
            "name": row["configuration"],
            "words": words.describe(row["configuration"]),
            "role": row["role"],
            "chosen": row["configuration"] == chosen,
            "cells": [
                row["estimator"],
                words.fmt(row["estimate"], places),
                words.fmt(row["std_err"], places),
                words.fmt(row["ratio"], 2),
                words.fmt_p(row["p"]),
                words.fmt_p(row["p_doubled"]),
                words.interval_words(row, places),
                *(words.fmt(float(row[key]), 0) for key in ("folds", "groups", "orders")),
            ],
        }
        for row in rows
    ]


def _ate_words(inputs: ReportInputs) -> str:
    estimate, std_err = inputs.ate
    places = words.decimals_for([std_err])
    low, high = estimate - 1.959964 * std_err, estimate + 1.959964 * std_err
    interval = (
        f", 95\u00a0% interval {words.fmt(low, places)} to {words.fmt(high, places)}" if math.isfinite(std_err) else ""
    )
    return f"{words.fmt(estimate, places)} (standard error {words.fmt(std_err, places)}{interval})"
