"""One shard of embedding: its pixels, its address in the store, its features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eo_cate.embeddings.chips import fill_missing, prepare_chips, read_bands, turn_images
from eo_cate.embeddings.encoders import open_spec
from eo_cate.embeddings.modes import centre_weights, pool_tokens
from eo_cate.embeddings.spec import Encoder, EncoderSpec, TokenEncoder
from eo_cate.errors import EmbeddingError
from eo_cate.store import Store, digest
from eo_cate.types import ChipReader

STAGE, VERSION = "embed", 1
_FULL_PX = 224
"""Side of the image that ``batch_size`` counts: mode ``native`` takes more of smaller images at a time."""


@dataclass(frozen=True)
class Shard:
    """A block of sites at one scale, or at all scales nested in the largest.

    It carries the reader and ids, not the chips: shards are all handed to the executor at once, and their chips
    together are as large as the imagery. Reading again costs a thousandth of encoding; ``pixels`` proves that the
    worker read what the key was made from.
    """

    reader: ChipReader
    site_ids: tuple[str, ...]
    scale: int
    bands: tuple[str, ...]
    stretch: tuple[tuple[float, float], ...]
    spec: EncoderSpec
    input_px: int
    seed: int
    batch_size: int
    mode: str
    augment: str
    nested: tuple[int, ...] = ()
    pixels: str = ""

    def open(self) -> Encoder:
        """The encoder at this shard's side, kept open in this process."""
        return open_spec(self.spec, self.input_px, self.seed)

    def read(self) -> NDArray[np.float32]:
        """Chips (site, band, y, x), NaN where missing."""
        return read_bands(self.reader, self.site_ids, self.scale, self.bands, nodata=self.spec.nodata)


def shard_key(shard: Shard) -> str:
    """The address of a shard's features: encoder, mode, options and the pixels themselves."""
    encoder = shard.open()
    parts = [shard.bands, shard.stretch, shard.scale, shard.pixels]
    # what is not the default is added, so that features of earlier versions keep their keys
    extras = [p for p in (shard.augment if shard.augment != "none" else "", shard.nested) if p]
    return Store.key(STAGE, VERSION, encoder.digest, shard.mode, encoder.input_px, *parts, *extras)


def encode_shard(shard: Shard) -> dict[str, NDArray[np.float32]]:
    """``features`` of one shard, shape (sites, dim), or (sites, scale, dim) when nested; runs where the executor says.

    Raises
    ------
    EmbeddingError
        When the pixels read here are not those of the key, or features are not finite or of another width.
    """
    encoder = shard.open()
    chips = shard.read()
    if digest(chips) != shard.pixels:
        raise EmbeddingError(
            f"the pixels of {len(shard.site_ids)} sites at {shard.scale} px changed during the run; start it again"
        )
    shape = (len(shard.nested), encoder.dim) if shard.nested else (encoder.dim,)
    features = np.empty((len(chips), *shape), dtype=np.float32)
    step = _batch(shard, encoder)
    for start in range(0, len(chips), step):
        rows = slice(start, start + step)
        images = chips[rows]
        if shard.spec.raw is None:
            images = prepare_chips(fill_missing(images), stretch=shard.stretch, input_px=encoder.input_px)
        features[rows] = _encode(shard, encoder, images, shape)
    return {"features": features}


def _batch(shard: Shard, encoder: Encoder) -> int:
    """Chips per pass: as many as have the tokens of ``batch_size`` images of the full side."""
    if shard.mode != "native" or encoder.input_px is None:
        return shard.batch_size
    return shard.batch_size * max(1, (_FULL_PX // encoder.input_px) ** 2)


def _encode(shard: Shard, encoder: Encoder, images: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if shard.augment == "none":
        return _checked(encoder, _encode_once(shard, encoder, images), (len(images), *shape))
    total = np.zeros((len(images), *shape))
    for turned in turn_images(images):
        total += _checked(encoder, _encode_once(shard, encoder, turned), total.shape)
    return (total / 8).astype(np.float32)


def _encode_once(shard: Shard, encoder: Encoder, images: NDArray[np.float32]) -> NDArray[np.float32]:
    if not shard.nested:
        return encoder.encode(images)
    if not isinstance(encoder, TokenEncoder):
        raise EmbeddingError(f"{encoder.name} gives no patch tokens, which mode nested needs")
    tokens = encoder.encode_tokens(images)
    grid = round(tokens.shape[1] ** 0.5)
    if grid**2 != tokens.shape[1]:
        raise EmbeddingError(f"{encoder.name} gave {tokens.shape[1]} patch tokens, which is no square")
    return pool_tokens(tokens, centre_weights(shard.nested, grid))


def _checked(encoder: Encoder, features: NDArray[np.float32], expected: tuple[int, ...]) -> NDArray[np.float32]:
    if features.shape != expected:
        raise EmbeddingError(f"{encoder.name} gave features of shape {features.shape}, expected {expected}")
    broken = int((~np.isfinite(features).reshape(len(features), -1).all(axis=1)).sum())
    if broken:
        raise EmbeddingError(f"{encoder.name} gave features that are not finite for {broken} of {len(features)} chips")
    return features
