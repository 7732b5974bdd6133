"""The whole file: sections together, read from YAML and written back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    Field,
    ValidationError,
    model_validator,
)

from eo_cate.config.analysis import EstimatorsConfig, EvaluationConfig, MapConfig, MultiscaleConfig, RegionConfig
from eo_cate.config.embeddings import EmbeddingsConfig
from eo_cate.config.imagery import ImageryConfig
from eo_cate.config.part import Part
from eo_cate.config.report import ReportConfig
from eo_cate.config.trial import TrialConfig
from eo_cate.errors import ConfigError


class RunConfig(Part):
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
    report: ReportConfig = Field(default_factory=ReportConfig, description="What the report shows.")

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, content: Any) -> Any:
        """Take a section whose options are all commented out (null in YAML) as one of defaults."""
        if not isinstance(content, dict):
            return content
        return {
            k: {} if v is None and k in ("multiscale", "estimators", "evaluation", "report") else v
            for k, v in content.items()
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
    def _check_survey(self) -> RunConfig:
        survey = None if self.extrapolate is None else self.extrapolate.survey
        if survey is None:
            return self
        if not self.trial.covariates:
            raise ValueError(
                "extrapolate.survey: the trial has no covariates (trial.covariates) to share with a survey"
            )
        unknown = [c for c in survey.covariates if c not in self.trial.covariates]
        if unknown:
            raise ValueError(
                f"extrapolate.survey.covariates: {unknown} are not among trial.covariates {list(self.trial.covariates)}"
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
        quantised = [name for name in self.embeddings.encoders if name.startswith("precomputed:")]
        if quantised and self.imagery.remote and self.imagery.composite != "newest":
            raise ValueError(
                f"encoder {', '.join(quantised)}: its pixels are quantised, and must not be averaged before they are "
                "de-quantised: set imagery.composite: newest"
            )
        if self.map is not None and self.imagery.source != "rasters":
            raise ValueError(
                "map: needs imagery.source: rasters, whose one grid has the cells; for other sources see `extrapolate`"
            )
        if self.multiscale.balance and self.estimators.engine == "econml":
            raise ValueError("multiscale.balance: econml's forest does not weigh columns; needs engine: eo_cate")
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
