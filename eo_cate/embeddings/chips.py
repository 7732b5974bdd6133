"""Chips as a network wants them: chosen bands, filled, stretched to [0, 1], resized, turned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from eo_cate.errors import EmbeddingError
from eo_cate.types import ChipReader

Stretch = Sequence[tuple[float, float]]


def read_bands(
    reader: ChipReader, site_ids: Sequence[str], size_px: int, bands: Sequence[str], *, nodata: float | None = None
) -> NDArray[np.float32]:
    """Chips of the chosen bands, in the order given, shape (site, band, size_px, size_px).

    Where ``nodata`` is given, pixels of that value become NaN.

    Raises
    ------
    EmbeddingError
        When a band is unknown or chips come in another shape.
    """
    unknown = [b for b in bands if b not in reader.bands]
    if unknown:
        raise EmbeddingError(f"bands {unknown} are not among the imagery's {list(reader.bands)}")
    chips = np.asarray(reader.read_chips(site_ids, size_px), dtype=np.float32)
    expected = (len(site_ids), len(reader.bands), size_px, size_px)
    if chips.shape != expected:
        raise EmbeddingError(f"chips (site, band, y, x) have shape {chips.shape}, expected {expected}")
    shown = np.ascontiguousarray(chips[:, [reader.bands.index(b) for b in bands]])
    if nodata is not None:
        shown[shown == nodata] = np.nan
    return shown


def missing_share(chips: NDArray[np.float32], *, periods: int = 1) -> NDArray[np.float64]:
    """Share of each chip's pixels that lack a finite value in any band, shape (b,).

    Where bands are those of several ``periods`` in turn, it is the share in the worst of them.
    """
    each = chips.reshape(len(chips), periods, -1, *chips.shape[2:])
    share: NDArray[np.float64] = (~np.isfinite(each).all(axis=2)).mean(axis=(2, 3)).max(axis=1)
    return share


def find_missing(
    reader: ChipReader, site_ids: Sequence[str], size_px: int, bands: Sequence[str], *, nodata: float | None = None
) -> NDArray[np.float64]:
    """`missing_share` of sites at one size, read a block at a time, shape (site,)."""
    ids = list(site_ids)
    block = max(1, 2**24 // (len(reader.bands) * size_px**2))
    parts = [
        missing_share(read_bands(reader, ids[i : i + block], size_px, bands, nodata=nodata))
        for i in range(0, len(ids), block)
    ]
    return np.concatenate([np.zeros(0), *parts])


def fill_missing(chips: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels without a finite value take the mean of their band over the rest of the chip; 0 where none is left.

    Returns
    -------
    (b, band, y, x) float32
        The same array when nothing is missing.
    """
    known = np.isfinite(chips)
    if known.all():
        return chips
    count = known.sum(axis=(2, 3), keepdims=True)
    total = np.where(known, chips, 0.0).sum(axis=(2, 3), keepdims=True, dtype=np.float64)
    filled: NDArray[np.float32] = np.where(known, chips, total / np.maximum(count, 1)).astype(np.float32)
    return filled


def prepare_chips(chips: NDArray[np.float32], *, stretch: Stretch, input_px: int | None) -> NDArray[np.float32]:
    """Stretch each band linearly to [0, 1], clip, resize (bicubic, antialiased), clip again.

    Parameters
    ----------
    chips : (b, band, y, x) float32
        Pixel values, finite.
    stretch : sequence of (low, high), one per band
        The values that become 0 and 1.
    input_px : int or None
        Side of the result; None: no resize.

    Returns
    -------
    (b, band, input_px, input_px) float32 in [0, 1]
    """
    low, high = (np.asarray(side, dtype=np.float32).reshape(1, -1, 1, 1) for side in zip(*stretch, strict=True))
    images: NDArray[np.float32] = np.clip((chips - low) / (high - low), 0.0, 1.0).astype(np.float32)
    if input_px is None:
        return images
    import torch

    with torch.inference_mode():
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(images), size=(input_px, input_px), mode="bicubic", align_corners=False, antialias=True
        ).clamp_(0.0, 1.0)
    return np.asarray(resized.numpy(), dtype=np.float32)


def turn_images(images: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The 8 flips and rotations of square images (b, band, y, x), the images themselves first."""
    for flipped in (images, images[..., ::-1]):
        for quarter in range(4):
            yield np.ascontiguousarray(np.rot90(flipped, quarter, axes=(2, 3)))
