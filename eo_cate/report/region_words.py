"""A region in words: what its map may say, and what its tables show."""

from __future__ import annotations

import math
from typing import Any

from eo_cate.extrapolation import EffectError, TransportedEffect
from eo_cate.report.format import decimals_for, fmt, text_table
from eo_cate.report.region_inputs import RegionShown, SurveyShown
from eo_cate.types import FloatArray

HEAD = (
    "Region", "Cells", "With imagery", "Supported", "Sign decided", "People", "Units", "Groups", "Direct", "Synthetic",
    "Composite", "Transported", "Effective groups",
)  # fmt: skip
SURVEY_HEAD = ("Surveyed", "By image and covariates")
_EFFECTS = (
    "Region",
    "Direct",
    "Synthetic",
    "Composite",
    "Transported",
    "By image and covariates",
    "True effect",
    "of those surveyed",
)
WORTHWHILE = 0.9
"""An order of places is said to help when it lowers the mean loss below this share of the random order's."""
LIMITS = (
    "Supported means that a place looks like places of the trial. It does not mean that people there respond alike: "
    "what the image does not show may differ.",
    "The map is the model's mean for places that look alike. A band holds a cell's effect nine times out of ten where "
    "it is supported; where it is not, nothing is promised.",
    "Synthetic estimates rest on the model alone. Direct ones rest on the trial's units in the region, of which there "
    "are few. The composite weighs the two, the map taken as if it had not seen the region's units; where there are "
    "none it supposes that the region is like those with units.",
    "Transported effects hold under the assumption printed with them, which no figure here can test.",
)


def region_cells(shown: RegionShown) -> list[tuple[str, ...]]:
    """The table of regions as text, its head first."""
    table = shown.table
    places = decimals_for(
        [v for name in ("direct", "composite", "transported") for v in table[f"{name}_std_err"].dropna()]
    )
    head = HEAD if table["population"].notna().any() else tuple(h for h in HEAD if h != "People")
    if shown.survey is not None and "survey_transported" in table:
        head = (*head, *SURVEY_HEAD)
    if "true_effect" in table:
        head = (*head, "True effect")
    if "survey_true_effect" in table:
        head = (*head, "of those surveyed")
    rows: list[tuple[str, ...]] = [head]
    for row in table.to_dict("records"):
        cells = {
            "Region": str(row["region"]), "Cells": fmt(int(row["cells"])),
            "With imagery": _percent(row["share_imagery"]),
            "Supported": _percent(row["share_supported"]), "Sign decided": _percent(row["share_sign_decided"]),
            "People": fmt(row["population"], 0), "Units": fmt(row["units"], 0), "Groups": fmt(row["groups"], 0),
            "Direct": _with_error(row, "direct", places), "Synthetic": fmt(row["synthetic"], places),
            "Composite": _with_error(row, "composite", places), "Transported": _with_error(row, "transported", places),
            "Effective groups": fmt(row["effective_groups"], 0),
            "Surveyed": fmt(row.get("survey_people"), 0),
            "By image and covariates": _with_error(row, "survey_transported", places),
            "True effect": fmt(row.get("true_effect"), places),
            "of those surveyed": fmt(row.get("survey_true_effect"), places),
        }  # fmt: skip
        rows.append(tuple(cells[name] for name in head))
    return rows


