"""The sections of what is done with features: `multiscale`, `estimators`, `evaluation`, `map`, `extrapolate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    PositiveInt,
    model_validator,
)

from eo_cate.config.part import Part

Procedure = Literal["concat", "concat_pca", "average", "average_evidence", "mean_of", "stack", "residual", "select"]


class MultiscaleConfig(Part):
    """How the scales are put together."""

    procedure: Procedure = Field(
        "concat_pca",
        description="What is evaluated beside RidgeR. A forest on scales side by side (`concat`: the paper's; "
        "`concat_pca`: reduced per scale, on training sites only); forests one per scale and their mean (`average`), "
        "weighted mean (`stack`) or best (`select`: it loses), or coarse to fine (`residual`); a kernel method "
        "(`average_evidence`), or its mean with a forest (`mean_of`).",
    )
    map_procedure: Procedure = Field(
        "mean_of",
        description="What draws the map and predicts a region: one of the same. `mean_of` ranked unsampled places best "
        "in the simulation study.",
    )
    components: PositiveInt = Field(20, description="Principal components kept per scale (not for `concat`).")
    balance: bool = Field(
        False, description="Give each scale the same chance at a forest's splits, however many columns it has."
    )
    sets: tuple[tuple[PositiveInt, ...], ...] = Field(
        (), description="scale search: sets of three scales or more, tried beside all single scales and pairs."
    )

    @model_validator(mode="after")
    def _check(self) -> MultiscaleConfig:
        if self.balance and {self.procedure, self.map_procedure} == {"average_evidence"}:
            raise ValueError("balance: average_evidence has no forest whose splits could be balanced; leave it out")
        return self


class EstimatorsConfig(Part):
    """The causal forest (names and defaults are grf's) and RidgeR, always side by side."""

    engine: Literal["eo_cate", "econml"] = Field(
        "eo_cate",
        description="Whose causal forest: `eo_cate`, or `econml` for comparison (to be installed; its bags draw units, "
        "not clusters, and it takes neither known propensities nor missing covariates).",
    )
    num_trees: int = Field(2000, ge=2, multiple_of=2, description="Trees per forest (an even number).")
    sample_fraction: float = Field(0.5, gt=0, lt=1, description="Share of the groups in each bag.")
    mtry: PositiveInt | None = Field(None, description="Features tried per node; absent: min(ceil(sqrt p) + 20, p).")
    min_node_size: PositiveInt = Field(5, description="Least treated and least control units in each child of a split.")
    honesty_fraction: float = Field(0.5, gt=0, lt=1, description="Share of a bag's groups that chooses the splits.")
    ridge_kernel: Literal["rbf", "linear"] = Field("rbf", description="RidgeR: similarity between sites.")
    ridge_degrees_of_freedom: float = Field(10.0, gt=0, description="RidgeR: at most a quarter of the sites are used.")

    @model_validator(mode="after")
    def _check(self) -> EstimatorsConfig:
        if self.engine == "econml" and self.honesty_fraction != 0.5:
            raise ValueError(f"honesty_fraction: {self.honesty_fraction} needs engine: eo_cate; econml's trees halve")
        return self


class EvaluationConfig(Part):
    """Is the ranking real?"""

    num_folds: Literal[3, 5] = Field(5, description="Sequential folds by group (3 is taken when groups are few).")
    num_orders: PositiveInt = Field(20, description="Fold orders; the figure reported is the middle one's.")
    num_replicates: int = Field(200, ge=2, description="Half-samples behind each standard error (500 in a paper).")
    num_permutations: PositiveInt = Field(10, description="Shuffled-embedding controls (with RidgeR).")
    refit_learner: Literal["ridge", "forest"] = Field(
        "ridge", description="What is refitted in every draw of those tests: RidgeR, or a forest of 200 trees."
    )
    num_draws: int = Field(
        199, ge=19, description="Sign-flip draws of the refit, conditional and scale-search tests; 999 in a paper."
    )


class MapConfig(Part):
    """tau_hat over a grid of the scene (imagery.source: rasters)."""

    spacing_px: PositiveInt = Field(
        examples=[32], description="Distance between the centres of cells, in pixels of the imagery."
    )
    mask: Path | None = Field(
        None,
        description="GeoTIFF on any grid: cells whose centre is not on a 1 are left out (water, another country).",
    )
    true_effect: Path | None = Field(
        None, description="Simulations only: GeoTIFF of the true effect, drawn beside the map."
    )


class SurveyConfig(Part):
    """People of the region with the trial's covariates: the effect is then carried to them by image AND covariates."""

    units: Path = Field(
        examples=["people.csv"],
        description="A sample of the region's people (census, DHS, LSMS): .csv, .parquet or .dta, one row per person.",
    )
    longitude: str = Field("lon", description="Column of longitude in degrees east (EPSG:4326).")
    latitude: str = Field("lat", description="Column of latitude in degrees north (EPSG:4326).")
    site: str | None = Field(None, description="Column that names the place; absent: equal coordinates are one place.")
    cluster: str | None = Field(None, description="Column of the survey's sampling clusters; absent: places.")
    weight: str | None = Field(None, description="Column of sampling weights; absent: 1.")
    covariates: tuple[str, ...] = Field(
        (),
        description="Those of trial.covariates that the survey measured in the same way, under the same names; absent: "
        "all of them.",
    )
    true_effect: str | None = Field(
        None,
        description="Simulations only: column of the true effect; the report then says whether the interval holds.",
    )


class RegionConfig(Part):
    """Effects beyond the trial: cells over the polygons of a region (`eo-cate extrapolate`)."""

    region: Path = Field(
        examples=["districts.gpkg"], description="Polygons: GeoPackage, shapefile, GeoJSON or GeoParquet, with a CRS."
    )
    id: str = Field("id", description="Column of the polygons' names.")
    resolution_m: float = Field(examples=[1000], gt=0, description="Side of a cell in metres (equal-area).")
    max_cells: PositiveInt = Field(2_000_000, description="More cells than this are refused.")
    block_cells: PositiveInt = Field(512, description="Cells per unit of resumable work.")
    population: Path | None = Field(
        None, description="GeoTIFF on any grid, people per equal area: regional means are then those of people."
    )
    min_units: int = Field(
        10, ge=5, description="Regions with fewer trial units get no direct estimate and no count of units."
    )
    true_effect: Path | None = Field(
        None, description="Simulations only: GeoTIFF of the true effect; the report then says how often bands hold."
    )
    survey: SurveyConfig | None = None
