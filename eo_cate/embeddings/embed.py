"""Features of every site at every scale, in shards that are stored as they come and never computed twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eo_cate.embeddings.chips import prepare_chips, read_bands
from eo_cate.embeddings.encoders import Encoder, EncoderSpec, encoder_spec, open_spec
from eo_cate.errors import EmbeddingError
from eo_cate.executor import Executor
from eo_cate.shards import compute_stored
from eo_cate.store import Store, digest
from eo_cate.types import ChipReader

STAGE, VERSION = "embed", 1
MODE = "resize"


@dataclass(frozen=True)
class _Shard:
    """A block of sites at one scale.

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
    pixels: str = ""


def embed_sites(
    reader: ChipReader,
    site_ids: Sequence[str],
    *,
    encoder: str,
    scales: Sequence[int],
    bands: Sequence[str],
    stretch: Sequence[tuple[float, float]],
    input_px: int,
    store: Store,
    executor: Executor,
    seed: int = 0,
    batch_size: int = 32,
    shard_size: int = 64,
    progress: bool = True,
    description: str | None = None,
) -> xr.DataArray:
    """Embed the chips of sites at several scales.

    Parameters
    ----------
    reader : ChipReader
        Pixels above the sites. It travels to workers, so it should pickle small (paths, not pixels).
    site_ids : sequence of str
        Unique sites.
    encoder : str
        Name of an encoder.
    scales : sequence of int
        Sides of the chips in pixels of the imagery.
    bands : sequence of str
        The bands shown to the encoder, in its order (red, green, blue).
    stretch : sequence of (low, high)
        Per band: the pixel values that become 0 and 1.
    input_px : int
        Side that chips are resized to; encoders that take chips as they are do not use it.
    store, executor : Store, Executor
        Where finished shards are kept, and where they are computed.
    seed : int
        Of random weights.
    batch_size : int
        Chips per forward pass; changes neither numbers nor keys.
    shard_size : int
        Sites per shard.
    progress : bool
        Show a bar.
    description : str or None
        Its label; absent: the encoder's name.

    Returns
    -------
    DataArray (site, scale, time, feature) float32
        Coordinates: ids, pixels, ``before``, names. Attributes: encoder, weights_sha256, encoder_digest, mode,
        input_px (0: chips as they are), bands, stretch (as JSON).

    Raises
    ------
    EmbeddingError
        On duplicated sites, unknown bands, a wrong stretch, missing pixels (with the count of sites), or features that
        are not finite or not of the encoder's width.
    """
    spec = encoder_spec(encoder)
    ids, sizes, shown = tuple(site_ids), tuple(int(s) for s in scales), tuple(bands)
    limits = tuple((float(low), float(high)) for low, high in stretch)
    _check_request(spec, ids, sizes, shown, limits, batch_size, shard_size)
    opened = open_spec(spec, input_px, seed)
    shards = _plan(
        [
            _Shard(reader, ids[i : i + shard_size], scale, shown, limits, spec, input_px, seed, batch_size)
            for scale in sizes
            for i in range(0, len(ids), shard_size)
        ]
    )
    found = compute_stored(
        encode_shard,
        shards,
        [_key(shard, opened) for shard in shards],
        STAGE,
        store=store,
        executor=executor,
        description=description or encoder,
        progress=progress,
    )
    blocks = [stored["features"] for stored in found]
    values = np.concatenate(blocks).reshape(len(sizes), len(ids), opened.dim).swapaxes(0, 1)[:, :, np.newaxis]
    attrs = {
        "encoder": encoder,
        "weights_sha256": spec.weights_sha256,
        "encoder_digest": opened.digest,
        "mode": MODE,
        "input_px": opened.input_px or 0,
        "bands": list(shown),
        "stretch": json.dumps(limits),
    }
    coords = {
        "site": list(ids),
        "scale": list(sizes),
        "time": ["before"],
        "feature": [f"{encoder}_{j}" for j in range(opened.dim)],
    }
    return xr.DataArray(values, dims=("site", "scale", "time", "feature"), coords=coords, attrs=attrs, name="embedding")


