"""Weights that `eo-cate pretrain` wrote, as an encoder: ``pretrained:PATH``, with the card beside the file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eo_cate.embeddings.spec import Encoder, EncoderSpec
from eo_cate.errors import EmbeddingError, WeightsError
from eo_cate.store import file_digest

CARD = ("architecture", "bands", "base_encoder", "dim", "input_px", "licence", "normalisation", "patch", "sha256")
"""What an encoder needs of a card; it says more, for readers."""


@dataclass(frozen=True)
class OpenPretrained:
    """Opens the ViT of a card, its weights checked."""

    name: str
    path: Path
    sha256: str
    architecture: str
    trained_px: int
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]

    def __call__(self, input_px: int, seed: int) -> Encoder:
        """Open it at a side, the grid of positions resized where that is not the one of training."""
        from eo_cate.embeddings.pretrained_vit import open_pretrained

        if file_digest(self.path) != self.sha256:
            raise WeightsError(f"{self.path}: not the weights of its card (another sha256); run `eo-cate pretrain`")
        return open_pretrained(
            self.name, self.path, self.architecture, self.normalisation, trained_px=self.trained_px, input_px=input_px
        )


def read_card(path: Path) -> dict[str, Any]:
    """The card of a weight file.

    Raises
    ------
    WeightsError
        When it is absent or lacks something.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: no card of pretrained weights ({error}); `eo-cate pretrain` writes it") from error
    lacking = [name for name in CARD if name not in card]
    if lacking:
        raise WeightsError(f"{path}: the card lacks {lacking}; run `eo-cate pretrain` again")
    return dict(card)


def pretrained_spec(path: Path, *, bands: int = 3, weights_sha256: str | None = None) -> EncoderSpec:
    """The entry of a weight file; none of its tensors are read.

    Raises
    ------
    EmbeddingError, WeightsError
        When file or card are absent, the file is not the card's or not the one wanted, or it takes other bands.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file (encoder pretrained:PATH); `eo-cate pretrain` writes it")
    card, found = read_card(path.with_suffix(".json")), file_digest(path)
    for says, expected in (("its card", card["sha256"]), ("embeddings.weights_sha256", weights_sha256)):
        if expected is not None and found != expected.lower():
            raise WeightsError(f"{path}: its sha256 is {found}, {says} says {expected}")
    if len(card["bands"]) != bands:
        raise EmbeddingError(f"{path.name} was trained on {len(card['bands'])} bands, {bands} are shown")
    name = f"pretrained:{path.stem}"
    mean, std = (tuple(float(v) for v in side) for side in card["normalisation"])
    return EncoderSpec(
        name=name,
        title=f"{card['base_encoder']}, trained on with {card.get('method', 'chips of the region')}",
        licence=card["licence"],
        origin=str(path),
        dim=int(card["dim"]),
        normalisation=f"mean {mean}, sd {std}",
        note=f"trained on at input_px {card['input_px']}: best used at that",
        asset=None,
        build=OpenPretrained(name, path.resolve(), found, card["architecture"], int(card["input_px"]), (mean, std)),
        bands=bands,
        band_order=", ".join(card["bands"]),
        patch=int(card["patch"]),
        file_sha256=found,
        where="file",
        base=card["base_encoder"],
    )
