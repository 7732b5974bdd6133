"""Half-samples of groups: the bootstrap of RATE."""

from __future__ import annotations

import numpy as np

from eo_cate.errors import EvaluationError
from eo_cate.types import BoolArray


def draw_half_samples(num_groups: int, num_replicates: int, *, seed: int) -> BoolArray:
    """Draw floor(G/2) groups without replacement, again and again (METHODS.md, section 2).

    Parameters
    ----------
    num_groups : int
        G, at least 2.
    num_replicates : int
        R, at least 2.
    seed : int
        Seed of `numpy.random.default_rng`.

    Returns
    -------
    (R, G) bool
        Whether a group is in a replicate.

    Raises
    ------
    EvaluationError
        With fewer than 2 groups or replicates.
    """
    if num_groups < 2:
        raise EvaluationError(f"{num_groups} group(s): half-samples need at least 2; check `groups`")
    if num_replicates < 2:
        raise EvaluationError(f"`num_replicates` is {num_replicates}: a standard error needs at least 2, 200 is usual")
    first_half = np.broadcast_to(np.arange(num_groups) < num_groups // 2, (num_replicates, num_groups))
    return np.random.default_rng(seed).permuted(first_half, axis=1)
