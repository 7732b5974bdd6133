"""Which pixels were observed, and which of these show the ground, from a collection's quality band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_cate.errors import ImageryError
from eo_cate.imagery.scenes import MaskKind
from eo_cate.types import BoolArray

_FILL = 1 << 0
_OBSTRUCTED = sum(1 << bit for bit in (1, 2, 3, 4, 5))
"""QA_PIXEL: dilated cloud, cirrus, cloud, cloud shadow, snow."""
_SCL_CLEAR = np.array([False, False, True, False, True, True, True, True, False, False, False, False])


@dataclass(frozen=True)
class PixelMask:
    """What a quality band says of each pixel.

    Parameters
    ----------
    observed : bool, the band's shape
        The sensor looked there: not fill.
    clear : bool, the band's shape
        It saw the ground: observed, and neither cloud, shadow, snow nor a defect.
    """

    observed: BoolArray
    clear: BoolArray


def clear_pixels(quality: NDArray[Any], kind: MaskKind) -> PixelMask:
    """Read a quality band.

    ``landsat_qa`` (QA_PIXEL of Collection 2): bit 0 fill; not clear with any of bit 1 dilated cloud, 2 cirrus (set by
    Landsat 8 and 9 alone; the others leave it 0), 3 cloud, 4 cloud shadow, 5 snow. The two-bit confidences are not
    used: bits 1-5 are their high class.

    ``sentinel2_scl``: class 0 no data; not clear are 1 saturated or defective, 3 cloud shadow, 8 and 9 cloud of medium
    and high probability, 10 cirrus, 11 snow. Clear are 4 vegetation, 5 bare, 6 water, 7 unclassified and 2 dark: dark
    is terrain shadow, burnt or wet ground, and leaving it out would leave some places without any observation because
    of what they are; a cloud's shadow that is called dark by mistake is a matter for the median over dates. A class
    that does not exist is observed and not clear.

    Parameters
    ----------
    quality : integer array
        The stored numbers, of any shape.

    Raises
    ------
    ImageryError
        When the band is not of integers, or the kind is not known.
    """
    if quality.dtype.kind not in "ui":
        raise ImageryError(f"a quality band holds integers, found {quality.dtype}: it must be read without resampling")
    if kind == "landsat_qa":
        observed = (quality & _FILL) == 0
        return PixelMask(observed, observed & ((quality & _OBSTRUCTED) == 0))
    if kind == "sentinel2_scl":
        known = (quality >= 0) & (quality < len(_SCL_CLEAR))
        return PixelMask(quality != 0, known & _SCL_CLEAR[np.where(known, quality, 0)])
    raise ImageryError(f"no quality band is read as {kind!r}; known are landsat_qa and sentinel2_scl")
