"""How often, and how early, trees split on each feature."""

from __future__ import annotations

import numpy as np

from eo_cate.estimators.forest.grow import Trees
from eo_cate.types import FloatArray


def split_importance(trees: Trees, num_features: int, *, max_depth: int = 4, decay: float = 2.0) -> FloatArray:
    """Shares of the splits at depth 1..max_depth that use each feature, weighted by depth^-decay, (p,), of sum 1.

    The definition of grf's ``variable_importance`` (its defaults). 0 everywhere when no tree splits.
    """
    found = np.zeros(num_features)
    weights = 0.0
    places, first = trees.node_start[:-1].copy(), trees.node_start[:-1].copy()
    for depth in range(1, max_depth + 1):
        splits = trees.nodes[places, 0] >= 0
        places, first = places[splits], first[splits]
        if not len(places):
            break
        weight = float(depth) ** -decay
        found += weight * np.bincount(trees.nodes[places, 0], minlength=num_features) / len(places)
        weights += weight
        left = first + trees.nodes[places, 1]
        places, first = np.concatenate([left, left + 1]), np.concatenate([first, first])
    return found / weights if weights else found
