"""Errors that a user can act on: every message says what was found and what to change."""


class EoCateError(Exception):
    """Base of all errors that eo_cate raises on purpose."""


class ConfigError(EoCateError):
    """The YAML file, a command-line option or a Python argument of the configuration is wrong."""


class TrialError(EoCateError):
    """The units table does not describe a trial that can be analysed."""


class ImageryError(EoCateError):
    """The pixels above the sites are absent, unreadable or do not match the configuration."""


class WeightsError(EoCateError):
    """An encoder's weights are absent, or are not the bytes that the manifest names."""


class EmbeddingError(EoCateError):
    """Pixels could not be turned into features."""


class EstimationError(EoCateError, ValueError):
    """An estimator was given arrays that it cannot be fitted on; a ValueError too, as scikit-learn's tools expect."""


class EvaluationError(EoCateError):
    """A figure was asked for that the data do not allow."""


class LeakageError(EvaluationError):
    """Scores and priorities share groups: the figure would reward memory, not prediction."""


class StoreError(EoCateError):
    """A stored result could not be read or written."""
