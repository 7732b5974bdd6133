"""Image sequences: period by period through an encoder of images, or all of them at once through one of sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eo_cate.embeddings.embed import embed_sites
from eo_cate.embeddings.encoders import open_spec
from eo_cate.embeddings.periods import join_periods
from eo_cate.embeddings.spec import EncoderSpec
from eo_cate.embeddings.videos import VideoEncoder
from eo_cate.store import digest
from eo_cate.types import ChipReader

SEQUENCE = "sequence"
"""The one time of an embedding of all periods."""


class StackedReader:
    """The bands of several periods, in the order of time, as the bands of one image: ``<period>:<band>``."""

    def __init__(self, readers: Mapping[str, ChipReader]) -> None:
        self.readers = tuple(readers.values())
        self.bands = tuple(f"{name}:{band}" for name, reader in readers.items() for band in reader.bands)
        self.resolution_m, self.grid = self.readers[0].resolution_m, self.readers[0].grid
        self.digest = digest(list(readers), [reader.digest for reader in self.readers])

    def read_chips(self, site_ids: Sequence[str], size_px: int) -> NDArray[np.float32]:
        """Chips (site, band, y, x), see `ChipReader`."""
        return np.concatenate([reader.read_chips(site_ids, size_px) for reader in self.readers], axis=1)


def embed_sequence(
    readers: Mapping[str, ChipReader],
    site_ids: Sequence[str],
    *,
    encoder: EncoderSpec,
    bands: Sequence[str],
    stretch: Sequence[tuple[float, float]],
    parts: Sequence[str] = ("each",),
    years: Sequence[float] | None = None,
    **options: Any,
) -> xr.DataArray:
    """Embed the chips of sites in one period or several.

    Parameters
    ----------
    readers : mapping of str to ChipReader
        Period -> its pixels, in the order of time.
    site_ids, encoder, bands, stretch
        As of `embed_sites`; bands and stretch are the same in every period.
    parts : sequence of str
        What is made of several periods, see `join_periods`; an encoder of sequences does not use it.
    years : sequence of float, optional
        When each period was; absent: one year apart.
    **options
        Of `embed_sites`.

    Returns
    -------
    DataArray (site, scale, time, feature) float32
        ``time`` is as `join_periods` makes it, or ``sequence`` where the encoder took all periods at once.

    Raises
    ------
    EmbeddingError
        As `embed_sites` and `join_periods`.
    """
    if not takes_sequences(encoder, **options):
        found = {
            name: embed_sites(reader, site_ids, encoder=encoder, bands=bands, stretch=stretch, **options)
            for name, reader in readers.items()
        }
        return join_periods(found, parts=parts, years=years) if len(found) > 1 else next(iter(found.values()))
    when = tuple(float(year) for year in (range(len(readers)) if years is None else years))
    embedding = embed_sites(
        StackedReader(readers),
        site_ids,
        encoder=replace(encoder, years=when, bands=None if encoder.bands is None else encoder.bands * len(when)),
        bands=[f"{name}:{band}" for name in readers for band in bands],
        stretch=list(stretch) * len(readers),
        **options,
    )
    return embedding.assign_coords(time=[SEQUENCE])


def takes_sequences(spec: EncoderSpec, *, input_px: int, seed: int = 0, mode: str = "resize", **_: Any) -> bool:
    """Whether an entry opens a `SequenceEncoder`, whose chips are resized; options as of `embed_sites`."""
    return mode == "resize" and isinstance(open_spec(spec, input_px, seed), VideoEncoder)
