"""The report's sentences: what the numbers allow one to say, and what they do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eo_cate.report.inputs import ReportInputs

LEVEL = 0.05
FEW_GROUPS = 40  # METHODS.md, section 3, step 0

CONTROL_QUESTIONS = {
    "location": "Is the image only an address? (coordinates alone)",
    "mean_colour": "Is the network needed? (mean colour of the same crops)",
    "random_vit": "Is the pretraining needed? (a network with random weights)",
    "shuffled": "Is there a bug or a leak? (embeddings permuted over sites; should be about 0)",
    "oracle": "How far could any ranking get? (the true effects; simulations only)",
}
_LESSONS = {
    "location": "that the image is more than an address",
    "mean_colour": "that a network is needed",
    "random_vit": "that the pretraining is needed",
}


@dataclass(frozen=True)
class Headline:
    """The pre-specified test in words: its ``verdict``, its ``figures``, and the ``limits`` of both."""

    configuration: str
    rejects: bool
    verdict: str
    figures: str
    limits: tuple[str, ...]


def fmt(value: Any, decimals: int | None = None) -> str:
    """A number for reading: fixed ``decimals``, else three significant digits; NaN is a dash."""
    if value is None or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if decimals is None:
        decimals = 2 if value == 0 else min(6, max(0, 2 - math.floor(math.log10(abs(value)))))
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if not text.strip("-0.,") else text


def fmt_p(value: float) -> str:
    """A p-value to three decimals."""
    return "–" if not math.isfinite(value) else "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def decimals_for(std_errs: Iterable[float]) -> int:
    """Decimals that show the smallest finite standard error with two significant digits."""
    finite = [s for s in std_errs if math.isfinite(s) and s > 0]
    return min(6, max(0, 1 - math.floor(math.log10(min(finite))))) if finite else 3


def describe(configuration: str) -> str:
    """A configuration's name in words."""
    head = configuration.removeprefix("image_")
    known = {
        "tabular": "survey covariates only",
        "image_multi": "image, all scales together",
        "image_multi+tabular": "image, all scales, and survey covariates",
    }
    if configuration in known:
        return known[configuration]
    return (
        f"image, crops of {head} px"
        if configuration != head and head.isdigit()
        else CONTROL_QUESTIONS.get(configuration, "")
    )


def rate_rows(inputs: ReportInputs, target: str = "AUTOC", role: str | None = None) -> list[dict[str, Any]]:
    """Rows of one target as dicts, in the order of the table."""
    table = inputs.rates[inputs.rates["target"] == target]
    if role is not None:
        table = table[table["role"] == role]
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def headline_row(inputs: ReportInputs) -> dict[str, Any]:
    """The AUTOC row of the pre-specified configuration: all scales + tabular, or the widest there is."""
    rows = rate_rows(inputs, role="result") or [
        {str(k): v for k, v in r.items()} for r in inputs.rates[inputs.rates["role"] == "result"].to_dict("records")
    ]
    for wanted in ("image_multi+tabular", "image_multi"):
        for row in rows:
            if row["configuration"] == wanted:
                return row
    return next((row for row in rows if row["configuration"].startswith("image")), rows[0])


def rejects(row: Mapping[str, Any]) -> bool:
    """Whether the one-sided test rejects a random ranking at 5 %."""
    return bool(math.isfinite(row["p"]) and row["p"] < LEVEL)


def map_guards(inputs: ReportInputs) -> list[dict[str, Any]]:
    """The tests that must all reject before the map may be read.

    Places that were not surveyed have no covariates, so the map is the image's alone: next to the pre-specified test,
    the image's own must reject.
    """
    guards = [headline_row(inputs)]
    image = [row for row in rate_rows(inputs, role="result") if row["configuration"] == "image_multi"]
    return guards + [row for row in image if row["configuration"] != guards[0]["configuration"]][:1]


def map_readable(inputs: ReportInputs) -> bool:
    """Whether the map's pattern may be read: its tests reject, and no alarm casts doubt on them."""
    return all(rejects(row) for row in map_guards(inputs)) and not all_alarms(inputs)


