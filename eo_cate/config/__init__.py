"""The one definition of every option: YAML, command line and Python build the same `RunConfig`.

Defaults live here alone. Paths are relative to the data directory (by default the folder of the YAML file).
"""

from eo_cate.config.analysis import (
    EstimatorsConfig,
    EvaluationConfig,
    MapConfig,
    MultiscaleConfig,
    RegionConfig,
    SurveyConfig,
)
from eo_cate.config.embeddings import EmbeddingsConfig
from eo_cate.config.imagery import ImageryConfig, PeriodConfig
from eo_cate.config.report import ReportConfig
from eo_cate.config.run import RunConfig, describe, dump_config, load_config, merge
from eo_cate.config.trial import TrialConfig

__all__ = [
    "EmbeddingsConfig",
    "EstimatorsConfig",
    "EvaluationConfig",
    "ImageryConfig",
    "MapConfig",
    "MultiscaleConfig",
    "PeriodConfig",
    "RegionConfig",
    "ReportConfig",
    "RunConfig",
    "SurveyConfig",
    "TrialConfig",
    "describe",
    "dump_config",
    "load_config",
    "merge",
]
