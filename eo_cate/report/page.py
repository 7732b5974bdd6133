"""The HTML page: one file that loads nothing."""

from __future__ import annotations

import base64
import math
from typing import Any

from eo_cate.config import dump_config
from eo_cate.report import cells, rows, words, words_tests
from eo_cate.report.drivers_words import drivers_context
from eo_cate.report.format import decimals_for, fmt, fmt_p, interval_words
from eo_cate.report.inputs import FOREST_ENGINE, ReportInputs
from eo_cate.report.region_words import region_context
from eo_cate.report.tables import truth_table
from eo_cate.report.templates import open_templates


def render_html(inputs: ReportInputs, pictures: dict[str, bytes]) -> str:
    """The page, from the inputs and the PNG bytes of its pictures by path."""
    environment = open_templates()
    environment.filters.update(fmt=fmt, fmt_p=fmt_p, estimator_name=rows.estimator_name, with_article=rows.with_article)
    uris = {name: "data:image/png;base64," + base64.b64encode(content).decode() for name, content in pictures.items()}
    return environment.get_template("template.html.j2").render(
        config=inputs.config,
        title=inputs.config.title or inputs.config.name,
        simulated=inputs.simulated,
        alarms=rows.all_alarms(inputs),
        headline=words.write_headline(inputs),
        summary=inputs.summary,
        ate=_ate_words(inputs),
        pictures=uris,
        settings=dump_config(inputs.config),
        sources=inputs.sources,
        versions=inputs.versions,
        forest_engine=FOREST_ENGINE,
        timings=inputs.timings,
        map_check=inputs.map_check or {},
        guards=rows.map_guards(inputs),
        map_warning=rows.map_warning(inputs),
        map_note=rows.map_note(inputs),
        map_estimator=rows.map_estimator(inputs),
        main_estimator=rows.main_estimator(inputs),
        truth=truth_table(inputs),
        truth_sentences=words.truth_sentences(inputs),
        questions=rows.CONTROL_QUESTIONS,
        drivers=drivers_context(inputs),
        region=region_context(inputs.region),
        **_rate_context(inputs),
        **_test_context(inputs),
        **_model_context(inputs),
    )


def _rate_context(inputs: ReportInputs) -> dict[str, Any]:
    estimators = rows.estimators_of(inputs)
    return {
        "targets": {t: rate_lines(inputs, t) for t in dict.fromkeys(inputs.rates["target"])},
        "estimators": estimators,
        "designs": [design_words(inputs, estimator) for estimator in estimators],
        "several_orders": bool((inputs.rates["orders"] > 1).any()),
        "shuffled": inputs.shuffled_ratios,
    }


def _test_context(inputs: ReportInputs) -> dict[str, Any]:
    searched = len(inputs.search) > 0
    return {
        "tests": cells.test_cells(inputs.tests),
        "ledger": words_tests.write_ledger(inputs.search_p["tried"]) if "tried" in inputs.search_p else "",
        "place": words_tests.answer_place(inputs),
        "contrasts": cells.contrast_cells(inputs.contrasts),
        "search": cells.search_cells(inputs.search),
        "search_sentences": words_tests.write_search(inputs.search, inputs.search_p) if searched else [],
        "naive": cells.naive_cells(inputs.search),
        "no_heterogeneity": words_tests.NO_HETEROGENEITY,
        "gains": words_tests.gain_rows(inputs),
        "gain_sentence": words_tests.write_gains(words_tests.gain_rows(inputs)),
    }


def _model_context(inputs: ReportInputs) -> dict[str, Any]:
    return {
        "coverage": cells.coverage_cells(inputs.coverage),
        "calibration": cells.calibration_cells(inputs.calibration),
        "gates": cells.gates_cells(inputs.gates),
        "clan": cells.clan_cells(inputs.clan),
        "policy": cells.policy_cells(inputs.policy),
        "absent": words.write_absent(inputs),
        "modelled": any(len(t) for t in (inputs.calibration, inputs.gates, inputs.clan, inputs.policy, inputs.absent)),
    }


def rate_lines(inputs: ReportInputs, target: str) -> list[dict[str, Any]]:
    """One line per configuration, results before controls; a cell group per estimator, every cell as text."""
    found = {(row["configuration"], row["estimator"]): row for row in rows.rate_rows(inputs, target)}
    places = decimals_for(row["std_err"] for row in found.values())
    lines = []
    for role in ("result", "control"):
        for name in rows.ordered_configurations(inputs, role):
            own = [found.get((name, estimator)) for estimator in rows.estimators_of(inputs)]
            truth = found.get((name, "truth"))
            lines.append(
                {
                    "name": name,
                    "words": rows.describe(inputs, name),
                    "role": role,
                    "chosen": name == rows.headline_name(inputs),
                    "groups": [_rate_cells(row, places) for row in own],
                    "truth": truth and _rate_cells(truth, places),
                }
            )
    return lines


def _rate_cells(row: rows.Row | None, places: int) -> dict[str, str]:
    if row is None:
        return dict.fromkeys(("estimate", "std_err", "ratio", "p", "p_doubled", "interval"), "–")
    return {
        "estimate": fmt(row["estimate"], places),
        "std_err": fmt(row["std_err"], places),
        "ratio": fmt(row["ratio"], 2),
        "p": fmt_p(row["p"]),
        "p_doubled": fmt_p(row["p_doubled"]),
        "interval": interval_words(row, places).replace(" for an interval", ""),
    }


def design_words(inputs: ReportInputs, estimator: str) -> str:
    """Folds, groups and fold orders of an estimator's rates."""
    table = inputs.rates[inputs.rates["estimator"] == estimator]
    parts = []
    for key, noun in (("folds", "folds"), ("groups", "groups"), ("orders", "fold orders")):
        values = sorted({int(v) for v in table[key].dropna()})
        parts.append(f"{fmt(values[0])}{f' to {fmt(values[-1])}' if len(values) > 1 else ''} {noun}" if values else "–")
    return f"{rows.estimator_name(estimator)}: {', '.join(parts)}"


def _ate_words(inputs: ReportInputs) -> str:
    estimate, std_err = inputs.ate
    places = decimals_for([std_err])
    low, high = estimate - 1.959964 * std_err, estimate + 1.959964 * std_err
    interval = f", 95\u00a0% interval {fmt(low, places)} to {fmt(high, places)}" if math.isfinite(std_err) else ""
    return f"{fmt(estimate, places)} (standard error {fmt(std_err, places)}{interval})"
