"""Encoders by torchgeo's names (the extra ``torchgeo``): DOFA, Panopticon, CROMA, SSL4EO; and random convolutions.

Importing this module loads torch; torchgeo itself is imported when a model is asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from eo_cate.embeddings.multispectral import Band, Pixels, check_pixels, describe_shown, find_order
from eo_cate.embeddings.networks import NetworkEncoder
from eo_cate.embeddings.random_convolutions import RCF, rcf_spec
from eo_cate.embeddings.reflectance import (
    Run,
    Weights,
    check_side,
    choose_weights,
    import_extra,
    load_strict,
    open_reflectance,
    tell_statistics,
)
from eo_cate.embeddings.spec import EncoderSpec
from eo_cate.embeddings.timm_models import open_gates
from eo_cate.embeddings.torchgeo_bands import CROMA_BANDS, DOFA_BANDS, PANOPTICON_BANDS, SOURCES, read_bands_of
from eo_cate.embeddings.weights import Tensors
from eo_cate.errors import EmbeddingError

Kind = Literal["dofa", "panopticon", "croma", "timm"]


class Model(NamedTuple):
    """One of torchgeo's builders: how it is run, side of a patch (1: it has none), features."""

    kind: Kind
    patch: int
    dim: int


MODELS: Mapping[str, Model] = {
    "dofa_small_patch16_224": Model("dofa", 16, 384),
    "dofa_base_patch16_224": Model("dofa", 16, 768),
    "dofa_large_patch16_224": Model("dofa", 16, 1024),
    "dofa_huge_patch14_224": Model("dofa", 14, 1280),
    "panopticon_vitb14": Model("panopticon", 14, 768),
    "croma_base": Model("croma", 8, 768),
    "croma_large": Model("croma", 8, 1024),
    "vit_small_patch16_224": Model("timm", 16, 384),
    "vit_base_patch16_224": Model("timm", 16, 768),
    "vit_large_patch16_224": Model("timm", 16, 1024),
    "vit_huge_patch14_224": Model("timm", 14, 1280),
    "vit_small_patch14_dinov2": Model("timm", 14, 384),
    "vit_base_patch14_dinov2": Model("timm", 14, 768),
    "resnet18": Model("timm", 1, 512),
    "resnet50": Model("timm", 1, 2048),
    "resnet152": Model("timm", 1, 2048),
}


