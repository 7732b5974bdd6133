"""A stretch from percentiles of the trial's own pixels: found once, before any chip is embedded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from eo_cate.config import RunConfig
from eo_cate.errors import EmbeddingError
from eo_cate.types import ChipReader

MOST_SITES, MOST_PIXELS = 400, 4_096
"""Sites that are looked at (spread evenly over the trial's, in their order), and pixels of each chip and band."""


def resolve_stretch(config: RunConfig, readers: Mapping[str, ChipReader], site_ids: Sequence[str]) -> RunConfig:
    """The configuration with ``stretch_percentiles`` as a stretch; a note says which. One with neither is given back.

    Pixels are those of the sites' largest chips in all periods together: no outcome or treatment is looked at, and
    every chip, of the map and of a region too, is stretched alike.

    Parameters
    ----------
    config : RunConfig
        The sides of crops in pixels.
    readers : mapping of str to ChipReader
        Period -> pixels.
    site_ids : sequence of str
        Sites of the trial.

    Raises
    ------
    EmbeddingError
        When a band has the same value at both percentiles.
    """
    settings = config.embeddings
    if settings.stretch_percentiles is None:
        return config
    low, high = np.nanpercentile(_sample(config, readers, site_ids), settings.stretch_percentiles, axis=1)
    flat = [band for band, a, b in zip(settings.bands, low, high, strict=True) if not a < b]
    if flat:
        raise EmbeddingError(
            f"embeddings.stretch_percentiles: bands {flat} have the same value at both percentiles "
            f"{list(settings.stretch_percentiles)}; leave them out, or give a stretch"
        )
    stretch = tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))
    told = ", ".join(f"{band} {a:.6g} to {b:.6g}" for band, (a, b) in zip(settings.bands, stretch, strict=True))
    first, last = settings.stretch_percentiles
    note = f"Pixels were stretched from percentiles {first:g} and {last:g} of the trial's own: {told}."
    embeddings = settings.model_copy(update={"stretch": stretch, "stretch_percentiles": None})
    return config.model_copy(update={"embeddings": embeddings, "notes": f"{config.notes} {note}".strip()})


def _sample(config: RunConfig, readers: Mapping[str, ChipReader], site_ids: Sequence[str]) -> NDArray[np.float32]:
    """Pixels (band, n) of some sites, in all periods."""
    bands, side = config.embeddings.bands, max(config.embeddings.scales)
    chosen = np.linspace(0, len(site_ids) - 1, min(len(site_ids), MOST_SITES)).round().astype(int)
    step = max(1, int(np.ceil(side / MOST_PIXELS**0.5)))
    parts = []
    for reader in readers.values():
        shown = [reader.bands.index(band) for band in bands]
        for i in chosen:
            chip = reader.read_chips([site_ids[i]], side)[0, shown, ::step, ::step]
            parts.append(chip.reshape(len(bands), -1))
    return np.concatenate(parts, axis=1)
