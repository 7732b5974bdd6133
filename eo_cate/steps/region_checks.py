"""Simulations only: how often a region's bands and intervals hold, and how well its map ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from eo_cate.extrapolation import Bands, RegionCells
from eo_cate.report import SurveyShown
from eo_cate.steps.region_cells import CellValues
from eo_cate.steps.region_effects import OUTSIDE, UNDECIDED, YES
from eo_cate.types import FloatArray


def check_truth(
    region: RegionCells,
    values: CellValues,
    support: FloatArray,
    band: FloatArray,
    bands: Bands | None,
    truth: FloatArray,
    people: FloatArray | None,
    table: pd.DataFrame,
) -> dict[str, float]:
    """Coverage of bands inside the supported area and, with its widest band, outside; ranks; intervals of regions.

    A region's truth is the mean over its supported cells: what the synthetic, composite and transported effects are of.
    """
    error, known = np.abs(values.tau_hat - truth), np.isfinite(truth) & np.isfinite(values.tau_hat)
    inside, outside = known & np.isin(support, (YES, UNDECIDED)), known & (support == OUTSIDE)
    found: dict[str, float] = {"cells inside": int(inside.sum()), "cells outside": int(outside.sum())}
    found["error inside, root mean square"] = _root_mean_square(error[inside])
    found["error outside, root mean square"] = _root_mean_square(error[outside])
    if bands is not None:
        found["coverage inside"] = _mean(error[inside] <= band[inside])
        found["coverage outside, widest band"] = _mean(error[outside] <= bands.width[-1])
        spoken = known & (support == YES)
        found["cells with a sign"] = int(spoken.sum())
        found["signs right"] = _mean(np.sign(values.tau_hat[spoken]) == np.sign(truth[spoken]))
    if inside.sum() > 2:
        found["rank correlation inside"] = float(spearmanr(values.tau_hat[inside], truth[inside]).statistic)
    if outside.sum() > 2:
        found["rank correlation outside"] = float(spearmanr(values.tau_hat[outside], truth[outside]).statistic)
    return found | _check_regions(region, inside, truth, people, table)


def _check_regions(
    region: RegionCells, inside: np.ndarray, truth: FloatArray, people: FloatArray | None, table: pd.DataFrame
) -> dict[str, float]:
    owner, weight = region.cells["region"].to_numpy().astype(str), np.ones(len(truth)) if people is None else people
    own = np.array(
        [
            np.average(truth[here], weights=weight[here]) if (here := inside & (owner == name)).any() else np.nan
            for name in table["region"]
        ]
    )
    table["true_effect"] = own
    found: dict[str, float] = {}
    for name in ("direct", "composite", "transported"):
        low, high = (table[f"{name}_{end}"].to_numpy(dtype=float) for end in ("low", "high"))
        known = np.isfinite(own) & np.isfinite(low)
        held = ((low <= own) & (own <= high))[known]
        found |= {f"regions, {name}": int(known.sum()), f"regions whose {name} interval holds": int(held.sum())}
    return found


def check_survey(survey: SurveyShown, table: pd.DataFrame) -> dict[str, float]:
    """Whether the intervals by image and covariates hold: of all people who count, and of the polygons'."""
    found: dict[str, float] = {}
    if survey.transported is not None and survey.true_effect is not None:
        low, high = survey.transported.interval
        found["survey, true effect of those who count"] = survey.true_effect
        found["survey, interval holds"] = float(low <= survey.true_effect <= high)
    if "survey_true_effect" in table:
        known = table.dropna(subset=["survey_transported", "survey_true_effect"])
        held = known["survey_true_effect"].between(known["survey_transported_low"], known["survey_transported_high"])
        found |= {"regions, survey": len(known), "regions whose survey interval holds": int(held.sum())}
    return found


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _root_mean_square(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else float("nan")
