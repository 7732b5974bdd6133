"""How a chip of some scale reaches a network: resized, at its own resolution, or inside the largest chip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eo_cate.embeddings.spec import EncoderSpec
from eo_cate.errors import EmbeddingError

Mode = Literal["resize", "native", "nested"]
Augment = Literal["none", "flips8"]


def scales_in_pixels(scales_m: Sequence[float], resolution_m: float | None) -> tuple[int, ...]:
    """Sides in metres as even numbers of pixels, the nearest (an even chip is centred on a pixel's corner).

    Parameters
    ----------
    scales_m : sequence of float
        Increasing.
    resolution_m : float or None
        Ground size of a pixel, as the reader knows it.

    Raises
    ------
    EmbeddingError
        When the resolution is not known, a side is less than two pixels, or two sides become the same.
    """
    if resolution_m is None:
        raise EmbeddingError(
            "scales_m needs the ground size of a pixel, which this imagery does not tell: set imagery.resolution_m, "
            "or give scales in pixels"
        )
    sides = tuple(2 * int(np.floor(side / resolution_m / 2 + 0.5)) for side in scales_m)
    if min(sides) < 2 or len(set(sides)) < len(sides):
        raise EmbeddingError(
            f"scales_m {list(scales_m)} at {resolution_m:g} m per pixel are {list(sides)} px: sides of two pixels or "
            "more, and different ones, are needed"
        )
    return sides


def check_mode(spec: EncoderSpec, mode: str, scales: Sequence[int], input_px: int) -> None:
    """Refuse a mode that the encoder or the scales do not allow.

    Raises
    ------
    EmbeddingError
        When the encoder is no ViT of free size, or a chip is smaller than a patch.
    """
    if mode not in ("resize", "native", "nested"):
        raise EmbeddingError(f"mode is {mode!r}: choose resize, native or nested")
    if mode == "resize" or spec.raw is not None:
        return
    if spec.patch is None:
        raise EmbeddingError(
            f"mode {mode} needs a ViT that takes images of any multiple of its patch; {spec.name} is none: mode resize"
        )
    if mode == "native" and min(scales) < spec.patch:
        raise EmbeddingError(
            f"a chip of {min(scales)} px is smaller than a patch of {spec.name}, {spec.patch} px: mode resize enlarges"
        )
    smallest = min(scales) / max(scales) * input_px
    if mode == "nested" and smallest < spec.patch:
        raise EmbeddingError(
            f"with the {max(scales)} px chip at input_px {input_px}, the {min(scales)} px chip is {smallest:.0f} px "
            f"wide, less than a patch of {spec.name}, {spec.patch} px: raise input_px, or mode resize"
        )


def native_px(scale: int, patch: int, *, most: int | None = None) -> int:
    """The multiple of a patch nearest to a chip's side: the chip keeps its resolution, almost.

    At least one patch, and where ``most`` is given the multiple nearest to that: a large chip then costs no more than
    in mode ``resize``.
    """
    side = scale if most is None else min(scale, most)
    return max(1, int(np.floor(side / patch + 0.5))) * patch


def centre_weights(scales: Sequence[int], grid: int) -> NDArray[np.float64]:
    """Share that each patch of the largest chip has in each centred square, rows summing to 1.

    A patch that lies partly inside counts by the part of its area that does.

    Parameters
    ----------
    scales : sequence of int
        Sides of the squares; the largest covers the whole grid.
    grid : int
        Patches per side.

    Returns
    -------
    (scale, grid * grid) float64, patches row by row.
    """
    edges = np.arange(grid + 1) / grid
    rows = []
    for scale in scales:
        low, high = 0.5 - 0.5 * scale / max(scales), 0.5 + 0.5 * scale / max(scales)
        inside = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0.0, None)
        rows.append(np.outer(inside, inside).ravel() / inside.sum() ** 2)
    return np.array(rows)


def pool_tokens(tokens: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weighted means of patch tokens, image by image: (b, patches, dim), (scale, patches) -> (b, scale, dim)."""
    return np.stack([(weights @ image.astype(np.float64)).astype(np.float32) for image in tokens])
