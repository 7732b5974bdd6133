"""Chips as a network wants them: chosen bands, stretched to [0, 1], resized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eo_cate.errors import EmbeddingError
from eo_cate.types import ChipReader

Stretch = Sequence[tuple[float, float]]


def read_bands(reader: ChipReader, site_ids: Sequence[str], size_px: int, bands: Sequence[str]) -> NDArray[np.float32]:
    """Chips of the chosen bands, in the order given, shape (site, band, size_px, size_px).

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
    return np.ascontiguousarray(chips[:, [reader.bands.index(b) for b in bands]])


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
