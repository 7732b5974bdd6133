"""The ViT of pretrained weights. Importing this module loads torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file

from eo_cate.embeddings.networks import NetworkEncoder, Normalisation
from eo_cate.embeddings.timm_models import digest_module
from eo_cate.errors import EmbeddingError, WeightsError


def open_pretrained(
    name: str, path: Path, architecture: str, normalisation: Normalisation, *, trained_px: int, input_px: int
) -> NetworkEncoder:
    """Open a timm ViT with the tensors of a file, all of them and no others.

    Raises
    ------
    WeightsError
        When the file is not that ViT's.
    EmbeddingError
        When ``input_px`` is not a multiple of its patch.
    """
    module: Any = timm.create_model(
        architecture, pretrained=False, num_classes=0, in_chans=len(normalisation[0]), img_size=trained_px
    )
    patch = int(module.patch_embed.patch_size[0])
    if input_px < patch or input_px % patch:
        raise EmbeddingError(f"{name} takes images of a multiple of {patch} px, input_px is {input_px}")
    try:
        module.load_state_dict(load_file(path), strict=True)
    except (RuntimeError, SafetensorError) as error:
        told = str(error).splitlines()[0]
        raise WeightsError(f"{path}: its tensors do not fit {architecture} ({told})") from error
    if input_px != trained_px:
        module.set_input_size(img_size=input_px)
    return NetworkEncoder(
        name,
        module,
        dim=int(module.num_features),
        input_px=input_px,
        normalisation=normalisation,
        weights=digest_module(module),
        prefix_tokens=int(module.num_prefix_tokens),
        architecture=architecture,
    )
