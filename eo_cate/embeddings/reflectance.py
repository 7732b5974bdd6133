"""Models of reflectance from other packages, behind images in [0, 1]. Importing this module loads torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from eo_cate.embeddings.multispectral import Band, Pixels, undo_stretch
from eo_cate.embeddings.networks import NetworkEncoder
from eo_cate.embeddings.timm_models import digest_module
from eo_cate.embeddings.weights import Tensors, check_weights_file
from eo_cate.errors import EmbeddingError, WeightsError
from eo_cate.store import file_digest

Run = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]
"""(module, (b, band, y, x) as the model takes it, wavelengths in nm) -> (b, dim)."""


@dataclass(frozen=True)
class Weights:
    """Where a model's tensors come from: a file, or (no path) the run's seed."""

    path: Path | None = None
    sha256: str = ""

    def read(self) -> Tensors:
        """The file's tensors, its sha256 checked again."""
        assert self.path is not None
        if file_digest(self.path) != self.sha256:
            raise WeightsError(f"{self.path}: its sha256 has changed since the run began")
        try:
            return load_file(self.path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{self.path}: not a readable .safetensors file ({error})") from error


def import_extra(module: str, encoder: str, extra: str) -> ModuleType:
    """A module of an optional package.

    Raises
    ------
    EmbeddingError
        When it cannot be imported; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EmbeddingError(
            f'encoder {encoder} needs {extra}: pip install "eo-cate[{extra}]" ({module}: {error})'
        ) from error


def choose_weights(encoder: str, path: Path | None, sha256: str | None, *, random: bool) -> Weights:
    """The weights of an encoder ``FAMILY:NAME`` or ``FAMILY-random:NAME``.

    Raises
    ------
    EmbeddingError, WeightsError
        When a file is given and not wanted, or wanted and not given, or another than ``sha256``.
    """
    family, _, name = encoder.partition(":")
    if random:
        if path is not None:
            raise EmbeddingError(f"{encoder} draws its weights: leave out embeddings.weights")
        return Weights()
    if path is None:
        raise WeightsError(
            f"{encoder} needs embeddings.weights, a .safetensors file: docs/encoders.md says how to make it from the "
            f"published one; {family}-random:{name} runs it with random weights"
        )
    return Weights(path.resolve(), check_weights_file(path, sha256))


def check_side(encoder: str, input_px: int, patch: int) -> None:
    """Refuse a side that a model's patches do not divide.

    Raises
    ------
    EmbeddingError
    """
    if input_px < patch or input_px % patch:
        below = max(patch, input_px // patch * patch)
        raise EmbeddingError(
            f"input_px is {input_px}, but {encoder} takes multiples of {patch}: {below} or {below + patch}"
        )


def load_strict(
    module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: Path | None, *, may_lack: Collection[str] = ()
) -> None:
    """Load every tensor of a module; ``may_lack`` keep what they were made with.

    Raises
    ------
    WeightsError
        When others are lacking or left over, or a shape differs.
    """
    try:
        found = module.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{path}: its tensors do not fit ({str(error).splitlines()[-1].strip()})") from error
    lacking = [name for name in found.missing_keys if name not in may_lack]
    if lacking or found.unexpected_keys:
        raise WeightsError(
            f"{path}: {len(lacking)} tensors of the model are not in it ({', '.join(lacking[:3])}), "
            f"{len(found.unexpected_keys)} are not the model's ({', '.join(found.unexpected_keys[:3])}): "
            "is it the checkpoint of another model?"
        )


class Arranged(torch.nn.Module):
    """Bands as they are shown -> bands as a model takes them -> its features.

    Parameters
    ----------
    model : torch.nn.Module
    run : callable
        See `Run`.
    bands : sequence of Band
        In the model's order.
    order : sequence of int or None
        Which of the bands shown each is; None: it is not shown, and is given reflectance 0.
    """

    source: torch.Tensor
    nm: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    absent: torch.Tensor

    def __init__(self, model: torch.nn.Module, run: Run, bands: Sequence[Band], order: Sequence[int | None]) -> None:
        super().__init__()
        self.model, self._run = model, run
        count = sum(j is not None for j in order)
        absent = [i for i, j in enumerate(order) if j is None]
        source = [count + absent.index(i) if j is None else j for i, j in enumerate(order)]
        self.register_buffer("source", torch.tensor(source))
        self.register_buffer("nm", torch.tensor([band.nm for band in bands]))
        for name, values in (
            ("low", [(band.low - band.mean) / band.sd for band in bands]),
            ("high", [(band.high - band.mean) / band.sd for band in bands]),
            ("absent", [-bands[i].mean / bands[i].sd for i in absent]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(b, band shown, y, x), normalised -> (b, dim)."""
        filled = self.absent.expand(len(images), -1, *images.shape[2:])
        arranged = torch.cat([images, filled], dim=1)[:, self.source]
        return self._run(self.model, arranged.clamp(self.low, self.high), self.nm)


def open_reflectance(
    encoder: str,
    module: torch.nn.Module,
    run: Run,
    *,
    bands: Sequence[Band],
    order: Sequence[int | None],
    pixels: Pixels,
    input_px: int,
    one_by_one: bool = False,
) -> NetworkEncoder:
    """A model of reflectance as an encoder of images in [0, 1]: the stretch is undone, then the statistics applied.

    Raises
    ------
    EmbeddingError
        When the model does not take images of that side.
    """
    arranged = Arranged(module.eval(), run, bands, order).eval()
    shown = len(pixels.bands)
    normalisation = [undo_stretch(pixels, j, bands[order.index(j)]) for j in range(shown)]
    try:
        with torch.inference_mode():
            dim = arranged(torch.zeros(1, shown, input_px, input_px)).shape[1]
    except (RuntimeError, AssertionError, ValueError) as error:
        told = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise EmbeddingError(f"{encoder} does not take images of {input_px} px: {told}") from error
    return NetworkEncoder(
        encoder,
        arranged,
        dim=dim,
        input_px=input_px,
        normalisation=(tuple(mean for mean, _ in normalisation), tuple(sd for _, sd in normalisation)),
        weights=digest_module(arranged),
        one_by_one=one_by_one,
    )


def tell_statistics(bands: Sequence[Band], pixels: Pixels, source: str) -> str:
    """What is done to pixels, in one line."""
    zero, one = pixels.reflectance
    each = ", ".join(
        f"{band.name} {band.mean:.4g} / {band.sd:.4g}"
        + (f" in [{band.low:.4g}, {band.high:.4g}]" if band.high < float("inf") else "")
        for band in bands
    )
    return f"reflectance ({zero:g} -> 0, {one:g} -> 1), mean / sd of {each}; from {source}"
