"""The section `trial`."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from eo_cate.config.part import Part


def _number_if_numeric(value: Any) -> Any:
    """Read "0.5" from a command line as .5, and leave names of columns alone."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


class TrialConfig(Part):
    """Who was treated, where, and how it was randomised."""

    units: Path = Field(
        examples=["units.csv"], description="Table of units: .csv, .parquet or .dta, one row per household or person."
    )
    unit_id: str | None = Field(None, description="Column that identifies a unit; absent: the row number.")
    outcome: str = Field(examples=["Y"], description="Numeric outcome column.")
    treatment: str = Field(examples=["W"], description="Treatment column, 0 or 1.")
    cluster: str = Field(
        examples=["village"],
        description="Column of the unit of randomisation (village, school), or the word `unit` when each unit was "
        "randomised on its own. Every split of the data keeps clusters and sites whole.",
    )
    longitude: str = Field("lon", description="Column of longitude in degrees east (EPSG:4326).")
    latitude: str = Field("lat", description="Column of latitude in degrees north (EPSG:4326).")
    site: str | None = Field(
        None,
        description="Column that names the place whose pixels a unit sees; absent: equal coordinates are one site.",
    )
    propensity: Annotated[float | str, BeforeValidator(_number_if_numeric)] = Field(
        examples=[0.5],
        description="P(W = 1) by design: a number, a column, or `leave_group_out_share` (treated share of the other "
        "groups: for trials whose assignment probabilities are not known; validity is then not claimed).",
    )
    stratum: str | None = Field(None, description="Column of randomisation strata or matched pairs.")
    weight: str | None = Field(None, description="Column of sampling weights; absent: 1.")
    covariates: tuple[str, ...] = Field((), description="Numeric covariates measured before the treatment.")
    missing_outcome: Literal["error", "drop"] = Field("error", description="Units whose outcome is missing.")
    treatment_start: dt.date | None = Field(None, description="First day of the programme; imagery must be older.")
    baseline_outcome: str | None = Field(
        None,
        description="The outcome before the programme: a placebo, whose RATE must not reject. May be a covariate too.",
    )
    true_effect: str | None = Field(None, description="Simulations only: column of the true effect. Never fitted on.")

    @model_validator(mode="after")
    def _check(self) -> TrialConfig:
        if isinstance(self.propensity, float) and not 0 < self.propensity < 1:
            raise ValueError(f"propensity: {self.propensity} must lie strictly between 0 and 1")
        return self