def split_cells(cells: list[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The table of regions as two that fit a page: effects, and what they rest on."""
    effects = [j for j, name in enumerate(cells[0]) if name in _EFFECTS]
    basis = [j for j, name in enumerate(cells[0]) if name not in _EFFECTS or name == "Region"]
    effect_rows, basis_rows = ([tuple(row[j] for j in columns) for row in cells] for columns in (effects, basis))
    return effect_rows, basis_rows


def reasons(shown: RegionShown) -> list[tuple[str, str]]:
    """Regions with something left out, and why."""
    return [(str(r["region"]), str(r["reason"])) for r in shown.table.to_dict("records") if r["reason"]]


def band_words(shown: RegionShown) -> str:
    """What the bands are."""
    if shown.bands is None:
        return f"There are no calibrated bands, and so no cell whose sign is decided: {shown.bands_reason}."
    b = shown.bands
    words = (
        f"The calibrated {b.level:.0%} band around a cell's effect is ± {_span(b.width)}. It comes from "
        f"{int(b.num_groups.sum())} groups of the trial, each predicted by fits that never saw it. The noise of "
        f"single units is taken out of it.{_noise_words(b.effect_error)}"
    )
    if b.district_width is not None:
        words += f" From polygons that the model had not seen it would be ± {_span(b.district_width)}."
    return " ".join([words, *shown.bands_notes])


def _span(width: FloatArray) -> str:
    first, last = fmt(float(width[0])), fmt(float(width[-1]))
    return first if first == last else f"{first} to {last}, wider where a place is less alike"


def _noise_words(found: EffectError | None) -> str:
    """What was done about the luck that the units of a group share."""
    if found is None:
        return ""
    if not math.isfinite(found.upper):
        return (
            " What the units of a group share stays in: a group's own effect and its own luck could not be told apart, "
            "and the band is wider than it need be."
        )
    return (
        f" So is what the units of a group share: treated groups vary around their predictions by {fmt(found.excess)} "
        "(squared units) more than untreated ones around their mean, so the root mean square error of an effect is at "
        f"most {fmt(math.sqrt(found.upper))} ({found.confidence:.0%} confidence). Assumed: a group's level goes with "
        f"the part of the effect that the map misses as it goes with the part that the map shows (by "
        f"{fmt(found.level_slope)} per unit of effect). If groups of a low level gained more for reasons that no image "
        "shows, the band would be too narrow."
    )


def risk_words(shown: RegionShown) -> list[str]:
    """What the orders in which places enter are worth, loss by loss."""
    said = []
    for loss, rows in shown.risk_orders.groupby("loss", sort=False) if len(shown.risk_orders) else ():
        random, best = (float(rows[name].iloc[0]) for name in ("random", "best"))
        listed = "; ".join(f"{order} {fmt(value)}" for order, value in zip(rows["order"], rows["ordered"], strict=True))
        helps = [str(o) for o, value in zip(rows["order"], rows["ordered"], strict=True) if value < WORTHWHILE * random]
        verdict = f"Lower by more than a tenth: {', '.join(helps)}." if helps else "No order lowers it by a tenth."
        said.append(
            f"Loss: {loss}. Mean over the shares of places, by the order in which they enter: {listed}; in random "
            f"order {fmt(random)}, in the best there is {fmt(best)}. {verdict}"
        )
    return said


def transport_words(shown: RegionShown) -> str:
    """The transported effect of all supported cells, or why there is none."""
    found = shown.transported
    if found is None:
        return f"The trial's effect is not carried to the region: {shown.transport_reason}."
    variant = (
        "for no survey of the region was given; what only a survey shows is not adjusted for."
        if shown.survey is None
        else "what only a survey shows is not adjusted for here; the variant with covariates stands below."
    )
    return (
        f"Average effect of the region's supported cells: {_effect_words(found)} This is the image-only variant "
        f"(EO-only): moderators are of the image alone, {variant}"
    )


def survey_words(survey: SurveyShown) -> list[str]:
    """The transported effect of the people of a survey, or why there is none; and who counts."""
    left_out = "; ".join(
        f"{fmt(count)} {why}" for why, count in survey.counts.items() if why not in ("people", "used") and count
    )
    who = (
        f"Of {fmt(survey.counts['people'])} people of the survey {fmt(survey.counts['used'])} count"
        f"{f' ({left_out})' if left_out else ''}. They stand for the region by their sampling weights."
    )
    found, shared = survey.transported, ", ".join(survey.covariates)
    if found is None:
        return [f"By image and covariates ({shared}) the trial's effect is not carried: {survey.reason}.", who]
    truth = "" if survey.true_effect is None else f" Their true average effect is {fmt(survey.true_effect)}."
    return [
        f"Average effect of the people surveyed in supported places: {_effect_words(found)} This is the variant with "
        f"image and covariates (EO+tabular): moderators are those of the image and {shared}, as measured in the trial "
        "and in the survey, and the trial's weights are balanced, so that its weighted means of them are the survey's. "
        f"The survey's own sampling error is in the standard error.{truth}",
        who,
    ]


def _effect_words(found: TransportedEffect) -> str:
    places = decimals_for([found.std_err])
    return (
        f"{fmt(found.estimate, places)} (standard error {fmt(found.std_err, places)}, {found.level:.0%} interval "
        f"{fmt(found.interval[0], places)} to {fmt(found.interval[1], places)}); mean prediction "
        f"{fmt(found.predicted, places)}, correction by the trial's weighted residuals "
        f"{fmt(found.correction, places)}. Weighted so, the trial's {found.num_groups} groups are worth "
        f"{fmt(found.effective_groups, 0)}."
    )


def support_words(shown: RegionShown) -> str:
    """How many cells the map may speak for."""
    total = sum(shown.counts.values())
    parts = [f"{words} {fmt(count)} ({count / total:.0%})" for words, count in shown.counts.items()]
    return (
        f"{fmt(total)} cells of {shown.layers.attrs['resolution_m']:g} m. Does the map speak? {', '.join(parts)}. "
        f"A cell is outside when its dissimilarity exceeds {shown.threshold:.3g}."
    )


def print_region(shown: RegionShown) -> str:
    """The region on a terminal; the caller prints it."""
    table = text_table(region_cells(shown), left=1)
    survey = [] if shown.survey is None else survey_words(shown.survey)
    lines = [support_words(shown), band_words(shown), transport_words(shown), *survey, *shown.notes, "", *table, ""]
    lines += [f"{name}: {reason}" for name, reason in reasons(shown)]
    lines += ["", *risk_words(shown)]
    if shown.check is not None:
        lines += ["", "Against the known truth", *(f"  {name:<44} {fmt(value)}" for name, value in shown.check.items())]
    return "\n".join(lines)


def region_context(shown: RegionShown | None) -> dict[str, Any] | None:
    """What the report's section shows, as text; None without a region."""
    if shown is None:
        return None
    table, basis = split_cells(region_cells(shown))
    return {
        "support": support_words(shown),
        "bands": band_words(shown),
        "notes": shown.notes,
        "table": table,
        "basis": basis,
        "people": bool(shown.table["population"].notna().any()),
        "reasons": reasons(shown),
        "transport": transport_words(shown),
        "assumption": shown.assumption,
        "survey": None if shown.survey is None else survey_words(shown.survey),
        "survey_assumption": "" if shown.survey is None else shown.survey.assumption,
        "risk_of": shown.risk_of,
        "risk": risk_words(shown),
        "check": shown.check,
        "limits": LIMITS,
    }


def _percent(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{100 * value:.0f} %"


def _with_error(row: dict[Any, Any], name: str, places: int) -> str:
    if not math.isfinite(row.get(name, math.nan)):
        return "–"
    error = row[f"{name}_std_err"]
    return fmt(row[name], places) + (f" ({fmt(error, places)})" if math.isfinite(error) else "")
