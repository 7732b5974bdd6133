"""Features of every site at every scale, in shards that are stored as they come and never computed twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eo_cate.embeddings.chips import missing_share
from eo_cate.embeddings.encode import STAGE, Shard, encode_shard, shard_key
from eo_cate.embeddings.encoders import Encoder, EncoderSpec, encoder_spec
from eo_cate.embeddings.modes import check_mode, native_px
from eo_cate.embeddings.multispectral import Pixels
from eo_cate.errors import EmbeddingError
from eo_cate.executor import Executor
from eo_cate.shards import compute_stored
from eo_cate.store import Store, digest
from eo_cate.types import ChipReader


def embed_sites(
    reader: ChipReader,
    site_ids: Sequence[str],
    *,
    encoder: str | EncoderSpec,
    scales: Sequence[int],
    bands: Sequence[str],
    stretch: Sequence[tuple[float, float]],
    input_px: int,
    store: Store | None,
    executor: Executor,
    mode: str = "resize",
    augment: str = "none",
    max_missing: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
    shard_size: int = 64,
    progress: bool = True,
    description: str | None = None,
) -> xr.DataArray:
    """Embed the chips of sites at several scales, as they were at one time.

    Parameters
    ----------
    reader : ChipReader
        Pixels above the sites. It travels to workers, so it should pickle small (paths, not pixels).
    site_ids : sequence of str
        Unique sites.
    encoder : str or EncoderSpec
        Name of an encoder, or its entry (`encoder_spec`).
    scales : sequence of int
        Sides of the chips in pixels of the imagery.
    bands : sequence of str
        The bands shown to the encoder, in its order (red, green, blue).
    stretch : sequence of (low, high)
        Per band: the pixel values that become 0 and 1. Not used by encoders of raw pixels (precomputed embeddings).
    input_px : int
        Side that chips are resized to (``nested``: the largest chip; ``native``: chips larger than it). Encoders that
        take chips as they are do not use it.
    store, executor : Store, Executor
        Where finished shards are kept (None: nowhere), and where they are computed.
    mode : str
        ``resize``: every chip to input_px. ``native``: every chip to the multiple of the ViT's patch nearest to its own
        side, and input_px at most. ``nested``: the largest chip once, a scale's features are the mean of the patch
        tokens inside it.
    augment : str
        ``none``, or ``flips8``: mean of the features over the 8 flips and rotations.
    max_missing : float
        Share of a chip's pixels that may be missing: they are filled (`fill_missing`), or left out of a mean of
        precomputed embeddings.
    seed : int
        Of random weights.
    batch_size : int
        Chips per forward pass; no part of a key. It changes no bit, but the last ones of images of a few patches
        (2e-6 measured).
    shard_size : int
        Sites per shard.
    progress : bool
        Show a bar.
    description : str or None
        Its label; absent: the encoder's name.

    Returns
    -------
    DataArray (site, scale, time, feature) float32
        Coordinates: ids, pixels, ``before``, names; with ``max_missing``, ``missing_share`` (site, scale) too.
        Attributes: encoder, weights_sha256, encoder_digest, licence, mode, augment, input_px (0: chips as they are),
        bands, stretch (as JSON).

    Raises
    ------
    EmbeddingError
        On duplicated sites, unknown bands, a wrong stretch, a mode that does not fit, chips larger than the imagery,
        missing pixels (with the count of sites), or features that are not finite or not of the encoder's width.
    """
    ids, sizes, shown = tuple(site_ids), tuple(int(s) for s in scales), tuple(bands)
    limits = tuple((float(low), float(high)) for low, high in stretch)
    if isinstance(encoder, EncoderSpec):
        spec = encoder
    else:
        spec = encoder_spec(encoder, bands=len(bands), pixels=Pixels(shown, limits))
    limits = limits if spec.raw is None else ()
    _check_request(spec, ids, sizes, shown, limits, batch_size, shard_size)
    mode = mode if spec.raw is None else "resize"
    check_mode(spec, mode, sizes, input_px)
    _check_extent(reader, sizes)
    if augment not in ("none", "flips8"):
        raise EmbeddingError(f"augment is {augment!r}: choose none or flips8")
    shard = Shard(reader, ids, max(sizes), shown, limits, spec, input_px, seed, batch_size, mode, augment)
    shards, shares = _plan(_cut(shard, sizes, shard_size), max_missing)
    found = compute_stored(
        encode_shard,
        shards,
        [shard_key(shard) for shard in shards],
        STAGE,
        store=store,
        executor=executor,
        description=description or spec.name,
        progress=progress,
    )
    values = np.concatenate([stored["features"] for stored in found])
    opened = shards[-1].open()
    if shards[0].nested:
        by_scale = values.reshape(len(ids), len(sizes), opened.dim)
        share = np.repeat(np.concatenate(shares)[:, np.newaxis], len(sizes), axis=1)
    else:
        by_scale = values.reshape(len(sizes), len(ids), opened.dim).swapaxes(0, 1)
        share = np.concatenate(shares).reshape(len(sizes), len(ids)).T
    embedding = xr.DataArray(
        by_scale[:, :, np.newaxis],
        dims=("site", "scale", "time", "feature"),
        coords={
            "site": list(ids),
            "scale": list(sizes),
            "time": ["before"],
            "feature": [f"{spec.name}_{j}" for j in range(opened.dim)],
        },
        attrs=_describe(shard, opened),
        name="embedding",
    )
    return embedding.assign_coords(missing_share=(("site", "scale"), share)) if max_missing else embedding


def _describe(shard: Shard, opened: Encoder) -> dict[str, Any]:
    return {
        "encoder": shard.spec.name,
        "weights_sha256": shard.spec.weights_sha256 or getattr(opened, "weights", ""),
        "encoder_digest": opened.digest,
        "licence": shard.spec.licence,
        "mode": shard.mode,
        "augment": shard.augment,
        "input_px": 0 if opened.input_px is None else shard.input_px,
        "bands": list(shard.bands),
        "stretch": json.dumps(shard.stretch),
    }


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
    stretched = len(bands) if spec.raw is None else 0
    if len(bands) != (spec.bands or len(bands)) or len(stretch) != stretched:
        wanted = "any number of" if spec.bands is None else str(spec.bands)
        raise EmbeddingError(
            f"{spec.name} takes {wanted} bands, each with a stretch: got {len(bands)} and {len(stretch)}"
        )
    if spec.pixels is not None and (spec.pixels.bands, spec.pixels.stretch) != (bands, stretch):
        raise EmbeddingError(
            f"{spec.name} was made for bands {list(spec.pixels.bands)} and their stretch, but it is shown {list(bands)}"
        )
    wrong = [b for b, pair in zip(bands, stretch, strict=False) if not (np.isfinite(pair).all() and pair[0] < pair[1])]
    if wrong:
        raise EmbeddingError(f"stretch of {wrong}: the value that becomes 0 must be below the one that becomes 1")
    if batch_size < 1 or shard_size < 1:
        raise EmbeddingError(f"batch_size ({batch_size}) and shard_size ({shard_size}) must be positive")


def _check_extent(reader: ChipReader, scales: tuple[int, ...]) -> None:
    if reader.grid is not None and max(scales) > min(reader.grid.shape):
        rows, columns = reader.grid.shape
        raise EmbeddingError(f"a chip of {max(scales)} px is larger than the imagery, {rows} x {columns} px")


def _cut(whole: Shard, scales: tuple[int, ...], shard_size: int) -> list[Shard]:
    """The work in shards: scale by scale, or all scales nested in the largest."""
    ids = [whole.site_ids[i : i + shard_size] for i in range(0, len(whole.site_ids), shard_size)]
    patch = whole.spec.patch
    if whole.mode == "nested" and patch is not None:
        return [replace(whole, site_ids=part, nested=scales) for part in ids]
    sides = {
        s: native_px(s, patch, most=whole.input_px) if whole.mode == "native" and patch else whole.input_px
        for s in scales
    }
    return [replace(whole, site_ids=part, scale=s, input_px=side) for s, side in sides.items() for part in ids]


def _plan(shards: Sequence[Shard], max_missing: float) -> tuple[list[Shard], list[NDArray[np.float64]]]:
    """Read every shard's chips once, one shard in memory at a time: their digest goes into the key."""
    planned, shares, incomplete = [], [], set[str]()
    for shard in shards:
        chips = shard.read()
        share = missing_share(chips, periods=max(1, len(shard.spec.years)))
        incomplete.update(np.asarray(shard.site_ids, dtype=object)[share > max_missing])
        planned.append(replace(shard, pixels=digest(chips)))
        shares.append(share)
    if incomplete:
        allowed = f" (more than {max_missing:.0%} of it)" if max_missing else ""
        raise EmbeddingError(
            f"{len(incomplete)} sites have missing pixels in a chip of up to {max(s.scale for s in shards)} px"
            f"{allowed}; leave them out before (imagery.incomplete_sites: drop)"
        )
    return planned, shares