def interval_words(row: Mapping[str, Any], decimals: int | None = None) -> str:
    """The 95 % interval, or why there is none."""
    if math.isfinite(row["low"]) and math.isfinite(row["high"]):
        return f"{fmt(row['low'], decimals)} to {fmt(row['high'], decimals)}"
    return "too few clusters for an interval" if row["groups"] < FEW_GROUPS else "–"


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
    return alarms


def write_headline(inputs: ReportInputs) -> Headline:
    """Is the ranking real? One verdict, its figures, and what it does not say."""
    row = headline_row(inputs)
    name, places = row["configuration"], decimals_for([row["std_err"]])
    if rejects(row):
        verdict = f"Units ranked high by {name} gain more from the programme than a random ranking would explain."
    elif math.isfinite(row["p"]):
        verdict = f"The ranking by {name} is not distinguishable from a random ranking."
    else:
        verdict = f"The ranking by {name} could not be tested: its RATE has no standard error."
    if rejects(row) and all_alarms(inputs):
        verdict += " Do not rely on it before the alarm above is explained."
    figures = (
        f"{row['target']} {fmt(row['estimate'], places)} (standard error {fmt(row['std_err'], places)}), "
        f"RATE ratio {fmt(row['ratio'], 2)}, one-sided p {_relation(row['p'])}, "
        f"95\u00a0% interval {interval_words(row, places)}."
    )
    return Headline(name, rejects(row), verdict, figures, tuple(_limits(inputs, row)))


def _relation(p: float) -> str:
    text = fmt_p(p)
    return text.replace("<", "< ") if text.startswith("<") else f"= {text}"


def _limits(inputs: ReportInputs, row: Mapping[str, Any]) -> list[str]:
    limits = []
    if inputs.config.trial.propensity == "leave_group_out_share":
        limits.append(
            "The assignment probabilities of this trial are not known and were estimated from the treated share of the "
            "other groups: the figures describe the data, and validity is not claimed."
        )
    if row["groups"] < FEW_GROUPS:
        limits.append(f"Only {fmt(int(row['groups']))} groups: power is low and the normal approximation is strained.")
    if not rejects(row):
        limits.append(
            "That is not evidence that the programme works equally well everywhere: effects may differ in ways that "
            "these data do not rank, or by less than a trial of this size can see."
        )
    limits.extend(_control_limits(inputs, row))
    limits.append(
        "It does not say that what the image shows causes the effect, which scale matters, or that the estimate for "
        "any single place is right. The other rows of the table are comparisons, not further tests: the best of them "
        "is not a finding."
    )
    return limits


def _control_limits(inputs: ReportInputs, row: Mapping[str, Any]) -> list[str]:
    strong = [
        c for c in rate_rows(inputs, role="control") if c["configuration"] in _LESSONS and c["ratio"] >= row["ratio"]
    ]
    if not rejects(row) or not strong:
        return []
    names = ", ".join(f"{c['configuration']} ({fmt(c['ratio'], 2)})" for c in strong)
    lessons = " or ".join(dict.fromkeys(_LESSONS[c["configuration"]] for c in strong))
    return [f"These controls have a RATE ratio at least as large: {names}. So this run does not show {lessons}."]


def truth_sentences(inputs: ReportInputs) -> list[str]:
    """What the simulation's controls say, from this run's own rows."""
    rows = {row["configuration"]: row for row in rate_rows(inputs)}
    image = rows.get("image_multi") or headline_row(inputs)
    sentences = []
    for name, label in (("random_vit", "A network with random weights"), ("mean_colour", "Mean colour")):
        if name in rows:
            outcome = (
                "does about as well as" if rows[name]["ratio"] >= 0.9 * image["ratio"] else "has a smaller ratio than"
            )
            sentences.append(
                f"{label} {outcome} {image['configuration']} here (RATE ratio {fmt(rows[name]['ratio'], 2)} against "
                f"{fmt(image['ratio'], 2)})."
            )
    if "oracle" in rows and rows["oracle"]["estimate"] > 0:
        share = image["estimate"] / rows["oracle"]["estimate"]
        sentences.append(f"{image['configuration']} reaches {100 * share:.0f} % of the AUTOC of the true effects.")
    return sentences
