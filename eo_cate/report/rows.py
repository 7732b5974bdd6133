"""Which rows of a run's tables carry its claims: the pre-specified test, the map's guards, the alarms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from eo_cate.multiscale import FORESTLESS, name_estimator
from eo_cate.report.format import fmt, fmt_p
from eo_cate.report.inputs import ReportInputs

LEVEL = 0.05
ABOUT_AS_WELL = 0.5
"""RATE ratios this close are not told apart: between fold orders on the same data they vary by .6 to .7."""
MAP_CONFIGURATION = "image_multi"
"""Places that were not surveyed have no covariates: the map is the image's alone."""

NO_EVIDENCE, UNCLEAR = "no evidence of heterogeneity", "no clear evidence of heterogeneity"

CONTROL_QUESTIONS = {
    "image_multi+location": "Does the image add to the address? (image and coordinates together)",
    "location": "Is the image only an address? (coordinates alone)",
    "mean_colour": "Is the network needed? (mean colour of the same crops)",
    "random_vit": "Is the pretraining needed? (a network with random weights)",
    "shuffled": "Is there a bug or a leak? (embeddings permuted over sites; should be about 0)",
    "baseline_outcome": "A placebo: the outcome before the programme (must not reject)",
    "oracle": "How far could any ranking get? (the true effects; simulations only)",
}
_ESTIMATOR_NAMES = {"ridge": "RidgeR", "truth": "true effects"}

Row = dict[str, Any]


def estimator_name(estimator: str) -> str:
    """An estimator's name for reading."""
    return _ESTIMATOR_NAMES.get(estimator, estimator)


def with_article(estimator: str) -> str:
    """An estimator's name in a sentence."""
    name = estimator_name(estimator)
    return name if estimator in ("ridge", FORESTLESS) else f"the {name}"


def main_estimator(inputs: ReportInputs) -> str:
    """What stands beside RidgeR."""
    return name_estimator(inputs.config.multiscale.procedure)


def map_estimator(inputs: ReportInputs) -> str:
    """What draws the map and predicts the region."""
    return name_estimator(inputs.config.multiscale.map_procedure)


def estimators_of(inputs: ReportInputs) -> list[str]:
    """Estimators that ranked units, RidgeR first; a ranking by the true effects is no estimator."""
    found = dict.fromkeys(str(name) for name in inputs.rates.loc[inputs.rates["role"] != "map", "estimator"])
    first = ["ridge"] if "ridge" in found else []
    return first + [name for name in found if name not in ("ridge", "truth")]


def describe(inputs: ReportInputs, configuration: str) -> str:
    """A configuration's name in words."""
    head = configuration.removeprefix("image_")
    survey = "and survey covariates" if inputs.summary["covariates"] else "(there are no survey covariates)"
    known = {
        "tabular": "survey covariates only",
        "image_multi": "image, all scales together",
        "image_multi+tabular": f"image, all scales, {survey}",
        "image_multi+tabular, groups equalised": "the same ranking, every group of the same weight (sensitivity)",
    }
    if configuration in known:
        return known[configuration]
    if configuration != head and head.isdigit():
        return f"image, crops of {head} px"
    if configuration.startswith(f"{MAP_CONFIGURATION}, "):
        return "image, all scales together, of that encoder alone"
    return CONTROL_QUESTIONS.get(configuration, "")


def records(table: pd.DataFrame) -> list[Row]:
    """Rows of a table as dicts."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def by_estimator(table: pd.DataFrame) -> list[Row]:
    """Rows with RidgeR's first, in their order otherwise."""
    return sorted(records(table), key=lambda row: row["estimator"] != "ridge")


def rate_rows(
    inputs: ReportInputs, target: str = "AUTOC", role: str | None = None, estimator: str | None = None
) -> list[Row]:
    """Rows of one target, in the order of the table."""
    table = inputs.rates[inputs.rates["target"] == target]
    for column, wanted in (("role", role), ("estimator", estimator)):
        if wanted is not None:
            table = table[table[column] == wanted]
    return records(table)


def ordered_configurations(inputs: ReportInputs, role: str) -> list[str]:
    """Configurations of one role in the order of their first row."""
    return list(dict.fromkeys(inputs.rates.loc[inputs.rates["role"] == role, "configuration"]))


def headline_name(inputs: ReportInputs) -> str:
    """The pre-specified configuration: all scales + tabular, or the widest there is."""
    names = ordered_configurations(inputs, "result")
    images = [name for name in names if name.startswith("image")]
    return next((n for n in ("image_multi+tabular", "image_multi") if n in names), (images or names)[0])


