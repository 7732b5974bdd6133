"""What scikit-learn's tools ask of a forest; imported when they ask, and for the error of an unfitted forest.

The forests do not derive from BaseEstimator: importing it brings scipy.stats, pandas and pyarrow, 70 MB and two
seconds, of which a fit needs nothing.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, Literal

from sklearn.exceptions import NotFittedError
from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags
from sklearn.utils.metadata_routing import MetadataRequest

from eo_cate.errors import EstimationError

_NO_METADATA = {"X", "Y", "y"}


class UnfittedError(EstimationError, NotFittedError):  # type: ignore[misc, unused-ignore]
    """Predictions were asked for before `fit`."""


def make_tags(kind: Literal["regressor"] | None) -> Any:
    """Tags of a forest: a target is needed, missing features are taken."""
    return Tags(
        estimator_type=kind,
        target_tags=TargetTags(required=True),
        regressor_tags=None if kind is None else RegressorTags(),
        input_tags=InputTags(allow_nan=True),
    )


def request_metadata(forest: Any, changes: dict[str, bool | str | None]) -> Any:
    """The MetadataRequest of a forest's `fit`, with changes.

    Raises
    ------
    EstimationError
        For a name that `fit` does not take.
    """
    known = [name for name in inspect.signature(forest.fit).parameters if name not in _NO_METADATA]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise EstimationError(f"{unknown} are no arguments of {type(forest).__name__}.fit: choose among {known}")
    request = copy.deepcopy(getattr(forest, "_metadata_request", None))
    if request is None:
        request = MetadataRequest(owner=type(forest).__name__)
        changes = dict.fromkeys(known) | changes
    for name, alias in changes.items():
        request.fit.add_request(param=name, alias=alias)
    return request