@dataclass(frozen=True)
class OpenTorchgeo:
    """Opens one of torchgeo's models for the bands that are shown."""

    encoder: str
    model: str
    bands: tuple[Band, ...]
    order: tuple[int | None, ...]
    pixels: Pixels
    weights: Weights

    def __call__(self, input_px: int, seed: int) -> NetworkEncoder:
        """Open it, its weights checked again; the seed is that of random weights."""
        known = MODELS[self.model]
        check_side(self.encoder, input_px, known.patch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = _build(self.encoder, self.model, len(self.bands), input_px)
            if self.weights.path is None:
                open_gates(module)
                if known.kind == "dofa":  # all 0 as torchgeo makes them: patches would have no place
                    torch.nn.init.normal_(module.pos_embed, std=0.02)
        if self.weights.path is not None:
            target = module.model if known.kind == "panopticon" else module
            tensors = _rename(known, self.weights.read(), input_px)
            load_strict(target, tensors, self.weights.path, may_lack=_MAY_LACK[known.kind])
        return open_reflectance(
            self.encoder,
            module,
            _RUN[known.kind],
            bands=self.bands,
            order=self.order,
            pixels=self.pixels,
            input_px=input_px,
            one_by_one=self.model.startswith("resnet"),
        )


def torchgeo_spec(
    name: str,
    *,
    bands: int,
    pixels: Pixels | None,
    weights: Path | None = None,
    weights_sha256: str | None = None,
    random: bool = False,
) -> EncoderSpec:
    """The entry of one of torchgeo's models; no weights are read, but a file's sha256 is taken.

    Parameters
    ----------
    name : str
        ``MODEL`` or ``MODEL.WEIGHTS``, as torchgeo names the function and, in lower case, the weights, which say the
        bands: ``vit_small_patch16_224.sentinel2_all_moco``. ``rcf`` or ``rcf_N``, with ``random`` only: N random
        convolutional features.
    bands : int
        Bands that it will be shown.
    pixels : Pixels or None
        What they are; ``rcf`` does not need it.
    weights : Path or None
        A .safetensors file with torchgeo's tensors, as published or as its module names them.
    weights_sha256
        See `encoder_spec`.
    random : bool
        Random weights from the run's seed.

    Raises
    ------
    EmbeddingError, WeightsError
    """
    encoder = f"torchgeo-random:{name}" if random else f"torchgeo:{name}"
    features = RCF.fullmatch(name)
    if features:
        if not random:
            raise EmbeddingError(f"{encoder} has no weights to load: write torchgeo-random:{name}")
        choose_weights(encoder, weights, weights_sha256, random=True)
        return rcf_spec(encoder, int(features.group(1) or 512), bands)
    model, published = _find(encoder, name)
    known = MODELS[model]
    pixels = check_pixels(encoder, pixels)
    taken, order = _arrange(encoder, known.kind, published, pixels)
    chosen = choose_weights(encoder, weights, weights_sha256, random=random)
    dataset = "" if published is None else str(published.meta.get("dataset"))
    source = "embeddings.statistics" if pixels.statistics else SOURCES.get(known.kind) or SOURCES.get(dataset)
    return EncoderSpec(
        name=encoder,
        title=f"torchgeo, {model}, {'random weights' if random else 'weights of a file'}",
        licence="MIT" if random else "the file's",
        origin="drawn here from the run's seed" if random else str(weights),
        dim=known.dim,
        normalisation=tell_statistics(taken, pixels, source or "torchgeo's own transforms"),
        note=f"input_px a multiple of {known.patch}; mode resize only" if known.patch > 1 else "mode resize only",
        asset=None,
        build=OpenTorchgeo(encoder, model, taken, order, pixels, chosen),
        bands=len(pixels.bands),
        band_order=", ".join(f"{band.name} ({band.nm:g} nm)" for band in taken) + ", found in the bands shown",
        gsd_m=None if known.kind in ("dofa", "panopticon") else 30.0 if dataset == "SSL4EO-L" else 10.0,
        file_sha256=chosen.sha256,
        where="none" if random else "file",
        pixels=pixels,
    )


def _arrange(
    encoder: str, kind: Kind, published: Any, pixels: Pixels
) -> tuple[tuple[Band, ...], tuple[int | None, ...]]:
    """Bands as the model takes them, and which of those shown each is."""
    if kind in ("dofa", "panopticon"):
        taken = describe_shown(encoder, pixels, DOFA_BANDS if kind == "dofa" else PANOPTICON_BANDS)
        return taken, tuple(range(len(taken)))
    if pixels.statistics:
        raise EmbeddingError(f"{encoder} has statistics of its own: leave out embeddings.statistics")
    fixed = CROMA_BANDS if kind == "croma" else read_bands_of(published) or ()
    return fixed, find_order(encoder, pixels, fixed)


def known_names(api: Any) -> dict[str, tuple[str, Any]]:
    """Name -> (builder, weights or None), of torchgeo's models that take reflectance of optical bands."""
    found: dict[str, tuple[str, Any]] = {}
    for model, known in MODELS.items():
        try:
            entries = list(api.get_model_weights(model))
        except KeyError:  # torchgeo publishes none
            entries = []
        if known.kind != "timm":
            found[model] = (model, None)
            found |= {f"{model}.{entry.name.lower()}": (model, entry) for entry in entries}
        else:
            takes = [entry for entry in entries if read_bands_of(entry) is not None]
            found |= {f"{model}.{entry.name.lower()}": (model, entry) for entry in takes}
    return found


def _find(encoder: str, name: str) -> tuple[str, Any]:
    names = known_names(import_extra("torchgeo.models.api", encoder, "torchgeo"))
    if name in names:
        return names[name]
    near = [full for full in names if full.startswith(f"{name}.")] or difflib.get_close_matches(name, names, n=3)
    raise EmbeddingError(f"{encoder} is not known here; did you mean {' or '.join(near or [*MODELS, 'rcf'])}?")


def _build(encoder: str, model: str, bands: int, input_px: int) -> Any:
    api = import_extra("torchgeo.models.api", encoder, "torchgeo")
    kind, patch, _ = MODELS[model]
    options: Mapping[Kind, dict[str, Any]] = {
        "dofa": {"img_size": input_px, "num_classes": 0},
        "panopticon": {"img_size": input_px},
        "croma": {"image_size": input_px, "modalities": ["optical"]},
        "timm": {"in_chans": bands, "num_classes": 0} | ({"img_size": input_px} if patch > 1 else {}),
    }
    return api.get_model(model, **options[kind])


def _rename(known: Model, tensors: Tensors, input_px: int) -> Tensors:
    """Published tensors, or those of torchgeo's module, under the names of the part that is used."""
    prefix = "model." if known.kind == "panopticon" else ""
    kept = {k.removeprefix(prefix): v for k, v in tensors.items() if not k.startswith(_UNUSED[known.kind])}
    positions = kept.get("pos_embed")
    if positions is not None:
        resize = import_extra("torchgeo.models.copernicusfm", "torchgeo", "torchgeo").resize_abs_pos_embed
        kept["pos_embed"] = resize(positions, input_px // known.patch, round((positions.shape[1] - 1) ** 0.5))
    return kept


_UNUSED: Mapping[Kind, tuple[str, ...]] = {
    "dofa": ("head.", "mask_token", "projector.", "norm."),
    "panopticon": ("mask_token",),
    "croma": ("s1_", "joint_", "attn_bias"),
    "timm": ("head.", "fc."),
}
_MAY_LACK: Mapping[Kind, frozenset[str]] = {
    "dofa": frozenset({"fc_norm.weight", "fc_norm.bias"}),  # published without: 1 and 0, as torchgeo leaves them
    "panopticon": frozenset(),
    "croma": frozenset({"attn_bias"}),  # made for a side, not learnt
    "timm": frozenset({"norm.weight", "norm.bias"}),  # torchgeo loads ViTs without them too
}
_RUN: Mapping[Kind, Run] = {
    "dofa": lambda module, images, nm: module.forward_features(images, (nm / 1000).tolist()),
    "panopticon": lambda module, images, nm: module({"imgs": images, "chn_ids": nm.repeat(len(images), 1)}),
    "croma": lambda module, images, nm: module(x_optical=images)["optical_GAP"],
    "timm": lambda module, images, nm: module(images),
}
