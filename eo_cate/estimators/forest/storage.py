"""A fitted causal forest as one .npz: arrays, and options as JSON; read without pickle."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from eo_cate.errors import EstimationError
from eo_cate.estimators.forest.bins import Bins
from eo_cate.estimators.forest.causal_forest import CausalForest, Fitted
from eo_cate.estimators.forest.grow import Trees
from eo_cate.estimators.forest.rows import FeatureBins
from eo_cate.store import write_atomic

FORMAT = "eo_cate.CausalForest/1"
_TREES = ("nodes", "cuts", "means", "node_start", "leaf_start", "in_bag")
_ROWS = ("row_codes", "row_group", "row_of_unit", "Y_hat", "W_hat")

Forest = TypeVar("Forest", bound=CausalForest)


def save_forest(forest: CausalForest, path: Path) -> None:
    """Write a fitted forest."""
    fitted = forest.require_fitted()
    options = forest.get_params()
    if options["feature_weights"] is not None:
        options["feature_weights"] = np.asarray(options["feature_weights"], dtype=np.float64).tolist()
    text = json.dumps({"format": FORMAT, "options": options, "names": fitted.bins.names, "blocks": fitted.blocks})
    arrays: dict[str, Any] = {name: getattr(fitted.trees, name) for name in _TREES}
    arrays |= {name: getattr(fitted, name) for name in _ROWS}
    arrays |= {"bin_cuts": fitted.bins.bins.cuts, "json": np.array(text)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(Path(path), buffer.getvalue())


def load_forest(kind: type[Forest], path: Path) -> Forest:
    """Read what `save_forest` wrote."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(str(arrays["json"]))
        if about["format"] != FORMAT:
            raise EstimationError(f"{path}: format {about['format']!r}, this version reads {FORMAT!r}: fit again")
        bins = FeatureBins(Bins(arrays["bin_cuts"]), tuple(about["names"]))
        trees = Trees(**{name: arrays[name] for name in _TREES})
        fitted = Fitted(bins, trees, **{name: arrays[name] for name in _ROWS}, blocks=tuple(about["blocks"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise EstimationError(f"{path}: not a forest that `CausalForest.save` wrote ({error})") from error
    forest = kind(**about["options"])
    forest.set_fitted(fitted)
    return forest
