"""What an encoder is, and what is known of one before it is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from eo_cate.assets import asset
from eo_cate.embeddings.multispectral import Pixels


class Model(Protocol):
    """What is known of an opened model, of images or of sequences."""

    @property
    def name(self) -> str:
        """Name in the registry, or for messages."""
        ...

    @property
    def dim(self) -> int:
        """Features per image, or per sequence."""
        ...

    @property
    def input_px(self) -> int | None:
        """Side that chips are resized to; None: chips come at their own size."""
        ...

    @property
    def digest(self) -> str:
        """sha256 over weights and the version of the preprocessing: the content address of what it computes."""
        ...


@runtime_checkable
class Encoder(Model, Protocol):
    """Images to features, one row per image, whatever else is in the batch."""

    def encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, band, y, x) float32 in [0, 1] -> (b, dim) float32, finite."""
        ...


@runtime_checkable
class TokenEncoder(Encoder, Protocol):
    """An encoder whose patch tokens can be had, which mode ``nested`` needs."""

    def encode_tokens(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, band, input_px, input_px) -> (b, patches, dim), patches row by row from the upper left."""
        ...


@runtime_checkable
class SequenceEncoder(Model, Protocol):
    """All periods of a place to one row of features: a video model. One's own (``python:MODULE:NAME``) may be one."""

    def encode_sequence(self, images: NDArray[np.float32], years: NDArray[np.float64]) -> NDArray[np.float32]:
        """(b, time, band, y, x) float32 in [0, 1], years (time,) -> (b, dim) float32, finite.

        Periods are in the order of time; ``years`` says when each was (its middle, as a decimal year), or counts from 0
        where that is not known. There may be one period only.
        """
        ...


@dataclass(frozen=True)
class EncoderSpec:
    """What is known of an encoder before it is opened.

    Parameters
    ----------
    name, title, licence, origin, normalisation, note : str
        As printed by `eo-cate encoders` and in reports.
    dim : int
        Features per image; 0: known when it is opened.
    asset : str or None
        Asset that holds the weights; None: there are none to fetch.
    build : callable (input_px, seed) -> Encoder or SequenceEncoder
        Of a module's top level, or a frozen dataclass that can be called, so that a worker can be sent it.
    bands : int or None
        Bands shown to it; None: any number.
    band_order : str
        What they are, in order.
    gsd_m : float or None
        Ground size of a pixel that it was trained at; None: not one size.
    patch : int or None
        Side of a patch of a ViT that takes images of any multiple of it: modes ``native`` and ``nested`` need it.
    raw : (low, high) or None
        Pixels are given as they are, NaN where missing, without a stretch (precomputed embeddings); the pair is what
        controls stretch by.
    nodata : float or None
        A pixel value that means missing, beside NaN.
    file_sha256 : str
        sha256 of the user's weight file.
    where : str
        Where weights come from: ``shipped``, ``file``, ``hub`` or ``none``.
    base : str
        Encoder whose weights these were trained on from; empty: none that is known here.
    years : tuple of float
        A `SequenceEncoder` only: when each of the periods was that it is shown; empty: one image.
    pixels : Pixels or None
        Bands and stretch that it was made for, where it brings images back to reflectance; it takes no others.
    """

    name: str
    title: str
    licence: str
    origin: str
    dim: int
    normalisation: str
    note: str
    asset: str | None
    build: Callable[[int, int], Encoder | SequenceEncoder]
    bands: int | None = 3
    band_order: str = "any"
    gsd_m: float | None = None
    patch: int | None = None
    raw: tuple[float, float] | None = None
    nodata: float | None = None
    file_sha256: str = ""
    where: str = "none"
    base: str = ""
    years: tuple[float, ...] = ()
    pixels: Pixels | None = None

    @property
    def weights_sha256(self) -> str:
        """sha256 of the file that holds the weights, or an empty string."""
        return asset(self.asset).members[0].sha256 if self.asset else self.file_sha256

    @property
    def available(self) -> bool:
        """Whether it can be opened here now without a network (weights in the hub's cache are not looked for)."""
        return asset(self.asset).present if self.asset else self.where != "hub"
