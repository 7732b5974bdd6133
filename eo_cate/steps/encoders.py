"""From options to encoders: the configured ones, and the controls beside them."""

from __future__ import annotations

from pathlib import Path

from eo_cate.config import EmbeddingsConfig, RunConfig
from eo_cate.config.embeddings import WEIGHTED
from eo_cate.embeddings import EncoderSpec, Pixels, check_mode, encoder_spec, native_px, open_spec, scales_in_pixels
from eo_cate.errors import EmbeddingError
from eo_cate.steps.context import Run

CONTROLS = ("random_vit", "mean_colour")
"""Encoders that every run has for comparison."""


def open_specs(settings: EmbeddingsConfig, data_dir: Path) -> tuple[EncoderSpec, ...]:
    """The configured encoders; files are relative to the data folder.

    Raises
    ------
    EmbeddingError, WeightsError
        When a name is unknown, two are the same, or a weight file is absent or another.
    """
    specs = []
    for name in settings.encoders:
        family, _, rest = name.partition(":")
        files = family in ("onnx", "pretrained")
        weighted = family in WEIGHTED
        specs.append(
            encoder_spec(
                f"{family}:{data_dir / rest}" if files else name,
                bands=len(settings.bands),
                weights=data_dir / settings.weights if settings.weights and weighted else None,
                weights_sha256=settings.weights_sha256 if files or weighted else None,
                normalisation=settings.normalisation,
                pixels=pixels_of(settings),
            )
        )
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise EmbeddingError(f"encoders must have different names, got {names}: rename a file")
    return tuple(specs)


def pixels_of(settings: EmbeddingsConfig) -> Pixels:
    """What encoders are shown, for those that bring it back to reflectance."""
    return Pixels(settings.bands, settings.stretch, settings.reflectance, settings.wavelengths_nm, settings.statistics)


def pretrained_pairs(run: Run) -> list[tuple[str, str]]:
    """(pretrained, base): configured encoders whose weights were trained on from those of another configured one."""
    own = open_specs(run.config.embeddings, run.data_dir)
    names = {spec.name for spec in own}
    return [(spec.name, spec.base) for spec in own if spec.base in names]


def control_specs(settings: EmbeddingsConfig) -> tuple[EncoderSpec, ...]:
    """The random network and the mean of each band, for the bands that are shown."""
    return tuple(encoder_spec(name, bands=len(settings.bands)) for name in CONTROLS)


def control_px(input_px: int, patch: int | None) -> int:
    """The side nearest to input_px that a control's patches divide."""
    return input_px if patch is None else native_px(input_px, patch)


def try_specs(settings: EmbeddingsConfig, data_dir: Path, seed: int) -> None:
    """Open every encoder once at the side that it will be given: what does not fit is refused before any work.

    Raises
    ------
    EmbeddingError, WeightsError
    """
    for spec in open_specs(settings, data_dir):
        side = settings.input_px
        if settings.scales:
            check_mode(spec, settings.mode, settings.scales, side)
            if settings.mode == "native" and spec.patch is not None:
                side = native_px(settings.scales[0], spec.patch, most=side)
        open_spec(spec, side, seed)
    for spec in control_specs(settings):
        open_spec(spec, control_px(settings.input_px, spec.patch), seed)


def resolve_scales(config: RunConfig, resolution_m: float | None) -> RunConfig:
    """The configuration with ``scales_m`` as pixels; a note says how. One with ``scales`` is given back as it is.

    Raises
    ------
    EmbeddingError
        When the imagery does not tell the ground size of a pixel, or sides become too small or equal.
    """
    settings = config.embeddings
    if settings.scales:
        return config
    scales = scales_in_pixels(settings.scales_m, resolution_m)
    metres = ", ".join(f"{side:g}" for side in settings.scales_m)
    told = f"Scales of {metres} m were taken as {', '.join(map(str, scales))} px of {resolution_m:g} m."
    embeddings = settings.model_copy(update={"scales": scales, "scales_m": ()})
    return config.model_copy(update={"embeddings": embeddings, "notes": f"{config.notes} {told}".strip()})
