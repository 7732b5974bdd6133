"""Windows of a zone's arrays, chips that lie together read at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_cate.imagery.pixel_store.layout import open_array
from eo_cate.imagery.rasters import share_reads
from eo_cate.types import IntArray

Slabs = Mapping[str, NDArray[Any]]


def read_windows(
    folder: Path, names: Sequence[str], top: IntArray, left: IntArray, size_px: int
) -> Iterator[tuple[int, Slabs]]:
    """Yield (index, arrays (..., size_px, size_px)) of each window, in the order of their places."""
    for members in share_reads(top, left, size_px, np.ones(len(top), dtype=np.bool_)):
        row, column = int(top[members].min()), int(left[members].min())
        rows = slice(row, int(top[members].max()) + size_px)
        columns = slice(column, int(left[members].max()) + size_px)
        slabs = {name: np.asarray(open_array(folder, name)[..., rows, columns]) for name in names}
        for i in members.tolist():
            y, x = int(top[i]) - row, int(left[i]) - column
            yield i, {name: slab[..., y : y + size_px, x : x + size_px] for name, slab in slabs.items()}
