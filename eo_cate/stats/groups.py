"""Groups: the indivisible blocks of every split of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from eo_cate.stats.checks import group_codes
from eo_cate.types import IntArray


def connected_groups(*labels: Sequence[Any] | NDArray[Any]) -> IntArray:
    """Connected components of "shares any of these labels" (METHODS.md, section 1), shape (n,).

    Units of one cluster, or of one site, fall into one group, and so on through chains. Groups are numbered by their
    first unit, so relabelling clusters or sites changes nothing.
    """
    n = len(labels[0])
    rows, columns, width = [], [], 0
    for label in labels:
        codes = np.unique(np.asarray(label).astype(str), return_inverse=True)[1]
        rows.append(np.arange(n))
        columns.append(n + width + codes)
        width += int(codes.max(initial=-1)) + 1
    edges = coo_array(
        (np.ones(n * len(labels)), (np.concatenate(rows), np.concatenate(columns))), shape=(n + width,) * 2
    )
    return group_codes(connected_components(edges, directed=False)[1][:n], n)[0]


def stack_groups(codes: IntArray) -> list[IntArray]:
    """Rows by group, stacked by group size: arrays (number of groups, size), for batched linear algebra."""
    order = np.argsort(codes, kind="stable")
    sizes = np.unique(codes, return_counts=True)[1]
    starts = np.cumsum(sizes) - sizes
    return [
        order[starts[sizes == size][:, None] + np.arange(size)].astype(np.int64) for size in np.unique(sizes).tolist()
    ]
