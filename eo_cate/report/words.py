"""The report's leading sentences: what the numbers allow one to say, and what they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eo_cate.report.format import FEW_GROUPS, decimals_for, fmt, interval_words, p_equals
from eo_cate.report.inputs import ReportInputs
from eo_cate.report.rows import (
    Row,
    all_alarms,
    compare_ratios,
    estimators_of,
    headline_name,
    headline_rows,
    rate_rows,
    rejects,
    with_article,
)
from eo_cate.report.words_tests import answer_questions

_LESSONS = {
    "tabular": "that pixels add anything to the survey",
    "location": "that the image is more than an address",
    "mean_colour": "that a network is needed",
    "random_vit": "that the pretraining is needed",
}
_INSTRUMENTS = {
    "calibration": "calibration test",
    "isotonic": "calibration error",
    "gates": "GATES",
    "clan": "CLAN",
    "policy": "policy value",
}
SELECT_LOSES = (
    "`select` keeps the one set of scales that looks best on the training groups. Such a choice loses to averaging "
    "over scales on average at 100 to 150 villages; `average_evidence` and `average` do not choose."
)
STANDINGS = {
    "better": "does better than",
    "as well": "does about as well as",
    "worse": "does less well than",
    "unknown": "cannot be compared with",
}


@dataclass(frozen=True)
class Headline:
    """The pre-specified test in words.

    Parameters
    ----------
    configuration : str
    rejects : bool
        Whether the test rejects with every estimator: one of two is no finding.
    verdict : str
    figures : tuple of str
        One sentence per estimator.
    answers : tuple of str
        The refit test of all scales, image or place, the gain of several scales; those that were asked.
    limits : tuple of str
        What none of this says.
    """

    configuration: str
    rejects: bool
    verdict: str
    figures: tuple[str, ...]
    answers: tuple[str, ...]
    limits: tuple[str, ...]


def write_headline(inputs: ReportInputs) -> Headline:
    """Is the ranking real? One verdict over the estimators, their figures, and what it does not say."""
    rows = headline_rows(inputs)
    found = all(rejects(row) for row in rows)
    verdict = _write_verdict(headline_name(inputs), rows, _propensity_estimated(inputs))
    if any(rejects(row) for row in rows) and all_alarms(inputs):
        verdict += " Do not rely on it before the alarm above is explained."
    return Headline(
        headline_name(inputs),
        found,
        verdict,
        tuple(_write_figures(row) for row in rows),
        tuple(answer_questions(inputs)),
        tuple(_limits(inputs, rows)),
    )


def _propensity_estimated(inputs: ReportInputs) -> bool:
    return inputs.config.trial.propensity == "leave_group_out_share"


def _write_verdict(name: str, rows: list[Row], descriptive: bool) -> str:
    states = {row["estimator"]: _state(row) for row in rows}
    listed = [with_article(estimator) for estimator in states]
    alike = ", with " + " and ".join(listed) + " alike" if len(listed) > 1 else ""
    cause = "; that the programme is the cause is not claimed" if descriptive else ""
    if set(states.values()) == {"rejects"}:
        if descriptive:
            return (
                f"Among units ranked high by {name}, treated and untreated units differ more than a random ranking "
                f"would explain{alike}{cause}."
            )
        return f"Units ranked high by {name} gain more from the programme than a random ranking would explain{alike}."
    if set(states.values()) == {"does not"}:
        return f"The ranking by {name} is not distinguishable from a random ranking{alike}."
    if set(states.values()) == {"untested"}:
        return f"The ranking by {name} could not be tested: its RATE has no standard error."
    words = {
        "rejects": "better than a random ranking",
        "does not": "not distinguishable from a random ranking",
        "untested": "not tested (its RATE has no standard error)",
    }
    parts = [
        f"with {with_article(row['estimator'])} it is {words[states[row['estimator']]]}"
        + (f" (p {p_equals(row['p'])})" if states[row["estimator"]] != "untested" else "")
        for row in rows
    ]
    opening = (
        "The two estimators disagree about the ranking by"
        if {"rejects", "does not"} <= set(states.values())
        else "Not every estimator could be tested for the ranking by"
    )
    closing = "Both were fixed beforehand, and neither may be picked afterwards: this is not a clear finding"
    return f"{opening} {name}: {', '.join(parts)}. {closing}{cause if 'rejects' in states.values() else ''}."


def _state(row: Mapping[str, Any]) -> str:
    return "untested" if not math.isfinite(row["p"]) else "rejects" if rejects(row) else "does not"


def _write_figures(row: Mapping[str, Any]) -> str:
    places, orders = decimals_for([row["std_err"]]), int(row["orders"])
    return (
        f"With {with_article(row['estimator'])}: {row['target']} {fmt(row['estimate'], places)} (standard error "
        f"{fmt(row['std_err'], places)}), RATE ratio {fmt(row['ratio'], 2)}, one-sided p {p_equals(row['p'])}, "
        f"95\u00a0% interval {interval_words(row, places)}; {orders} fold order{'s' if orders != 1 else ''}."
    )


def _limits(inputs: ReportInputs, rows: list[Row]) -> list[str]:
    limits = []
    if _propensity_estimated(inputs):
        limits.append(
            "The assignment probabilities of this trial are not known and were estimated from the treated share of the "
            "other groups: the figures describe the data, and validity is not claimed."
        )
    groups = min(int(row["groups"]) for row in rows)
    if groups < FEW_GROUPS:
        limits.append(f"Only {fmt(groups)} groups: power is low and the normal approximation is strained.")
    if not any(rejects(row) for row in rows):
        limits.append(
            "That is not evidence that the programme works equally well everywhere: effects may differ in ways that "
            "these data do not rank, or by less than a trial of this size can see."
        )
    if "select" in (inputs.config.multiscale.procedure, inputs.config.multiscale.map_procedure):
        limits.append(SELECT_LOSES)
    limits.extend(_control_limits(inputs, rows))
    limits.append(
        "It does not say that what the image shows causes the effect, which scale matters, or that the estimate for "
        "any single place is right. The other rows of the table are comparisons, not further tests: the best of them "
        "is not a finding, nor is the better of the two estimators."
    )
    return limits


def _control_limits(inputs: ReportInputs, rows: list[Row]) -> list[str]:
    """Controls that do better, and where the test rejects those that do about as well: one sentence each way."""
    limits = []
    for standing in ("better", "as well"):
        parts, names = [], []
        for row in rows:
            found = [
                control
                for control in rate_rows(inputs, estimator=row["estimator"])
                if control["configuration"] in _LESSONS.keys() - {row["configuration"]}
                and compare_ratios(control["ratio"], row["ratio"]) == standing
                and (standing == "better" or rejects(row))
            ]
            if found:
                listed = ", ".join(f"{c['configuration']} ({fmt(c['ratio'], 2)})" for c in found)
                parts.append(f"with {with_article(row['estimator'])} (RATE ratio {fmt(row['ratio'], 2)}) {listed}")
                names += [c["configuration"] for c in found]
        if parts:
            lessons = " or ".join(dict.fromkeys(_LESSONS[name] for name in names))
            limits.append(
                f"What {STANDINGS[standing]} {rows[0]['configuration']}: {'; '.join(parts)}. So this run does not show "
                f"{lessons}."
            )
    return limits


def write_absent(inputs: ReportInputs) -> list[str]:
    """Which instruments there are no figures of, and why: one sentence per estimator and reason."""
    sentences = []
    for (estimator, reason), rows in inputs.absent.groupby(["estimator", "reason"], sort=False):
        listed = ", no ".join(_INSTRUMENTS[str(name)] for name in rows["instrument"])
        sentences.append(f"With {with_article(str(estimator))} there is no {listed}: {reason}.")
    return sentences


def truth_sentences(inputs: ReportInputs) -> list[str]:
    """What the simulation's controls and single scales say, from this run's own rows, by estimator."""
    labels = {
        "random_vit": "A network with random weights",
        "mean_colour": "Mean colour",
        "best single": "The best of the single scales, chosen afterwards and therefore optimistic,",
    }
    found: dict[str, list[str]] = {}
    for estimator in estimators_of(inputs):
        # a ratio of one estimator says nothing about another's
        rows = {row["configuration"]: row for row in rate_rows(inputs, estimator=estimator)}
        image = rows.get("image_multi") or rows.get(headline_name(inputs))
        if image is None:
            continue
        single = _best_single_scale(rows)
        if single is not None:
            rows["best single"] = single
        for name in (name for name in labels if name in rows):
            ratio, chosen = rows[name]["ratio"], rows[name]["configuration"]
            found.setdefault(name, []).append(
                f"{STANDINGS[compare_ratios(ratio, image['ratio'])]} {image['configuration']} with "
                f"{with_article(estimator)} ({f'{chosen}, ' if name == 'best single' else ''}RATE ratio "
                f"{fmt(ratio, 2)} against {fmt(image['ratio'], 2)})"
            )
    sentences = [f"{labels[name]} {' and '.join(found[name])}." for name in labels if name in found]
    return sentences + _share_sentences(inputs)


def _best_single_scale(rows: Mapping[str, Row]) -> Row | None:
    """The single scale with the largest finite ratio, where there are several."""
    singles = [
        row for name, row in rows.items() if name.removeprefix("image_").isdigit() and math.isfinite(row["ratio"])
    ]
    return max(singles, key=lambda row: row["ratio"]) if len(singles) > 1 else None


def _share_sentences(inputs: ReportInputs) -> list[str]:
    oracle = [row for row in rate_rows(inputs, estimator="truth") if row["estimate"] > 0]
    sentences = []
    for row in rate_rows(inputs, role="result") if oracle else []:
        if row["configuration"] == "image_multi":
            caveat = "" if rejects(row) else ", which is not distinguishable from none"
            sentences.append(
                f"image_multi with {with_article(row['estimator'])} has "
                f"{100 * row['estimate'] / oracle[0]['estimate']:.0f} % of the AUTOC of the true effects{caveat}."
            )
    return sentences
