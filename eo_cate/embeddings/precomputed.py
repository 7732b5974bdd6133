"""Imagery whose pixels ARE embeddings: no network runs, a chip's features are the mean over its pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eo_cate.embeddings.spec import Encoder, EncoderSpec
from eo_cate.errors import EmbeddingError
from eo_cate.types import FloatArray


@dataclass(frozen=True)
class PixelMean:
    """Mean over a chip of de-quantised pixels, per band, in float64.

    Parameters
    ----------
    name : str
    scheme : str
        ``as_is``; ``alphaearth``: (v / 127.5)^2 sign(v); ``scaled``: the last band multiplies all others, pixel by
        pixel (features: one fewer than bands).
    dim : int
        0: as many as there are bands (of the first chips).
    """

    name: str
    scheme: str
    dim: int
    input_px: int | None = None

    @property
    def digest(self) -> str:
        """Version of the scheme: there are no weights."""
        return f"pixel mean, {self.scheme}, 1"

    def encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, band, y, x) stored values -> (b, dim) float32; a pixel with a NaN in any band is left out.

        It is not filled beforehand: de-quantising is not linear, and a filled pixel would move the mean. For the same
        reason nothing may average stored numbers before this: they are de-quantised here, pixel by pixel.

        Raises
        ------
        EmbeddingError
            When AlphaEarth's numbers are not those of int8: scaled, de-quantised or interpolated already.
        """
        values = images.astype(np.float64)
        known = np.isfinite(values).all(axis=1, keepdims=True)
        if self.scheme == "alphaearth":
            _check_int8(values)
            values = (values / 127.5) ** 2 * np.sign(values)
        elif self.scheme == "scaled":
            values = values[:, :-1] * values[:, -1:]
        means: NDArray[np.float32] = values.mean(axis=(2, 3), where=known).astype(np.float32)
        return means


def _check_int8(values: FloatArray) -> None:
    wrong = np.isfinite(values) & ((values != np.rint(values)) | (np.abs(values) > 127))
    if wrong.any():
        raise EmbeddingError(
            f"{wrong.mean():.1%} of the numbers are no int8 between -127 and 127: precomputed:alphaearth takes them as "
            "stored, without a scale, and not interpolated (imagery.composite: newest); `precomputed` takes vectors as "
            "they are"
        )


@dataclass(frozen=True)
class _OpenPixelMean:
    name: str
    scheme: str
    dim: int

    def __call__(self, input_px: int, seed: int) -> Encoder:
        return PixelMean(self.name, self.scheme, self.dim)


def with_bands(spec: EncoderSpec, bands: int) -> EncoderSpec:
    """The entry for a source of ``bands`` bands: its number of features is then known.

    Raises
    ------
    EmbeddingError
        When a source has too few bands for its scheme.
    """
    build = spec.build
    if not isinstance(build, _OpenPixelMean) or build.dim:
        return spec
    dim = bands - (build.scheme == "scaled")
    if dim < 1:
        raise EmbeddingError(f"{spec.name} needs bands of embeddings and a last band that scales them; got {bands}")
    return replace(spec, dim=dim, bands=bands, build=replace(build, dim=dim))


def _entry(
    name: str,
    scheme: str,
    *,
    title: str,
    licence: str,
    origin: str,
    bands: int | None,
    note: str,
    raw: tuple[float, float],
    nodata: float | None = None,
    gsd_m: float | None = None,
) -> EncoderSpec:
    dim = 0 if bands is None else bands
    return EncoderSpec(
        name=name,
        title=title,
        licence=licence,
        origin=origin,
        dim=dim,
        normalisation="none: no stretch, no resize",
        note=note,
        asset=None,
        build=_OpenPixelMean(name, scheme, dim),
        bands=bands,
        band_order="the source's",
        raw=raw,
        nodata=nodata,
        gsd_m=gsd_m,
    )


PRECOMPUTED = (
    _entry(
        "precomputed",
        "as_is",
        title="Precomputed embeddings: pixels are features",
        licence="the source's",
        origin="the imagery itself",
        bands=None,
        note="any number of bands, as they are; mean over the chip",
        raw=(-1.0, 1.0),
    ),
    _entry(
        "precomputed:alphaearth",
        "alphaearth",
        title="AlphaEarth Foundations, annual embeddings of 64 bands as int8",
        licence="CC-BY-4.0 (Google, Google DeepMind)",
        origin="the user's copy of the AlphaEarth COGs",
        bands=64,
        note="bands A00 to A63; (v / 127.5)^2 sign(v); -128: missing; mean over the chip, not brought back to length 1",
        raw=(-127.5, 127.5),
        nodata=-128.0,
        gsd_m=10.0,
    ),
    _entry(
        "precomputed:scaled",
        "scaled",
        title="Precomputed int8 embeddings with a scale per pixel, as TESSERA's",
        licence="the source's",
        origin="the imagery itself",
        bands=None,
        note="the last band multiplies the others pixel by pixel; mean over the chip",
        raw=(-127.0, 127.0),
    ),
)
