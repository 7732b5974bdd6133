"""The trial's effect carried to people of the region that a survey interviewed: by image and covariates together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from eo_cate import extrapolation
from eo_cate.errors import EvaluationError
from eo_cate.report import SurveyShown
from eo_cate.steps.context import FULL, Run
from eo_cate.steps.map_model import MapModel
from eo_cate.steps.region_cells import value_cells
from eo_cate.steps.region_effects import NUM_FOLDS, TrialSide
from eo_cate.steps.region_people import Surveyed, find_inside
from eo_cate.types import BoolArray, FeatureBlocks, FloatArray, IntArray, Trial

PROCEDURE = "concat_pca"
"""A forest sees each person; kernels of sites see the means of a site's people, which the odds do not balance."""
COLUMNS = (
    "survey_people", "survey_clusters", "survey_transported", "survey_transported_std_err", "survey_transported_low",
    "survey_transported_high", "survey_effective_groups",
)  # fmt: skip


@dataclass(frozen=True)
class _Sides:
    """The trial's m complete units, and the survey's n people; ``inside``: whether a person counts.

    ``moderators`` are those of the image-only model, then the covariates, NaN where a person does not count.
    """

    seed: int
    names: list[str]
    dr_scores: FloatArray
    tau_hat: FloatArray
    groups: IntArray
    weights: FloatArray
    moderators: FloatArray
    surveyed: Surveyed
    inside: BoolArray
    people_tau_hat: FloatArray
    people_moderators: FloatArray


def carry_to_survey(
    run: Run,
    trial: Trial,
    model: MapModel,
    side: TrialSide,
    surveyed: Surveyed,
    features: tuple[FeatureBlocks, IntArray] | None,
    table: pd.DataFrame,
    *,
    min_units: int,
) -> tuple[SurveyShown, pd.DataFrame]:
    """The effect of all people who live in supported places, and the table of regions with `COLUMNS` beside the others.

    Parameters
    ----------
    model : MapModel
        The image-only one; it says which places are supported.
    features : (FeatureBlocks, (s,) int) or None
        Image features of the survey's places, one row per place, and which places these are (`embed_people`).
    table : DataFrame
        One row per polygon, with columns region and reason.
    min_units : int
        Polygons with fewer people get no effect and no count.
    """
    if features is None:
        names, number = surveyed.people.names, len(surveyed.owner)
        assumption = extrapolation.state_assumption((*side.names, *names))
        why = f"none of the survey's {len(surveyed.people.sites):,} places has complete imagery"
        return SurveyShown(None, why, None, assumption, names, {"people": number, "used": 0}), table
    sides, counts = _open_sides(run, trial, model, side, surveyed, *features)
    return _carry_all(sides, counts), _tabulate(sides, table, min_units)


def _open_sides(
    run: Run, trial: Trial, model: MapModel, side: TrialSide, surveyed: Surveyed, X: FeatureBlocks, seen: IntArray
) -> tuple[_Sides, dict[str, int]]:
    people = surveyed.people
    own = np.column_stack([trial.column(name) for name in people.names])
    blocks = _add_covariates(model.X, model.X.site_index, own, people.names)
    full = MapModel(run, trial, {FULL: blocks}, model.outcome, configuration=FULL, procedure=PROCEDURE)
    places = value_cells(model, side.space, X, columns=model.moderators[0])
    inside, row, counts = find_inside(surveyed, seen, places["dissimilarity"] <= side.space.threshold)

    rows = np.flatnonzero(inside)
    tau_hat = np.full(len(inside), np.nan)
    moderators = np.full((len(inside), len(side.names) + len(people.names)), np.nan)
    if len(rows):
        told = _add_covariates(X, row[rows], people.covariates[rows], people.names)
        tau_hat[rows] = full.fitted.predict(told)
        moderators[rows] = np.hstack([places["moderators"][row[rows]], people.covariates[rows]])
    used = np.isfinite(full.tau_hat) & np.isfinite(own).all(axis=1)
    sides = _Sides(
        seed=run.config.seed,
        names=[*side.names, *people.names],
        dr_scores=side.dr_scores[used],
        tau_hat=full.tau_hat[used],
        groups=side.groups[used],
        weights=side.weights[used],
        moderators=np.hstack([side.moderators, own])[used],
        surveyed=surveyed,
        inside=inside,
        people_tau_hat=tau_hat,
        people_moderators=moderators,
    )
    return sides, counts


