"""Sentences about tests and differences: all scales together, image or place, what several scales gain, the search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from eo_cate.report.format import FEW_GROUPS, decimals_for, fmt, fmt_range, p_equals
from eo_cate.report.inputs import ReportInputs
from eo_cate.report.rows import (
    LEVEL,
    MAP_CONFIGURATION,
    Row,
    by_estimator,
    estimator_name,
    headline_rows,
    records,
    rejects,
    with_article,
)

CHOSEN_SINGLE = "chosen single"
NOT_FROM_ZERO = "not distinguishable from zero"
NO_HETEROGENEITY = (
    "Where effects do not vary at all, such figures are still above zero: in simulations the best of 21 sets had a "
    "RATE ratio of 1.41 on average, the best of 6 single scales 1.20, and the best pair minus the mean single scale "
    "1.29."
)


def answer_questions(inputs: ReportInputs) -> list[str]:
    """The refit test of all scales, image or place, the gain of several scales and of pretraining, where asked."""
    answers = [*_answer_all_scales(inputs), *answer_place(inputs)]
    gains = gain_rows(inputs)
    return answers + ([write_gains(gains)] if gains else []) + answer_pretraining(inputs)


def answer_pretraining(inputs: ReportInputs) -> list[str]:
    """Whether training an encoder on with the region's own chips helped: one sentence per encoder trained on."""
    begin = f"{MAP_CONFIGURATION}, "
    rows = [row for row in by_estimator(inputs.contrasts) if str(row["first"]).startswith(f"{begin}pretrained:")]
    pairs = dict.fromkeys((row["first"], row["second"]) for row in rows)
    return [
        write_gains(
            [row for row in rows if (row["first"], row["second"]) == (first, second)],
            opening=f"Did training on with the region's own chips help? AUTOC of {first.removeprefix(begin)} over that "
            f"of {second.removeprefix(begin)}, all scales together: ",
        )
        for first, second in pairs
    ]


def find_test(inputs: ReportInputs, configuration: str, given: str) -> Row | None:
    """The refit test of a configuration with something held fixed (empty: nothing)."""
    for row in records(inputs.tests):
        if (row["configuration"], row["given"]) == (configuration, given):
            return row
    return None


def _answer_all_scales(inputs: ReportInputs) -> list[str]:
    row = find_test(inputs, MAP_CONFIGURATION, "")
    if row is None:
        return []
    # a p of draws, unlike a normal one, rejects at equality: (1 + exceedances) / (draws + 1) is at most the level
    found = "they predict the effect" if row["p"] <= LEVEL else "they are not shown to predict the effect"
    if row["p"] <= LEVEL and not any(rejects(rate) for rate in headline_rows(inputs)):
        found += ", which says that there is something to rank by, not that the rankings above find it"
    few = "; few flip units, so power is low" if row["flip_units"] < FEW_GROUPS else ""
    return [
        f"All scales together, one refit test ({row['configuration']}, {estimator_name(row['learner'])}, "
        f"{fmt(int(row['draws']))} sign-flip draws): p {p_equals(row['p'])}; {found}{few}."
    ]


def answer_place(inputs: ReportInputs) -> list[str]:
    """Whether the image sees more than a smooth map of the place."""
    row = find_test(inputs, MAP_CONFIGURATION, "location")
    if row is None:
        return []
    alone = find_test(inputs, MAP_CONFIGURATION, "")
    if row["p"] <= LEVEL:
        found = "beyond a smooth map of the place, the image still predicts the effect"
    elif alone is not None and alone["p"] <= LEVEL:
        found = (
            "beyond a smooth map of the place, the image is not shown to predict the effect: what it sees may be the "
            "place"
        )
    else:
        found = "beyond a smooth map of the place, the image is not shown to predict the effect"
    return [f"Image or place? Conditional refit test: p {p_equals(row['p'])}; {found}."]


def gain_rows(inputs: ReportInputs) -> list[Row]:
    """The honest gains over the single scale that the training folds chose."""
    return [row for row in by_estimator(inputs.contrasts) if row["second"] == CHOSEN_SINGLE]