def headline_rows(inputs: ReportInputs) -> list[Row]:
    """The AUTOC rows of the pre-specified configuration, one per estimator, RidgeR first."""
    rows = rate_rows(inputs, role="result") or records(inputs.rates[inputs.rates["role"] == "result"])
    name = headline_name(inputs)
    found: dict[str, Row] = {}
    for row in rows:
        if row["configuration"] == name:
            found.setdefault(row["estimator"], row)
    return [found[estimator] for estimator in estimators_of(inputs) if estimator in found]


def rejects(row: Mapping[str, Any]) -> bool:
    """Whether the one-sided test rejects a random ranking at 5 %."""
    return bool(math.isfinite(row["p"]) and row["p"] < LEVEL)


def map_guards(inputs: ReportInputs) -> list[Row]:
    """The tests that must all reject before the map may be read.

    Next to the pre-specified tests of all estimators, the one of the map's own configuration and estimator must reject;
    those of all estimators on that configuration where the map's own was not evaluated.
    """
    guards = headline_rows(inputs)
    shown = rate_rows(inputs, role="result") + rate_rows(inputs, role="map")
    own = [row for row in shown if row["configuration"] == MAP_CONFIGURATION]
    own = [row for row in own if row["estimator"] == map_estimator(inputs)] or own
    known = {(row["configuration"], row["estimator"]) for row in guards}
    return guards + [row for row in own if (row["configuration"], row["estimator"]) not in known]


def map_note(inputs: ReportInputs) -> str:
    """How the map's own model ranks, where it is not one that the report is about."""
    if map_estimator(inputs) in estimators_of(inputs):
        return ""
    others = " and ".join(with_article(estimator) for estimator in estimators_of(inputs))
    own = next(iter(rate_rows(inputs, role="map")), None)
    found = "was not tested" if own is None else f"has a RATE ratio of {fmt(own['ratio'], 2)} (p {fmt_p(own['p'])})"
    return (
        f"The map is drawn by {with_article(map_estimator(inputs))}, whose ranking on the image alone, over the same "
        f"folds, {found}; the other tests are of {others}."
    )


def map_readable(inputs: ReportInputs) -> bool:
    """Whether the map's pattern may be read: its tests reject, and no alarm casts doubt on them."""
    return all(rejects(row) for row in map_guards(inputs)) and not all_alarms(inputs)


def map_warning(inputs: ReportInputs) -> str:
    """What is written across a map that may not be read; empty when it may."""
    if map_readable(inputs):
        return ""
    mixed = any(rejects(row) for row in map_guards(inputs)) and not all_alarms(inputs)
    return UNCLEAR if mixed else NO_EVIDENCE


def compare_ratios(ratio: float, other: float) -> str:
    """Where a RATE ratio stands against another: ``better``, ``as well``, ``worse``, or ``unknown`` for NaN."""
    if not (math.isfinite(ratio) and math.isfinite(other)):
        return "unknown"
    if abs(ratio - other) <= ABOUT_AS_WELL:
        return "as well"
    return "better" if ratio > other else "worse"


def shuffled_threshold(number: int) -> float:
    """Mean ratio of ``number`` permutations above which there is a bug or a leak (METHODS.md, section 7)."""
    return 3 / math.sqrt(number)


def all_alarms(inputs: ReportInputs) -> list[str]:
    """The run's alarms, and the one about the shuffled embeddings when they rank better than chance."""
    alarms = list(inputs.alarms)
    ratios = inputs.shuffled_ratios[np.isfinite(inputs.shuffled_ratios)]
    if len(ratios) and ratios.mean() > shuffled_threshold(len(ratios)):
        alarms.append(
            f"Shuffled embeddings rank better than chance: mean RATE ratio {ratios.mean():.2f} over {len(ratios)} "
            f"permutations, above the limit {shuffled_threshold(len(ratios)):.2f}. Permuted images carry no "
            "information, so something leaks between folds (a cluster split over two folds, sites counted twice). "
            "Believe no figure of this report before the cause is found."
        )
    before = [row for row in rate_rows(inputs) if row["configuration"] == "baseline_outcome" and rejects(row)]
    if before:
        alarms.append(
            f"The ranking also 'predicts' an effect on the outcome before the programme (RATE ratio "
            f"{before[0]['ratio']:.2f}), which the programme cannot have had: the arms differed before, by chance or "
            "by design, where the ranking is high."
        )
    return alarms