def _add_covariates(
    X: FeatureBlocks, site_index: IntArray, covariates: FloatArray, names: tuple[str, ...]
) -> FeatureBlocks:
    """Image features of these rows with the block `tabular` behind them."""
    return FeatureBlocks(
        site=X.site,
        unit=covariates.astype(np.float32),
        site_index=site_index,
        names=(*X.names, *names),
        blocks=(*X.blocks, *("tabular",) * len(names)),
    )


def _carry_all(sides: _Sides, counts: dict[str, int]) -> SurveyShown:
    people, here = sides.surveyed.people, sides.inside
    shown = SurveyShown(None, "", None, extrapolation.state_assumption(tuple(sides.names)), people.names, counts)
    try:
        membership = _fit_odds(sides, here)
        shown = replace(shown, overlap=membership.overlap)
        shown = replace(shown, transported=_transport(sides, membership, here))
    except EvaluationError as error:
        return replace(shown, reason=str(error))
    return shown if people.true_effect is None else replace(shown, true_effect=_average_truth(sides, here))


def _average_truth(sides: _Sides, here: BoolArray) -> float:
    """True average effect of these people, in simulations; else NaN."""
    people = sides.surveyed.people
    if people.true_effect is None:
        return math.nan
    return float(np.average(people.true_effect[here], weights=people.weight[here]))


def _fit_odds(sides: _Sides, here: BoolArray) -> extrapolation.Membership:
    if here.sum() < 2 * NUM_FOLDS:
        raise EvaluationError(f"{here.sum()} people in supported places are too few for a model of who is in the trial")
    return extrapolation.fit_membership(
        sides.moderators,
        sides.people_moderators[here],
        groups=sides.groups,
        blocks=extrapolation.tile_blocks(sides.surveyed.cell[here]),
        moderators=sides.names,
        sample_weights=sides.weights,
        region_weights=sides.surveyed.people.weight[here],
        balance=True,
        num_folds=NUM_FOLDS,
        seed=sides.seed,
    )


def _transport(sides: _Sides, membership: extrapolation.Membership, here: BoolArray) -> extrapolation.TransportedEffect:
    return extrapolation.transported_effect(
        sides.dr_scores,
        sides.tau_hat,
        sides.people_tau_hat[here],
        membership=membership,
        region_groups=sides.surveyed.people.cluster[here],
        seed=sides.seed,
    )


def _tabulate(sides: _Sides, table: pd.DataFrame, min_units: int) -> pd.DataFrame:
    rows, reasons = [], []
    for name, reason in zip(table["region"], table["reason"], strict=True):
        here = sides.inside & (sides.surveyed.owner == name)
        row: dict[str, float] = dict.fromkeys(COLUMNS, np.nan)
        try:
            _tell_polygon(sides, here, row, min_units)
        except EvaluationError as error:
            reason = "; ".join([*([reason] if reason else []), f"not transported with covariates: {error}"])
        rows.append(row)
        reasons.append(reason)
    columns = COLUMNS if sides.surveyed.people.true_effect is None else (*COLUMNS, "survey_true_effect")
    found = pd.DataFrame(rows, columns=list(columns), index=table.index)
    return pd.concat([table.drop(columns="reason"), found], axis=1).assign(reason=reasons)


def _tell_polygon(sides: _Sides, here: BoolArray, row: dict[str, float], min_units: int) -> None:
    """Fill one polygon's row as far as it can be said; EvaluationError where that ends."""
    if here.sum() < min_units:
        raise EvaluationError(f"fewer than {min_units} people of the survey in supported places")
    row["survey_people"] = float(here.sum())
    row["survey_clusters"] = float(len(np.unique(sides.surveyed.people.cluster[here])))
    row["survey_true_effect"] = _average_truth(sides, here)
    membership = _fit_odds(sides, here)
    row["survey_effective_groups"] = membership.effective_groups
    found = _transport(sides, membership, here)
    row |= dict(zip(COLUMNS[2:6], (found.estimate, found.std_err, *found.interval), strict=True))