def _check_request(
    spec: EncoderSpec,
    ids: tuple[str, ...],
    scales: tuple[int, ...],
    bands: tuple[str, ...],
    stretch: tuple[tuple[float, float], ...],
    batch_size: int,
    shard_size: int,
) -> None:
    repeated = len(ids) - len(set(ids))
    if not ids or repeated:
        raise EmbeddingError(f"sites must be unique: {len(ids)} given, {repeated} of them repeated")
    if not scales or min(scales) < 1 or len(set(scales)) != len(scales):
        raise EmbeddingError(f"scales must be different positive numbers of pixels, got {list(scales)}")
    if len(bands) != spec.bands or len(stretch) != len(bands):
        raise EmbeddingError(
            f"{spec.name} takes {spec.bands} bands, each with a stretch: got {len(bands)} and {len(stretch)}"
        )
    wrong = [b for b, pair in zip(bands, stretch, strict=True) if not (np.isfinite(pair).all() and pair[0] < pair[1])]
    if wrong:
        raise EmbeddingError(f"stretch of {wrong}: the value that becomes 0 must be below the one that becomes 1")
    if batch_size < 1 or shard_size < 1:
        raise EmbeddingError(f"batch_size ({batch_size}) and shard_size ({shard_size}) must be positive")


def _plan(shards: Sequence[_Shard]) -> list[_Shard]:
    """Read every shard's chips once, one shard in memory at a time: their digest goes into the key."""
    planned, incomplete = [], set[str]()
    for shard in shards:
        chips = read_bands(shard.reader, shard.site_ids, shard.scale, shard.bands)
        finite = np.isfinite(chips).all(axis=(1, 2, 3))
        incomplete.update(np.asarray(shard.site_ids, dtype=object)[~finite])
        planned.append(replace(shard, pixels=digest(chips)))
    if incomplete:
        raise EmbeddingError(
            f"{len(incomplete)} sites have missing pixels in a chip of up to {max(s.scale for s in shards)} px; "
            "leave them out before (imagery.incomplete_sites: drop)"
        )
    return planned


def _key(shard: _Shard, encoder: Encoder) -> str:
    return Store.key(
        STAGE,
        VERSION,
        encoder.digest,
        MODE,
        encoder.input_px,
        shard.bands,
        shard.stretch,
        shard.scale,
        shard.pixels,
    )


def encode_shard(shard: _Shard) -> dict[str, NDArray[np.float32]]:
    """``features`` of one shard, shape (sites, dim); runs where the executor says.

    Raises
    ------
    EmbeddingError
        When the pixels read here are not those of the key, or features are not finite or of another width.
    """
    encoder = open_spec(shard.spec, shard.input_px, shard.seed)
    chips = read_bands(shard.reader, shard.site_ids, shard.scale, shard.bands)
    if digest(chips) != shard.pixels:
        raise EmbeddingError(
            f"the pixels of {len(shard.site_ids)} sites at {shard.scale} px changed during the run; start it again"
        )
    features = np.empty((len(chips), encoder.dim), dtype=np.float32)
    for start in range(0, len(chips), shard.batch_size):
        rows = slice(start, start + shard.batch_size)
        images = prepare_chips(chips[rows], stretch=shard.stretch, input_px=encoder.input_px)
        features[rows] = _checked(encoder, encoder.encode(images), len(images))
    return {"features": features}


def _checked(encoder: Encoder, features: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    if features.shape != (count, encoder.dim):
        raise EmbeddingError(f"{encoder.name} gave features of shape {features.shape}, expected {(count, encoder.dim)}")
    broken = int((~np.isfinite(features).all(axis=1)).sum())
    if broken:
        raise EmbeddingError(f"{encoder.name} gave features that are not finite for {broken} of {count} chips")
    return features