def judge_difference(row: Mapping[str, Any]) -> str:
    """What the 95 % interval of a difference allows one to say."""
    if not (math.isfinite(row["low"]) and math.isfinite(row["high"])):
        return "no interval, so nothing is claimed"
    return "above zero" if row["low"] > 0 else "below zero" if row["high"] < 0 else NOT_FROM_ZERO


GAIN_OF_SCALES = "Gain in AUTOC of all scales together over the single scale that the training folds chose: "


def write_gains(rows: Iterable[Mapping[str, Any]], *, opening: str = GAIN_OF_SCALES) -> str:
    """A gain in one sentence, that of several scales if not told otherwise, with every estimator it was asked of."""
    parts = []
    for row in rows:
        places = decimals_for([row["std_err"]])
        parts.append(
            f"with {with_article(row['estimator'])} {fmt(row['estimate'], places)} (standard error "
            f"{fmt(row['std_err'], places)}, 95\u00a0% interval {fmt_range(row['low'], row['high'], places)}; AUTOC "
            f"{fmt(row['first_estimate'], places)} against {fmt(row['second_estimate'], places)}), "
            f"{judge_difference(row)}"
        )
    return f"{opening}{'; '.join(parts)}."


def write_ledger(tried: float) -> str:
    """What p_ledger pays for."""
    return (
        f"p_ledger also pays for every earlier try: p times the {fmt(int(tried))} configurations ever fitted against "
        "this outcome in this run's folder, over those that the test already corrects for, at most 1. The test's own p "
        "does not depend on it."
    )


def num_scales(row: Mapping[str, Any]) -> int:
    """Scales of a set."""
    return len(str(row["scales"]).split("+"))


def write_search(search: pd.DataFrame, search_p: Mapping[str, float]) -> list[str]:
    """The one test of all scales first, then the family, then what a winner is."""
    rows = records(search)
    kinds = [
        f"{number} {name if number == 1 else plural}"
        for number, name, plural in (
            (sum(num_scales(r) == 1 for r in rows), "single scale", "single scales"),
            (sum(num_scales(r) == 2 for r in rows), "pair", "pairs"),
            (sum(num_scales(r) > 2 for r in rows), "larger set", "larger sets"),
        )
        if number
    ]
    listed = ", ".join(kinds)
    family = (
        "at least one set predicts the effect"
        if search_p["family"] <= LEVEL
        else "no set is shown to predict the effect, whatever its own p"
    )
    leading = "predict" if search_p["everything"] <= LEVEL else "are not shown to predict"
    return [
        f"One test of all scales together leads: p {p_equals(search_p['everything'])}; they {leading} the effect.",
        f"All {len(rows)} sets together ({listed}): family-wise p {p_equals(search_p['family'])} "
        f"({fmt(int(search_p['draws']))} sign-flip draws of the largest statistic); {family}. The search paid for its "
        "tries: the best set is judged against the best of as many sets under the null, and so is each adjusted p.",
        "A winner is a point estimate only: in simulations the true pair won in 17 % of the runs, some pair with a "
        "true scale in 80 %.",
    ]


def naive_figures(search: pd.DataFrame) -> list[dict[str, Any]]:
    """Figures that are picked afterwards, in ratio units: ``what``, ``sets``, ``ratio``, ``label`` (optimistic)."""
    rows = [row for row in records(search) if math.isfinite(row["ratio"])]
    singles, pairs = ([row for row in rows if num_scales(row) == n] for n in (1, 2))
    found = []
    for what, group in (("best single scale", singles), ("best of all sets", rows)):
        if len(group) > 1:
            best = max(group, key=lambda row: row["ratio"])
            found.append((f"{what}, of {len(group)}", best["configuration"], best["ratio"]))
    if len(pairs) > 1 and singles:
        best = max(pairs, key=lambda row: row["ratio"])
        mean = sum(row["ratio"] for row in singles) / len(singles)
        found.append(("best pair minus mean single scale", best["configuration"], best["ratio"] - mean))
    return [{"what": w, "sets": s, "ratio": float(r), "label": "optimistic"} for w, s, r in found]
