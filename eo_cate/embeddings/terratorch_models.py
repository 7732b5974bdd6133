"""Prithvi (IBM, NASA) by terratorch's names, the extra ``terratorch``. Importing this module loads torch.

terratorch itself is imported when a model is asked for.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eo_cate.embeddings.multispectral import COMMON, Band, Pixels, check_pixels, find_order
from eo_cate.embeddings.networks import NetworkEncoder
from eo_cate.embeddings.reflectance import (
    Weights,
    check_side,
    choose_weights,
    import_extra,
    load_strict,
    open_reflectance,
    tell_statistics,
)
from eo_cate.embeddings.spec import EncoderSpec
from eo_cate.errors import EmbeddingError, WeightsError

_MODULE = "terratorch.models.backbones.prithvi_vit"
_HLS = {
    "BLUE": "blue",
    "GREEN": "green",
    "RED": "red",
    "NIR_NARROW": "nir08",
    "SWIR_1": "swir16",
    "SWIR_2": "swir22",
}
"""terratorch's names of bands of the Harmonized Landsat Sentinel-2 product -> common names."""

_DN = 10_000.0


@dataclass(frozen=True)
class OpenPrithvi:
    """Opens one of terratorch's Prithvi encoders for one image, without time and place."""

    encoder: str
    model: str
    patch: int
    bands: tuple[Band, ...]
    order: tuple[int | None, ...]
    pixels: Pixels
    weights: Weights

    def __call__(self, input_px: int, seed: int) -> NetworkEncoder:
        """Open it, its weights checked again; the seed is that of random weights."""
        check_side(self.encoder, input_px, self.patch)
        prithvi = import_extra(_MODULE, self.encoder, "terratorch")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = getattr(prithvi, self.model)(pretrained=False, num_frames=1, img_size=input_px)
        if self.weights.path is not None:
            read = self.weights.read()
            try:
                tensors = prithvi.checkpoint_filter_fn_vit(read, module, module.pretrained_bands, module.model_bands)
            except Exception as error:  # terratorch raises Exception itself
                raise WeightsError(f"{self.weights.path}: no checkpoint of {self.model} ({error})") from error
            load_strict(module, tensors, self.weights.path)
        return open_reflectance(
            self.encoder,
            module,
            _run,
            bands=self.bands,
            order=self.order,
            pixels=self.pixels,
            input_px=input_px,
        )


def _run(module: Any, images: torch.Tensor, nm: torch.Tensor) -> torch.Tensor:
    last: torch.Tensor = module.forward_features(images)[-1]
    return last[:, 1:].mean(dim=1)


def terratorch_spec(
    name: str,
    *,
    pixels: Pixels | None,
    weights: Path | None = None,
    weights_sha256: str | None = None,
    random: bool = False,
) -> EncoderSpec:
    """The entry of one of terratorch's Prithvi models, ``prithvi_eo_v2_300`` and others; no weights are read.

    Parameters
    ----------
    name : str
        As terratorch names it.
    pixels, weights, weights_sha256, random
        As of `torchgeo_spec`; the file holds the published tensors, or those of terratorch's module.

    Raises
    ------
    EmbeddingError, WeightsError
    """
    encoder = f"terratorch-random:{name}" if random else f"terratorch:{name}"
    known: dict[str, Any] = import_extra(_MODULE, encoder, "terratorch").prithvi_cfgs
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or list(known)
        raise EmbeddingError(f"{encoder} is not known here; did you mean {' or '.join(near)}?")
    pixels = check_pixels(encoder, pixels)
    if pixels.statistics:
        raise EmbeddingError(f"{encoder} has statistics of its own: leave out embeddings.statistics")
    taken = _read_bands(known[name])
    order = find_order(encoder, pixels, taken)
    chosen = choose_weights(encoder, weights, weights_sha256, random=random)
    patch = int(known[name]["patch_size"][-1])
    return EncoderSpec(
        name=encoder,
        title=f"terratorch, {name}, {'random weights' if random else 'weights of a file'}",
        licence="Apache-2.0" if random else "the file's",
        origin="drawn here from the run's seed" if random else str(weights),
        dim=int(known[name]["embed_dim"]),
        normalisation=tell_statistics(taken, pixels, "terratorch's prithvi_cfgs"),
        note=f"input_px a multiple of {patch}; mode resize only; mean over patches; no time or place is given to it",
        asset=None,
        build=OpenPrithvi(encoder, name, patch, taken, order, pixels, chosen),
        bands=len(pixels.bands),
        band_order=", ".join(f"{band.name} ({band.nm:g} nm)" for band in taken) + ", found in the bands shown",
        gsd_m=30.0,
        file_sha256=chosen.sha256,
        where="none" if random else "file",
        pixels=pixels,
    )


def _read_bands(cfg: dict[str, Any]) -> tuple[Band, ...]:
    """Bands and statistics of a model, of reflectance x 10,000, from terratorch's own configuration."""
    names = [_HLS[band.value] for band in cfg["bands"]]
    each = zip(names, cfg["mean"], cfg["std"], strict=True)
    return tuple(Band(name, COMMON[name], mean / _DN, sd / _DN) for name, mean, sd in each)
